"""Table 1: every benchmark, iteration by iteration. `chat`, `ifeval`, `code` and `knowledge` are its parts."""

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
            if models[0].round:
                yield from on.chat(kit, row, models)
                yield from on.instructions(kit, row, models)
            yield from on.code(kit, row, models)
            yield from on.knowledge(kit, row, models)


TABLE = Table(
    title="all benchmarks by iteration (needs --unsafe_run_code)",
    models=_runs.MODELS,
    needs=(*_runs.NEEDS, *on.CHAT_NEEDS, *on.INSTRUCTIONS_NEEDS, *on.CODE_NEEDS, *on.KNOWLEDGE_NEEDS),
    fill=fill,
    source="arXiv 2408.08072, Table 1; its judge was GPT-4",
    notes=(*on.CHAT_NOTES, *on.CODE_NOTES, *on.KNOWLEDGE_NOTES),
    unit="%, MT-Bench from 1 to 10",
    digits=2,
    paper=MAIN_TABLE,
)
