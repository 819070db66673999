"""Instructions too short or too long to be one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selfalign.filters._shared import Verdict, split
from selfalign.protocols import Context
from selfalign.text import count_words, counted, split_task
from selfalign.types import Example, FilterResult


@dataclass(frozen=True)
class TaskLength:
    """Drops by the words of the instruction, its input not counted (Self-Instruct and I-SHEEP: 4 to 150)."""

    min_words: int = 4
    max_words: int = 150

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rules: `instruction_short`, `instruction_long`."""
        return split(examples, self._judge)

    def _judge(self, example: Example) -> Verdict:
        number = count_words(split_task(example.prompt)[0])
        if number < self.min_words:
            return "instruction_short", f"{counted(number, 'word')}, at least {self.min_words} wanted"
        if number > self.max_words:
            return "instruction_long", f"{counted(number, 'word')}, at most {self.max_words} wanted"
        return None
