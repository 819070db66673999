"""The page of a study: its arms side by side, from `study.json` as the study wrote it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfalign.errors import UserError
from selfalign.plain import portable
from selfalign.report.charts import forest_chart
from selfalign.report.page import render, slug
from selfalign.report.tables import Table
from selfalign.report.verdict import words
from selfalign.types import BOUNDS

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
    return render("study.html.j2", {}, study=study, shares=share_names(study), charts=study_charts(study), costs=COSTS)


def share_names(study: Mapping[str, Any]) -> set[str]:
    """The metrics shown in per cent."""
    return {name for name, metric in study["metrics"].items() if metric["unit"] in BOUNDS}


def study_charts(study: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """File name (without suffix) to (metric, SVG); the metric of the verdict first."""
    charts, shares = {}, share_names(study)
    for place, metric in enumerate(_metrics(study), 1):
        rows = [
            (name, arm["metrics"][metric]["value"], arm["metrics"][metric]["low"], arm["metrics"][metric]["high"])
            for name, arm in study["arms"].items()
            if arm["metrics"][metric]["value"] is not None
        ]
        if rows:
            chart = forest_chart(rows, study["main"], words(metric), metric in shares)
            charts[f"metric-{place:02d}-{slug(metric)}"] = (metric, chart)
    return charts


def study_tables(study: Mapping[str, Any]) -> dict[str, Table]:
    figures = ("value", "low", "high", "prompts", "repeats")
    compared = ("difference", "low", "high", "p_value", "p_holm", "minimum_detectable", "prompts", "repeats", "test")
    arms = study["arms"].items()
    return {
        "verdicts": (("arm", "metric", "verdict"), [[v["arm"], v["metric"], v["verdict"]] for v in study["verdicts"]]),
        "metrics": (
            ("arm", "metric", *figures),
            [[name, metric, *(row.get(key) for key in figures)] for name, arm in arms for metric, row in arm["metrics"].items()],
        ),
        "comparisons": (
            ("metric", "main", "arm", *compared),
            [
                [metric, study["main"], arm, *(row.get(key) for key in compared)]
                for metric, by_arm in study["comparisons"].items()
                for arm, row in by_arm.items()
            ],
        ),
        "costs": (("arm", *COSTS), [[name, *(arm["costs"].get(key) for key in COSTS)] for name, arm in arms]),
    }


def _metrics(study: Mapping[str, Any]) -> list[str]:
    return sorted(study["comparisons"], key=lambda metric: bool(metric != study["metric"]))


def _title(study: Mapping[str, Any]) -> str:
    """Every verdict in it, so that a good one does not hide a bad one."""
    by: dict[str, list[str]] = {}
    for each in study["verdicts"]:
        by.setdefault(each["verdict"], []).append(each["arm"])
    told = [f"{verdict} than {', '.join(arms)}" for verdict, arms in by.items() if verdict != "unclear"]
    parts = [f"is {' and '.join(told)}"] if told else []
    parts += [f"cannot be told from {', '.join(by['unclear'])}"] if "unclear" in by else []
    return f"On {words(study['metric'])}, {study['main']} {'; it '.join(parts) or 'stands alone: no arm to compare with'}"
