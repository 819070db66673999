"""What a row is called and what stands beside its pair: id, category, metadata."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from selfalign.seeds.rows import Malformed, NoText, checked, json_text, list_in, listed, nothing, show, text_of

_FORBIDDEN_IN_NAME = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def id_of(value: Any) -> str:
    """An id as text; "" where none is given."""
    value = value["$oid"] if isinstance(value, dict) and {*value} == {"$oid"} else value  # MongoDB's
    text = str(value) if isinstance(value, (int, float, NoText)) and not isinstance(value, bool) else value
    text = text_of({"id": text}, "id", required=False)
    if len(text) > 128 or _FORBIDDEN_IN_NAME.search(text):
        what = "is longer than 128 characters" if len(text) > 128 else "holds a control character"
        raise Malformed(f"field 'id': {show(text)} {what}; write a short plain id")
    return text


def category_of(value: Any) -> str:
    """A category of any script, without white space at its ends and composed (NFC), so that what looks equal is equal."""
    if isinstance(value, str) and value.lstrip().startswith("[") and (cell := list_in(value)) is not None:
        value = cell
    names = [each for each in value if not nothing(each)] if isinstance(value, list) else [value]
    if isinstance(value, dict) or len(names) > 1:
        what = "is an object" if isinstance(value, dict) else f"has {len(names)} names, {listed(map(str, names), 4)}"
        raise Malformed(f"field 'category': {what}, where a pair has one; write the one that says what kind of answer fits")
    value = names[0] if names else ""
    value = int(value) if isinstance(value, float) and value.is_integer() else value  # as pandas writes whole numbers with gaps
    text = str(value) if isinstance(value, (int, NoText)) and not isinstance(value, bool) else value
    text = unicodedata.normalize("NFC", text_of({"category": text}, "category", required=False)).strip()
    if len(text) > 64 or _FORBIDDEN_IN_NAME.search(text):
        raise Malformed(f"field 'category': {show(text)} is no name; use up to 64 characters on one line")
    return text


def metadata_of(name: str, value: Any) -> str:
    """Text as it stands, any other value as its JSON text."""
    if not name or len(name) > 128 or _FORBIDDEN_IN_NAME.search(name):
        raise Malformed(f"field {show(name)}: has no usable name; use 1 to 128 characters without control characters")
    return checked(name, str(value) if isinstance(value, str) else json_text(value))
