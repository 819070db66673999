"""Traces of the conversation format inside a text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from selfalign.filters._shared import Verdict, split
from selfalign.protocols import Context
from selfalign.types import Example, FilterResult

MARKERS = (
    "BEGINNING OF CONVERSATION", "END OF CONVERSATION", "<|", "|>", "<s>", "</s>", "<bos>", "<eos>", "<pad>", "<unk>",
    "[INST]", "[/INST]", "<<SYS>>", "<start_of_turn>", "<end_of_turn>",
)  # fmt: skip
"""Never part of an honest text, wherever they stand; case does not count."""

ROLES = ("user", "assistant", "human", "system", "bot", "question", "answer", "q", "a", "instruction", "prompt", "response")
"""Names that open a turn: at the start of a line, perhaps after # or *, followed by a colon; case does not count."""


@dataclass(frozen=True)
class LeakedMarkers:
    """Drops a prompt or response with conversation markers, U+FFFD or control characters in it.

    ISARA cuts at upper-case markers only, and lower-case ones leak: 2 of 16 answers in its published safety examples. We drop
    the sample instead, as what stands before a marker is often half a thought. A marker the seeds use themselves belongs to
    the domain and is not judged.
    """

    markers: tuple[str, ...] = MARKERS
    roles: tuple[str, ...] = ROLES

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rules: `marker`, `control_character`."""
        seeds = [text for seed in context.pool.seeds for text in (seed.prompt, seed.response)]
        patterns = [pattern for pattern in self._patterns() if not any(map(pattern.search, seeds))]

        def judge(example: Example) -> Verdict:
            for name, text in (("prompt", example.prompt), ("response", example.response)):
                if found := next(filter(None, (pattern.search(text) for pattern in patterns)), None):
                    return "marker", f"the {name} contains {found.group().strip()!r} at character {found.start()}"
                if wrong := next(filter(_is_control, text), None):
                    return "control_character", f"the {name} contains U+{ord(wrong):04X} at character {text.index(wrong)}"
            return None

        return split(examples, judge)

    def _patterns(self) -> list[re.Pattern[str]]:
        anywhere = [re.compile(re.escape(marker), re.IGNORECASE) for marker in self.markers]
        turns = [re.compile(rf"(?:^|\n)[ \t]*[#*]*[ \t]*{re.escape(role)}[ \t]*[*]*[:：]", re.IGNORECASE) for role in self.roles]
        # In capitals a turn's name gives itself away in the middle of a line too ("… USER: what").
        inside = [re.compile(rf"\b{re.escape(role.upper())}\b[ \t]*:") for role in self.roles if len(role) > 1]
        return anywhere + turns + inside


def _is_control(character: str) -> bool:
    return character == "\ufffd" or (character not in "\n\t\r" and unicodedata.category(character) in ("Cc", "Cs", "Cn"))
