"""A few held-out prompts of a study with each arm's answer, read from the records of its runs."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from selfalign.errors import UserError
from selfalign.record.store import Store
from selfalign.report.data import held_out_answers
from selfalign.report.verdict import number, words

PROMPTS = 8
"""How many are shown: enough to see a manner, few enough to be read."""
LETTERS = 2000
"""Of an answer."""


def side_by_side(folder: Path, study: Mapping[str, Any]) -> dict[str, Any]:
    """{"arms", "missing", "prompts"}: each arm's run on the first random seed, why an arm has none, and the prompts with the
    answers of those runs' best rounds. The arms of a learning curve are left out."""
    arms: dict[str, dict[str, Any]] = {}
    missing: dict[str, str] = {}
    told: dict[str, list[dict[str, Any]]] = {}
    for name in (each for each in (study["main"], *study["comparisons"][study["metric"]]) if each in study["arms"]):
        run = study["arms"][name]["runs"][0]
        round, record = run["best_round"], _own(folder, run["folder"], "run.sqlite")
        if record is None:
            missing[name] = "its run folder is not here"
            continue
        try:
            with Store.read(record.parent) as store, store.snapshot():
                names = {metric.name: None for metric in store.metrics(round)}
                told[name] = held_out_answers(store, [round], [{"round": round, "metrics": names}])
                kinds = {each.id: each.stratum for each in store.outcomes(round, study["metric"])}
        except UserError as error:
            missing[name] = str(error)
            continue
        rows = [{**each, "category": kinds.get(each["id"], "")} for each in told[name] if each["answers"]]
        told[name] = [each for each in rows if each["id"] in kinds] or rows  # a guard's stand before those of the verdict
        arms[name] = {"folder": run["folder"], "round": round, "shown": shlex.quote(f"{folder.resolve().name}/{run['folder']}")}
    return {"arms": arms, "missing": missing, "prompts": _prompts(told)}


def page_address(folder: Path, run: str) -> str:
    """The page of a run as the study's own page links to it; "" where it has none."""
    return f"./{quote(run)}/report.html" if _own(folder, run, "report.html") else ""


def _own(folder: Path, run: str, name: str) -> Path | None:
    """A file of a run folder that `study.json` names; None where it is not there, or outside of the study's folder."""
    try:
        place = folder / run / name
        return place if place.resolve().is_relative_to(folder.resolve()) and place.is_file() else None
    except (OSError, ValueError):  # no name of a file at all
        return None


def _prompts(told: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The first of each category by turns, of the first evaluation that wrote answers."""
    first = next(iter(told.values()), [])
    stage = first[0]["stage"] if first else ""
    by = {arm: {each["id"]: each for each in rows if each["stage"] == stage} for arm, rows in told.items()}
    place: dict[str, int] = {}
    turn: dict[str, int] = {}
    for each in (row for row in first if row["stage"] == stage):
        turn[each["id"]] = place[each["category"]] = place.get(each["category"], -1) + 1
    chosen = sorted(turn, key=turn.__getitem__)[:PROMPTS]  # stable: within a turn the order of the prompts
    lead = by[next(iter(told))] if told else {}
    return [
        {
            "id": id,
            "category": lead[id]["category"],
            "prompt": lead[id]["prompt"],
            "history": lead[id].get("history", []),
            "answers": [_answer(arm, rows[id]["answers"][0]) for arm, rows in by.items() if id in rows],
        }
        for id in chosen
    ]


def _answer(arm: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    text, cut = answer["text"], "" if answer["finish"] == "stop" else f"cut: {answer['finish']}"
    if len(text) > LETTERS:
        text, cut = f"{text[:LETTERS]} …", f"the first {LETTERS} of {len(text)} letters"
    outcomes = " · ".join(f"{words(name)} {_outcome(value)}" for name, value in answer["outcomes"].items())
    return {"arm": arm, "text": text, "cut": cut, "outcomes": outcomes}


def _outcome(value: float | None) -> str:
    if value is None:
        return "–"
    return number(value, False, digits=0 if float(value).is_integer() else 2)
