"""An evaluation as a person reads it: each metric with its interval, and the difference where two are compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from selfalign.cli.table import COMPARED, by_metric, compared, figure, named, shortcuts_table, stdout_console, tell, wide_table
from selfalign.proof.shortcuts import BALANCE, EXPECTED, of_metric, overtaken
from selfalign.text import counted
from selfalign.types import SHARES


def print_evaluation(result: Mapping[str, Any]) -> None:
    console = stdout_console()
    model, other, comparison = result["model"], result["other"], result["comparison"]
    sides = {name: side for name, side in (("model", model), ("other", other)) if side}
    tell(console, *(f"{name}: {_described(side)}" for name, side in sides.items()))
    console.print(_metrics_table(sides))
    balance = model["metrics"].get(BALANCE)
    if balance and of_metric(model["shortcuts"], BALANCE):
        console.print(shortcuts_table(model["shortcuts"]))
    for name in (BALANCE, EXPECTED):
        low = model["metrics"].get(name, {}).get("low")
        if comparison is None:
            tell(console, overtaken(model["shortcuts"], name, low), style="yellow")
    if comparison is not None:
        print_differences(console, comparison, "model minus other")
    for side in sides.values():
        if near := side["nearly_trained_on"]:
            text = f"{counted(near, 'prompt')} that {side['name']} was trained on, or nearly so"
            tell(console, text, style="yellow")
    if comparison is not None:
        tell(console, comparison["sentence"])
    tell(console, *(f"kept in {side['folder']}" for side in sides.values() if side["folder"] is not None))


def _metrics_table(sides: Mapping[str, Mapping[str, Any]]) -> Table:
    """Every metric that one of the two has; shares in per cent."""
    table = wide_table("metrics with 95 % intervals", "metric", "n", *sides)
    for name, found in by_metric(side["metrics"] for side in sides.values()):
        counts = {str(metric["n"]) for metric in found if metric}
        table.add_row(named(name), " / ".join(sorted(counts)), *map(figure, found))
    return table


def print_differences(console: Console, comparison: Mapping[str, Any], what: str) -> None:
    """The paired differences, of shares in points, and what has none."""
    table = wide_table(f"{what}, prompt by prompt; p of each metric by itself", "metric", "difference", *COMPARED)
    for name, row in comparison["differences"].items():
        side = ", less is better" if row["better"] == "lower" else ""
        table.add_row(named(name + side), *compared(row, row["unit"] in SHARES, row["p_value"]))
    console.print(table)
    tell(console, *(f"not compared: {name} ({reason})" for name, reason in comparison["left_out"].items()))


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
