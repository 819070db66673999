"""Too short or too long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selfalign.filters._shared import Verdict, split
from selfalign.protocols import Context
from selfalign.text import count_words, counted
from selfalign.types import Example, FilterResult


@dataclass(frozen=True)
class Length:
    """Drops by the number of words, between white space as ISARA's code counts them (at least 5 in both; no upper limit).

    The upper limits are our own: off by default. In scripts without spaces every character counts as a word.
    """

    min_prompt_words: int = 5
    max_prompt_words: int | None = None
    min_response_words: int = 5
    max_response_words: int | None = None

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rules: `prompt_short`, `prompt_long`, `response_short`, `response_long`."""
        return split(examples, self._judge)

    def _judge(self, example: Example) -> Verdict:
        prompt, response = count_words(example.prompt), count_words(example.response)
        for rule, number, limit, wrong in (
            ("prompt_short", prompt, self.min_prompt_words, prompt < self.min_prompt_words),
            ("prompt_long", prompt, self.max_prompt_words, self.max_prompt_words is not None and prompt > self.max_prompt_words),
            ("response_short", response, self.min_response_words, response < self.min_response_words),
            (
                "response_long",
                response,
                self.max_response_words,
                self.max_response_words is not None and response > self.max_response_words,
            ),
        ):
            if wrong:
                return rule, f"{counted(number, 'word')}, {'at least' if rule.endswith('short') else 'at most'} {limit} wanted"
        return None
