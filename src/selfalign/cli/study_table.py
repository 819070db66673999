"""A study as a person reads it: the verdicts, each metric arm by arm, what each arm costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from selfalign.cli.table import COMPARED, compared, figure, shortcuts_table, shown, stdout_console, tell, wide_table
from selfalign.proof.curve import only_on_curve
from selfalign.proof.shortcuts import BALANCE, of_metric
from selfalign.proof.unfinished import no_verdict, unfinished
from selfalign.proof.verdicts import looked_at
from selfalign.text import counted
from selfalign.types import SHARES


def print_study(study: Mapping[str, Any], console: Console | None = None) -> None:
    console = console or stdout_console()
    others = [name for name in study["comparisons"] if name != study["metric"]]
    for metric in (*others, study["metric"]):  # what the verdict is about stands next to it
        console.print(metric_table(study, metric))
        tell(console, *(f"–: {arm} ({reason})" for arm, reason in study["missing"].get(metric, {}).items()))
    if of_metric(study["shortcuts"], BALANCE) and study["metric"] == BALANCE:
        console.print(shortcuts_table(study["shortcuts"]))
    console.print(costs_table(study))
    console.print(
        shown("p after Holm's correction over the arms compared; minimum detectable effect: the difference that 80 % power finds")
    )
    aims = ((arm, run) for arm, row in study["arms"].items() for run in row["runs"] if "aim" in run)
    tell(console, looked_at(study.get("looks", ())))
    tell(console, *(f"{arm}, random seed {run['seed']}: {run['aim']}" for arm, run in aims))
    for name, reason in study["left_out"].items():
        console.print(shown(f"not compared: {name} ({reason})"))
    verdicts = (verdict["sentence"] for verdict in study["verdicts"])
    tell(console, *study.get("notes", ()), *unfinished(study), no_verdict(study), *verdicts)
    if curve := study.get("curve"):
        console.print(curve_table(study))
        missing = (f"not on the curve: {arm} ({reason})" for arm, reason in curve["missing"].items())
        tell(console, *missing, curve["sentence"])


def metric_table(study: Mapping[str, Any], metric: str) -> Table:
    """Each arm's figure with its 95 % interval over prompts and repeats, and how far the main arm is from it."""
    main, share = study["main"], study["metrics"][metric]["unit"] in SHARES
    along, lost = only_on_curve(study), Counter(row["arm"] for row in study.get("failed", ()))
    prompts = next(row["metrics"][metric]["prompts"] for row in study["arms"].values() if metric in row["metrics"])
    side = ", less is better" if study["metrics"][metric]["better"] == "lower" else ""
    title = f"{metric.replace('_', ' ')}{' in points' if share else ''}{side}: {counted(prompts, 'prompt')}, 95 % intervals"
    table = wide_table(title, "arm", "seeds", "value", f"{main}\nminus arm", *COMPARED)
    for arm, row in study["arms"].items():
        if arm in study["missing"].get(metric, ()):
            table.add_row(shown(arm), *("–",) * 5)
            continue
        if arm in along:  # which has a table of its own
            continue
        each = study["comparisons"][metric].get(arm)
        figures = {**row["metrics"][metric], "unit": study["metrics"][metric]["unit"]}
        cells = ("–",) * 3 if each is None else compared(each, share, each["p_holm"])
        seeds = f"{figures['repeats']} of {figures['repeats'] + lost[arm]}" if lost[arm] else str(figures["repeats"])
        table.add_row(shown(arm), seeds, figure(figures).replace("%", ""), *cells)
    for arm in (arm for arm in lost if arm not in {*study["arms"], *along}):
        table.add_row(shown(arm), f"0 of {lost[arm]}", *("–",) * 4)
    return table


def curve_table(study: Mapping[str, Any]) -> Table:
    """The verdict's metric by the number of seeds, a column for each line, and how far the main arm is from the others."""
    curve, main = study["curve"], study["main"]
    metric = study["metrics"][curve["metric"]]
    share, lines = metric["unit"] in SHARES, curve["lines"]
    against = {line: {each["seeds"]: each for each in rows} for line, rows in curve["comparisons"].items()}
    heads = [cell for line in against for cell in (f"{main}\nminus {line}", *COMPARED)]
    name = curve["metric"].replace("_", " ")
    table = wide_table(f"{name}{' in points' if share else ''} by number of seeds", "seeds", *lines, *heads)
    for size in sorted({point["seeds"] for points in lines.values() for point in points}):
        arms = [next((point["arm"] for point in points if point["seeds"] == size), None) for points in lines.values()]
        values = [
            None if arm is None else {**study["arms"][arm]["metrics"][curve["metric"]], "unit": metric["unit"]} for arm in arms
        ]
        rows = [each.get(size) for each in against.values()]
        cells = [("–",) * 3 if row is None else compared(row, share, row["p_holm"]) for row in rows]
        table.add_row(
            str(size), *(figure(value).replace("%", "") for value in values), *(text for each in cells for text in each)
        )
    return table


def costs_table(study: Mapping[str, Any]) -> Table:
    columns = {
        "optimiser\nsteps": "optimiser_steps",
        "trained\ntokens": "trained_tokens",
        "generated\ntokens": "generated_tokens",
        "prompt tokens\nper answer": "prompt_tokens_per_answer",
        "seconds": "seconds",
    }
    table = wide_table("costs of one run, mean over the random seeds", "arm", *columns)
    for arm, row in study["arms"].items():
        table.add_row(shown(arm), *(f"{row['costs'][column]:,.0f}" for column in columns.values()))
    return table
