"""I-SHEEP as published, value by value, for comparison."""

from __future__ import annotations

from dataclasses import replace

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
    published,
)
from selfalign.proof.alarms import Alarms
from selfalign.proposers import Instructions
from selfalign.recipe import Recipe
from selfalign.retrievers import Uniform
from selfalign.scorers import Judge
from selfalign.trainers import SFT
from selfalign.types import Sampling

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
    score_above: float = 8.0,
    judge: Judge = Judge(model="base", standard="combined", method="parsed"),
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
        score_above: C, what both scores have to exceed.
        judge: asked twice, for quality and for following the instruction; its standard is simple, combined or in_context.
    """
    judges = (replace(judge, aspect="quality", name=""), replace(judge, aspect="following", name=""))
    return Recipe(
        name="isheep_paper",
        proposer=Instructions(form="auto", sampling=Sampling(max_tokens=1000, top_p=0.95)),
        retriever=Uniform(demonstrations=0),
        sampling=Sampling(max_tokens=1000, top_p=0.95),
        trainer=PUBLISHED_TRAINING,
        prompt_filters=published(
            TaskLength(),
            Blacklist(),
            TaskStart(),
            Placeholders(none=False, brackets=False),
            LeftoverLabels(),
            Links(),
            LeakedMarkers(roles=()),
            Novelty(max_overlap=0.7, field="instruction", unicode=False),
        ),
        pair_filters=published(NextTurns(), AnswerChoices(), HanCharacters(), Placeholders(), RepeatedInput(), EmptyResponse()),
        scorers=judges,
        filters=(*(Threshold(each.score_name, above=score_above) for each in judges), AtMost(3000)),
        rounds=3,
        per_round=10_000,
        min_yield=0.0,
        start_from="base",
        train_seeds=False,
        ignore_calibration=True,
        ignore_seed_rules=True,
        alarms=Alarms(action="off"),
        seed=42,
    )
