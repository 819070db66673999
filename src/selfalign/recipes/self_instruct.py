"""Self-Instruct as a setting of the loop: tasks from lists, a label first where the answer is one, plain fine-tuning."""

from __future__ import annotations

from selfalign.encoders import Hashed, HiddenState, SentenceEncoder
from selfalign.engines import HF, OpenAI, OpenVINO, Scripted
from selfalign.evaluators import HeldOut, Refusal
from selfalign.filters import (
    Blacklist,
    CopiedInput,
    EmptyResponse,
    Exact,
    Finished,
    LeakedMarkers,
    Novelty,
    TaskLength,
    TaskStart,
)
from selfalign.filters.tasks import SELF_INSTRUCT
from selfalign.proof.alarms import Alarms
from selfalign.proposers import SelfInstruct
from selfalign.recipe import Recipe, RollBack, StartFrom, TrainOn
from selfalign.retrievers import Uniform
from selfalign.trainers import SFT, NullTrainer
from selfalign.types import Format, Sampling


def self_instruct(
    *,
    rounds: int = 2,
    per_round: int = 200,
    human: int = 6,
    generated: int = 2,
    demonstrations: int = 4,
    max_overlap: float = 0.7,
    min_yield: float = 0.1,
    start_from: StartFrom = "base",
    train_on: TrainOn = "all",
    validation_share: float = 0.2,
    roll_back: RollBack = "worse",
    alarms: Alarms = Alarms(),
    allow_overlap: bool = False,
    format: Format = "auto",
    seed: int = 0,
    prompt_sampling: Sampling = Sampling(max_tokens=512, temperature=0.7, top_p=0.5),
    sampling: Sampling = Sampling(max_tokens=128, temperature=0.0),
    engine: HF | OpenVINO | OpenAI | Scripted = HF(),
    encoder: SentenceEncoder | HiddenState | Hashed = SentenceEncoder(),
    trainer: SFT | NullTrainer = SFT(learning_rate=5e-5, epochs=2),
) -> Recipe:
    """Self-Instruct (arXiv 2212.10560): six human and two generated tasks begin a list, its rules, and no judge.

    Deviations: prompts are of our own wording. Theirs grows one pool in many small steps and trains once; here a round's
    tasks are shown from the next round on, and each round trains the base model on all pairs so far, seeds included (for one
    training after all generation there is no slot). The answer to a task that is none of classification is written by the
    loop's answer step, which shows seed examples in the model's format. Tasks with a turn's marks in them and answers that ran
    into max_tokens are dropped. There is no presence penalty. Whether a task is one
    of classification is read from the likelihood of Yes and No. For classification labels the seeds must say in their
    metadata which they are (`is_classification`, as in Self-Instruct's seed file); else all tasks go input-first.

    Args:
        rounds: rounds of generation and training at most.
        per_round: slots for generated tasks, 8 for each request.
        human: seeds shown in a list.
        generated: tasks of earlier rounds shown beside them.
        demonstrations: seed examples shown before an answer is written.
        max_overlap: ROUGE-L above which a new instruction is too close to any of the pool.
        min_yield: stop when a round keeps fewer than min_yield·per_round.
        start_from: train each round from the base or from the previous round's model.
        train_on: the pairs of all rounds or the newest round's (the seeds always).
        validation_share: share of the seeds held out to choose the round; theirs has none.
        roll_back: the round that falls and ends the run: one worse than the best one by a paired test on those seeds, or one
            whose mean is no better. One no better than the model as it came falls either way.
        alarms: when answers that grow shorter or prompts that grow alike warn or stop, threshold by threshold (null: none).
        allow_overlap: train on generated pairs or seeds that ask the same as a held-out prompt, instead of stopping.
        format: the model's chat template, plain markers, or the template where there is one.
        seed: the random seed of the run.
        prompt_sampling: how lists of instructions are decoded.
        sampling: how answers are decoded; greedy, as theirs.
        engine: what runs the model.
        encoder: what embeds prompts for the figures of diversity.
        trainer: what trains.
    """
    return Recipe(
        name="self_instruct",
        engine=engine,
        encoder=encoder,
        proposer=SelfInstruct(human=human, generated=generated, sampling=prompt_sampling),
        retriever=Uniform(demonstrations=demonstrations, generated=0),
        sampling=sampling,
        trainer=trainer,
        prompt_filters=(
            TaskLength(),
            Blacklist(words=SELF_INSTRUCT),
            TaskStart(phrases=("Write a program",)),
            LeakedMarkers(roles=()),
            Novelty(max_overlap=max_overlap, field="instruction", unicode=False),
        ),
        pair_filters=(Finished(sentence_end=False), EmptyResponse(), CopiedInput(), Exact(ignore_case=True)),
        evaluators=(Refusal(), HeldOut()),
        rounds=rounds,
        per_round=per_round,
        min_yield=min_yield,
        start_from=start_from,
        train_on=train_on,
        validation_share=validation_share,
        roll_back=roll_back,
        alarms=alarms,
        allow_overlap=allow_overlap,
        format=format,
        seed=seed,
    )
