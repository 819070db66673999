"""An evaluation as a person reads it: each metric with its interval, and the difference where two are compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from selfalign.cli.table import COMPARED, compared, figure, shortcuts_table, shown, stdout_console, wide_table
from selfalign.proof.shortcuts import BALANCE, EXPECTED, of_metric, overtaken
from selfalign.text import counted
from selfalign.types import SHARES


def print_evaluation(result: Mapping[str, Any]) -> None:
    console = stdout_console()
    model, other, comparison = result["model"], result["other"], result["comparison"]
    sides = [side for side in (model, other) if side]
    console.print(shown(f"model: {_described(model)}"), soft_wrap=True)
    if other is not None:
        console.print(shown(f"other: {_described(other)}"), soft_wrap=True)
    console.print(metrics_table(model, other))
    balance = model["metrics"].get(BALANCE)
    if balance and of_metric(model["shortcuts"], BALANCE):
        console.print(shortcuts_table(model["shortcuts"]))
    for name in (BALANCE, EXPECTED):
        low = model["metrics"].get(name, {}).get("low")
        if comparison is None and (told := overtaken(model["shortcuts"], name, low)):
            console.print(shown(told, "yellow"), soft_wrap=True)
    if comparison is not None:
        console.print(differences_table(comparison["differences"]))
        for name, reason in comparison["left_out"].items():
            console.print(shown(f"not compared: {name} ({reason})"), soft_wrap=True)
    for side in sides:
        if side["nearly_trained_on"]:
            text = f"{counted(side['nearly_trained_on'], 'prompt')} that {side['name']} was trained on, or nearly so"
            console.print(shown(text, "yellow"), soft_wrap=True)
    if comparison is not None:
        console.print(shown(comparison["sentence"]), soft_wrap=True)
    for side in sides:
        if side["folder"] is not None:
            console.print(shown(f"kept in {side['folder']}"), soft_wrap=True)


def metrics_table(model: Mapping[str, Any], other: Mapping[str, Any] | None) -> Table:
    """Every metric that one of the two has; shares in per cent."""
    table = wide_table("metrics with 95 % intervals", "metric", "n", "model", *(("other",) if other else ()))
    both = [side["metrics"] for side in (model, other) if side]
    for name in dict.fromkeys(name for metrics in both for name in metrics):
        found = [metrics.get(name) for metrics in both]
        counts = {str(metric["n"]) for metric in found if metric}
        table.add_row(shown(name.replace("_", " ")), " / ".join(sorted(counts)), *map(figure, found))
    return table


def differences_table(differences: Mapping[str, Any], what: str = "model minus other") -> Table:
    """Of the shares in points."""
    table = wide_table(f"{what}, prompt by prompt; p of each metric by itself", "metric", "difference", *COMPARED)
    for name, row in differences.items():
        side = ", less is better" if row["better"] == "lower" else ""
        table.add_row(shown(name.replace("_", " ") + side), *compared(row, row["unit"] in SHARES, row["p_value"]))
    return table


def _described(side: Mapping[str, Any]) -> str:
    count, tokens, model = side["demonstrations"], side["prompt_tokens_per_answer"], side["adapter"] or side["base"]
    how = {"Knn": f"the nearest {counted(count, 'seed')} shown", "Uniform": f"{counted(count, 'seed')} drawn at random shown"}
    facts = [
        model if model != side["name"] else "",
        how.get(side["retriever"], f"{counted(count, 'seed')} shown") if count else "",
        f"{tokens:,.0f} prompt tokens an answer" if tokens else "",
    ]
    described = ", ".join(filter(None, facts))
    return f"{side['name']} ({described})" if described else str(side["name"])
