"""`selfalign init NAME`: the three files that a run begins with, to be filled with a domain of one's own."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from selfalign.cli.options import new_parser, parse
from selfalign.errors import UserError

FILES = ("seeds.yaml", "held_out.yaml", "options.yaml")
_NAME = re.compile(r"[^\s:#'\"{}\[\],&*?|<>=!%@`\\][^:#'\"{}\[\],&*?|<>=!%@`\\\n]*")
"""A path that stands in YAML and in a shell's line as it is, if in quotes there."""


def main(arguments: Sequence[str]) -> int:
    about = "Writes a folder with a seed file, held-out prompts and options, each with comments, to begin with."
    parser = new_parser("init", about)
    parser.usage = "selfalign init NAME"
    parser.add_argument("name", type=str, help="the folder to write, named as your domain; nothing that is there is changed")
    folder = Path(parse(parser, arguments).name)
    if not _NAME.fullmatch(str(folder)):
        raise UserError(f"{folder}: has characters that a file of options would misread; take letters, digits, - and _")
    try:
        if there := next((name for name in FILES if (folder / name).exists()), None):
            raise UserError(f"{folder / there} is there already, and nothing is written over; take another name, or move it away")
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            text = files("selfalign").joinpath("data", "init", name).read_text(encoding="utf-8").replace("NAME", str(folder))
            with (folder / name).open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}; take another name or place") from None
    settings = shlex.quote(str(folder / "options.yaml"))
    sys.stdout.write(f"{', '.join(FILES)} in {folder}: replace the pairs by your own, then\n")
    sys.stdout.write(f"  selfalign check --config {settings}\n  selfalign run --config {settings}\n")
    return 0
