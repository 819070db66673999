"""No more examples than a training shall have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selfalign.filters._shared import Verdict, split
from selfalign.protocols import Context
from selfalign.types import Example, FilterResult


@dataclass(frozen=True)
class AtMost:
    """Keeps the first so many (I-SHEEP's training reads 3,000 at most). Stand it last."""

    count: int = 3000

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"AtMost: count = {self.count} is out of range: at least 1")

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `surplus`."""
        place = {example.id: number for number, example in enumerate(examples, start=1)}

        def judge(example: Example) -> Verdict:
            number = place[example.id]
            return None if number <= self.count else ("surplus", f"number {number} of {len(examples)}, {self.count} are kept")

        return split(examples, judge)
