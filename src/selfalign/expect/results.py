"""The result that an answer comes to: what stands behind a mark, or its last number."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from functools import lru_cache

from selfalign.text import normalise

MARKER = "####"
"""What stands before the result in GSM8K: "… #### 1,250"."""
_SPACE = "[ \u00a0\u2009\u202f]"
_MARKS = ".,'’٬٫"  # the last two are Arabic: for thousands and for decimals
# A dash between two numbers is no sign: 10-2. Digits are grouped by commas, points, apostrophes, spaces: 1,250.5 and 1.250,5 and
# 1 250,5. A date, a time and a fraction are one piece: the last number in 10:30 says little.
_NUMBER = re.compile(
    r"\d{4}-\d\d?-\d\d?(?!\d)"
    rf"|(?:(?<![\w.)])[-+−])?\$?(?:(?<![\d.,])\d{{1,3}}(?:{_SPACE}\d{{3}})+(?:[.,]\d+)?(?!\d)"
    rf"|\d+(?:[{_MARKS}]\d+)*(?:[eE][+-]?\d\d?(?!\w)|(?:[:/]\d+)+)?|(?<!\w)\.\d+)"
)
_GROUPED = re.compile(r"-?\d{1,3}(?:[.,]\d{2,3})*[.,]\d{3}")
_THOUSANDS = re.compile(r"-?[1-9]\d{0,2},\d{3}")
_BEFORE = ' \u00a0:：*_`"“”'
_BEHIND = _BEFORE + ".。।۔!！%٪％"
"""What stands around a result and says nothing: spaces, the colon of a marker, emphasis, quotes, stops, a per cent sign."""


def result(text: str, marker: str = MARKER) -> str:
    """What stands behind the last marker, to the end of its line, or of its tag or bracket (`<answer>7</answer>`, `\\boxed{7}`);
    else the last number, date, time or fraction; else the whole text. Case and spaces of a marker do not count."""
    if (behind := _behind(text, marker)).strip():
        if marker.endswith((">", "{")):
            return (behind.partition("</")[0] if marker.endswith(">") else _within(behind)).strip()
        return behind.strip().splitlines()[0].strip()
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else text.strip()


def is_marked(text: str, marker: str) -> bool:
    """Whether a text has such a result at all: the marker, or at least a number where it is GSM8K's."""
    return bool(_behind(text, marker).strip()) or (marker == MARKER and _NUMBER.search(text) is not None)


def _behind(text: str, marker: str) -> str:
    _, found, behind = text.rpartition(marker)
    every = [] if found else list(_written(marker).finditer(text))
    return text[every[-1].end() :] if every else behind if found else ""


@lru_cache(64)
def _written(marker: str) -> re.Pattern[str]:
    """A marker as people write it too: `answer :` for `Answer:`."""
    parts = [re.escape(part) for part in re.findall(r"[^\s:：]+|[:：]", marker)]
    return re.compile(r"\s*".join("[:：]" if part in (":", "：") else part for part in parts) or "(?!)", re.IGNORECASE)


def _within(text: str) -> str:
    """Up to the brace that closes the one before the text."""
    depth = 1
    for place, sign in enumerate(text):
        depth += (sign == "{") - (sign == "}")
        if not depth:
            return text[:place]
    return text


def comes_to(answer: str, wanted: str, marker: str = MARKER) -> bool:
    """Whether the result of an answer is the wanted one; without a marker also where it ends in the whole of it, unit and all."""
    if same_result(result(answer, marker), wanted):
        return True
    if _behind(answer, marker).strip() or _number(wanted) is not None or not any(map(str.isdigit, wanted)):
        return False
    whole = r"\s*".join(map(re.escape, re.findall(r"\d+|[^\W\d]+|[^\w\s]", _bare(normalise(wanted)))))
    return re.search(rf"(?<![\d.,:/-]){whole}\W*\Z", normalise(answer)) is not None


def same_result(one: str, other: str) -> bool:
    """Equal as numbers where both are numbers, else as texts."""
    a, b = _number(one), _number(other)
    if a is not None and b is not None:
        return a == b
    return _plain(one) == _plain(other)


def _plain(text: str) -> str:
    return re.sub(r"\s*([,;()\[\]])\s*", r"\1", _bare(normalise(text)))


def _bare(text: str) -> str:
    return text.lstrip(_BEFORE).rstrip(_BEHIND)


def _number(text: str) -> Fraction | None:
    """The value of a text that is a number and nothing else, but for a currency, a per cent sign or a full stop.

    Of a comma and a point the last one begins the decimals; one that stands several times groups digits. A single comma does so
    before three digits (1,250), and a single point never: where that is not what is meant, equal numbers are written alike.
    """
    plain = _bare(text)
    while plain and "Sc" in (unicodedata.category(plain[0]), unicodedata.category(plain[-1])):  # currencies
        plain = _bare(plain[1:] if unicodedata.category(plain[0]) == "Sc" else plain[:-1])
    if not _NUMBER.fullmatch(plain):
        return None
    plain = re.sub(rf"{_SPACE}|[$'’٬]", "", plain).replace("−", "-").replace("٫", ".")
    above, _, below = plain.partition("/")
    value, by = _value(above), _value(below or "1")
    return value / by if value is not None and by else None


def _value(plain: str) -> Fraction | None:
    marks = [sign for sign in plain if sign in ".,"]
    if len({*marks}) == 2:
        whole, _, decimals = plain.rpartition(marks[-1])
        plain = f"{whole.replace(marks[0], '')}.{decimals}" if marks.count(marks[-1]) == 1 else plain
    elif len(marks) > 1:
        plain = plain.replace(marks[0], "") if _GROUPED.fullmatch(plain) else plain
    else:
        plain = plain.replace(",", "" if _THOUSANDS.fullmatch(plain) else ".")
    try:
        return Fraction(plain)
    except ValueError:  # such as 1.2.3 and 10:30
        return None
