"""Tasks that a model of text cannot do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from selfalign.filters._shared import Verdict, split
from selfalign.protocols import Context
from selfalign.text import split_task
from selfalign.types import Example, FilterResult

SELF_INSTRUCT = (
    "image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps", "draw", "plot", "go to",
)  # fmt: skip
"""Self-Instruct's list."""

ISHEEP = (*SELF_INSTRUCT, "video", "audio", "music", "flowchart", "diagram")
"""The 18 words of I-SHEEP's scripts, which are Alpaca's."""


@dataclass(frozen=True)
class Blacklist:
    """Drops an instruction with one of these words in it: as whole words, whatever their case."""

    words: tuple[str, ...] = ISHEEP

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `blacklisted`; evidence: the word and the instruction."""
        pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, self.words))})\b", re.IGNORECASE)

        def judge(example: Example) -> Verdict:
            instruction = split_task(example.prompt)[0]
            found = pattern.search(instruction)
            return ("blacklisted", f"{found[0]!r} in: {instruction}") if found else None

        return split(examples, judge) if self.words else FilterResult(tuple(examples), ())
