"""The tables a person sees: rounds with their yields, drops by rule and metrics with intervals; and JSON in their place."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfalign.loop.progress import at, per_second
from selfalign.proof.kept import KEPT, Change, notes
from selfalign.proof.shortcuts import BALANCE, of_metric
from selfalign.protocols import VERIFIED
from selfalign.record.plain import escaped
from selfalign.text import decimals, printable
from selfalign.types import SHARES

_WIDEST = 10_000
"""Columns that no table needs."""
T = TypeVar("T")


class _Output(Console):
    def on_broken_pipe(self) -> None:
        """Leaves a reader who has left (`| head`) to the command line; rich would end the program."""
        raise  # rich calls this where it handles the BrokenPipeError


def stdout_console() -> Console:
    """Standard output at its width: a terminal's own, or `COLUMNS`; a file or a pipe has no edge to break a table at."""
    return _Output() if sys.stdout.isatty() or "COLUMNS" in os.environ else _Output(width=_WIDEST)


def shown(text: str, style: str = "") -> Text:
    """A text as it stands: brackets in the name of a recipe, a rule or a metric are no markup, and no terminal obeys it."""
    return Text(printable(text), style)


def print_json(found: Mapping[str, Any]) -> None:
    sys.stdout.write(escaped(json.dumps(found, indent=1, ensure_ascii=False)) + "\n")


def named(metric: str) -> Text:
    return shown(metric.replace("_", " "))


def tell(console: Console, *texts: str, style: str = "") -> None:
    """Prints those that say something, each on a line of its own however long it is."""
    for text in filter(None, texts):
        console.print(shown(text, style), soft_wrap=True)


def by_metric(sides: Iterable[Mapping[str, T]]) -> Iterator[tuple[str, list[T | None]]]:
    """Each metric that one of the sides has, with what every side has of it."""
    sides = list(sides)
    for name in dict.fromkeys(name for side in sides for name in side):
        yield name, [side.get(name) for side in sides]


def print_status(status: Mapping[str, Any], warnings: Sequence[str] = (), guard: Sequence[Change] = ()) -> None:
    """`warnings` are those of the guards (`status.warnings`), `guard` is what the model to ship kept (`kept.of_run`)."""
    console = stdout_console()
    console.print(rounds_table(status))
    if replay := status.get("replay"):
        drops = ", ".join(f"{rule} {count}" for rule, count in replay["dropped"].items())
        dropped = f"; dropped by rule: {drops}" if drops else ""
        console.print(shown(f"replay: {replay['kept']} of {replay['prompts']} answers of the base model{dropped}"))
    for row in status["rounds"]:
        if (review := row.get("review")) and review["done"]:  # else the last line says what the run waits for
            people = ", ".join(review["by"])
            console.print(shown(f"review: {review['text']}{f' (by {people})' if people else ''}"))
    if any(row["metrics"] for row in status["rounds"]):
        console.print(metrics_table(status["rounds"], status["best_round"]))
    for row in status["rounds"]:
        found = row["verify_weights"]
        if found is not None and found["verdict"] == VERIFIED:  # else it is among the warnings
            console.print(shown(f"verify_weights: {found['text']}"))
    for warning in warnings:
        console.print(shown(warning, "yellow"))
    for change in guard:
        console.print(shown(change.text, "" if change.verdict == KEPT else "yellow"))
    for note in notes(guard):
        console.print(shown(note))
    best = status["rounds"][status["best_round"]] if status["best_round"] is not None and status["rounds"] else None
    console.print(shown(_running(status["progress"]) or _ended(status["state"], status["stopped_because"])))
    if best is not None and status["state"] == "done":
        name = "newest round" if "shipped unchecked" in (status["stopped_because"] or "") else "best round"
        console.print(shown(f"{name}: {status['best_round']}, model: {best['model']}"), soft_wrap=True)


def _running(progress: Mapping[str, Any] | None) -> str:
    """The stage at hand; "" where none is open."""
    if progress is None:
        return ""
    text = f"running: {progress['stage']}, {progress['done']} of {progress['total']}"
    if progress["per_second"] is None:
        return text
    now, *ends = (datetime.fromisoformat(progress[name]).timestamp() for name in ("at", "stage_ends", "run_ends"))
    stage, run = (at(end, now) for end in ends)
    missing = " and ".join(progress["unmeasured"])
    rest = f"the run not before {run}: {missing} still to be measured" if missing else f"the run about {run}"
    return f"{text}, {per_second(progress['per_second'])}, ends {stage}, {rest}"


def _ended(state: str, why: str | None) -> str:
    """The last word of a status, and what to do where there is something to be done."""
    on = "the same command goes on from here"
    return {
        "running": "running: not finished yet",
        "interrupted": f"{why}: {on}",  # the reason says so itself
        "stopped": f"stopped without a word, as a killed process does: {on}",
    }.get(state, f"{state}: {why}")


def rounds_table(status: Mapping[str, Any]) -> Table:
    table = Table(title=shown(f"{status['recipe']}: candidates and what became of them", "table.title"), title_justify="left")
    for name in ("round", "candidates", "kept", "dropped by rule", "trained tokens", "seconds"):
        table.add_column(name, justify="left" if name == "dropped by rule" else "right")
    for row in status["rounds"]:
        drops = sorted(row["dropped"].items(), key=lambda item: (-item[1], item[0]))
        given = f" ({row['given']['candidates']} given)" if "given" in row else ""
        table.add_row(
            str(row["round"]),
            f"{row['candidates']}{given}" if row["round"] else "–",
            f"{row['kept']} ({row['kept'] / row['candidates']:.0%})" if row["candidates"] else "–",
            shown(", ".join(f"{rule} {count}" for rule, count in drops) or "–"),
            f"{row['tokens']['trained']:,}" if row["tokens"]["trained"] else "–",
            f"{sum(row['seconds'].values()):.0f}",
        )
    return table


def metrics_table(rounds: Sequence[Mapping[str, Any]], best: int | None) -> Table:
    table = Table(title="metrics with 95 % intervals (round 0: the base model)", title_justify="left")
    table.add_column("metric")
    for row in rounds:
        table.add_column(f"round {row['round']}" + (" *" if row["round"] == best else ""), justify="right")
    for name, metrics in by_metric(row["metrics"] for row in rounds):
        table.add_row(named(name), *map(figure, metrics))
    return table


def figure(metric: Mapping[str, Any] | None) -> str:
    """A metric with its interval, shares in per cent; a count, or a figure of a set as it stands, by itself."""
    if metric is None or metric["value"] is None:
        return "–"
    if metric["unit"] == "count":
        return f"{metric['value']:.0f}"
    share = metric["unit"] in SHARES
    scale, digits = (100, 0) if share else (1, decimals(metric["value"]))
    value, low, high = ("–" if metric[key] is None else f"{scale * metric[key]:.{digits}f}" for key in ("value", "low", "high"))
    value += "%" if share else ""
    return value if metric["low"] == metric["high"] == metric["value"] else f"{value} [{low}, {high}]"


def wide_table(title: str, first: str, *columns: str) -> Table:
    """Names on the left, which may fold; figures on the right, which may not."""
    table = Table(title=shown(title, "table.title"), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(shown(first), overflow="fold", min_width=10)
    for name in columns:
        table.add_column(shown(name), justify="right", no_wrap=True)
    return table


def shortcuts_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """What trivial rules reach on the held-out prompts (`proof.shortcuts.audit`)."""
    table = wide_table("trivial rules fitted on the seeds, J in points", "looks at", "rule", "J", "AUC")
    for row in of_metric(rows, BALANCE):
        value, low, high = (f"{100 * row[key]:.0f}" for key in ("balance", "low", "high"))
        table.add_row(shown(row["name"]), shown(row["rule"] or "–"), f"{value} [{low}, {high}]", f"{row['auc']:.2f}")
    return table


COMPARED = ("p", "minimum\ndetectable\neffect")


def compared(row: Mapping[str, Any], share: bool, p_value: float | None) -> tuple[str, str, str]:
    """The cells of a difference: with its interval (of shares in points), p, and what 80 % power would find."""
    digits, scale = (0, 100) if share else (decimals(row["difference"], row["low"], row["high"]), 1)
    signs = {"difference": "+", "low": "", "high": "", "minimum_detectable": ""}
    value, low, high, detectable = (
        "–" if row[name] is None else f"{scale * row[name]:{sign}.{digits}f}" for name, sign in signs.items()
    )
    p = "–" if p_value is None else "<0.001" if p_value < 0.001 else f"{p_value:.3f}"
    return f"{value} [{low}, {high}]", p, detectable
