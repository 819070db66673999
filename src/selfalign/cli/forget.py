"""`selfalign forget DIR ID … --out NEW`: a run again without some of its samples and what came of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from selfalign.cli.extend import settings_of
from selfalign.cli.recipe_help import HELP
from selfalign.cli.run import execute, read
from selfalign.errors import UserError
from selfalign.text import printable

USAGE = """usage: selfalign forget DIR ID [ID …] --out NEW [options of the run]

Writes a copy of the run in DIR to NEW, without the kept samples of these ids and without anything that came of them. The first
round that was trained on one of them is trained again. Later rounds are made anew: models that had learned from it wrote them.
The run in DIR stays as it is, and its models still know what they were trained on. If the command is killed, `selfalign run
--config NEW/run.yaml --out NEW` goes on. The options come from DIR/run.yaml. Give one only if it has changed, such as --held_out
FILE if that file has moved.
"""


def main(arguments: Sequence[str]) -> int:
    if any(a in HELP for a in arguments):
        sys.stdout.write(USAGE)
        return 0
    folder, *ids = [*takewhile(lambda each: not each.startswith("-"), arguments)] or [""]
    rest = list(arguments[1 + len(ids) :])
    if not folder or not ids or not any(each.partition("=")[0] == "--out" for each in rest):
        raise UserError("which run, without which samples, and where to? `selfalign forget DIR r01-00007 --out NEW`")
    from selfalign.record.forget import forget, in_words

    settings = settings_of(Path(folder), "whose arms are compared as they are; name one of them")
    if (asked := read(["--config", str(settings), *rest], "run")) is None:
        return 0
    made = forget(folder, ids, asked.options.out)
    said = sys.stderr if asked.options.json else sys.stdout
    said.write(printable(in_words(made, Path(folder).name)) + "\n")
    return execute(asked)
