"""Reading files of options: whole, small, plain, and from regular files alone; what they name is not imported here.

A file of options is a program for all that: its recipe may be a file of Python, `engine.command` starts a server. What it cannot
do is to import a module that nobody named on the command line.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import yaml

from selfalign.errors import UserError

LARGEST = 2**18
"""Bytes; `run.yaml` of a run has 5,000."""
DEEPEST = 40


def read_config(path: str) -> dict[str, Any]:
    """The options of a YAML file.

    Raises:
        UserError: it cannot be read, is no regular file, too large, nested too deeply, or blown up by aliases.
    """
    found = load_yaml(_text(path), f"the options file {path}")
    if not isinstance(found, dict):
        raise UserError(f"the options file {path}: holds no options; write a line such as `rounds: 2` for each")
    return found


def load_yaml(text: str, name: str) -> Any:
    """The value of a YAML text.

    Raises:
        UserError: it is none, or one that would cost far more than its length; the message begins with `name`.
    """
    try:
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                part = f"a part by its name (*{event.anchor})"
                raise UserError(f"{name}: repeats {part}, which a few bytes can blow up; write it out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise UserError(f"{name}: is nested too deeply; no option needs more than {DEEPEST} levels")
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, KeyError, AttributeError, OverflowError) as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{name}: not valid YAML ({what}{f', line {mark.line + 1}' if mark else ''}); mend it there") from None


def check_regular(path: str, option: str) -> None:
    """Refuses what an option must not be read from, where it is a file at all.

    Raises:
        UserError: a pipe or a device, which could be waited for for ever, or a file of options that `read_config` refuses.
    """
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return
    if stat.S_ISREG(mode):
        load_yaml(_text(path), f"option --{option}: the file {path}")
    elif not stat.S_ISDIR(mode):
        raise UserError(f"option --{option}: {path} is not a regular file; give the options themselves, or a file of them")


def _text(path: str) -> str:
    try:
        info = Path(path).stat()
        if not stat.S_ISREG(info.st_mode):  # opening a pipe could wait for ever
            raise UserError(f"cannot read the options file {path}: it is not a regular file; save the options to one first")
        if info.st_size > LARGEST:
            raise UserError(f"cannot read the options file {path}: it is larger than {LARGEST // 2**10} KiB")
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
        raise UserError(f"cannot read the options file {path[:200]}: {reason}") from None
