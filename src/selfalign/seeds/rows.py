"""What every format of seed file becomes: rows that know their place, and problems that say where and what.

Also the limits of a file, and how a piece of it is named in a message.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

MAX_FILE = 64 * 2**20
"""Bytes of a file, and of a Parquet file's values once unpacked."""
MAX_RECORD = 4 * 2**20
"""Bytes of one JSON line or one CSV record."""
MAX_FIELD = 2**20
"""Characters of one text."""
MAX_ROWS = 200_000
MAX_VALUES = 2_000_000
"""Values of one JSON text: small ones take 50 times the memory of their text."""
MAX_COLUMNS = 64


@dataclass(frozen=True, slots=True)
class JsonNumber:
    """A JSON number as it was written: never rounded, never mistaken for text."""

    text: str


@dataclass(frozen=True, slots=True)
class Header:
    """The columns of a tabular file, which every row has; comes before the rows."""

    where: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One row: `where` is file:line, or file and row number counted from 1 where lines say nothing (JSON, Parquet)."""

    where: str
    fields: dict[str, Any]
    """Values: str, JsonNumber, bool, None, list or dict."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with the file at one place, with the remedy."""

    where: str
    what: str


class Malformed(Exception):
    """A piece of a file that cannot be parsed; the message says why.

    Inside a parsed JSON value one may stand in a value's place, so that it is reported with the row and field it belongs to.
    """

    def __init__(self, what: str, line: int = 0) -> None:
        super().__init__(what)
        self.line = line


Item = Header | Row | Problem


def show(text: str, limit: int = 60) -> str:
    """A quoted piece of the user's text for a message: on one line, escaped, shortened."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")


def listed(names: Iterable[str], limit: int = 8) -> str:
    """Some names for a message."""
    every = list(names)
    more = f" and {len(every) - limit} more" if len(every) > limit else ""
    return ", ".join(show(name) for name in every[:limit]) + more


def kind(value: Any) -> str:
    """What a JSON value is, for a message.

    Raises:
        Malformed: it is none.
    """
    if isinstance(value, Malformed):
        raise value
    if isinstance(value, JsonNumber):
        return f"the number {show(value.text, 20)[1:-1]}"
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    return "text" if isinstance(value, str) else "a list" if isinstance(value, list) else "an object"


def json_text(value: Any, depth: int = 0) -> str:
    """A JSON value as compact text, numbers as they were written.

    Raises:
        Malformed: nested more than 32 deep, or a part of it is malformed.
    """
    if isinstance(value, Malformed):
        raise value
    if depth > 32:
        raise Malformed("is nested more than 32 deep; flatten it")
    if isinstance(value, JsonNumber):
        return value.text
    if isinstance(value, list):
        return "[" + ",".join([json_text(item, depth + 1) for item in value]) + "]"
    if isinstance(value, dict):
        pairs = [f"{json.dumps(key, ensure_ascii=False)}:{json_text(item, depth + 1)}" for key, item in value.items()]
        return "{" + ",".join(pairs) + "}"
    return json.dumps(value, ensure_ascii=False)


def checked_header(where: str, columns: list[str]) -> Header | Problem:
    """The header of a tabular file, or what is wrong with its names."""
    if "" in columns:
        return Problem(where, f"column {columns.index('') + 1} has no name; name it or remove it")
    if len(set(columns)) < len(columns):
        twice = next(column for column in columns if columns.count(column) > 1)
        return Problem(where, f"the column {show(twice)} stands twice in the header; remove or rename one")
    return Header(where, tuple(columns))
