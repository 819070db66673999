"""Table 3: harmful answers by size of the model, round by round."""

from __future__ import annotations

from collections.abc import Iterator

from papers.isara import _safety
from papers.kit import Kit, of_round
from papers.table import Cell, Table
from selfalign.recipes import isara_paper

SIZES = ("350m", "1.3b", "2.7b", "6.7b")
ROUNDS = (0, 1, 2)


def fill(kit: Kit) -> Iterator[Cell]:
    asked = _safety.prompts(kit)
    arms = {"ISARA": isara_paper(demonstrations=kit.scale.shown(8))}
    for model in kit.models:
        folders = {
            category: kit.folders(_safety.name(model, category), _safety.study(kit, model, category, arms)["ISARA"])
            for category in _safety.CATEGORIES
        }
        for round in ROUNDS:
            found = {c: [of_round(folder, round) for folder in each] for c, each in folders.items()}
            if all("harmfulness" in metrics for each in found.values() for metrics in each):
                metrics = {c: [each["harmfulness"] for each in of_c] for c, of_c in found.items()}
                yield _safety.pooled(model, f"k = {round}", metrics, asked)


TABLE = Table(
    title="harmful answers by size of the model after k rounds, over the three categories",
    models={f"opt-{size}": f"facebook/opt-{size}" for size in SIZES},
    needs=_safety.NEEDS,
    fill=fill,
    source="arXiv 2401.06785, Table 3 (350M), and what its authors published with it",
    notes=(_safety.JUDGED, "a round without a figure was not reached: the one before it kept nothing"),
    paper={
        f"opt-{size}": dict(zip((f"k = {round}" for round in ROUNDS), figures, strict=True))
        for size, figures in zip(
            SIZES, ((29.5, 34.9, 22.1), (34.8, 21.9, 18.5), (26.9, 17.7, 10.8), (31.9, 13.9, 9.2)), strict=True
        )
    },
)
