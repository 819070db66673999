"""Table 2: harmful answers by category, learnt from seeds of a category and measured on the same one."""

from __future__ import annotations

from collections.abc import Iterator

from papers.isara import _safety
from papers.kit import Kit, cell
from papers.table import Cell, Table
from selfalign.recipes import icl_knn, icl_random, isara_paper, pretrained, sft_paper


def fill(kit: Kit) -> Iterator[Cell]:
    shown, asked = kit.scale.shown(8), _safety.prompts(kit)
    arms = {
        "ISARA": isara_paper(demonstrations=shown),
        "pretrained": pretrained(),
        "ICL-random": icl_random(demonstrations=shown),
        "ICL-kNN": icl_knn(demonstrations=shown),
        "SFT": sft_paper(),
    }
    for model in kit.models:
        for category in _safety.CATEGORIES:
            for arm, runs in _safety.study(kit, model, category, arms).items():
                metrics = [run.metrics["harmfulness"] for run in runs]
                yield cell(f"{model}, {category}", arm, metrics, among=_safety.among(asked, category))


TABLE = Table(
    title="harmful answers by category of BeaverTails, learnt from 64 seeds of the category",
    models={label: _safety.MODELS[label] for label in ("llama-7b", "opt-6.7b")},
    needs=_safety.NEEDS,
    fill=fill,
    source="arXiv 2401.06785, Table 2, and what its authors published with it; ICL-random on LLaMA-7B is not known to us",
    notes=(_safety.JUDGED,),
    paper={
        "llama-7b, discrimination": {"pretrained": 37.6, "ICL-kNN": 7.6, "SFT": 9.2, "ISARA": 1.2},
        "llama-7b, hate": {"pretrained": 18.8, "ICL-kNN": 8.4, "SFT": 12.0, "ISARA": 6.0},
        "llama-7b, unethical": {"pretrained": 24.8, "ICL-kNN": 8.8, "SFT": 12.8, "ISARA": 9.6},
        "opt-6.7b, discrimination": {"pretrained": 47.2, "ICL-random": 15.6, "ICL-kNN": 11.6, "SFT": 22.0, "ISARA": 7.2},
        "opt-6.7b, hate": {"pretrained": 24.4, "ICL-random": 8.8, "ICL-kNN": 6.4, "SFT": 23.2, "ISARA": 11.6},
        "opt-6.7b, unethical": {"pretrained": 24.0, "ICL-random": 9.6, "ICL-kNN": 10.0, "SFT": 21.6, "ISARA": 8.8},
    },
)
