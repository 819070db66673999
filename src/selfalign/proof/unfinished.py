"""Runs of a study that did not finish: on which random seeds two arms can be compared all the same, and what has to be said.

`failed` are rows of plain data, {"arm", "seed", "folder", "reason"}, of runs that failed and of those that could not begin
without one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selfalign.record.finished import Finished
from selfalign.text import counted

Failed = Sequence[Mapping[str, Any]]


def shared(found: Mapping[str, Sequence[Finished]], failed: Failed, *pair: str) -> list[list[Finished]]:
    """The runs of each of two arms on the random seeds that neither lacks.

    An arm of one run in a study of several is one that no random seed changes: its run stands for all of them.
    """
    lost = {arm: {row["seed"] for row in failed if row["arm"] == arm} for arm in pair}
    alone = {arm: len(found[arm]) + len(lost[arm]) == 1 for arm in pair}
    gone = set().union(*lost.values())
    return [[run for run in found[arm] if alone[arm] or run.seed not in gone] for arm in pair]


def unequal(found: Mapping[str, Sequence[Finished]], failed: Failed, *pair: str) -> str:
    """What a verdict has to say of random seeds on which one of its two arms has no run; "" where there are none."""
    lacking: dict[str, list[str]] = {}
    for arm in pair:
        if rows := [row for row in failed if row["arm"] == arm]:
            lacking.setdefault(_seeds(rows), []).append(arm)
    if not lacking:
        return ""
    why = " and ".join(f"{' and '.join(arms)} did not finish on {lost}" for lost, arms in lacking.items())
    seeds = sorted({run.seed for runs in shared(found, failed, *pair) if len(runs) > 1 for run in runs})
    where = f"on random seeds {_and(seeds)} alone" if len(seeds) > 1 else "on one random seed alone"
    return f"; compared {where}, as {why}: which runs fail may be no chance, and then these are no fair sample"


def unfinished(study: Mapping[str, Any]) -> list[str]:
    """A line for each reason why runs did not finish, and how to go on with them; none where all did."""
    by: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in study.get("failed", ()):  # younger than studies that have a page
        by.setdefault((row["arm"], row["reason"]), []).append(row)
    lines = [f"{arm}, {_seeds(rows)}: {reason}" for (arm, reason), rows in by.items()]
    count = counted(len(study.get("failed", ())), "run")
    return [f"{count} did not finish; {study['go_on']} goes on with what is missing alone", *lines] if lines else []


def no_verdict(study: Mapping[str, Any]) -> str:
    """Why there is no verdict at all; "" where there is one, or nothing to compare with."""
    main = study["main"]
    return "" if main in study["arms"] else f"no verdict: {main}, which the others are compared with, finished on no random seed"


def _seeds(rows: Failed) -> str:
    seeds = sorted(row["seed"] for row in rows)
    return f"random seed{'s' if len(seeds) > 1 else ''} {_and(seeds)}"


def _and(numbers: Sequence[int]) -> str:
    *first, last = map(str, numbers)
    return f"{', '.join(first)} and {last}" if first else last
