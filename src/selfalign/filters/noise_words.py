"""Words that give away an answer beside the task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selfalign.filters._shared import Verdict, split
from selfalign.protocols import Context
from selfalign.text import normalise
from selfalign.types import Example, FilterResult

NOISE = (
    "as an ai", "as a language model", "i am an ai", "i'm an ai", "i cannot", "i can't", "i'm sorry", "i am sorry",
    "[input]", "[output]", "<input>", "<output>", "example input", "example output", "your answer here", "lorem ipsum",
)  # fmt: skip
"""Our own list after SELF-GUIDE's idea: refusals, words of the request that asked, places left to fill in."""


@dataclass(frozen=True)
class NoiseWords:
    """Drops a response with one of these phrases in it (SELF-GUIDE, arXiv 2407.12874); case and white space do not count.

    A phrase that a seed's response uses belongs to the task and is not noise.
    """

    phrases: tuple[str, ...] = NOISE

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `noise`."""
        known = [_plain(seed.response) for seed in context.pool.seeds]
        phrases = [phrase for phrase in map(_plain, self.phrases) if not any(phrase in text for text in known)]

        def judge(example: Example) -> Verdict:
            text = _plain(example.response)
            found = next((phrase for phrase in phrases if phrase in text), None)
            return ("noise", f"the response contains {found!r}: {example.response[:200]}") if found else None

        return split(examples, judge)


def _plain(text: str) -> str:
    return normalise(text).replace("’", "'")
