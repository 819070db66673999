"""`selfalign review DIR`: a person goes through the pairs of a round that waits, on a page or in a file."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

from jsonargparse import Namespace

from selfalign.cli.options import new_parser, parse
from selfalign.cli.table import print_json
from selfalign.errors import UserError
from selfalign.export.review import read_review, write_review
from selfalign.record.plain import escaped
from selfalign.record.review import Review, checked_name, open_review, summary
from selfalign.seeds.files import read_rows
from selfalign.seeds.rows import Problem
from selfalign.text import counted


def main(arguments: Sequence[str]) -> int:
    about = "Keep, reject or edit the pairs of a round that waits (of `selfalign run … --review`), on a local page or in a file."
    parser = new_parser("review", about)
    parser.add_argument("folder", type=str, help="the run folder")
    text = "write the pairs to this new file (.jsonl) for its decisions to be filled in"
    parser.add_argument("--review_out", type=str, help=text)
    parser.add_argument("--review_in", type=str, help="read the decisions of such a file")
    parser.add_argument("--done", action="store_true", help="the review is done: the same run command goes on with what was kept")
    parser.add_argument("--rest", type=Literal["keep", "drop"], help="with --done: what becomes of pairs that nobody decided on")
    parser.add_argument("--sample", type=int, help="so many pairs, drawn at random, instead of all")
    parser.add_argument("--blind", action="store_true", help="in random order, without scores and categories")
    parser.add_argument("--by", type=str, help="who decides, for the record (default: the name of the account)")
    parser.add_argument("--port", type=int, default=0, help="port of the page on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--json", action="store_true", help="print where the review stands as JSON")
    options = parse(parser, arguments)
    _check(options)
    with open_review(options.folder) as review:
        said = _work(review, options)
        state = summary(review.store, review.round)
    if options.json:
        print_json({"round": review.round, **state})
    else:
        go_on = "the same run command goes on from here" if state["done"] else "--done ends the review"
        sys.stdout.write(escaped("\n".join([*said, f"{state['text']}; {go_on}"])) + "\n")
    return 0


def _check(options: Namespace) -> None:
    given = options.review_out or options.review_in
    if options.review_out and options.review_in:
        raise UserError("--review_out and --review_in are two steps: write the file, fill it in, then read it")
    if options.rest and not options.done:
        raise UserError("--rest changes nothing without --done; take it out, or add that")
    if options.port and (given or options.done):
        raise UserError("--port is of the page, which these options do without; take it out")
    idle = "" if options.review_out else "done" if options.done else "review_in" if options.review_in else ""
    if idle and (options.sample is not None or options.blind):
        raise UserError(f"--sample and --blind are about what is shown, and --{idle} shows nothing; take them out")


def _work(review: Review, options: Namespace) -> list[str]:
    """What was done, in lines."""
    said = []
    if options.review_out:
        count = write_review(review, options.review_out, options.sample, options.blind)
        said.append(f"{counted(count, 'pair')} of round {review.round} in {options.review_out}: fill in keep, reject or edit")
    if options.review_in:
        found = read_review(review, _rows(options.review_in))
        review.decide(found, _who(options.by))
        said.append(f"{counted(len(found), 'decision')} recorded from {options.review_in}")
    if not (options.review_out or options.review_in or options.done):
        from selfalign.report.review import serve_review

        serve_review(review, _who(options.by), _open, options.sample, options.blind, options.port)
    if options.done:
        review.close(_who(options.by), options.rest)
    return said


def _open(address: str) -> None:
    sys.stderr.write(f"open {address} in a browser on this machine; Ctrl-C ends it, and what was decided stays\n")


def _rows(path: str) -> Iterator[tuple[str, Mapping[str, Any] | str]]:
    for item in read_rows(path):
        yield (item.where, item.what) if isinstance(item, Problem) else (item.where, item.fields)


def _who(name: str | None) -> str:
    """Raises UserError: the account has no name, and none is given."""
    if name is None:
        with suppress(OSError, KeyError, ImportError):  # an account that the system does not know, as in a container
            name = getpass.getuser()
    return checked_name(name or "")
