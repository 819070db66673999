"""Answers that go on with a conversation nobody asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from selfalign.filters._shared import Verdict, split
from selfalign.protocols import Context
from selfalign.types import Example, FilterResult


@dataclass(frozen=True)
class NextTurns:
    """Drops a response in which a next turn begins (I-SHEEP's rules for pairs), by any of three signs.

    A line that opens with the name of a role; one that opens with "can you" or "do you"; a paragraph, not the first one, that
    is a question. A first paragraph may be the question that was asked for, so unlike the scripts we leave it alone.
    """

    roles: tuple[str, ...] = ("assistant", "system", "human", "question", "output", "user")
    """Case does not count, and neither does a missing colon."""
    openings: tuple[str, ...] = ("can you", "do you")

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rules: `role_line`, `asks_back`, `question_paragraph`."""
        signs = (("role_line", _lines(self.roles)), ("asks_back", _lines(self.openings)))

        def judge(example: Example) -> Verdict:
            for rule, pattern in signs:
                if found := pattern.search(example.response):
                    return rule, f"a line of the response begins with {found[1]!r}"
            for paragraph in re.split(r"\n\s*\n", example.response.strip())[1:]:
                if paragraph.rstrip().endswith("?"):
                    return "question_paragraph", f"a paragraph of the response asks: {paragraph.strip()[:200]}"
            return None

        return split(examples, judge)


def _lines(words: Sequence[str]) -> re.Pattern[str]:
    """Lines behind the first one that begin with one of the words."""
    return re.compile(rf"\n[ \t]*({'|'.join(map(re.escape, words))})\b", re.IGNORECASE)
