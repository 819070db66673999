"""The same prompt twice in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selfalign.filters._shared import Verdict, split
from selfalign.protocols import Context
from selfalign.text import normalise
from selfalign.types import Example, FilterResult


@dataclass(frozen=True)
class Exact:
    """Drops a prompt equal to one kept earlier in the same batch (ISARA: identical strings, this iteration only).

    ISARA compares with what all its filters kept; stand it last in a recipe for the same effect.
    """

    ignore_case: bool = False
    """Compare case-folded with white space collapsed (our own choice where True; ISARA compares raw strings)."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `duplicate`."""
        seen: dict[str, str] = {}

        def judge(example: Example) -> Verdict:
            key = normalise(example.prompt) if self.ignore_case else example.prompt
            first = seen.setdefault(key, example.id)
            return None if first == example.id else ("duplicate", f"same prompt as {first}: {example.prompt}")

        return split(examples, judge)
