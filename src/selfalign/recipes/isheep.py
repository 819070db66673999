"""I-SHEEP with its known faults mended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

from selfalign import filters
from selfalign.proposers import Instructions
from selfalign.protocols import Filter, Scorer
from selfalign.recipe import Recipe
from selfalign.retrievers import Uniform
from selfalign.scorers import Density, Judge, Perplexity
from selfalign.trainers import SFT
from selfalign.types import Sampling

Select = Literal["judge", "perplexity", "density", "density_perplexity", "nothing"]


def isheep(
    *,
    select: Select = "judge",
    keep: float = 0.7,
    score_above: float | None = None,
    judge: Judge = Judge(model="base"),
) -> Recipe:
    """New tasks from a list that a few seeds begin, answers, a judge's scores, supervised fine-tuning of the base, repeat.

    The method of I-SHEEP (arXiv 2408.08072) with what its published data shows mended: the expectation over the ten scores
    instead of one sample of them, the best share instead of an absolute bound (above 8 its 7B run kept 2 to 3 %), data that
    accumulates over the rounds and keeps the seeds, answers that are finished and do not loop, near-duplicates by embedding,
    alarms where answers shrink, tasks listed without an input taken as such, and the round to ship chosen on held-out seeds.
    The list asks for tasks in the seeds' language; the rules that look for words know English alone.

    Args:
        select: what chooses among the pairs that pass the rules: the judge's two scores; the perplexity of the answer and of
            the pair; one pair of each cluster of hidden states, drawn at random or that of the lowest perplexity; or nothing.
        keep: share kept by the first of the judge's two scores or of two perplexities, and of these by the second one.
        score_above: where given, both scores of the judge must exceed it, and `keep` does not count.
        judge: asked twice, for quality and for following the instruction; its model is base, current, a folder or a name on
            the hub. Perplexities and hidden states are that model's too.
    """
    if score_above is not None and select != "judge":
        raise ValueError(
            f"isheep: score_above = {score_above} is for select = judge; with select = {select} nobody gives such scores"
        )
    best = partial(filters.Percentile, keep=keep) if score_above is None else partial(filters.Threshold, above=score_above)
    likeliest = partial(filters.Percentile, keep=keep, highest=False)
    scorers, chosen = selection("both" if select == "judge" else select, judge, Density(), best, likeliest)
    return Recipe(
        name="isheep",
        proposer=Instructions(input_needed=False, sampling=Sampling(max_tokens=600, top_p=0.95)),
        retriever=Uniform(demonstrations=0),
        sampling=Sampling(max_tokens=0, temperature=0.7),
        trainer=SFT(full_rate=5e-5, epochs=2),
        prompt_filters=(
            filters.LeakedMarkers(),
            filters.TaskLength(),
            filters.Blacklist(),
            filters.TaskStart(),
            filters.Placeholders(),
            filters.LeftoverLabels(),
            filters.Links(),
            filters.RepeatedInput(),
            filters.Novelty(max_overlap=0.7, field="instruction"),
            filters.NearDuplicates(max_similarity=0.92),
        ),
        pair_filters=(
            filters.Finished(sentence_end=False),
            filters.EmptyResponse(),
            filters.LeakedMarkers(),
            filters.NextTurns(),
            filters.AnswerChoices(),
            filters.Repetition(),
        ),
        scorers=scorers,
        filters=chosen,
        per_round=200,
        start_from="base",
        train_on="all",
        validation_share=0.2,
    )


def selection(
    select: str, judge: Judge, density: Density, by_score: Callable[[str], Filter], by_perplexity: Callable[[str], Filter]
) -> tuple[tuple[Scorer, ...], tuple[Filter, ...]]:
    """What chooses among the pairs that pass the rules: the scorers, and the filters that act on what they say.

    Args:
        select: both, quality or following (of the judge's scores), perplexity, density, density_perplexity; else nothing.
        judge: its model is the one whose perplexities and hidden states are meant too.
        by_score: the filter by a score of that name.
        by_perplexity: the same by a perplexity.
    """
    model, engine = judge.model, judge.engine
    response, pair = Perplexity(model=model, engine=engine), Perplexity(of="pair", model=model, engine=engine)
    density = replace(density, model=model, engine=engine)
    if select == "perplexity":
        return (response, pair), (by_perplexity(response.score_name), by_perplexity(pair.score_name))
    if select == "density":
        return (density,), (filters.OnePerCluster(by=""),)
    if select == "density_perplexity":
        return (density, response), (filters.OnePerCluster(by=response.score_name),)
    quality, following = replace(judge, aspect="quality", name=""), replace(judge, aspect="following", name="")
    judges = {"both": (quality, following), "quality": (quality,), "following": (following,)}.get(select, ())
    return judges, tuple(by_score(each.score_name) for each in judges)
