"""Looping text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selfalign.filters._shared import Verdict, split
from selfalign.protocols import Context
from selfalign.text import longest_repeat
from selfalign.types import Example, FilterResult


@dataclass(frozen=True)
class Repetition:
    """Drops a prompt or response in which too many word n-grams repeat an earlier one of the same text (our own choice).

    0.2 at n = 4 stands far above honest prose and far below a loop.
    """

    max_share: float = 0.2
    """In [0, 1]: 0 forbids every repeat."""
    size: int = 4
    """Words in an n-gram."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `repetition`."""
        return split(examples, self._judge)

    def _judge(self, example: Example) -> Verdict:
        for name, text in (("prompt", example.prompt), ("response", example.response)):
            share, gram, times = longest_repeat(text, self.size)
            if share > self.max_share:
                repeats = f"{share:.0%} of the {name}'s {self.size}-grams repeat, {self.max_share:.0%} allowed"
                return "repetition", f'{repeats}; "{gram}" stands there {times} times'
        return None
