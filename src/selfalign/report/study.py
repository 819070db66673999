"""The page of a study: its arms side by side, from `study.json` as the study wrote it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfalign.errors import UserError
from selfalign.proof.crossed import Comparison
from selfalign.proof.verdicts import looked_at, verdict
from selfalign.record.plain import portable
from selfalign.report.charts import Chart, forest_chart
from selfalign.report.labels import label
from selfalign.report.page import render
from selfalign.report.verdict import typeset, words
from selfalign.types import SHARES, Metric

NAME = "study.json"
COSTS = {
    "optimiser_steps": "optimiser steps",
    "trained_tokens": "trained tokens",
    "generated_tokens": "generated tokens",
    "prompt_tokens_per_answer": "prompt tokens per answer",
    "seconds": "seconds",
}


def read_study(folder: Path) -> dict[str, Any]:
    """`study.json` with what the page needs besides: the folder's name and the sentence above everything.

    Raises:
        UserError: it is no JSON, or not a study as this version writes it.
    """
    path = folder / NAME
    try:
        study: dict[str, Any] = json.loads(path.read_text("utf-8"))
        known = [(study["metrics"][metric]["unit"], study["metrics"][metric]["better"]) for metric in study["comparisons"]]
        for arm in study["arms"].values():
            _ = known, arm["costs"], [arm["metrics"][metric]["value"] for metric in study["comparisons"]]
            arm["runs"] = [{**run, "stopped_because": portable(run["stopped_because"])} for run in arm["runs"]]
        return {**study, "folder": folder.resolve().name, "title": _title(study), "left_out": study["left_out"]}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): let `selfalign study` write it again") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a study of this version ({error}): let `selfalign study` write it again") from error


def study_page(study: Mapping[str, Any]) -> str:
    return render(
        "study.html.j2",
        {},
        study=study,
        sentences=[
            sentence(each)
            for each in (*(row["sentence"] for row in study["verdicts"]), looked_at(study.get("looks", ())))
            if each
        ],
        shares=share_names(study),
        metrics=_metrics(study),
        charts=study_charts(study),
        outcomes={metric: {arm: outcome(study, metric, arm) for arm in row} for metric, row in study["comparisons"].items()},
        costs=COSTS,
    )


def outcome(study: Mapping[str, Any], metric: str, arm: str) -> str:
    """What the verdict says of any metric, by the rule of the study's own: "better" where the main arm is so.

    p is corrected for the number of arms, not for that of the metrics.
    """
    row, known = study["comparisons"][metric][arm], study["metrics"][metric]
    low, high = (-math.inf if row["low"] is None else row["low"]), (math.inf if row["high"] is None else row["high"])
    p = math.nan if row["p_holm"] is None else row["p_holm"]
    found = Comparison(row["difference"], low, high, p, math.nan, math.nan, repeats=0, prompts=0, test="")
    word = verdict(Metric(metric, 0.0, 0.0, 0.0, 0, unit=known["unit"], better=known["better"]), found, p)
    return "cannot tell" if word == "unclear" else word


def sentence(text: str) -> str:
    """One of the verdict's as a page sets it, with a capital and a full stop."""
    shown = typeset(text)
    return f"{shown[:1].upper()}{shown[1:]}."


def share_names(study: Mapping[str, Any]) -> set[str]:
    """The metrics shown in per cent."""
    return {name for name, metric in study["metrics"].items() if metric["unit"] in SHARES}


def study_charts(study: Mapping[str, Any]) -> dict[str, Chart]:
    """By metric; none of a metric without values."""
    charts, shares = {}, share_names(study)
    for metric in study["comparisons"]:
        rows = [
            (name, arm["metrics"][metric]["value"], arm["metrics"][metric]["low"], arm["metrics"][metric]["high"])
            for name, arm in study["arms"].items()
            if arm["metrics"][metric]["value"] is not None
        ]
        if rows:
            drawn = forest_chart(rows, study["main"], f"{words(metric)} of each arm", metric in shares)
            charts[metric] = Chart(words(metric), label(metric, study["metrics"][metric]), drawn)
    return charts


def _metrics(study: Mapping[str, Any]) -> list[str]:
    """That of the verdict first."""
    return sorted(study["comparisons"], key=lambda metric: bool(metric != study["metric"]))


def _title(study: Mapping[str, Any]) -> str:
    """Every verdict in it, so that a good one does not hide a bad one."""
    by: dict[str, list[str]] = {}
    for each in study["verdicts"]:
        by.setdefault(each["verdict"], []).append(each["arm"])
    others = len(study["verdicts"])
    named = {
        side: ", ".join(arms) if len(arms) < max(others, 4) else f"any of the other {others} arms" for side, arms in by.items()
    }
    sides = [f"{side} than {arms}" for side, arms in named.items() if side != "unclear"]
    parts = [f"is {' and '.join(sides)}"] if sides else []
    parts += [f"is not significantly different from {named['unclear']}"] if "unclear" in by else []
    about = words(study["metric"])
    return f"{about[:1].upper()}{about[1:]}: {study['main']} {'; it '.join(parts) or 'stands alone, no arm to compare with'}"
