"""Self-assessment by both scores, by one of them, or not at all."""

from __future__ import annotations

from collections.abc import Iterator

from papers.isheep import _ablation, _runs
from papers.kit import Kit
from papers.table import Cell, Table


def fill(kit: Kit) -> Iterator[Cell]:
    arms = {
        _runs.MAIN: _runs.recipe(kit),
        "following": _runs.recipe(kit, select="following"),
        "quality": _runs.recipe(kit, select="quality"),
        "nothing": _runs.recipe(kit, select="nothing"),
    }
    yield from _ablation.cells(kit, arms, {_runs.MAIN: "both"})


TABLE = Table(
    title="self-assessment by both scores, one, or none; iteration 3",
    models=_runs.LARGEST,
    needs=_ablation.NEEDS,
    fill=fill,
    source="arXiv 2408.08072, levels of self-assessment at iteration 3 (another of its tables has 42.1 for both)",
    notes=(_ablation.KEPT,),
    paper={
        "72b, both": {"P-strict": 41.1},
        "72b, following": {"P-strict": 39.9},
        "72b, quality": {"P-strict": 37.7},
        "72b, nothing": {"P-strict": 37.5},
    },
)
