"""How a score stands in an example, and what a filter says where it cannot go by it.

A scorer that got no score out of an example sets none, for a made-up number would be filtered by like a real one; it leaves
the reason beside it, where the filter and the sample's passport find it.
"""

from __future__ import annotations

import math
from dataclasses import replace

from selfalign.types import Example

_UNPARSED, _FLAGGED = "_unparsed", "_flagged"
"""Ends of keys in `Example.metadata`; the score's name stands before them."""


def is_score_name(name: str) -> bool:
    """Whether a score may be called so: lower-case letters, digits and underscores, as it is a part of rules and metrics."""
    return name.isidentifier() and name == name.lower()


def with_score(example: Example, name: str, value: float, flag: str = "") -> Example:
    """The example with one score more; `flag` says why the value must not be trusted, with the words that made it so.

    Raises:
        ValueError: a value that is not finite.
    """
    if not math.isfinite(value):
        raise ValueError(f"score {name} of {example.id} is {value}: scores are finite; use `without_score` where there is none")
    marks = {**example.metadata, f"{name}{_FLAGGED}": flag} if flag else example.metadata
    return replace(example, scores={**example.scores, name: float(value)}, metadata=marks)


def without_score(example: Example, name: str, why: str) -> Example:
    """The example as it is with the reason why it has no such score: the raw text that no number was found in, or no room."""
    return replace(example, metadata={**example.metadata, f"{name}{_UNPARSED}": why or "(nothing written)"})


def unusable(example: Example, name: str) -> tuple[str, str] | None:
    """(rule, evidence) of an example whose score cannot be gone by; None where it can.

    Rules: `judge_addressed` (the text speaks to the judge), `unparsed` (a scorer tried and got no score), `unscored` (no
    scorer of the recipe gives a score of this name).
    """
    if flag := example.metadata.get(f"{name}{_FLAGGED}"):
        return "judge_addressed", flag
    if name in example.scores:
        return None
    if (why := example.metadata.get(f"{name}{_UNPARSED}")) is not None:
        return "unparsed", why
    return "unscored", f"no score {name!r}; the example has: {', '.join(sorted(example.scores)) or 'none'}"
