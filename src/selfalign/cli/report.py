"""`selfalign report DIR [--out FILE]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from selfalign.cli.options import new_parser, parse
from selfalign.cli.table import print_json


def main(arguments: Sequence[str]) -> int:
    from selfalign.report.write import write_report

    about = "One self-contained HTML page of a run or a study: verdict, metrics, drops, costs, every sample."
    parser = new_parser("report", about)
    parser.add_argument("folder", type=str, help="the folder of a run or a study")
    parser.add_argument("--out", type=str, help="the page to write (default: DIR/report.html)")
    parser.add_argument("--json", action="store_true", help="say where the page is as JSON")
    options = parse(parser, arguments)
    page = str(write_report(options.folder, options.out))
    if options.json:
        print_json({"report": page})
    else:
        sys.stdout.write(page + "\n")
    return 0
