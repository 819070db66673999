"""Rules on what an answer must not be: an echo, an exam paper, another turn, noise."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from selfalign.filters._shared import Verdict, near_top, split, split_by
from selfalign.protocols import Context
from selfalign.text import TENTH, count_words, normalise, split_task
from selfalign.types import Example, FilterResult

_ECHO_WORDS = 5  # shorter prompts ("Hello there!") stand in good answers


@dataclass(frozen=True)
class Substring:
    """Drops a response that is part of its prompt (ISARA, as raw strings)."""

    both_ways: bool = False
    """Also where the response repeats the whole prompt of 5 words or more (our own choice: copied text teaches copying);
    case and white space do not count then."""
    learn: bool = True
    """Where more than a tenth of the seeds do so (a label that the prompt offers, a quotation), a response may be a part of its
    prompt as great as theirs, and half as great again; where they repeat the prompt, so may it. What a seed answers word for word
    is a label, and no part of a prompt that holds its letters (`no` in "not")."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rules: `response_in_prompt`, `prompt_in_response`."""
        seeds = context.pool.seeds if self.learn else ()
        labels = {normalise(seed.response) for seed in seeds}
        parts = [len(normalise(e.response)) / max(len(normalise(e.prompt)), 1) for e in seeds if self._inside(e)]
        usual = near_top(parts) if len(parts) > TENTH * len(seeds) else 0.0

        def rules(example: Example) -> Iterator[tuple[str, str]]:
            prompt, response = normalise(example.prompt), normalise(example.response)
            is_inside = self._inside(example) and response not in labels
            if is_inside and (not usual or len(response) > max(usual, min(1.5 * usual, 0.9)) * len(prompt)):
                yield "response_in_prompt", f"the prompt contains the response: {example.response}"
            if self.both_ways and prompt in response and count_words(prompt) >= _ECHO_WORDS:
                yield "prompt_in_response", f"the response repeats the prompt: {example.prompt}"

        return split_by(examples, rules, seeds)

    def _inside(self, example: Example) -> bool:
        if self.both_ways:
            return normalise(example.response) in normalise(example.prompt)
        return example.response in example.prompt


@dataclass(frozen=True)
class CopiedInput:
    """Drops a response equal to the task's input, or to its instruction where it has none (Self-Instruct).

    Case and white space do not count.
    """

    learn: bool = True
    """Does nothing where more than a tenth of the seeds do so."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `response_is_input`."""
        return split_by(examples, _copied, context.pool.seeds if self.learn else ())


def _copied(example: Example) -> Iterator[tuple[str, str]]:
    instruction, input = split_task(example.prompt)
    if normalise(example.response) == normalise(input or instruction):
        yield "response_is_input", f"the response hands back: {(input or instruction)[:200]}"


@dataclass(frozen=True)
class NextTurns:
    """Drops a response in which a next turn begins (I-SHEEP's rules for pairs), by any of three signs.

    A line that opens with the name of a role; one that opens with "can you" or "do you"; a paragraph, not the first one, that
    is a question. A first paragraph may be the question that was asked for, so unlike the scripts we leave it alone.
    """

    roles: tuple[str, ...] = ("assistant", "system", "human", "question", "output", "user")
    """Case does not count, and neither does a missing colon."""
    openings: tuple[str, ...] = ("can you", "do you")
    """Case does not count."""
    learn: bool = True
    """A sign that more than a tenth of the seeds give is none."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rules: `role_line`, `asks_back`, `question_paragraph`."""
        signs = (("role_line", _lines(self.roles)), ("asks_back", _lines(self.openings)))

        def rules(example: Example) -> Iterator[tuple[str, str]]:
            for rule, pattern in signs:
                if found := pattern.search(example.response):
                    yield rule, f"a line of the response begins with {found[1]!r}"
            for paragraph in re.split(r"\n\s*\n", example.response.strip())[1:]:
                if paragraph.rstrip().endswith(("?",) if not self.learn else _QUESTION_MARKS):
                    yield "question_paragraph", f"a paragraph of the response asks: {paragraph.strip()[:200]}"

        return split_by(examples, rules, context.pool.seeds if self.learn else ())


_QUESTION_MARKS = ("?", "？", "؟", "՞", "፧")


def _lines(words: Sequence[str]) -> re.Pattern[str]:
    """Lines behind the first one that begin with one of the words."""
    return re.compile(rf"\n[ \t]*({'|'.join(map(re.escape, words))})\b", re.IGNORECASE)


_HEAD = re.compile(r"\banswer choices\s*:", re.IGNORECASE)
_OPTION = re.compile(r"\n[ \t]*([A-E]\.)[ \t]")


@dataclass(frozen=True)
class AnswerChoices:
    """Drops a response with "Answer Choices:" in it, or where a line, not the first one, opens an option A. to E. (I-SHEEP)."""

    learn: bool = True
    """Does not judge by what more than a tenth of the seeds have."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rules: `answer_choices`, `option_marker`."""
        return split_by(examples, _exam, context.pool.seeds if self.learn else ())


def _exam(example: Example) -> Iterator[tuple[str, str]]:
    if found := _HEAD.search(example.response):
        yield "answer_choices", f"the response contains {found[0]!r} at character {found.start()}"
    if found := _OPTION.search(example.response):
        yield "option_marker", f"a line of the response begins with {found[1]!r}"


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
    """Phrases that a response may not have."""

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


_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


@dataclass(frozen=True)
class HanCharacters:
    """Drops a response with a Han character in it (I-SHEEP, whose models fall into Chinese; a rule for English seeds)."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `han_character`."""

        def judge(example: Example) -> Verdict:
            if (found := _HAN.search(example.response)) is None:
                return None
            return "han_character", f"the response contains {found[0]} (U+{ord(found[0]):04X}) at character {found.start()}"

        return split(examples, judge)
