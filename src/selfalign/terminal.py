"""Text of a model or a seed file, made safe to print: it may hold anything, escape sequences included."""

from __future__ import annotations

import unicodedata

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str) -> str:
    """Without control characters (line breaks and tabs stay), marks that reverse the direction of writing, and what no
    terminal can encode. Without its escape character a terminal sequence is harmless text."""
    return "".join(char for char in text if char in "\n\t" or not (char in _BIDI or unicodedata.category(char) in ("Cc", "Cs")))
