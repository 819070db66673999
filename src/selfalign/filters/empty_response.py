"""Answers without a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selfalign.filters._shared import Verdict, split
from selfalign.protocols import Context
from selfalign.types import Example, FilterResult


@dataclass(frozen=True)
class EmptyResponse:
    """Drops an example whose response is empty or white space (I-SHEEP)."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `empty_response`."""
        return split(examples, _judge)


def _judge(example: Example) -> Verdict:
    if example.response.strip():
        return None
    return "empty_response", f"the model wrote nothing (finish: {example.response_finish})"
