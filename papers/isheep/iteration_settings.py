"""Iteration settings: what an iteration starts from and trains on, against as many tasks at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from papers.isheep import _benchmarks as on
from papers.isheep import _runs
from papers.kit import Kit
from papers.table import Cell, Table

AT = 3
"""The iteration that the paper shows."""


def fill(kit: Kit) -> Iterator[Cell]:
    plain = _runs.recipe(kit)
    arms = {
        _runs.MAIN: plain,
        "one_last": replace(plain, start_from="previous"),
        "total_base": replace(plain, train_on="all"),
        "direct 20k": replace(plain, rounds=1, per_round=20_000),
        "direct 30k": replace(plain, rounds=1, per_round=30_000),
    }
    for model in kit.models:
        for arm, runs in _runs.study(kit, model, arms).items():
            if models := [run[min(AT, len(run) - 1)] for run in runs if len(run) > 1]:
                row = f"{model}, {'one_base' if arm == _runs.MAIN else arm}"
                yield from on.chat(kit, row, models)
                yield from on.instructions(kit, row, models)


TABLE = Table(
    title="what an iteration starts from (base or last model) and trains on (the newest data or all), at iteration 3",
    models=_runs.LARGEST,
    needs=(*_runs.NEEDS, *on.CHAT_NEEDS, *on.INSTRUCTIONS_NEEDS),
    fill=fill,
    source="arXiv 2408.08072, iteration settings; its judge was GPT-4",
    notes=(*on.CHAT_NOTES, "direct: one iteration of 20,000 or 30,000 tasks; 3,000 of those kept are trained on, as always"),
    unit="%, MT-Bench from 1 to 10",
    digits=2,
    paper={
        "72b, one_base": {"AlpacaEval": 10.51, "MT-Bench": 7.97, "P-strict": 41.2},
        "72b, one_last": {"AlpacaEval": 8.45, "MT-Bench": 7.82, "P-strict": 38.6},
        "72b, total_base": {"AlpacaEval": 7.51, "MT-Bench": 7.94, "P-strict": 37.5},
        "72b, direct 20k": {"AlpacaEval": 7.18, "MT-Bench": 7.87, "P-strict": 39.4},
        "72b, direct 30k": {"AlpacaEval": 6.53, "MT-Bench": 7.75, "P-strict": 38.1},
    },
)
