"""A rule on pairs of a preferred and a rejected answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selfalign.filters._shared import Verdict, split
from selfalign.protocols import Context
from selfalign.types import Example, FilterResult, preferred_to


@dataclass(frozen=True)
class Differs:
    """Drops a rejected answer that is the preferred one itself; white space at their ends does not count.

    A pair of equal answers has no preference, and its loss is the same for every model.
    """

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `same_as_preferred`."""
        answers = {example.id: example.response.strip() for example in (*context.pool.examples, *examples)}

        def judge(example: Example) -> Verdict:
            preferred = preferred_to(example)
            same = answers.get(preferred) == example.response.strip()
            return ("same_as_preferred", f"{preferred} has the same answer: {example.response[:200]}") if same else None

        return split(examples, judge)
