"""SELF-GUIDE as a setting of the loop: a few examples of one task, new inputs for it, answers, fine-tuning."""

from __future__ import annotations

from selfalign.encoders import Hashed, HiddenState, SentenceEncoder
from selfalign.engines import HF, OpenAI, OpenVINO, Scripted
from selfalign.evaluators import HeldOut, Refusal
from selfalign.filters import CopiedInput, EmptyResponse, Finished, LeakedMarkers, LengthRange, NoiseWords, Novelty
from selfalign.proof.alarms import Alarms
from selfalign.proposers import TaskInputs
from selfalign.recipe import Recipe, RollBack
from selfalign.retrievers import Uniform
from selfalign.trainers import SFT, NullTrainer
from selfalign.types import Format, Sampling


def self_guide(
    *,
    rounds: int = 1,
    per_round: int = 128,
    demonstrations: int = 4,
    max_overlap: float = 0.99,
    length_deviations: float = 2.0,
    min_yield: float = 0.1,
    validation_share: float = 0.2,
    roll_back: RollBack = "worse",
    alarms: Alarms = Alarms(distinct_2=None, spread=None, very_short=None, very_short_rise=None),
    allow_overlap: bool = False,
    format: Format = "auto",
    seed: int = 0,
    prompt_sampling: Sampling = Sampling(max_tokens=256),
    sampling: Sampling = Sampling(max_tokens=128, temperature=0.0),
    engine: HF | OpenVINO | OpenAI | Scripted = HF(),
    encoder: SentenceEncoder | HiddenState | Hashed = SentenceEncoder(),
    trainer: SFT | NullTrainer = SFT(learning_rate=5e-5, epochs=3),
) -> Recipe:
    """SELF-GUIDE (arXiv 2407.12874): a few examples of one task, inputs for it, outputs, noise and length filters, training.

    The seeds are examples of one task: prompts that share their first paragraph, the instruction, and go on with an input
    each (files of instruction, input and output are read so); or prompts of one kind without an instruction. Deviations:
    prompts and noise words are of our own wording, numbers are our own choice but for the range of two standard deviations,
    the seeds are trained on too, and inputs with a turn's marks in them, near-copies and copied inputs are dropped as well.

    Args:
        rounds: rounds of generation and training at most; theirs is one.
        per_round: inputs generated per round.
        demonstrations: seeds whose inputs are shown for a new input, and that are shown for an answer.
        max_overlap: ROUGE-L above which a prompt is too close to any of the pool; high, as all share the instruction.
        length_deviations: how many standard deviations from the seeds' mean a length may lie.
        min_yield: stop when a round keeps fewer than min_yield·per_round.
        validation_share: share of the seeds held out to choose the round; theirs has none.
        roll_back: the round that falls and ends the run: one worse than the best one by a paired test on those seeds, or one
            whose mean is no better. One no better than the model as it came falls either way.
        alarms: when answers that grow shorter or prompts that repeat warn or stop, threshold by threshold (null: none);
            inputs of one task are alike and its answers may be short, so there are fewer of them here.
        allow_overlap: train on generated pairs or seeds that ask the same as a held-out prompt, instead of stopping.
        format: the model's chat template, plain markers, or the template where there is one.
        seed: the random seed of the run.
        prompt_sampling: how inputs are decoded.
        sampling: how answers are decoded; greedy, as theirs.
        engine: what runs the model.
        encoder: what embeds prompts for the figures of diversity.
        trainer: what trains.
    """
    return Recipe(
        name="self_guide",
        engine=engine,
        encoder=encoder,
        proposer=TaskInputs(demonstrations=demonstrations, sampling=prompt_sampling),
        retriever=Uniform(demonstrations=demonstrations, generated=0),
        sampling=sampling,
        trainer=trainer,
        prompt_filters=(Finished(sentence_end=False), LeakedMarkers(roles=()), Novelty(max_overlap=max_overlap)),
        pair_filters=(
            Finished(sentence_end=False),
            EmptyResponse(),
            NoiseWords(),
            LengthRange(deviations=length_deviations),
            CopiedInput(),
        ),
        evaluators=(Refusal(), HeldOut()),
        rounds=rounds,
        per_round=per_round,
        min_yield=min_yield,
        validation_share=validation_share,
        roll_back=roll_back,
        alarms=alarms,
        allow_overlap=allow_overlap,
        format=format,
        seed=seed,
    )
