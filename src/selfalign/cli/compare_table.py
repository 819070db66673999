"""Two runs as a person compares them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from selfalign.cli.compare import facts
from selfalign.cli.eval_table import differences_table
from selfalign.cli.table import figure, shown, stdout_console, wide_table

LONGEST = 60
"""Characters of an option's value that the table has room for; --json has all of them."""


def print_comparison(found: Mapping[str, Any]) -> None:
    console, runs = stdout_console(), found["runs"]
    for name, row in zip(("first", "second"), runs, strict=True):
        best = "" if row["best_round"] is None else f", best round {row['best_round']} of {row['rounds']}"
        console.print(shown(f"{name}: {row['folder']} ({row['recipe']}, {row['model']}, {row['state']}{best})"), soft_wrap=True)
    options = wide_table("options that differ", "option", "first", "second")
    for row in found["options"]:
        options.add_row(shown(row["name"]), *(shown(_short(row.get("text") or value)) for value in row["values"]))
    console.print(options if found["options"] else shown("options: none differ"))
    for line in facts(found):
        console.print(shown(line), soft_wrap=True)
    table = wide_table("metrics of the best rounds, with 95 % intervals", "metric", "first", "second")
    for name in dict.fromkeys(name for row in runs for name in row["metrics"]):
        table.add_row(shown(name.replace("_", " ")), *(figure(row["metrics"].get(name)) for row in runs))
    console.print(table)
    if (comparison := found["comparison"]) is None:
        console.print(shown(f"not compared prompt by prompt: {found['not_compared']}", "yellow"), soft_wrap=True)
        return
    console.print(differences_table(comparison["differences"], "second minus first"))
    for name, reason in comparison["left_out"].items():
        console.print(shown(f"not compared: {name} ({reason})"), soft_wrap=True)
    console.print(shown(comparison["sentence"]), soft_wrap=True)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else "not set" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
