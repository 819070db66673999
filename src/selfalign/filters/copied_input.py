"""Answers that only hand the input back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selfalign.filters._shared import Verdict, split
from selfalign.protocols import Context
from selfalign.text import normalise, split_task
from selfalign.types import Example, FilterResult


@dataclass(frozen=True)
class CopiedInput:
    """Drops a response equal to the task's input, or to its instruction where it has none (Self-Instruct).

    Case and white space do not count.
    """

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `response_is_input`."""
        return split(examples, _judge)


def _judge(example: Example) -> Verdict:
    instruction, input = split_task(example.prompt)
    if normalise(example.response) != normalise(input or instruction):
        return None
    return "response_is_input", f"the response hands back: {(input or instruction)[:200]}"
