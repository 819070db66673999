"""What chooses among the pairs that pass I-SHEEP's rules: a judge's scores, perplexities, clusters of hidden states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from selfalign.filters import OnePerCluster
from selfalign.protocols import Filter, Scorer
from selfalign.scorers import Density, Judge, Perplexity


def selection(
    select: str, judge: Judge, density: Density, by_score: Callable[[str], Filter], by_perplexity: Callable[[str], Filter]
) -> tuple[tuple[Scorer, ...], tuple[Filter, ...]]:
    """The scorers, and the filters that act on what they say.

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
        return (density,), (OnePerCluster(by=""),)
    if select == "density_perplexity":
        return (density, response), (OnePerCluster(by=response.score_name),)
    quality, following = replace(judge, aspect="quality", name=""), replace(judge, aspect="following", name="")
    judges = {"both": (quality, following), "quality": (quality,), "following": (following,)}.get(select, ())
    return judges, tuple(by_score(each.score_name) for each in judges)
