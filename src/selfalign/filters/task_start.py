"""Instructions that begin as none does."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

from selfalign.filters._shared import Verdict, split
from selfalign.protocols import Context
from selfalign.text import normalise
from selfalign.types import Example, FilterResult


@dataclass(frozen=True)
class TaskStart:
    """Drops a prompt that begins with an ASCII punctuation mark, a character outside ASCII, or one of `phrases`.

    The first two are rules of Self-Instruct and I-SHEEP, for tasks in English. Self-Instruct also has the phrase "Write a
    program".
    """

    phrases: tuple[str, ...] = ()
    """Case and white space do not count."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rules: `starts_with_punctuation`, `starts_outside_ascii`, `starts_with_phrase`."""
        return split(examples, self._judge)

    def _judge(self, example: Example) -> Verdict:
        text = example.prompt.lstrip()
        if text and text[0] in string.punctuation:
            return "starts_with_punctuation", f"begins with {text[0]!r}: {text[:80]}"
        if text and not text[0].isascii():
            return "starts_outside_ascii", f"begins with {text[0]!r}: {text[:80]}"
        for phrase in self.phrases:
            if normalise(text).startswith(normalise(phrase)):
                return "starts_with_phrase", f"begins with {phrase!r}: {text[:80]}"
        return None
