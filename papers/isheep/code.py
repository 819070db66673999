"""HumanEval, HumanEval+ and MBPP, iteration by iteration."""

from __future__ import annotations

from collections.abc import Iterator

from papers.isheep import _benchmarks as on
from papers.isheep import _runs
from papers.isheep._published import MAIN_TABLE
from papers.kit import Kit
from papers.table import Cell, Table


def fill(kit: Kit) -> Iterator[Cell]:
    for model in kit.models:
        for row, models in _runs.by_iteration(model, _runs.main_run(kit, model), base=True):
            yield from on.code(kit, row, models)


TABLE = Table(
    title="code: pass@1 on HumanEval, HumanEval+ and MBPP (needs --unsafe_run_code)",
    models=_runs.MODELS,
    needs=(*_runs.NEEDS, *on.CODE_NEEDS),
    fill=fill,
    source="arXiv 2408.08072, Table 1",
    notes=on.CODE_NOTES,
    paper=MAIN_TABLE,
)
