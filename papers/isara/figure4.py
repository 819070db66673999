"""Figure 4: how often a judge prefers ISARA's answer to AlpacaEval's instructions to that of another arm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from papers import data
from papers.isara import _safety
from papers.kit import Kit, answers, cell
from papers.table import Cell, Table
from selfalign.cli.eval_sides import find_side
from selfalign.evaluators import HeldOut, WinRate
from selfalign.export.answers import export_answers
from selfalign.recipe import Recipe
from selfalign.recipes import icl_knn, icl_random, isara_paper, pretrained, sft_paper
from selfalign.record.store import Store
from selfalign.seeds.read import read_seeds

OTHERS = ("pretrained", "SFT", "ICL-kNN", "ICL-random")


def fill(kit: Kit) -> Iterator[Cell]:
    seeds, prompts = kit.made("alpaca_eval", ["seeds.jsonl", "prompts.jsonl"], lambda out: _make(kit, out))
    main = isara_paper(demonstrations=kit.scale.shown(6))
    shown = kit.scale.shown(4)  # their prompts are long, so the in-context arms show fewer
    arms: dict[str, Recipe] = {
        "ISARA": main,
        "pretrained": pretrained(),
        "SFT": sft_paper(),
        "ICL-kNN": icl_knn(demonstrations=shown),
        "ICL-random": icl_random(demonstrations=shown),
    }
    for model in kit.models:
        name = f"alpaca_eval/{model}"
        found = kit.study(name, kit.models[model], arms, seeds, prompts, [HeldOut()])
        for arm, runs in found.items():
            for folder, run in zip(kit.folders(name, runs), runs, strict=True):
                _export(folder, run.best_round, kit.out / "answers" / f"{model}-{arm}-{run.seed}.json")
        for other in OTHERS:
            metrics = []
            for at, (folder, run) in enumerate(zip(kit.folders(name, found["ISARA"]), found["ISARA"], strict=True)):
                runs = found[other]
                against = runs[min(at, len(runs) - 1)]
                texts = answers(kit.folders(name, [against])[0], against.best_round)
                asked = [replace(one, response=texts[one.id]) for one in read_seeds(prompts)]
                judged = kit.study(
                    f"alpaca_eval-duels/{model}-{other}-{run.seed}",
                    find_side(str(folder)).model,
                    {"ISARA": replace(main, rounds=0)},
                    (),
                    asked,
                    [WinRate(_judge(kit), constant="")],
                )
                metrics.append(judged["ISARA"][0].metrics["win_rate"])
            yield cell(model, f"against {other}", metrics)


def _make(kit: Kit, out: Path) -> None:
    rows = kit.scale.rows
    data.alpaca_eval(kit.source("alpaca_eval.json"), out, seeds=rows(64, 6), pool=rows(256, 12), prompts=None)


def _judge(kit: Kit) -> str:
    return "base" if kit.scale.share < 1 else str(kit.source("judge"))


def _export(folder: Path, round: int, file: Path) -> None:
    """The answers as `alpaca_eval` reads them, for the judge that the paper asked."""
    file.parent.mkdir(exist_ok=True)
    with Store.read(folder) as store:
        export_answers(store, file, round)


TABLE = Table(
    title="AlpacaEval: preference for ISARA's answers to those of another arm",
    models={label: _safety.MODELS[label] for label in ("llama-7b", "llama-2-7b")},
    needs=("alpaca_eval.json",),
    fill=fill,
    source="arXiv 2401.06785, Figure 4; its judge was GPT-4, and it shows round 2 for LLaMA-7B and round 3 for LLaMA-2-7B",
    notes=(
        "ours: a local judge reads both orders; OUT/answers holds every arm's answers for"
        " `alpaca_eval --model_outputs ISARA --reference_outputs OTHER`, which asks the paper's judge",
        "instructions that the other arm left unanswered are not judged",
    ),
    paper={
        "llama-7b": {"against pretrained": 86.0, "against SFT": 70.0, "against ICL-kNN": 58.0, "against ICL-random": 67.0},
        "llama-2-7b": {"against pretrained": 96.0, "against SFT": 83.0, "against ICL-kNN": 73.0, "against ICL-random": 78.0},
    },
)
