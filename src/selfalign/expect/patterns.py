"""Regular expressions that give up: a hostile answer must not hold a run up for ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from selfalign.errors import UserError

LIMIT = 1.0
"""Seconds of the processor that a pattern has for one text. Honest ones take a thousandth."""
Search = Callable[[str], bool]
"""From a text to whether it matches; raises TimeoutError."""


def search_with(pattern: str, where: str) -> Search:
    """Whether the pattern stands anywhere in a text, as JSON Schema has it. Raises UserError: it is no pattern."""
    compiled = _compiled(pattern, where)
    return lambda text: compiled.search(text, timeout=LIMIT) is not None


def match_with(pattern: str, where: str) -> Search:
    """Whether the pattern takes the whole text; a dot takes line breaks too. As `search_with`."""
    compiled = _compiled(pattern, where, dot_takes_all=True)
    return lambda text: compiled.fullmatch(text, timeout=LIMIT) is not None


def _compiled(pattern: str, where: str, dot_takes_all: bool = False) -> Any:
    import regex

    try:
        return regex.compile(pattern, regex.DOTALL if dot_takes_all else 0)
    except (regex.error, RecursionError, OverflowError) as error:
        raise UserError(f"{where}: {pattern!r} is no regular expression: {error}") from None
