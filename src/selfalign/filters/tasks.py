"""Rules on generated tasks, those of Self-Instruct and I-SHEEP among them: what a text model can do, asked as a task."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass

from selfalign.filters._shared import Verdict, split
from selfalign.protocols import Context
from selfalign.text import count_words, counted, normalise, split_task
from selfalign.types import Example, FilterResult


@dataclass(frozen=True)
class TaskLength:
    """Drops by the words of the instruction, its input not counted (Self-Instruct and I-SHEEP: 4 to 150)."""

    min_words: int = 4
    max_words: int = 150

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rules: `instruction_short`, `instruction_long`."""
        return split(examples, self._judge)

    def _judge(self, example: Example) -> Verdict:
        number = count_words(split_task(example.prompt)[0])
        if number < self.min_words:
            return "instruction_short", f"{counted(number, 'word')}, at least {self.min_words} wanted"
        if number > self.max_words:
            return "instruction_long", f"{counted(number, 'word')}, at most {self.max_words} wanted"
        return None


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


@dataclass(frozen=True)
class LeftoverLabels:
    """Drops a prompt with one of these labels and a colon in it (I-SHEEP); case counts."""

    labels: tuple[str, ...] = ("Instruction", "Input", "Output")

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `leftover_label`."""
        pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, self.labels))})\s*:")

        def judge(example: Example) -> Verdict:
            found = pattern.search(example.prompt)
            return ("leftover_label", f"{found[0]!r} at character {found.start()} of: {example.prompt[:200]}") if found else None

        return split(examples, judge)


_ADDRESS = re.compile(r"(?:\bhttps?://|\bwww\.)\S*", re.IGNORECASE)


@dataclass(frozen=True)
class Links:
    """Drops a prompt with a web address in it (I-SHEEP)."""

    responses: bool = False
    """Look at responses too (our own choice: a small model makes addresses up)."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `link`."""
        return split(examples, self._judge)

    def _judge(self, example: Example) -> Verdict:
        for name, text in (("prompt", example.prompt), *([("response", example.response)] if self.responses else [])):
            if found := _ADDRESS.search(text):
                return "link", f"{found[0][:200]} in the {name}"
        return None


@dataclass(frozen=True)
class RepeatedInput:
    """Drops a task whose input stands in its instruction, as raw strings (I-SHEEP)."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `input_in_instruction`."""
        return split(examples, _repeated)


def _repeated(example: Example) -> Verdict:
    instruction, input = split_task(example.prompt)
    if input and input in instruction:
        return "input_in_instruction", f"the instruction contains the input: {input}"
    return None
