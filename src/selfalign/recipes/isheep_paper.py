"""I-SHEEP as published, value by value, for comparison."""

from __future__ import annotations

from functools import partial
from typing import Literal

from selfalign import filters
from selfalign.proof.alarms import Alarms
from selfalign.proposers import Instructions
from selfalign.protocols import Filter, Scorer
from selfalign.recipe import Recipe
from selfalign.recipes.isheep import selection
from selfalign.retrievers import Uniform
from selfalign.scorers import Density, Judge
from selfalign.trainers import SFT
from selfalign.types import Sampling

Select = Literal["both", "quality", "following", "nothing", "perplexity", "density", "density_perplexity"]

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
    select: Select = "both",
    score_above: float = 8.0,
    judge: Judge = Judge(model="base", standard="combined", method="parsed"),
    perplexity_below: float = 50.0,
    clusters: int = 3000,
) -> Recipe:
    """I-SHEEP with the values of its paper and of its authors' scripts (arXiv 2408.08072), faults included.

    Tasks from a list that five human seeds begin, zero-shot answers, their rules and blacklists, two scores sampled from the
    base model and both above 8, LoRA on the base model with the newest data alone, the last round kept. Its ablations are
    options: the thresholds and what selects, here below; the iteration settings, `start_from` (one_base: base, one_last:
    previous) and `train_on` (total_base: all), and 20,000 at once with `rounds` 1 and `per_round` 20000; the judge's prompts,
    `judge.standard`. Known deviations:

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
    * The perplexity of an answer is that behind its instruction, in the format it is trained in. Hidden states that are clustered
      are means over a pair's tokens.
    * A Chinese "answer:" label drops the pair, as all Chinese does; theirs strips it first. A first paragraph that is a
      question is no reason to drop an answer.
    * No 10 % of the pairs are put aside to choose among checkpoints. Rows of more than 1,024 tokens are dropped, not cut.
      Weights are fp32 (theirs bf16 under ZeRO-3).

    Args:
        select: what chooses among the pairs that pass the rules: both scores of the judge, or the one for quality or for
            following alone; nothing (no self-assessment); the perplexities of answer and pair; one pair of each cluster of hidden
            states, drawn at random or that of the lowest perplexity.
        score_above: C, what a judge's score has to exceed.
        judge: asked for quality and for following the instruction; its standard is simple, combined or in_context, its model is
            the one whose perplexities and hidden states are meant too.
        perplexity_below: what both perplexities have to stay below.
        clusters: K, the number of clusters of a round's pairs.
    """
    scorers, chosen = _selection(select, judge, score_above, perplexity_below, clusters)
    return Recipe(
        name="isheep_paper",
        proposer=Instructions(form="auto", language="English", sampling=Sampling(max_tokens=1000, top_p=0.95)),
        retriever=Uniform(demonstrations=0),
        sampling=Sampling(max_tokens=1000, top_p=0.95),
        trainer=PUBLISHED_TRAINING,
        prompt_filters=filters.published(
            filters.TaskLength(),
            filters.Blacklist(inputs=True),
            filters.TaskStart(),
            filters.Placeholders(none=False, brackets=False),
            filters.LeftoverLabels(),
            filters.Links(),
            filters.LeakedMarkers(roles=()),
            filters.Novelty(max_overlap=0.7, field="instruction", unicode=False),
        ),
        pair_filters=filters.published(
            filters.NextTurns(),
            filters.AnswerChoices(),
            filters.HanCharacters(),
            filters.Placeholders(),
            filters.RepeatedInput(),
            filters.EmptyResponse(),
        ),
        scorers=scorers,
        filters=(*chosen, filters.AtMost(3000)),
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


def _selection(
    select: Select, judge: Judge, score_above: float, perplexity_below: float, clusters: int
) -> tuple[tuple[Scorer, ...], tuple[Filter, ...]]:
    """`selection` by absolute bounds; ValueError for an option that changes nothing with it."""
    for given, usual, of in (
        ("score_above", score_above == 8.0, ("both", "quality", "following")),
        ("perplexity_below", perplexity_below == 50.0, ("perplexity",)),
        ("clusters", clusters == 3000, ("density", "density_perplexity")),
    ):
        if not usual and select not in of:
            raise ValueError(f"isheep_paper: {given} changes nothing with select = {select}; it is for {' or '.join(of)}")
    above, below = partial(filters.Threshold, above=score_above), partial(filters.Threshold, above=None, below=perplexity_below)
    return selection(select, judge, Density(clusters=clusters), above, below)
