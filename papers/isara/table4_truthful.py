"""The half of Table 4 that needs no judge: one round against two, on TruthfulQA."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from papers.isara import _truthful, table4
from papers.kit import Kit
from papers.table import Cell


def fill(kit: Kit) -> Iterator[Cell]:
    for model in kit.models:
        yield from table4.truthful(kit, model)


TABLE = replace(
    table4.TABLE,
    title="one round of 1,024 candidates against two of 512, on TruthfulQA",
    unit="points of ROUGE-L (higher is better)",
    needs=_truthful.NEEDS,
    fill=fill,
    notes=(),
)
