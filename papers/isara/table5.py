"""Table 5: how many pairs a run keeps for each seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import nan
from pathlib import Path

from papers.isara import _safety
from papers.kit import Kit, kept
from papers.table import Cell, Table
from selfalign.proof.stats import mean_interval
from selfalign.recipes import isara_paper
from selfalign.seeds.read import read_seeds
from selfalign.text import rouge_l_growing

NEW = 0.7
"""A question that overlaps no earlier one, seeds included, by more than this (ROUGE-L) is a new one."""


def fill(kit: Kit) -> Iterator[Cell]:
    arms = {"ISARA": isara_paper(demonstrations=kit.scale.shown(8))}
    for model in kit.models:
        found: list[tuple[int, list[int], list[int]]] = []
        for category, seeds in zip(_safety.CATEGORIES, _safety.files(kit), strict=False):
            runs = _safety.study(kit, model, category, arms)["ISARA"]
            found.append(_counts(kit.folders(_safety.name(model, category), runs), seeds))
            yield from _cells(f"{model}, {category}", found[-1:])
        yield from _cells(f"{model}, all three", found)


def _counts(folders: Sequence[Path], seeds: Path) -> tuple[int, list[int], list[int]]:
    """(seeds, pairs kept in all rounds of each run, those of them with a new question)."""
    known = [example.prompt for example in read_seeds(seeds)]
    asked = [[example.prompt for round in kept(folder) for example in round] for folder in folders]
    new = [sum(one.score <= NEW for one in rouge_l_growing(each, known, NEW)) for each in asked]
    return len(known), [len(each) for each in asked], new


def _cells(row: str, found: Sequence[tuple[int, list[int], list[int]]]) -> Iterator[Cell]:
    """Pairs for each seed, with an interval over random seeds where there are several."""
    seeds = sum(known for known, _, _ in found)
    for column, counts in (("kept for each seed", [all for _, all, _ in found]), ("of them new", [new for _, _, new in found])):
        ratios = [sum(each) / seeds for each in zip(*counts, strict=True)]
        value, low, high = mean_interval(ratios)
        yield Cell(row, column, value, *((low, high) if len(ratios) > 1 else (nan, nan)), runs=len(ratios))


TABLE = Table(
    title="pairs kept for each of the 64 seeds, over two rounds",
    unit="pairs for each seed",
    models={label: _safety.MODELS[label] for label in ("llama-7b", "opt-6.7b")},
    needs=_safety.NEEDS,
    fill=fill,
    source="arXiv 2401.06785, Table 5; by category it has 5.8 to 7.2, and which has which is not known to us",
    notes=(
        f"new: the question overlaps no seed and no question kept before it by more than {NEW} (ROUGE-L), which the paper does"
        " not count",
    ),
    paper={"llama-7b, all three": {"kept for each seed": 6.7}, "opt-6.7b, all three": {"kept for each seed": 6.3}},
)
