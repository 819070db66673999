"""One expectation as it is written: `[CATEGORY=]KIND[:ARGUMENT]`."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain, count
from pathlib import Path

from selfalign.errors import UserError

FORMS = {
    "json": ("json", "json:SCHEMA.json"),
    "regex": ("regex:PATTERN",),
    "language": ("language:CODE",),
    "max_words": ("max_words:N",),
    "exact": ("exact", "exact:FIELD"),
    "result": ("result", "result:MARKER"),
    "contains": ("contains", "contains:TEXT"),
    "function": ("function:FILE.py:NAME",),
    "compare": ("compare:FILE.py:NAME",),
}
"""The kinds of checks, with how each one is written."""
_LONGEST = 40
_PAIRS_HAVE_NONE = "is measured on held-out answers alone: generated pairs have no reference to compare with"


@dataclass(frozen=True)
class Spec:
    text: str
    """As it was given."""
    category: str
    """The examples that it is about, composed as NFC; "" for all."""
    kind: str
    argument: str

    @property
    def by_reference(self) -> bool:
        """Whether it compares with an example's own response, which held-out rows have and candidates have not."""
        return self.kind in ("exact", "result", "compare") or (self.kind == "contains" and not self.argument)

    @property
    def needs(self) -> str:
        """What a row has that the check is about."""
        field = f" that is JSON with the field {self.argument!r}" if self.kind == "exact" and self.argument else ""
        return f"has a reference{field}" if self.by_reference else f"is of the category {self.category!r}"

    @property
    def name(self) -> str:
        """Short enough for a table: of a file its name alone, of a long pattern the beginning."""
        argument = self.argument
        if self.kind == "json":
            argument = Path(argument).name
        elif self.kind in ("function", "compare"):
            file, _, function = argument.rpartition(":")
            argument = function if file else Path(argument).stem
        argument = argument if len(argument) <= _LONGEST else f"{argument[: _LONGEST - 1]}…"
        return (f"{self.category}=" if self.category else "") + self.kind + (f":{argument}" if argument else "")


def parse(text: str) -> Spec:
    """
    A text that begins with a kind has no category; else it is what stands before the first `=` that a kind follows, so that both
    may have any sign in them.

    Raises:
        UserError: no such kind, an argument that is missing or too many, a number that is none.
    """
    category, rest = "", text.strip()
    if not _begins(rest):
        places = [place for place, sign in enumerate(rest) if sign == "=" and _begins(rest[place + 1 :].lstrip())]
        if places:
            category, rest = rest[: places[0]].strip(), rest[places[0] + 1 :].lstrip()
        if not places or not category:
            raise UserError(f"--expect {text}: {_unknown(rest)}")
    kind, colon, argument = rest.partition(":")
    forms = FORMS[kind]
    if not argument and (colon or kind not in forms):
        raise UserError(f"--expect {text}: write it as {' or '.join(forms)}")
    if kind == "max_words" and not (argument.isascii() and argument.isdigit() and int(argument)):
        raise UserError(f"--expect {text}: {argument!r} is no number of words; write it as {forms[0]}, such as max_words:30")
    return Spec(text, unicodedata.normalize("NFC", category), kind, argument)


def parse_all(texts: Sequence[str]) -> tuple[Spec, ...]:
    """Raises UserError: as `parse`, or an expectation that is given twice."""
    specs = tuple(map(parse, texts))
    for place, spec in enumerate(specs):
        if (spec.category, spec.kind, spec.argument) in [(s.category, s.kind, s.argument) for s in specs[:place]]:
            raise UserError(f"--expect {spec.text} is given twice")
    return specs


def for_pairs(texts: Sequence[str]) -> tuple[Spec, ...]:
    """As `parse_all`, of a filter. Raises UserError: also for one that needs references."""
    for spec in (specs := parse_all(texts)):
        if spec.by_reference:
            raise UserError(f"expected: {spec.text} is no filter: it {_PAIRS_HAVE_NONE}")
    return specs


def metric_names(specs: Sequence[Spec]) -> list[str]:
    """`expected:json` and so on: without white space and without signs that trackers refuse, each one once."""
    import regex

    found: list[str] = []
    for spec in specs:
        name = "expected:" + regex.sub(r"[^\w.-]+", "_", spec.name).strip("_")
        found.append(next(each for each in chain((name,), (f"{name}_{number}" for number in count(2))) if each not in found))
    return found


def _begins(text: str) -> bool:
    return text.partition(":")[0] in FORMS


def _unknown(text: str) -> str:
    kind = text.partition(":")[0].rpartition("=")[2].strip()
    near = get_close_matches(kind, FORMS, 1)
    every = ", ".join(form for forms in FORMS.values() for form in forms)
    return f"no such check{f', did you mean {near[0]}?' if near else ';'} there are {every}, each with CATEGORY= before it or not"
