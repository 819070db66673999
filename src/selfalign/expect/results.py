"""The result that an answer comes to: what stands behind a mark, or its last number."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

from selfalign.text import normalise

MARKER = "####"
"""What stands before the result in GSM8K: "… #### 1,250"."""
_SPACE = "[ \u00a0\u202f]"
# A dash between two numbers is no sign: 10-2. Digits are grouped by commas, points and spaces: 1,250.5 and 1.250,5 and 1 250,5.
_NUMBER = re.compile(
    rf"(?:(?<![\w.)])-)?\$?(?:(?<![\d.,])\d{{1,3}}(?:{_SPACE}\d{{3}})+(?:[.,]\d+)?(?!\d)|\d+(?:[.,]\d+)*|(?<!\w)\.\d+)"
)
_GROUPED = re.compile(r"-?\d{1,3}(?:[.,]\d{2,3})*[.,]\d{3}")
_THOUSANDS = re.compile(r"-?[1-9]\d{0,2},\d{3}")


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
    """The value of a text that is a number and nothing else, but for a currency, a per cent sign or a full stop.

    Of a comma and a point the last one begins the decimals; one that stands several times groups digits. A single comma does so
    before three digits (1,250), and a single point never: where that is not what is meant, equal numbers are written alike.
    """
    plain = text.strip().rstrip(".%€£¥₹ \u00a0").lstrip("€£¥₹ ")
    if not _NUMBER.fullmatch(plain):
        return None
    plain = re.sub(rf"{_SPACE}|\$", "", plain)
    marks = [sign for sign in plain if sign in ".,"]
    if len({*marks}) == 2:
        whole, _, decimals = plain.rpartition(marks[-1])
        plain = f"{whole.replace(marks[0], '')}.{decimals}" if marks.count(marks[-1]) == 1 else plain
    elif len(marks) > 1:
        plain = plain.replace(marks[0], "") if _GROUPED.fullmatch(plain) else plain
    else:
        plain = plain.replace(",", "" if _THOUSANDS.fullmatch(plain) else ".")
    try:
        return Decimal(plain)
    except InvalidOperation:  # such as 1.2.3
        return None
