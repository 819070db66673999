"""The tables a person sees: rounds with their yields, drops by rule and metrics with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfalign.diversity import SATURATION

SHARES = (
    *("refusal", "over_refusal", "balance", "finished", "kept_very_short", "diversity_repeats"),
    *("harmfulness", "harmfulness_unjudged", "truthfulness_acc", "truthfulness_empty", "mc1"),
    *("win_rate", "win_rate_strict", "win_rate_ties", "win_rate_length_controlled"),
    *("win_rate_consistency", "win_rate_constant", "win_rate_unjudged"),
)
"""Metrics that are shares, shown in per cent, as are those of score saturation."""
TASK_SHARES = (":acc", ":acc_norm", ":exact_match")
"""How shares of tasks of lm-evaluation-harness end."""
COUNTS = ("alarms", "overlap_exact", "overlap_near", "win_rate_flaws")


def print_status(status: Mapping[str, Any], console: Console | None = None, warnings: Sequence[str] = ()) -> None:
    """
    Args:
        warnings: what the guards told (`status.warnings`).
    """
    console = console or Console()
    console.print(rounds_table(status))
    if any(row["metrics"] for row in status["rounds"]):
        console.print(metrics_table(status["rounds"], status["best_round"]))
    for warning in warnings:
        console.print(Text(warning, style="yellow"))
    best = status["rounds"][status["best_round"]] if status["best_round"] is not None and status["rounds"] else None
    console.print(Text(f"{status['state']}: {status['stopped_because'] or 'not finished yet'}"))
    if best is not None and status["state"] == "done":
        console.print(Text(f"best round: {status['best_round']}, model: {best['model']}"), soft_wrap=True)


def rounds_table(status: Mapping[str, Any]) -> Table:
    table = Table(title=f"{status['recipe']}: candidates and what became of them", title_justify="left")
    for name, side in (("round", "right"), ("candidates", "right"), ("kept", "right"), ("dropped by rule", "left")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    for name in ("trained tokens", "seconds"):
        table.add_column(name, justify="right")
    for row in status["rounds"]:
        drops = sorted(row["dropped"].items(), key=lambda item: (-item[1], item[0]))
        table.add_row(
            str(row["round"]),
            str(row["candidates"]) if row["round"] else "–",
            f"{row['kept']} ({row['kept'] / row['candidates']:.0%})" if row["candidates"] else "–",
            ", ".join(f"{rule} {count}" for rule, count in drops) or "–",
            f"{row['tokens']['trained']:,}" if row["tokens"]["trained"] else "–",
            f"{sum(row['seconds'].values()):.0f}",
        )
    return table


def metrics_table(rounds: Sequence[Mapping[str, Any]], best: int | None) -> Table:
    names = list(dict.fromkeys(name for row in rounds for name in row["metrics"]))
    table = Table(title="metrics with 95 % intervals (round 0: the model as it came)", title_justify="left")
    table.add_column("metric")
    for row in rounds:
        table.add_column(f"round {row['round']}" + (" *" if row["round"] == best else ""), justify="right")
    for name in names:
        table.add_row(name.replace("_", " "), *(_cell(name, row["metrics"].get(name)) for row in rounds))
    return table


def _cell(name: str, metric: Mapping[str, Any] | None) -> str:
    if metric is None:
        return "–"
    if name in COUNTS:
        return f"{metric['value']:.0f}"
    if name in SHARES or name.startswith((SATURATION, "ifeval:")) or name.endswith(TASK_SHARES):
        return f"{metric['value']:.0%} [{100 * metric['low']:.0f}, {100 * metric['high']:.0f}]"
    digits = 1 if abs(metric["value"]) >= 10 else 2
    if metric["low"] == metric["high"]:  # a figure of the set as it stands
        return f"{metric['value']:.{digits}f}"
    return f"{metric['value']:.{digits}f} [{metric['low']:.{digits}f}, {metric['high']:.{digits}f}]"
