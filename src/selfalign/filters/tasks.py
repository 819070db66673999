"""Rules on generated tasks, those of Self-Instruct and I-SHEEP among them: what a text model can do, asked as a task."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from selfalign.filters._shared import Verdict, split, split_by
from selfalign.filters.form import length_limits, outside
from selfalign.protocols import Context
from selfalign.text import TENTH, normalise, split_task
from selfalign.types import Example, FilterResult


@dataclass(frozen=True)
class TaskLength:
    """Drops by the words of the instruction, its input not counted (Self-Instruct and I-SHEEP: 4 to 150)."""

    min_words: int = 4
    """Instructions with fewer words are dropped."""
    max_words: int = 150
    """Instructions with more words are dropped."""
    learn: bool = True
    """No seed is too long or too short, as in `Length`."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rules: `instruction_short`, `instruction_long`."""
        seeds = [split_task(seed.prompt)[0] for seed in context.pool.seeds] if self.learn else []
        least, most = length_limits(self.min_words, self.max_words, seeds)

        def judge(example: Example) -> Verdict:
            found = outside(split_task(example.prompt)[0], least, most)
            return (f"instruction_{found[0]}", found[1]) if found else None

        return split(examples, judge)


@dataclass(frozen=True)
class TaskStart:
    """Drops a prompt that begins with an ASCII punctuation mark, a character outside ASCII, or one of `phrases`.

    The first two are rules of Self-Instruct and I-SHEEP, for tasks in English. Self-Instruct also has the phrase "Write a
    program".
    """

    phrases: tuple[str, ...] = ()
    """Case and white space do not count."""
    learn: bool = True
    """A beginning that more than a tenth of the seeds have is fine ("¿"), and so is any letter where as many have one outside
    ASCII anywhere (Turkish)."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rules: `starts_with_punctuation`, `starts_outside_ascii`, `starts_with_phrase`."""
        seeds = context.pool.seeds if self.learn else ()
        foreign = sum(any(letter.isalpha() and not letter.isascii() for letter in seed.prompt) for seed in seeds)
        return split_by(examples, partial(self._rules, letters=foreign > TENTH * len(seeds)), seeds)

    def _rules(self, example: Example, letters: bool) -> Iterator[tuple[str, str]]:
        text = example.prompt.lstrip()
        if text and text[0] in string.punctuation:
            yield "starts_with_punctuation", f"begins with {text[0]!r}: {text[:80]}"
        if text and not text[0].isascii() and not (letters and text[0].isalpha()):
            yield "starts_outside_ascii", f"begins with {text[0]!r}: {text[:80]}"
        for phrase in self.phrases:
            if normalise(text).startswith(normalise(phrase)):
                yield "starts_with_phrase", f"begins with {phrase!r}: {text[:80]}"


SELF_INSTRUCT = (
    "image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps", "draw", "plot", "go to",
)  # fmt: skip
"""Self-Instruct's list."""

ISHEEP = (*SELF_INSTRUCT, "video", "audio", "music", "flowchart", "diagram")
"""The 18 words of I-SHEEP's scripts, which are Alpaca's."""


@dataclass(frozen=True)
class Blacklist:
    """Drops a task with one of these words in its instruction: as whole words, whatever their case."""

    words: tuple[str, ...] = ISHEEP
    """Words that an instruction may not have."""
    inputs: bool = False
    """Look at inputs too, as I-SHEEP's scripts do."""
    learn: bool = True
    """A word that a seed's prompt has belongs to the domain and is not judged."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `blacklisted`; evidence: the word and the text."""
        known = "\n".join(seed.prompt for seed in context.pool.seeds) if self.learn else ""
        words = [word for word in self.words if not _whole([word]).search(known)]
        pattern = _whole(words)

        def judge(example: Example) -> Verdict:
            for text in split_task(example.prompt)[: 1 + self.inputs]:
                if found := pattern.search(text):
                    return "blacklisted", f"{found[0]!r} in: {text}"
            return None

        return split(examples, judge) if words else FilterResult(tuple(examples), ())


def _whole(words: Sequence[str]) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})\b", re.IGNORECASE)


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
    learn: bool = True
    """A kind of placeholder that a seed has is none."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `placeholder`."""
        known = "\n".join(text for e in context.pool.seeds for text in (e.prompt, e.response)) if self.learn else ""
        noinput = re.compile("noinput", re.IGNORECASE)
        kinds = (noinput, *([_whole(["none"])] if self.none else []), *([_BRACKETS] if self.brackets else []))
        patterns = [pattern for pattern in kinds if not pattern.search(known)]
        of_responses = [pattern for pattern in patterns if pattern is noinput]

        def judge(example: Example) -> Verdict:
            instruction, input = split_task(example.prompt)
            for name, text, looked_for in (
                ("instruction", instruction, patterns),
                ("input", input, patterns),
                ("response", example.response, of_responses),
            ):
                if found := next(filter(None, (pattern.search(text) for pattern in looked_for)), None):
                    return "placeholder", f"{found[0]!r} in the {name}: {text[:200]}"
            return None

        return split(examples, judge)


@dataclass(frozen=True)
class LeftoverLabels:
    """Drops a prompt with one of these labels and a colon in it (I-SHEEP); case counts."""

    labels: tuple[str, ...] = ("Instruction", "Input", "Output")
    """Labels without their colon."""
    learn: bool = True
    """A label that a seed's prompt has is not judged."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `leftover_label`."""
        known = "\n".join(seed.prompt for seed in context.pool.seeds) if self.learn else ""
        patterns = [re.compile(rf"\b{re.escape(label)}\s*:") for label in self.labels]
        patterns = [pattern for pattern in patterns if not pattern.search(known)]

        def judge(example: Example) -> Verdict:
            found = min(filter(None, (p.search(example.prompt) for p in patterns)), key=re.Match.start, default=None)
            return ("leftover_label", f"{found[0]!r} at character {found.start()} of: {example.prompt[:200]}") if found else None

        return split(examples, judge)


_ADDRESS = re.compile(r"(?:\bhttps?://|\bwww\.)\S*", re.IGNORECASE)


@dataclass(frozen=True)
class Links:
    """Drops a prompt with a web address in it (I-SHEEP)."""

    responses: bool = False
    """Look at responses too (our own choice: a small model makes addresses up)."""
    learn: bool = True
    """Does nothing where more than a tenth of the seeds have one."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `link`."""
        return split_by(examples, self._rules, context.pool.seeds if self.learn else ())

    def _rules(self, example: Example) -> Iterator[tuple[str, str]]:
        for name, text in (("prompt", example.prompt), *([("response", example.response)] if self.responses else [])):
            if found := _ADDRESS.search(text):
                yield "link", f"{found[0][:200]} in the {name}"


@dataclass(frozen=True)
class RepeatedInput:
    """Drops a task whose input stands in its instruction, as raw strings (I-SHEEP)."""

    learn: bool = True
    """Does nothing where more than a tenth of the seeds' prompts are so."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `input_in_instruction`."""
        return split_by(examples, _repeated, context.pool.seeds if self.learn else ())


def _repeated(example: Example) -> Iterator[tuple[str, str]]:
    instruction, input = split_task(example.prompt)
    if input and input in instruction:
        yield "input_in_instruction", f"the instruction contains the input: {input}"
