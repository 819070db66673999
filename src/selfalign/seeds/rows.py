"""What every format of seed file becomes: rows that know their place, and problems that say where and what.

Also the limits of a file, and how a piece of it is named in a message.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

MAX_FILE = 64 * 2**20
"""Bytes of a file, and of its rows once unpacked."""
MAX_FIELD = 2**20
"""Characters of one text."""
MAX_ROWS = 200_000
MAX_COLUMNS = 64
_MAX_DEPTH = 32


@dataclass(frozen=True, slots=True)
class Row:
    """One row: `where` is file:line, or file and row number counted from 1 where lines say nothing (JSON, Parquet)."""

    where: str
    fields: dict[str, Any]
    """Values as JSON knows them; no number is NaN or infinite."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with the file at one place, with the remedy."""

    where: str
    what: str


class Malformed(Exception):
    """A piece of a file that cannot be used; the message says why.

    Inside a parsed JSON value one may stand in an object's place, so that it is reported with the row it belongs to.
    """


def show(text: str, limit: int = 60) -> str:
    """A quoted piece of the user's text for a message: on one line, escaped, shortened."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")


def listed(names: Iterable[str], limit: int = 8) -> str:
    """Some names for a message."""
    every = list(names)
    more = f" and {len(every) - limit} more" if len(every) > limit else ""
    return ", ".join(show(name) for name in every[:limit]) + more


def kind(value: Any) -> str:
    """What a JSON value is, for a message."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, (int, float)):
        return f"the number {show(str(value), 20)[1:-1]}"
    return "text" if isinstance(value, str) else "a list" if isinstance(value, list) else "an object"


def json_text(value: Any) -> str:
    """A JSON value as compact text."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def as_row(where: str, value: Any) -> Row | Problem:
    """A parsed JSON value as a row, or what is wrong with it."""
    if isinstance(value, Malformed):
        return Problem(where, str(value))
    if not isinstance(value, dict):
        return Problem(where, f'is {kind(value)}, not an object; write {{"prompt": …, "response": …}}')
    if len(value) > MAX_COLUMNS:
        return Problem(where, f"has {len(value)} fields; at most {MAX_COLUMNS} are read, so drop some")
    for name, each in value.items():
        if found := _flaw(each):
            return Problem(where, f"field {show(name)}: {found}")
    return Row(where, value)


def _flaw(value: Any, depth: int = 0) -> str:
    if isinstance(value, Malformed):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "holds a number without a finite value; write null or put it in quotes"
    if depth > _MAX_DEPTH:
        return f"is nested more than {_MAX_DEPTH} deep; flatten it"
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((found for each in inside if (found := _flaw(each, depth + 1))), "")
