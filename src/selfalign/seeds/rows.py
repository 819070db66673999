"""What every format of seed file becomes: rows that know their place, and problems that say where and what.

Also the limits of a file, and how a piece of it is named in a message.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from selfalign.text import count_words

MAX_FILE = 64 * 2**20
"""Bytes of a file, and of its rows once unpacked."""
MAX_FIELD = 2**20
"""Characters of one text."""
MAX_ROWS = 200_000
MAX_COLUMNS = 64
_MAX_DEPTH = 32
_UNSEEN = re.compile(r"[\s\u00ad\u200b-\u200f\u2060-\u2064\u3164\ufeff]*")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_JOINED = re.compile(r"(['\"])\s+\1")
"""Texts with white space alone between them, as numpy prints lists: Python would take them for one text."""
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Row:
    """One row: `where` is file:line, or file and row number counted from 1 where lines say nothing (JSON, Parquet)."""

    where: str
    fields: dict[str, Any]
    """Values as JSON knows them; no number is NaN or infinite."""
    note: str = ""
    """How the row was made of others, for the user."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with the file at one place, with the remedy."""

    where: str
    what: str


class NoText(str):
    """What a file holds as a date, a time or a decimal, and a sheet as a number: for ids, categories and metadata alone, since
    where it is shown it may read otherwise."""

    __slots__ = ()


class Broken(Exception):
    """Where and what is wrong, as a `Problem` has it."""


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
    if isinstance(value, NoText):
        return f"the {'number' if _NUMBER.fullmatch(value) else 'value'} {show(value, 30)[1:-1]}"
    return "text" if isinstance(value, str) else "a list" if isinstance(value, list) else "an object"


def json_text(value: Any) -> str:
    """A JSON value as compact text."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def list_in(text: str) -> list[Any] | None:
    """The list that a cell of a table holds as text: as JSON, or as Python writes lists, which pandas does."""
    for read in (json.loads, ast.literal_eval)[: 1 if _JOINED.search(text) else 2]:
        try:
            value = read(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return plain(value) if isinstance(value, list) else None
    return None


def object_in(text: str) -> dict[str, Any] | None:
    """The object that a cell of a table holds as JSON."""
    try:
        value = json.loads(text) if text.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def nothing(value: Any) -> bool:
    """Whether a value says nothing: null, blank text, an empty list or object."""
    return value is None or value in ([], {}) or (isinstance(value, str) and is_blank(value))


def is_blank(text: str) -> bool:
    """Whether nothing of a text is to be seen: white space, zero-width characters, fillers."""
    return _UNSEEN.fullmatch(text) is not None


def has_words(text: str, least: int) -> bool:
    """Whether a text has that many words; in scripts without spaces, where each sign counts as one, four times as many."""
    return len(text.split()) >= least or count_words(text) >= 4 * least


def text_of(fields: Mapping[str, Any], name: str, *, required: bool = True) -> str:
    """The text of a field exactly as it stands; not required, one that says nothing is "".

    Raises:
        Malformed: it is missing, blank, no text, or holds what no text may hold.
    """
    value = fields.get(name)
    if not required and nothing(value):
        return ""
    if name not in fields:
        raise Malformed(f"field {show(name)}: is missing; add it")
    if isinstance(value, NoText):
        what = f"is {kind(value)} where text must stand"
        raise Malformed(f"field {show(name)}: {what}; write it as text (in a sheet: in a cell that is formatted as text)")
    if not isinstance(value, str):
        remedy = "fill it in or remove the row" if value is None else "write it as text in quotes"
        if isinstance(value, dict | list) and name.isidentifier():
            remedy += f"; JSON becomes text by `jq -c '.{name} |= tojson'`"
        raise Malformed(f"field {show(name)}: is {kind(value)} where text must stand; {remedy}")
    if is_blank(value):
        raise Malformed(f"field {show(name)}: is empty; fill it in or remove the row")
    return checked(name, value)


def checked(name: str, text: str) -> str:
    """The text, if a file may hold it. Raises Malformed: it is too long, or has a control character or half a surrogate pair."""
    if len(text) > MAX_FIELD:
        raise Malformed(f"field {show(name)}: is longer than {MAX_FIELD:,} characters; shorten it")
    if match := _FORBIDDEN.search(text):
        code = ord(match.group())
        what = "half a surrogate pair" if code >= 0xD800 else "the control character"
        raise Malformed(f"field {show(name)}: holds {what} U+{code:04X} at character {match.start() + 1}; remove it")
    return text


def plain(value: Any) -> Any:
    """What Arrow or YAML holds as JSON would: a time or a decimal as its text, bytes as the text that they are, NaN as null."""
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return f"({len(value)} bytes)"
    return value if value is None or isinstance(value, (str, bool, int, float)) else NoText(value)


def is_conversation(value: Any) -> bool:
    """Whether a JSON value is a list of turns."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, dict) and {"role", "from"} & turn.keys() for turn in value)
    )


def as_row(where: str, value: Any) -> Row | Problem:
    """A parsed JSON value as a row, or what is wrong with it."""
    if isinstance(value, Malformed):
        return Problem(where, str(value))
    if is_conversation(value):
        value = {"messages": value}  # a conversation without a name
    if isinstance(value, list) and len(value) == 2 and all(isinstance(each, str) for each in value):
        value = dict(zip(("prompt", "response"), value, strict=True))
    if isinstance(value, str):
        value = {"prompt": value}
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
