"""Answers that only echo their question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selfalign.filters._shared import Verdict, split
from selfalign.protocols import Context
from selfalign.text import count_words, normalise
from selfalign.types import Example, FilterResult

_ECHO_WORDS = 5  # shorter prompts ("Hello there!") stand in good answers


@dataclass(frozen=True)
class Substring:
    """Drops a response that is part of its prompt (ISARA, as raw strings)."""

    both_ways: bool = False
    """Also where the response repeats the whole prompt of 5 words or more (our own choice: copied text teaches copying);
    case and white space do not count then."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rules: `response_in_prompt`, `prompt_in_response`."""
        return split(examples, self._judge)

    def _judge(self, example: Example) -> Verdict:
        if example.response in example.prompt:
            return "response_in_prompt", f"the prompt contains the response: {example.response}"
        if not self.both_ways:
            return None
        prompt, response = normalise(example.prompt), normalise(example.response)
        if response in prompt:
            return "response_in_prompt", f"the prompt contains the response: {example.response}"
        if prompt in response and count_words(prompt) >= _ECHO_WORDS:
            return "prompt_in_response", f"the response repeats the prompt: {example.prompt}"
        return None
