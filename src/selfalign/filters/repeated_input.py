"""Tasks whose input says nothing that the instruction does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selfalign.filters._shared import Verdict, split
from selfalign.protocols import Context
from selfalign.text import split_task
from selfalign.types import Example, FilterResult


@dataclass(frozen=True)
class RepeatedInput:
    """Drops a task whose input stands in its instruction, as raw strings (I-SHEEP)."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `input_in_instruction`."""
        return split(examples, _judge)


def _judge(example: Example) -> Verdict:
    instruction, input = split_task(example.prompt)
    if input and input in instruction:
        return "input_in_instruction", f"the instruction contains the input: {input}"
    return None
