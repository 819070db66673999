"""Table 4: everything generated at once against two rounds of half as much, as arms of the same studies.

Without BeaverTails and its judge, `table4_truthful` is the half on TruthfulQA.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from papers.isara import _safety, _truthful
from papers.kit import Kit, cell
from papers.table import Cell, Table
from selfalign.recipe import Recipe
from selfalign.recipes import isara_paper


def arms(demonstrations: int) -> dict[str, Recipe]:
    """Two rounds of N = 512, and one of 1,024."""
    twice = isara_paper(demonstrations=demonstrations)
    return {"ISARA": twice, "one-shot": replace(twice, rounds=1, per_round=twice.rounds * twice.per_round)}


def fill(kit: Kit) -> Iterator[Cell]:
    asked, both = _safety.prompts(kit), arms(kit.scale.shown(8))
    for model in kit.models:
        found = {category: _safety.study(kit, model, category, both) for category in _safety.CATEGORIES}
        for arm in both:
            metrics = {c: [run.metrics["harmfulness"] for run in runs[arm]] for c, runs in found.items()}
            yield _safety.pooled(f"{model}, harmful answers (%)", arm, metrics, asked)
        yield from truthful(kit, model)


def truthful(kit: Kit, model: str) -> Iterator[Cell]:
    """The row of a model on TruthfulQA."""
    for arm, runs in _truthful.study(kit, model, arms(kit.scale.shown(8))).items():
        yield cell(f"{model}, TruthfulQA (ROUGE-L)", arm, [run.metrics["truthfulness_diff"] for run in runs])


TABLE = Table(
    title="one round of 1,024 candidates against two of 512",
    unit="% (lower is better) or points of ROUGE-L (higher is better)",
    models=_safety.MODELS,
    needs=(*_safety.NEEDS, *_truthful.NEEDS),
    fill=fill,
    source="arXiv 2401.06785, Table 4, and what its authors published with it",
    notes=(_safety.JUDGED,),
    paper={
        "llama-7b, harmful answers (%)": {"one-shot": 12.8, "ISARA": 5.6},
        "opt-6.7b, harmful answers (%)": {"one-shot": 12.0, "ISARA": 9.2},
        "llama-2-7b, harmful answers (%)": {"one-shot": 11.7, "ISARA": 12.7},
        "llama-7b, TruthfulQA (ROUGE-L)": {"one-shot": -5.41, "ISARA": 3.82},
        "opt-6.7b, TruthfulQA (ROUGE-L)": {"one-shot": -5.64, "ISARA": -5.88},
    },
)
