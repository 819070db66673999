"""Answers that go on as an exam paper."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from selfalign.filters._shared import Verdict, split
from selfalign.protocols import Context
from selfalign.types import Example, FilterResult

_HEAD = re.compile(r"\banswer choices\s*:", re.IGNORECASE)
_OPTION = re.compile(r"\n[ \t]*([A-E]\.)[ \t]")


@dataclass(frozen=True)
class AnswerChoices:
    """Drops a response with "Answer Choices:" in it, or where a line, not the first one, opens an option A. to E. (I-SHEEP)."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rules: `answer_choices`, `option_marker`."""
        return split(examples, _judge)


def _judge(example: Example) -> Verdict:
    if found := _HEAD.search(example.response):
        return "answer_choices", f"the response contains {found[0]!r} at character {found.start()}"
    if found := _OPTION.search(example.response):
        return "option_marker", f"a line of the response begins with {found[1]!r}"
    return None
