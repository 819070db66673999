"""Places to fill in where real material belongs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from selfalign.filters._shared import Verdict, split
from selfalign.protocols import Context
from selfalign.text import split_task
from selfalign.types import Example, FilterResult

_BRACKETS = re.compile(r"<(?=\S)[^<>\n]{1,60}(?<=\S)>")


@dataclass(frozen=True)
class Placeholders:
    """Drops a task with "noinput", the word "none" or something in angle brackets, and a response with "noinput" (I-SHEEP).

    Crude: `<p>` of a task about HTML counts too.
    """

    none: bool = True
    """Whether the word "none" counts."""
    brackets: bool = True
    """Whether angle brackets count."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `placeholder`."""
        patterns = [re.compile("noinput", re.IGNORECASE)]
        patterns += [re.compile(r"\bnone\b", re.IGNORECASE)] if self.none else []
        patterns += [_BRACKETS] if self.brackets else []

        def judge(example: Example) -> Verdict:
            instruction, input = split_task(example.prompt)
            for name, text, looked_for in (
                ("instruction", instruction, patterns),
                ("input", input, patterns),
                ("response", example.response, patterns[:1]),
            ):
                if found := next(filter(None, (pattern.search(text) for pattern in looked_for)), None):
                    return "placeholder", f"{found[0]!r} in the {name}: {text[:200]}"
            return None

        return split(examples, judge)
