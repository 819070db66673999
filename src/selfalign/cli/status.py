"""`selfalign status DIR [--json]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from selfalign.cli.options import new_parser, parse
from selfalign.proof.kept import of_run
from selfalign.record.status import status, warnings
from selfalign.record.store import Store


def main(arguments: Sequence[str]) -> int:
    parser = new_parser("status", "Where a run stands: rounds, yields, drops by rule, metrics, costs.")
    parser.add_argument("folder", type=str, help="the run folder")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    options = parse(parser, arguments)
    with Store.read(options.folder) as store:
        result, reported = status(store), warnings(store)
        guard = of_run(store, result["best_round"])
    if options.json:
        sys.stdout.write(json.dumps({**result, "guard": [asdict(each) for each in guard]}, indent=1) + "\n")
    else:
        from selfalign.cli.table import print_status

        print_status(result, warnings=reported, guard=guard)
    return 0
