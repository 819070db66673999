"""Figure 3: how the judge's scores rise over the iterations, and, beside them, what the kept answers are like."""

from __future__ import annotations

import json
from collections.abc import Iterator
from statistics import median

from papers.isheep import _runs
from papers.kit import Kit, kept
from papers.table import Cell, Table
from selfalign.proof.stats import wilson
from selfalign.text import count_words

BOTH = ("judge_quality", "judge_following")


def fill(kit: Kit) -> Iterator[Cell]:
    for model in kit.models:
        for run, *others in [_runs.main_run(kit, model)[0]]:
            pairs = kept(run.run)
            for one in others:
                row = f"{model}, iteration {one.round}"
                scores = _scores(run, one.round)
                for above in (6, 7, 8, 9):
                    bound = above - _runs.WITHOUT_WEIGHTS if kit.scripted else above
                    if scores:
                        value, low, high = wilson(sum(min(pair) > bound for pair in scores), len(scores))
                        yield Cell(row, f"both above {above}", 100 * value, 100 * low, 100 * high, len(scores))
                words = [count_words(example.response) for example in pairs[one.round - 1]]
                yield Cell(row, "kept", len(words))
                if words:
                    yield Cell(row, "median words", median(words), n=len(words))


def _scores(run: _runs.Iteration, round: int) -> list[tuple[float, float]]:
    """Of all pairs of a round that got both, kept or not."""
    files = [run.run / f"round-{round:02}" / f"{what}.jsonl" for what in ("kept", "dropped")]
    scores = [json.loads(line)["scores"] for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return [(each[BOTH[0]], each[BOTH[1]]) for each in scores if {*BOTH} <= each.keys()]


TABLE = Table(
    title="share of scored pairs with both scores above C, by iteration",
    models=_runs.MODELS,
    needs=_runs.NEEDS,
    fill=fill,
    source="arXiv 2408.08072, Figure 3, which shows the share of high scores rising from about 50 to about 70 % for 72B",
    notes=("kept and median words are counts; in what its authors published, answers shrink from 57 words to 13 meanwhile",),
    paper={},
)
