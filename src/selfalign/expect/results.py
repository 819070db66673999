"""The result that an answer comes to: what stands behind a mark, or its last number."""

from __future__ import annotations

import re
from decimal import Decimal

from selfalign.text import normalise

MARKER = "####"
"""What stands before the result in GSM8K: "… #### 1,250"."""
# A dash between two numbers is no sign: 10-2.
_NUMBER = re.compile(r"(?:(?<![\w.)])-)?\$?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?:(?<![\w.)])-)?\$?\.\d+")


def result(text: str, marker: str = MARKER) -> str:
    """What stands behind the last marker, to the end of its line, or of its tag or bracket (`<answer>7</answer>`, `\\boxed{7}`);
    else the last number; else the whole text."""
    _, found, behind = text.rpartition(marker)
    if found and behind.strip():
        if marker.endswith((">", "{")):
            return (behind.partition("</")[0] if marker.endswith(">") else _within(behind)).strip()
        return behind.strip().splitlines()[0].strip()
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else text.strip()


def _within(text: str) -> str:
    """Up to the brace that closes the one before the text."""
    depth = 1
    for place, sign in enumerate(text):
        depth += (sign == "{") - (sign == "}")
        if not depth:
            return text[:place]
    return text


def same_result(one: str, other: str) -> bool:
    """Equal as numbers where both are numbers, else as texts."""
    a, b = _number(one), _number(other)
    if a is not None and b is not None:
        return a == b
    return normalise(one).rstrip(".") == normalise(other).rstrip(".")


def _number(text: str) -> Decimal | None:
    """The value of a text that is a number and nothing else, but for a currency, a per cent sign or a full stop."""
    plain = text.strip().rstrip(".%").strip()
    return Decimal(plain.replace(",", "").replace("$", "")) if _NUMBER.fullmatch(plain) else None
