"""Thresholds: what the model's last iteration follows, and how much is kept, with C from 6 to 9."""

from __future__ import annotations

from collections.abc import Iterator

from papers.isheep import _ablation, _runs
from papers.kit import Kit
from papers.table import Cell, Table


def fill(kit: Kit) -> Iterator[Cell]:
    arms = {
        "above 6": _runs.recipe(kit, above=6),
        "above 7": _runs.recipe(kit, above=7),
        _runs.MAIN: _runs.recipe(kit),
        "above 9": _runs.recipe(kit, above=9),
    }
    yield from _ablation.cells(kit, arms, {_runs.MAIN: "above 8"})


TABLE = Table(
    title="both scores above C = 6, 7, 8 (published), 9; iteration 3",
    models=_runs.LARGEST,
    needs=_ablation.NEEDS,
    fill=fill,
    source="arXiv 2408.08072 says that 6, 7, 8 and 9 are all possible and gives no figures",
    notes=(_ablation.KEPT,),
    paper={},
)
