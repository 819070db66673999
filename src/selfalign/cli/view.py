"""`selfalign view DIR`: the report, made anew whenever it is loaded, while a run writes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from selfalign.cli.options import new_parser, parse


def main(arguments: Sequence[str]) -> int:
    from selfalign.report.view import serve_report

    parser = new_parser("view", "The report of a run or a study on a local page, which follows while the run writes.")
    parser.add_argument("folder", type=str, help="the folder of a run or a study")
    parser.add_argument("--every", type=int, default=60, help="seconds after which the page loads again while a run writes")
    parser.add_argument("--port", type=int, default=0, help="port of the page on 127.0.0.1; 0 takes a free one")
    options = parse(parser, arguments)
    serve_report(options.folder, _open, options.every, options.port)
    return 0


def _open(address: str) -> None:
    sys.stderr.write(f"open {address} in a browser on this machine; Ctrl-C ends it\n")
