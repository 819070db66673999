"""`selfalign gate DIR`: whether the model of a run, or of an evaluation, should be shipped, as a line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from selfalign.cli.options import new_parser, parse
from selfalign.cli.table import print_json
from selfalign.errors import UserError
from selfalign.text import printable


def main(arguments: Sequence[str]) -> int:
    from selfalign.loop.prompts import declined
    from selfalign.proof.gate import CANNOT_TELL, DO_NOT, SHIP, decide, facts
    from selfalign.proof.kept import MARGIN, NONE, PARTS
    from selfalign.proof.verdicts import meant, no_such_metric
    from selfalign.record.finished import read_candidate

    parser = new_parser("gate", "SHIP, DO NOT SHIP or CANNOT TELL, with the reasons; exit code 0, 3 or 4.")
    parser.add_argument("folder", type=str, help="the folder of a run, or of `selfalign eval MODEL --compare OTHER --out DIR`")
    for name, kind, default, text in (
        ("metric", str, None, "what it was trained for (default: the first measured of expected, balance and log_likelihood)"),
        ("at_least", float, 0.0, "the gain to be shown, in points of a share (units of another metric); 0 asks for any"),
        ("margin", float, 100 * MARGIN, "the loss to be ruled out in each part of the guard suite, in points"),
        ("guard", str, None, f"parts of that suite that count: {', '.join(PARTS)}, or {NONE} (default: all that were measured)"),
    ):
        parser.add_argument(f"--{name}", type=kind, default=default, help=text)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parse(parser, arguments)
    parts = None if options.guard is None else [each.strip() for each in options.guard.split(",") if each.strip() != NONE]
    if wrong := [each for each in parts or () if each not in PARTS]:
        raise UserError(f"--guard {options.guard}: there is no part {wrong[0]!r}; there are {', '.join(PARTS)}, or {NONE}")
    if not 0 < options.margin <= 100:
        raise UserError(f"--margin {options.margin:g}: must be above 0 and at most 100 points")
    candidate = read_candidate(Path(options.folder).expanduser())
    options.metric = meant(options.metric or "", candidate.after) or None
    if options.metric and candidate.after and not (options.metric in candidate.after and options.metric in candidate.before):
        raise UserError(f"--metric {options.metric}: {candidate.name} has {no_such_metric(options.metric, candidate.after)}")
    if options.metric in candidate.after and candidate.after[options.metric].better == "neither":
        raise UserError(f"--metric {options.metric}: more of it is neither better nor worse; name one with a good side")
    on_purpose = declined(candidate.evaluators, candidate.seeds)
    known = facts(candidate, options.metric, declined=on_purpose, margin=options.margin / 100, guard=parts)
    verdict, reasons = decide(known, options.at_least / (known.gain.scale if known.gain else 1.0))
    if options.json:
        about = {"verdict": verdict, "model": candidate.name, "other": candidate.other}
        print_json({**about, "reasons": [asdict(each) for each in reasons]})
    else:
        lines = [f"{verdict}: {candidate.name} against {candidate.other}"]
        lines += [f"  {each.verdict:<11}  {each.check}: {each.text}" for each in reasons]
        sys.stdout.write("".join(printable(line) + "\n" for line in lines))
    return {SHIP: 0, DO_NOT: 3, CANNOT_TELL: 4}[verdict]
