"""Table 6: TruthfulQA, the difference of ROUGE-L to true and to false answers."""

from __future__ import annotations

from collections.abc import Iterator

from papers.isara import _safety, _truthful, table4
from papers.kit import Kit, cell, of_round
from papers.table import Cell, Table
from selfalign.recipes import icl_knn, icl_random, pretrained, sft_paper

METRIC = "truthfulness_diff"


def fill(kit: Kit) -> Iterator[Cell]:
    shown = kit.scale.shown(8)
    arms = {
        **table4.arms(shown),
        "pretrained": pretrained(),
        "SFT": sft_paper(),
        "ICL-kNN": icl_knn(demonstrations=shown),
        "ICL-random": icl_random(demonstrations=shown),
    }
    for model in kit.models:
        found = _truthful.study(kit, model, arms)
        for arm in ("pretrained", "one-shot", "ICL-kNN", "ICL-random"):
            yield cell(model, arm, [run.metrics[METRIC] for run in found[arm]])
        for arm in ("ISARA", "SFT"):
            folders = kit.folders(_truthful.name(model), found[arm])
            for round in (1, 2):
                rounds = [of_round(folder, round) for folder in folders]
                if all(METRIC in metrics for metrics in rounds):
                    yield cell(model, f"{arm}, k = {round}", [metrics[METRIC] for metrics in rounds])


TABLE = Table(
    title="TruthfulQA: ROUGE-L with the best true answer minus that with the best false one",
    unit="points of ROUGE-L",
    digits=2,
    models=_safety.MODELS,
    needs=_truthful.NEEDS,
    fill=fill,
    source="arXiv 2401.06785, Table 6, and what its authors published with it",
    notes=(
        "817 questions in the paper's time, 790 in today's table",
        "empty answers count 0 here; the official script left them out",
    ),
    paper={
        "llama-7b": {
            "pretrained": -7.56,
            "ISARA, k = 1": -6.28,
            "ISARA, k = 2": 3.82,
            "one-shot": -5.41,
            "SFT, k = 1": -10.37,
            "SFT, k = 2": -6.15,
            "ICL-kNN": 5.21,
            "ICL-random": -3.92,
        },
        "opt-6.7b": {
            "pretrained": -7.82,
            "ISARA, k = 1": -4.15,
            "ISARA, k = 2": -5.88,
            "one-shot": -5.64,
            "SFT, k = 1": -4.24,
            "ICL-kNN": 1.83,
            "ICL-random": -4.53,
        },
        "llama-2-7b": {"pretrained": -5.70, "ICL-kNN": 11.38, "ICL-random": 4.04},
    },
)
