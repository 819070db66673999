"""`selfalign status DIR [--json]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from selfalign.cli.list import main as list_runs
from selfalign.cli.options import new_parser, parse
from selfalign.cli.table import print_json, print_status
from selfalign.proof.kept import of_run
from selfalign.record.schema import NAME
from selfalign.record.status import status, warnings
from selfalign.record.store import Store


def main(arguments: Sequence[str]) -> int:
    about = "Where a run stands: rounds, yields, drops by rule, metrics, costs. A folder of runs is listed."
    parser = new_parser("status", about)
    parser.add_argument("folder", type=str, help="a run folder, or one with run folders in it (a study)")
    text = "print JSON; for a folder of runs the same as `selfalign list --json`"
    parser.add_argument("--json", action="store_true", help=text)
    options = parse(parser, arguments)
    folder = Path(options.folder)
    if folder.is_dir() and not (folder / NAME).exists() and any(folder.rglob(NAME)):
        return list_runs(arguments)
    print_run(options.folder, options.json)
    return 0


def print_run(folder: str, as_json: bool) -> None:
    with Store.read(folder) as store:
        result, reported = status(store), warnings(store)
        guard = of_run(store, result["best_round"])
    if as_json:
        print_json({**result, "guard": [asdict(each) for each in guard]})
    else:
        print_status(result, reported, guard)
