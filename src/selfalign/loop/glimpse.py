"""Two kept and two dropped samples of a round, for people who wait."""

from __future__ import annotations

from selfalign.text import one_line
from selfalign.types import ROLLOUT, Dropped, Example, FilterResult, preferred_to

_LONGEST = 160
"""Characters of a text that are shown."""


def glimpse(round: int, result: FilterResult) -> str:
    """A few lines; the two dropped ones are of different rules where there are two."""
    by_rule: dict[str, Dropped] = {}
    for drop in result.dropped:
        by_rule.setdefault(drop.rule, drop)
    dropped = [*by_rule.values(), *(drop for drop in result.dropped if by_rule[drop.rule] is not drop)][:2]
    lines = [f"round {round}: {len(result.kept)} kept, {len(result.dropped)} dropped"]
    for example in result.kept[:2]:
        lines += [f"  kept     {_pair(example)}", *([f"           {what}"] if (what := use(example)) else [])]
    lines += [f"  dropped  {_pair(drop.example)}\n           by {drop.rule}: {_short(drop.evidence)}" for drop in dropped]
    return "\n".join(lines)


def use(example: Example) -> str:
    """What becomes of a kept answer that is not imitated; "" of one that is."""
    if preferred := preferred_to(example):
        return f"to be rejected, as that of {preferred} is preferred"
    return "to be corrected by the teacher, not imitated" if ROLLOUT in example.metadata else ""


def _pair(example: Example) -> str:
    return f"{_short(example.prompt)} → {_short(example.response)}" if example.response else _short(example.prompt)


def _short(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
