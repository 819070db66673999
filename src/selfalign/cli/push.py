"""`selfalign push DIR --repo user/name [--data]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from selfalign.cli.options import new_parser, parse
from selfalign.cli.table import print_json
from selfalign.errors import UserError, handle_signals
from selfalign.export.push import push
from selfalign.record.store import Store


def main(arguments: Sequence[str]) -> int:
    parser = new_parser("push", "Uploads a round's model, or the pairs of a run, to the Hugging Face hub, with its card.")
    parser.add_argument("folder", type=str, help="the run folder")
    parser.add_argument("--repo", type=str, default="", help="user/name on the hub; made if it is not there")
    parser.add_argument("--private", action="store_true", help="only for a repository that is private, or new")
    parser.add_argument("--data", action="store_true", help="push seeds and kept pairs as a data set, not a model")
    parser.add_argument("--round", type=int, help="the round whose model to upload (default: the best one)")
    parser.add_argument("--license", type=str, help="licence named in the card, as the hub spells it (apache-2.0 …)")
    parser.add_argument("--dry_run", action="store_true", help="say what would be uploaded and send nothing")
    parser.add_argument("--json", action="store_true", help="say what was sent, and where it is, as JSON")
    options = parse(parser, arguments)
    if options.data and options.round is not None:
        raise UserError("--round chooses a model and does not go with --data: the pairs of all rounds are pushed together")
    given = {name: getattr(options, name) for name in ("data", "round", "license", "private", "dry_run")}
    with handle_signals(), Store.read(options.folder) as store:
        pushed = push(store, options.repo, **given)
    if options.json:
        print_json(pushed.plain())
    else:
        sys.stdout.write(pushed.text() + "\n")
    return 0
