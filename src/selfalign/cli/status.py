"""`selfalign status DIR [--json]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from selfalign.cli.options import new_parser, parse
from selfalign.proof.kept import of_run
from selfalign.record.status import overview, runs_below, status, warnings
from selfalign.record.store import Store


def main(arguments: Sequence[str]) -> int:
    parser = new_parser("status", "Where a run stands: rounds, yields, drops by rule, metrics, costs. Of a folder of runs: each.")
    parser.add_argument("folder", type=str, help="a run folder, or one with run folders in it (a study)")
    parser.add_argument("--json", action="store_true", help="machine-readable; of a folder of runs a list")
    options = parse(parser, arguments)
    if runs := runs_below(Path(options.folder)):
        return _all(runs, options.json)
    with Store.read(options.folder) as store:
        result, reported = status(store), warnings(store)
        guard = of_run(store, result["best_round"])
    if options.json:
        sys.stdout.write(json.dumps({**result, "guard": [asdict(each) for each in guard]}, indent=1) + "\n")
    else:
        from selfalign.cli.table import print_status

        print_status(result, warnings=reported, guard=guard)
    return 0


def _all(runs: Sequence[Path], as_json: bool) -> int:
    found = [overview(run) for run in runs]
    if as_json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
    else:
        from selfalign.cli.table import print_runs

        print_runs(found)
    return 0
