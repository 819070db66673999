"""I-SHEEP as published, value by value, for comparison."""

from __future__ import annotations

from dataclasses import replace

from selfalign.encoders import Hashed, HiddenState, SentenceEncoder
from selfalign.engines import HF, OpenAI, OpenVINO, Scripted
from selfalign.evaluators import HeldOut, Refusal
from selfalign.filters import (
    AnswerChoices,
    AtMost,
    Blacklist,
    EmptyResponse,
    HanCharacters,
    LeakedMarkers,
    LeftoverLabels,
    Links,
    NextTurns,
    Novelty,
    Placeholders,
    RepeatedInput,
    TaskLength,
    TaskStart,
    Threshold,
)
from selfalign.proof.alarms import Alarms
from selfalign.proposers import Instructions
from selfalign.recipe import Recipe, StartFrom, TrainOn
from selfalign.retrievers import Uniform
from selfalign.scorers import Judge
from selfalign.trainers import SFT, NullTrainer
from selfalign.types import Format, Sampling

PUBLISHED_TRAINING = SFT(
    learning_rate=5e-5,
    epochs=2,
    batch_size=16,
    micro_batch=1,
    schedule="cosine",
    warmup=0.06,
    adam_beta2=0.999,
    lora_rank=8,
    lora_alpha=16.0,
    lora_dropout=0.05,
    max_length=1024,
)
"""The training of the paper's appendix E; 20 steps of warm-up are 6 % of those that 3,000 samples take."""


def isheep_paper(
    *,
    rounds: int = 3,
    per_round: int = 10_000,
    score_above: float = 8.0,
    max_overlap: float = 0.7,
    max_samples: int = 3000,
    min_yield: float = 0.0,
    start_from: StartFrom = "base",
    train_on: TrainOn = "latest",
    ignore_calibration: bool = True,
    format: Format = "auto",
    seed: int = 42,
    prompt_sampling: Sampling = Sampling(max_tokens=1000, top_p=0.95),
    sampling: Sampling = Sampling(max_tokens=1000, top_p=0.95),
    judge: Judge = Judge(model="base", standard="combined", method="parsed"),
    engine: HF | OpenVINO | OpenAI | Scripted = HF(),
    encoder: SentenceEncoder | HiddenState | Hashed = SentenceEncoder(),
    trainer: SFT | NullTrainer = PUBLISHED_TRAINING,
) -> Recipe:
    """I-SHEEP with the values of its paper and of its authors' scripts (arXiv 2408.08072), faults included.

    Tasks from a list that five human seeds begin, zero-shot answers, their rules and blacklists, two scores sampled from the
    base model and both above 8, LoRA on the base model with the newest data alone, the last round kept. Known deviations:

    * Meta-prompt and judge prompts are of our own wording, with the same requirements and criteria.
    * N counts the slots of 10 for each request, whatever becomes of them; theirs asks until more than 10,000 tasks are new.
      A list ends behind its 10th task where theirs begins an 11th and drops it.
    * An instruction's novelty is also judged against what earlier rounds kept; theirs starts from the seeds each time (and
      later rounds repeat tasks of earlier ones word by word).
    * Answers are asked for in the format they are trained in from the first round on; theirs are, in the first, instruction
      and input as bare text. Between instruction and input stands a blank line.
    * A task with a turn's marks or a control character in it is dropped: no format could render it.
    * The system line is that of the model's own template, where it has one; theirs is ChatML's.
    * The judge's texts stand between lines that mark them as material; a pair that speaks to the judge ("score this 10") is
      dropped, and so is one too long for its window. With the in-context standard both scores are asked for, with examples of
      each; theirs asks for one.
    * A Chinese "answer:" label drops the pair, as all Chinese does; theirs strips it first. A first paragraph that is a
      question is no reason to drop an answer.
    * No 10 % of the pairs are put aside to choose among checkpoints. Rows of more than 1,024 tokens are dropped, not cut.
      Weights are fp32 (theirs bf16 under ZeRO-3).

    Args:
        rounds: T; 3 for models up to 14B, 4 for 32B, 6 for 72B.
        per_round: I, slots for generated tasks.
        score_above: C, what both scores have to exceed.
        max_overlap: ROUGE-L of an instruction with any other above which it is dropped.
        max_samples: pairs that a training reads at most.
        min_yield: stop when fewer than min_yield·per_round survive; theirs never does: 0.
        start_from: the algorithm and the scripts train the base model anew each round.
        train_on: theirs is the newest data alone; all is their variant of accumulated data.
        ignore_calibration: theirs filters by its judge whatever that is worth, so it is calibrated for the record alone.
        format: the model's chat template, plain markers, or the template where there is one.
        seed: the random seed of the run.
        prompt_sampling: how lists of tasks are decoded.
        sampling: how answers are decoded.
        judge: asked twice, for quality and for following the instruction; its standard is simple, combined or in_context.
        engine: what runs the model.
        encoder: what embeds prompts for the figures of diversity.
        trainer: what trains.
    """
    judges = (replace(judge, aspect="quality", name=""), replace(judge, aspect="following", name=""))
    return Recipe(
        name="isheep_paper",
        engine=engine,
        encoder=encoder,
        proposer=Instructions(form="auto", sampling=prompt_sampling),
        retriever=Uniform(demonstrations=0),
        sampling=sampling,
        trainer=trainer,
        prompt_filters=(
            TaskLength(),
            Blacklist(),
            TaskStart(),
            Placeholders(none=False, brackets=False),
            LeftoverLabels(),
            Links(),
            LeakedMarkers(roles=()),
            Novelty(max_overlap=max_overlap, field="instruction", unicode=False),
        ),
        pair_filters=(NextTurns(), AnswerChoices(), HanCharacters(), Placeholders(), RepeatedInput(), EmptyResponse()),
        scorers=judges,
        filters=(*(Threshold(each.score_name, above=score_above) for each in judges), AtMost(max_samples)),
        evaluators=(Refusal(), HeldOut()),
        rounds=rounds,
        per_round=per_round,
        min_yield=min_yield,
        start_from=start_from,
        train_on=train_on,
        train_seeds=False,
        ignore_calibration=ignore_calibration,
        alarms=Alarms(action="off"),
        format=format,
        seed=seed,
    )
