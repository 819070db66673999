"""`selfalign list [FOLDER]`: the runs and studies below a folder."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from selfalign.cli.check import print_json
from selfalign.cli.options import new_parser, parse
from selfalign.cli.table import figure, shown, stdout_console
from selfalign.errors import UserError
from selfalign.proof.verdicts import PREFERRED
from selfalign.record.lock import is_locked
from selfalign.record.plain import metric_table
from selfalign.record.schema import NAME as RECORD
from selfalign.record.status import status
from selfalign.record.store import Store

CHOICE = "validation_log_likelihood"
"""The headline where nothing was measured on held-out prompts."""


def is_study(folder: Path) -> bool:
    """Whether a study stands there: one that has begun, as a file of options of that name may be anywhere."""
    if (folder / "study.json").is_file():
        return True
    return (folder / "study.yaml").is_file() and any(folder.glob(f"*/seed-*/{RECORD}"))


def main(arguments: Sequence[str]) -> int:
    parser = new_parser("list", "The runs, evaluations and studies below a folder, by name; an arm of a study is listed with it.")
    parser.usage = "selfalign list [FOLDER] [--json]"
    parser.add_argument("folder", type=str, nargs="?", default=".", help="where to look; the folder you are in without it")
    parser.add_argument("--json", action="store_true", help="machine-readable")
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
    """As `run_row`, of the study's main arm, with the sentence of its first "verdict"; done once it has written any."""
    row: dict[str, Any] = {"folder": str(folder), "kind": "study", "recipe": None, "model": None, "rounds": None, "of": None}
    row |= {"best_round": None, "metric": None, "problem": None, "verdict": ""}
    runs = sorted(path.parent for path in folder.glob(f"*/seed-*/{RECORD}"))
    running = any(is_locked(run) for run in runs)
    first = next((found for run in runs if (found := run_row(run))["kind"] == "run"), None) or {}
    row |= {name: first.get(name) for name in ("recipe", "model", "of")}
    try:
        study = json.loads((folder / "study.json").read_text(encoding="utf-8"))
        sentence = study["verdicts"][0]["sentence"] if study["verdicts"] else ""
        about = next((one["metric"] for one in study["verdicts"]), None)
        value = study["arms"][study["main"]]["metrics"].get(about)
        unit = study["metrics"][about] if about else {}
        metric = {"name": about, **value, "n": value["prompts"], **unit} if value else None
        row |= {"recipe": study["main"], "state": "running" if running else "done", "metric": metric, "verdict": sentence}
    except FileNotFoundError:
        row |= {"state": "running" if running else "stopped"}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        row |= {"state": "unreadable", "problem": f"{folder / 'study.json'} is damaged ({type(error).__name__}: {error})"}
    return row


def _table(found: Sequence[Mapping[str, Any]]) -> Table:
    table = Table()
    for name in ("folder", "recipe", "model", "state", "rounds", "best", "metric"):
        table.add_column(name, overflow="fold")
    for row in found:
        metric, kind = row["metric"], "" if row["kind"] == "run" else f"{row['kind']}: "
        rounds = f"{row['rounds']} of {row['of']}" if row["kind"] == "run" and row["of"] else "–"
        best = "–" if row["best_round"] is None or row["kind"] != "run" else str(row["best_round"])
        headline = f"{metric['name'].replace('_', ' ')} {figure(metric)}" if metric else row["problem"] or "–"
        state = f"running: {row['at']}" if row["state"] == "running" and row.get("at") else row["state"]
        cells = (row["folder"], f"{kind}{row['recipe'] or '–'}", row["model"] or "–", state, rounds, best, headline)
        table.add_row(*(shown(str(cell)) for cell in cells))
    return table
