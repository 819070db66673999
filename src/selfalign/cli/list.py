"""`selfalign list [FOLDER]`: the runs and studies below a folder."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from selfalign.cli.options import new_parser, parse
from selfalign.cli.table import figure, print_json, shown, stdout_console
from selfalign.errors import UserError
from selfalign.proof.verdicts import PREFERRED
from selfalign.record.lock import is_locked
from selfalign.record.plain import metric_table
from selfalign.record.schema import NAME as RECORD
from selfalign.record.status import status
from selfalign.record.store import Store
from selfalign.text import counted

CHOICE = "validation_log_likelihood"
"""The headline where nothing was measured on held-out prompts."""


def is_study(folder: Path) -> bool:
    """Whether this is the folder of a study that has begun; a file of options alone may lie anywhere."""
    if (folder / "study.json").is_file():
        return True
    return (folder / "study.yaml").is_file() and any(folder.glob(f"*/seed-*/{RECORD}"))


def main(arguments: Sequence[str]) -> int:
    parser = new_parser("list", "The runs, evaluations and studies below a folder, by name; an arm of a study is listed with it.")
    parser.usage = "selfalign list [FOLDER] [--json]"
    parser.add_argument("folder", type=str, nargs="?", default=".", help="where to look (default: the current folder)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parse(parser, arguments)
    if not (top := Path(options.folder)).is_dir():
        raise UserError(f"{top} is no folder; name one that has runs in it")
    found = [*_rows(top)]
    if options.json:
        print_json({"runs": found})
    elif not found:
        sys.stdout.write(f"no run and no study below {top}\n")
    else:
        stdout_console().print(_table(found))
    return 0


def _rows(top: Path) -> Iterator[dict[str, Any]]:
    """A row for each, sorted by folder; what lies in a run, or in a study that is not `top` itself, is part of it."""
    for place, folders, names in os.walk(top):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        folder = Path(place)
        if RECORD in names:
            folders.clear()
            yield run_row(folder)
        elif is_study(folder):
            yield _study_row(folder)
            if folder != top:
                folders.clear()


def run_row(folder: Path) -> dict[str, Any]:
    """{"folder", "kind", "recipe", "model", "state", "at", "rounds", "of", "best_round", "metric", "problem"} of a run.

    `at` is the stage that a running run is at, else why it stands where it does.
    `rounds` counts the rounds that have a model, `of` those asked for; `metric` is the best round's first of the metrics that
    verdicts are about, {"name", "value", "low", "high", "n", "unit", "better"}, None where there is none yet.
    """
    row: dict[str, Any] = {"folder": str(folder), "kind": "run", "recipe": None, "model": None, "state": "unreadable"}
    row |= {"rounds": None, "of": None, "best_round": None, "metric": None, "problem": None, "at": None}
    try:
        with Store.read(folder) as store, store.snapshot() as connection:
            identity, stands = store.identity(), status(store)
            best, at = stands["best_round"], stands["progress"]
            last = connection.execute("SELECT max(round) FROM models").fetchone()[0]
            metrics = metric_table(store.metrics(best if best is not None else last or 0))
    except UserError as error:
        return {**row, "problem": str(error)}
    return {
        **row,
        "kind": "run" if identity.get("rounds") else "evaluation",
        "recipe": identity.get("name"),
        "model": identity.get("adapter") or identity.get("model"),
        "state": stands["state"],
        "at": f"{at['stage']}, {at['done']} of {at['total']}" if at else stands["stopped_because"],
        "rounds": last or 0,
        "of": identity.get("rounds"),
        "best_round": best,
        "metric": _headline(metrics),
    }


def _headline(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    name = next((name for name in (*PREFERRED, CHOICE) if name in metrics), None)
    return {"name": name, **metrics[name]} if name else None


def _study_row(folder: Path) -> dict[str, Any]:
    """As `run_row`, of the study's main arm, with the sentence of its first "verdict", and in "runs" how many are "done", have
    "failed", and there are to be ("of"); `at` says it in words. It is done when all of them are."""
    from selfalign.study.units import PLAN

    row: dict[str, Any] = {"folder": str(folder), "kind": "study", "recipe": None, "model": None, "rounds": None, "of": None}
    row |= {"best_round": None, "metric": None, "problem": None, "verdict": ""}
    runs = {
        path.parent.relative_to(folder).as_posix(): run_row(path.parent) for path in sorted(folder.glob(f"*/seed-*/{RECORD}"))
    }
    try:
        plan = _read(folder / PLAN) or {"main": None, "runs": [*runs]}  # of a study of an earlier version
        study = _read(folder / "study.json")
        main = plan["main"] or (study or {}).get("main")
        first = next((run for name, run in runs.items() if run["kind"] == "run" and main in (None, run["recipe"])), None) or {}
        row |= {"recipe": main or first.get("recipe"), "model": first.get("model"), "of": first.get("of")}
        row |= _stands(folder, plan["runs"], runs, study)
        if study is not None and study["verdicts"]:
            about, sentence = study["verdicts"][0]["metric"], study["verdicts"][0]["sentence"]
            value = study["arms"][study["main"]]["metrics"][about]
            row |= {"metric": {"name": about, **value, "n": value["prompts"], **study["metrics"][about]}, "verdict": sentence}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        problem = f"{PLAN} or study.json in {folder} is damaged ({type(error).__name__}: {error})"
        row |= {"state": "unreadable", "problem": problem}
    return row


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _stands(folder: Path, planned: Sequence[str], runs: Mapping[str, Mapping[str, Any]], study: Any) -> dict[str, Any]:
    """{"state", "at", "runs"}; runs that the table has and that are no longer in the folder count as done."""
    told = {run["folder"] for arm in (study or {"arms": {}})["arms"].values() for run in arm["runs"]}
    states = [runs[name]["state"] if name in runs else "done" if name in told else "" for name in planned]
    done, failed = states.count("done"), states.count("failed")
    if is_locked(folder) or "running" in states:
        state = "running"
    else:
        state = "done" if done == len(planned) else "failed" if failed else "stopped"
    at = f"{done} of {counted(len(planned), 'run')} done{f', {failed} failed' if failed else ''}"
    return {"state": state, "at": at, "runs": {"done": done, "failed": failed, "of": len(planned)}}


def _table(found: Sequence[Mapping[str, Any]]) -> Table:
    table = Table()
    for name in ("folder", "recipe", "model", "state", "rounds", "best", "metric"):
        table.add_column(name, overflow="fold")
    for row in found:
        metric, kind = row["metric"], "" if row["kind"] == "run" else f"{row['kind']}: "
        rounds = f"{row['rounds']} of {row['of']}" if row["kind"] == "run" and row["of"] else "–"
        best = "–" if row["best_round"] is None or row["kind"] != "run" else str(row["best_round"])
        headline = f"{metric['name'].replace('_', ' ')} {figure(metric)}" if metric else row["problem"] or "–"
        told = row["state"] == "running" or (row["kind"] == "study" and row["state"] != "done")
        state = f"{row['state']}: {row['at']}" if told and row.get("at") else row["state"]
        cells = (row["folder"], f"{kind}{row['recipe'] or '–'}", row["model"] or "–", state, rounds, best, headline)
        table.add_row(*(shown(str(cell)) for cell in cells))
    return table
