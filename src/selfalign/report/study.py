"""The page of a study: its arms side by side, from `study.json` as the study wrote it."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfalign.errors import UserError
from selfalign.proof.crossed import Comparison
from selfalign.proof.curve import only_on_curve
from selfalign.proof.shortcuts import BALANCE, of_metric
from selfalign.proof.unfinished import no_verdict, unfinished
from selfalign.proof.verdicts import looked_at, verdict
from selfalign.record.plain import portable
from selfalign.report.answers import page_address, side_by_side
from selfalign.report.charts import Chart, Point, curve_chart, forest_chart
from selfalign.report.labels import label
from selfalign.report.page import render
from selfalign.report.verdict import typeset, words
from selfalign.text import counted
from selfalign.types import SHARES, Metric

NAME = "study.json"
PLAN = "runs.json"
"""What runs there are to be, as `study.units` writes it."""
COSTS = {
    "optimiser_steps": "optimiser steps",
    "trained_tokens": "trained tokens",
    "generated_tokens": "generated tokens",
    "prompt_tokens_per_answer": "prompt tokens per answer",
    "seconds": "seconds",
}


def read_study(folder: Path, linked: bool = True) -> dict[str, Any]:
    """`study.json` with what the page needs besides: the folder's name, the sentence above everything, the pages of its runs
    and a few of their answers.

    Args:
        linked: whether the page lies in the study's folder, from where it can lead to those of the runs.

    Raises:
        UserError: it is no JSON, or not a study as this version writes it.
    """
    path = folder / NAME
    try:
        study: dict[str, Any] = json.loads(path.read_text("utf-8"))
        for metric, compared in study["comparisons"].items():
            _ = study["metrics"][metric]["unit"], study["metrics"][metric]["better"]
            _ = [study["arms"][arm]["metrics"][metric]["value"] for arm in compared]
        for arm in study["arms"].values():
            _ = arm["costs"]
            arm["runs"] = [{**run, "stopped_because": portable(run["stopped_because"])} for run in arm["runs"]]
        runs = [run["folder"] for arm in study["arms"].values() for run in arm["runs"]]
        more = {
            "folder": folder.resolve().name,
            "title": _title(study),
            "left_out": study["left_out"],
            "missing": study.get("missing", {}),  # younger than studies that have a page
            "open": _open(folder, runs, study.get("failed", ())),
            "go_on": portable(study.get("go_on", "")),
            "failed": [{**row, "reason": portable(row["reason"])} for row in study.get("failed", ())],
            "curve": study.get("curve"),
            "pages": {run: address for run in runs if linked and (address := page_address(folder, run))},
            "answers": side_by_side(folder, study),
            "begun": sorted(
                {path.parts[-3] for path in folder.glob("*/seed-*/run.sqlite")}
                - {run.partition("/")[0] for run in (*runs, *(row["folder"] for row in study.get("failed", ())))}
            ),
        }
        return {**study, **more}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): let `selfalign study` write it again") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a study of this version ({error}): let `selfalign study` write it again") from error


def _once(sentences: Sequence[str]) -> list[str]:
    """With what all of them end with said once, behind them."""
    parts, common = [each.split("; ") for each in sentences], list[str]()
    while len(parts) > 1 and all(len(each) > 1 for each in parts) and len({each[-1] for each in parts}) == 1:
        common.insert(0, parts[0][-1])
        parts = [each[:-1] for each in parts]
    return ["; ".join(each) for each in parts] + ([f"of each of these: {'; '.join(common)}"] if common else [])


def _open(folder: Path, told: Sequence[str], failed: Sequence[Mapping[str, Any]]) -> str:
    """How many runs of the study are not in its table yet; "" where all are, or have failed."""
    if not (folder / PLAN).is_file():  # of a study of an earlier version
        return ""
    planned = json.loads((folder / PLAN).read_text("utf-8"))["runs"]
    count = len({*planned} - {*told, *(row["folder"] for row in failed)})
    if not count:
        return ""
    go_on = f"`selfalign study --config {folder.resolve().name}/study.yaml` goes on where it was stopped"
    return f"{count} of {counted(len(planned), 'run')} {'is' if count == 1 else 'are'} not in this table yet; {go_on}"


def study_page(study: Mapping[str, Any]) -> str:
    told = _once([row["sentence"] for row in study["verdicts"]])
    more = [study["curve"]["sentence"]] if study["curve"] else []
    return render(
        "study.html.j2",
        {},
        study=study,
        sentences=[
            sentence(each, study["main"]) for each in (no_verdict(study), *told, *more, looked_at(study.get("looks", ()))) if each
        ],
        unfinished=[typeset(each) for each in (study.get("open"), *unfinished(study)) if each],
        along=only_on_curve(study),
        lost=Counter(row["arm"] for row in study["failed"]),
        shares=share_names(study),
        rules=of_metric(study.get("shortcuts", ()), BALANCE) if study["metric"] == BALANCE else [],
        aims=[(name, run) for name, arm in study["arms"].items() for run in arm["runs"] if "aim" in run],
        metrics=[metric for metric in study["comparisons"] if metric != study["metric"]],
        charts=study_charts(study),
        outcomes={metric: {arm: outcome(study, metric, arm) for arm in row} for metric, row in study["comparisons"].items()},
        curve=_curve(study) if study["curve"] else None,
        answers=study["answers"],
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


def sentence(text: str, main: str = "") -> str:
    """One of the verdict's as a page sets it, with capitals and a full stop; the main arm is called as it is: self_distill."""
    name = rf"(?!{re.escape(main)}(?:-[\w.]+=\S*)? )" if main else ""
    return re.sub(rf"(?:^|(?<=\? )){name}[a-z]", lambda found: found[0].upper(), typeset(text)) + "."


def share_names(study: Mapping[str, Any]) -> set[str]:
    """The metrics shown in per cent."""
    return {name for name, metric in study["metrics"].items() if metric["unit"] in SHARES}


def study_charts(study: Mapping[str, Any]) -> dict[str, Chart]:
    """By metric: how far the main arm is from each of the others; none where it stands alone."""
    charts, shares, main = {}, share_names(study), study["main"]
    for metric, compared in study["comparisons"].items():
        rows = [
            (arm, row["difference"], row["low"], row["high"], outcome(study, metric, arm) != "cannot tell")
            for arm, row in compared.items()
        ]
        if rows:
            better = study["metrics"][metric]["better"]
            below, above = {"higher": ("worse", "better"), "lower": ("better", "worse")}.get(better, ("lower", "higher"))
            sides = f"{main} {below}", f"{main} {above}"
            drawn = forest_chart(rows, sides, f"{words(metric)}: {main} minus each arm", metric in shares)
            unit = " in points" if metric in shares else ""
            about = (
                f"{label(metric, study['metrics'][metric])}. Drawn is {main} minus each arm{unit}, paired prompt by prompt, with"
            )
            charts[metric] = Chart(words(metric), f"{about} its interval; in colour where a verdict is possible", drawn)
    return charts


def _curve(study: Mapping[str, Any]) -> dict[str, Any]:
    """{"charts", "rows"}: a chart for each metric, that of the verdict first; rows of the verdict's metric,
    (seeds, figures by line, comparisons by line)."""
    curve, shares = study["curve"], share_names(study)
    lines: dict[str, dict[int, str]] = {
        line: {point["seeds"]: point["arm"] for point in points} for line, points in curve["lines"].items()
    }
    by = {line: {each["seeds"]: each for each in rows} for line, rows in curve["comparisons"].items()}
    charts = []
    for metric in sorted(study["comparisons"], key=lambda each: bool(each != curve["metric"])):
        drawn = []
        for line, points in lines.items():
            found = {size: study["arms"][arm]["metrics"].get(metric) for size, arm in points.items()}
            shown = [Point(n, m["value"], m["low"], m["high"]) for n, m in found.items() if m and m["value"] is not None]
            drawn += [(line, shown)] if shown else []
        if drawn:
            svg = curve_chart(drawn, f"{words(metric)} by the number of seeds", metric in shares)
            about = f"{label(metric, study['metrics'][metric])}; by the number of seeds"
            charts.append(Chart(words(metric), about, svg, [(place, line) for place, (line, _) in enumerate(drawn)]))
    figures = {line: {n: study["arms"][arm]["metrics"][curve["metric"]] for n, arm in p.items()} for line, p in lines.items()}
    rows = [
        (size, [each.get(size) for each in figures.values()], [each.get(size) for each in by.values()])
        for size in sorted({size for points in lines.values() for size in points})
    ]
    return {"charts": charts, "rows": rows}


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
    if no_verdict(study):
        return f"No verdict on {about}: {study['main']} did not finish"
    return f"{about[:1].upper()}{about[1:]}: {study['main']} {'; it '.join(parts) or 'stands alone, no arm to compare with'}"
