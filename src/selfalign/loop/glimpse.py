"""Two kept and two dropped samples of a round, for people who wait."""

from __future__ import annotations

from selfalign.text import one_line
from selfalign.types import Dropped, Example, FilterResult

_LONGEST = 160
"""Characters of a text that are shown."""


def glimpse(round: int, result: FilterResult) -> str:
    """A few lines; the two dropped ones are of different rules where there are two."""
    by_rule: dict[str, Dropped] = {}
    for drop in result.dropped:
        by_rule.setdefault(drop.rule, drop)
    dropped = [*by_rule.values(), *(drop for drop in result.dropped if by_rule[drop.rule] is not drop)][:2]
    lines = [f"round {round}: {len(result.kept)} kept, {len(result.dropped)} dropped"]
    lines += [f"  kept     {_pair(example)}" for example in result.kept[:2]]
    lines += [f"  dropped  {_pair(drop.example)}\n           by {drop.rule}: {_short(drop.evidence)}" for drop in dropped]
    return "\n".join(lines)


def _pair(example: Example) -> str:
    return f"{_short(example.prompt)} → {_short(example.response)}" if example.response else _short(example.prompt)


def _short(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
