"""Ablations that change what selects: each arm's last iteration on IFEval, and how much it kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from papers.isheep import _benchmarks as on
from papers.isheep import _runs
from papers.kit import Kit, kept
from papers.table import Cell
from selfalign.recipe import Recipe

NEEDS = (*_runs.NEEDS, *on.INSTRUCTIONS_NEEDS)
KEPT = "`kept` is the number of pairs that the last iteration kept, not a share; 10,000 tasks are asked for"


def cells(kit: Kit, arms: Mapping[str, Recipe], names: Mapping[str, str], at: int = 3) -> Iterator[Cell]:
    """
    Args:
        names: of an arm in the table, where it has another one.
        at: the iteration that is measured, or the last one before it that there is.
    """
    for model in kit.models:
        for arm, runs in _runs.study(kit, model, arms).items():
            row = f"{model}, {names.get(arm, arm)}"
            models = [run[min(at, len(run) - 1)] for run in runs if len(run) > 1]
            yield from on.instructions(kit, row, models) if models else ()
            counts = [len(rounds[min(at, len(rounds)) - 1]) for run in runs if (rounds := kept(run[0].run))]
            if counts:
                yield Cell(row, "kept", sum(counts) / len(counts), runs=len(counts))
