"""The answer step without retrieval: random demonstrations instead of the nearest, a variant of ISARA's own scripts."""

from __future__ import annotations

from collections.abc import Iterator

from papers.isara import _safety
from papers.kit import Kit, cell
from papers.table import Cell, Table
from selfalign.recipes import isara_paper
from selfalign.retrievers import Uniform


def fill(kit: Kit) -> Iterator[Cell]:
    shown, asked = kit.scale.shown(8), _safety.prompts(kit)
    arms = {
        "ISARA": isara_paper(demonstrations=shown),
        "random": isara_paper(demonstrations=shown, retriever=Uniform()),
    }
    for model in kit.models:
        found = {category: _safety.study(kit, model, category, arms) for category in _safety.CATEGORIES}
        for arm, column in (("ISARA", "nearest"), ("random", "random")):
            metrics = {c: [run.metrics["harmfulness"] for run in runs[arm]] for c, runs in found.items()}
            for category, each in metrics.items():
                yield cell(f"{model}, {category}", column, each, among=_safety.among(asked, category))
            yield _safety.pooled(f"{model}, all three", column, metrics, asked)


TABLE = Table(
    title="harmful answers with the nearest or with random demonstrations in the answer step",
    models={"llama-7b": _safety.MODELS["llama-7b"]},
    needs=_safety.NEEDS,
    fill=fill,
    source="none: the scripts have the variant, and no figure of it is known to us",
    notes=(_safety.JUDGED,),
    paper={},
)
