"""A study as a person reads it: the verdicts, each metric arm by arm, what each arm costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfalign.cli.table import stdout_console
from selfalign.text import counted, decimals
from selfalign.types import BOUNDS


def print_study(study: Mapping[str, Any], console: Console | None = None) -> None:
    console = console or stdout_console()
    others = [name for name in study["comparisons"] if name != study["metric"]]
    for metric in (*others, study["metric"]):  # what the verdict is about stands next to it
        console.print(metric_table(study, metric))
    console.print(costs_table(study))
    console.print(
        Text("p after Holm's correction over the arms compared; minimum detectable effect: the difference that 80 % power finds")
    )
    for name, reason in study["left_out"].items():
        console.print(Text(f"not compared: {name} ({reason})"))
    for verdict in study["verdicts"]:
        console.print(Text(verdict["sentence"]), soft_wrap=True)


def metric_table(study: Mapping[str, Any], metric: str) -> Table:
    """Each arm's figure with its 95 % interval over prompts and repeats, and how far the main arm is from it."""
    main, share = study["main"], study["metrics"][metric]["unit"] in BOUNDS
    prompts = study["arms"][main]["metrics"][metric]["prompts"]
    side = ", less is better" if study["metrics"][metric]["better"] == "lower" else ""
    table = _table(
        f"{metric.replace('_', ' ')}{' in points' if share else ''}{side}: {counted(prompts, 'prompt')}, 95 % intervals"
    )
    table.add_column("arm", overflow="fold")
    for name in ("seeds", "value", f"{main}\nminus arm", "p", "minimum\ndetectable\neffect"):
        table.add_column(name, justify="right", no_wrap=True)
    for arm, row in study["arms"].items():
        figure = row["metrics"][metric]
        cells = [str(figure["repeats"]), _interval(figure, "value", share)]
        if (each := study["comparisons"][metric].get(arm)) is None:
            cells += ["–"] * 3
        else:
            digits = decimals(each["difference"], each["low"], each["high"])
            detectable = _number(each["minimum_detectable"], share, digits)
            cells += [_interval(each, "difference", share, digits), _p(each["p_holm"]), detectable]
        table.add_row(arm, *cells)
    return table


def costs_table(study: Mapping[str, Any]) -> Table:
    table = _table("costs of one run, mean over the random seeds")
    table.add_column("arm", overflow="fold")
    columns = {
        "optimiser\nsteps": "optimiser_steps",
        "trained\ntokens": "trained_tokens",
        "generated\ntokens": "generated_tokens",
        "prompt tokens\nper answer": "prompt_tokens_per_answer",
        "seconds": "seconds",
    }
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for arm, row in study["arms"].items():
        table.add_row(arm, *(f"{row['costs'][column]:,.0f}" for column in columns.values()))
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def _interval(row: Mapping[str, Any], key: str, share: bool, digits: int | None = None) -> str:
    return f"{_number(row[key], share, digits)} [{_number(row['low'], share, digits)}, {_number(row['high'], share, digits)}]"


def _number(value: float | None, share: bool, digits: int | None = None) -> str:
    if value is None:
        return "–"
    if share:
        return f"{100 * value:.0f}"
    return f"{value:.{decimals(value) if digits is None else digits}f}"


def _p(value: float | None) -> str:
    return "–" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"
