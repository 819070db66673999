"""Labels of a list of tasks inside one of its tasks: two items that were read as one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from selfalign.filters._shared import Verdict, split
from selfalign.protocols import Context
from selfalign.types import Example, FilterResult


@dataclass(frozen=True)
class LeftoverLabels:
    """Drops a prompt with one of these labels and a colon in it (I-SHEEP); case counts."""

    labels: tuple[str, ...] = ("Instruction", "Input", "Output")

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `leftover_label`."""
        pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, self.labels))})\s*:")

        def judge(example: Example) -> Verdict:
            found = pattern.search(example.prompt)
            return ("leftover_label", f"{found[0]!r} at character {found.start()} of: {example.prompt[:200]}") if found else None

        return split(examples, judge)
