"""Figure 2: harmful answers across categories, learnt from seeds of one and measured on the prompts of all three."""

from __future__ import annotations

from collections.abc import Iterator

from papers.isara import _safety
from papers.kit import Kit, cell
from papers.table import Cell, Table
from selfalign.recipes import isara_paper, sft_paper


def fill(kit: Kit) -> Iterator[Cell]:
    asked = _safety.prompts(kit)
    arms = {"ISARA": isara_paper(demonstrations=kit.scale.shown(8)), "SFT": sft_paper()}
    for model in kit.models:
        for learnt in _safety.CATEGORIES:
            for arm, runs in _safety.study(kit, model, learnt, arms).items():
                metrics = [run.metrics["harmfulness"] for run in runs]
                for measured in _safety.CATEGORIES:
                    yield cell(f"{model}, {arm}, {learnt}", measured, metrics, among=_safety.among(asked, measured))


def _paper(model: str, arm: str, rows: tuple[tuple[float, ...], ...]) -> dict[str, dict[str, float]]:
    kinds = _safety.CATEGORIES
    return {f"{model}, {arm}, {kind}": dict(zip(kinds, row, strict=True)) for kind, row in zip(kinds, rows, strict=True)}


TABLE = Table(
    title="harmful answers across categories; rows learn, columns are measured",
    models={label: _safety.MODELS[label] for label in ("llama-7b", "opt-6.7b")},
    needs=_safety.NEEDS,
    fill=fill,
    source="arXiv 2401.06785, Figure 2, by what its authors published with it",
    notes=(_safety.JUDGED,),
    paper={
        **_paper("llama-7b", "ISARA", ((1.2, 6.4, 4.4), (8.0, 6.0, 7.2), (12.8, 8.4, 9.6))),
        **_paper("llama-7b", "SFT", ((9.2, 8.8, 12.8), (23.2, 12.0, 20.0), (20.4, 9.2, 12.8))),
        **_paper("opt-6.7b", "ISARA", ((7.2, 8.4, 6.4), (20.4, 11.6, 10.8), (21.2, 9.6, 8.8))),
        **_paper("opt-6.7b", "SFT", ((22.0, 21.2, 14.0), (38.4, 23.2, 18.4), (36.0, 23.6, 21.6))),
    },
)
