"""Rules on the form of a text: finished, long enough, without loops or traces of the conversation format."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from selfalign.filters._shared import Field, Verdict, above, near_top, split, split_by, text_of
from selfalign.protocols import Context
from selfalign.text import control_characters, count_words, counted, finished_like, is_finished, longest_repeat, words
from selfalign.types import Example, FilterResult

BOTH: tuple[Field, Field] = ("prompt", "response")
MARGIN = 2
"""How many times as long as the seeds' longest text, or as short as their shortest, one may be; our own choice."""


@dataclass(frozen=True)
class Finished:
    """Drops prompts and responses that ran out of tokens or of window, and responses that do not end as a sentence does.

    Our own addition: ISARA's code keeps answers cut at 100 tokens, and 36 % of the short answers of its trained LLaMA-7B in
    the AlpacaEval dump end without a final mark (16 % of those trained on the seeds alone).
    """

    sentence_end: bool = True
    """Whether a response must end with a final mark, or as whole code does; a prompt need not."""
    learn: bool = True
    """Endings that more than a tenth of the seeds' responses have are final too: see `text.finished_like`."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rules: `no_room` (no window left to begin), `cut_off` (ran into max_tokens), `unfinished` (no final mark)."""
        finished = finished_like([seed.response for seed in context.pool.seeds]) if self.learn else is_finished

        def judge(example: Example) -> Verdict:
            for field, finish in (("prompt", example.prompt_finish), ("response", example.response_finish)):
                if finish == "context":
                    return "no_room", f"the model's window left no room to begin the {field}"
                if finish == "length":
                    return "cut_off", f"the {field} ran into max_tokens: …{getattr(example, field)[-80:]}"
            if self.sentence_end and not finished(example.response):
                return "unfinished", f"the response ends: …{example.response[-80:]}"
            return None

        return split(examples, judge)


@dataclass(frozen=True)
class EmptyResponse:
    """Drops an example whose response is empty or white space (I-SHEEP)."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `empty_response`."""

        def judge(example: Example) -> Verdict:
            why = f"the model wrote nothing (finish: {example.response_finish})"
            return None if example.response.strip() else ("empty_response", why)

        return split(examples, judge)


@dataclass(frozen=True)
class Length:
    """Drops by the number of words, between white space as ISARA's code counts them (at least 5 in both; no upper limit).

    The upper limits are our own: off by default. In scripts without spaces every character counts as a word.
    """

    min_prompt_words: int = 5
    """Prompts with fewer words are dropped."""
    max_prompt_words: int | None = None
    """Prompts with more words are dropped; null: none is too long."""
    min_response_words: int = 5
    """Responses with fewer words are dropped."""
    max_response_words: int | None = None
    """Responses with more words are dropped; null: none is too long."""
    learn: bool = True
    """No limit lies within the seeds' lengths or near: the lower ones are at most half of the shortest seed, the upper ones at
    least twice the longest."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rules: `prompt_short`, `prompt_long`, `response_short`, `response_long`."""
        seeds = context.pool.seeds if self.learn else ()
        own: dict[Field, tuple[int, int | None]] = {
            "prompt": (self.min_prompt_words, self.max_prompt_words),
            "response": (self.min_response_words, self.max_response_words),
        }
        limits = {field: length_limits(*limit, [text_of(seed, field) for seed in seeds]) for field, limit in own.items()}

        def judge(example: Example) -> Verdict:
            for field, limit in limits.items():
                if found := outside(text_of(example, field), *limit):
                    return f"{field}_{found[0]}", found[1]
            return None

        return split(examples, judge)


def length_limits(least: int, most: int | None, seeds: Sequence[str]) -> tuple[int, int | None]:
    """The limits in words, moved where they lie within the lengths of the seeds' texts (none: as they are) and their margin."""
    lengths = [count_words(text) for text in seeds] or [least * MARGIN]
    least = min(least, max(min(lengths) // MARGIN, 1))
    return least, None if most is None else max(most, max(lengths) * MARGIN if seeds else 0)


def outside(text: str, least: int, most: int | None) -> tuple[str, str] | None:
    """("short" or "long", evidence) of a text with fewer or more words than that."""
    number = count_words(text)
    if number < least:
        return "short", f"{counted(number, 'word')}, at least {least} wanted"
    if most is not None and number > most:
        return "long", f"{counted(number, 'word')}, at most {most} wanted"
    return None


@dataclass(frozen=True)
class LengthRange:
    """Drops a prompt or response whose number of words is far from the seeds' (SELF-GUIDE, arXiv 2407.12874).

    Far is more than `deviations` standard deviations from their mean, on either side. Does nothing with fewer than two seeds.
    """

    deviations: float = 2.0
    """Standard deviations from the mean of the seeds."""
    responses_only: bool = False
    """Judge responses alone, for prompts that may be as long as they like."""
    learn: bool = True
    """No length between the seeds' shortest and longest is far."""

    def __post_init__(self) -> None:
        if not self.deviations > 0.0:
            raise ValueError(f"LengthRange: deviations = {self.deviations} is out of range: above 0")

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rules: `prompt_length`, `response_length`."""
        seeds = context.pool.seeds
        if len(seeds) < 2:
            return FilterResult(tuple(examples), ())
        judged = BOTH[self.responses_only :]
        limits = {field: self._limits([count_words(text_of(seed, field)) for seed in seeds]) for field in judged}

        def judge(example: Example) -> Verdict:
            for field, (low, high) in limits.items():
                if not low <= (number := count_words(text_of(example, field))) <= high:
                    return f"{field}_length", f"{counted(number, 'word')}, the seeds' lengths allow {low:.1f} to {high:.1f}"
            return None

        return split(examples, judge)

    def _limits(self, lengths: Sequence[int]) -> tuple[float, float]:
        middle, spread = mean(lengths), self.deviations * stdev(lengths)
        low, high = middle - spread, middle + spread
        return (min(low, *lengths), max(high, *lengths)) if self.learn else (low, high)


@dataclass(frozen=True)
class Repetition:
    """Drops a prompt or response in which too many word n-grams repeat an earlier one of the same text (our own choice).

    0.2 at n = 4 stands far above honest prose and far below a loop.
    """

    max_share: float = 0.2
    """In [0, 1]: 0 forbids every repeat."""
    size: int = 4
    """Words in an n-gram."""
    learn: bool = True
    """The bound is at least half as high again as the seeds' own share (lists, poems, tables): what one in twenty of them
    exceeds."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `repetition`."""
        seeds = context.pool.seeds if self.learn else ()
        bounds = {field: self._bound([text_of(seed, field) for seed in seeds]) for field in BOTH}

        def judge(example: Example) -> Verdict:
            for field, bound in bounds.items():
                share, gram, times = longest_repeat(text_of(example, field), self.size)
                if share > bound:
                    repeats = f"{share:.0%} of the {field}'s {self.size}-grams repeat, {bound:.0%} allowed"
                    return "repetition", f'{repeats}; "{gram}" stands there {times} times'
            return None

        return split(examples, judge)

    def _bound(self, seeds: Sequence[str]) -> float:
        usual = near_top([longest_repeat(text, self.size)[0] for text in seeds])
        return max(self.max_share, min(1.5 * usual, above(0.0, usual)))


MARKERS = (
    "BEGINNING OF CONVERSATION", "END OF CONVERSATION", "<|", "|>", "<s>", "</s>", "<bos>", "<eos>", "<pad>", "<unk>",
    "[INST]", "[/INST]", "<<SYS>>", "<start_of_turn>", "<end_of_turn>",
)  # fmt: skip
"""Never part of an honest text, wherever they stand; case does not count."""

ROLES = ("user", "assistant", "human", "system", "bot", "question", "answer", "q", "a", "instruction", "prompt", "response")
"""Names that open a turn: at the start of a line, perhaps after # or *, followed by a colon; case does not count."""


@dataclass(frozen=True)
class AnswerLike:
    """Drops a prompt with the words that most of the seeds' responses end or begin with, and no seed's prompt has (our own
    addition).

    A model that writes prompts after examples of whole pairs takes up the answers' signature too: for seeds of a shop's support
    6 of 64 prompts of one round were signed with the team's name, as if the customer belonged to it.
    """

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `prompt_like_answer`."""
        responses = [words(seed.response, unicode=True) for seed in context.pool.seeds]
        asked = [f" {' '.join(words(seed.prompt, unicode=True))} " for seed in context.pool.seeds]
        first, last = _in_common(responses), _in_common([text[::-1] for text in responses])[::-1]
        parts = [[first[:size] for size in range(2, len(first) + 1)], [last[-size:] for size in range(2, len(last) + 1)]]
        long = [[" ".join(part) for part in side if sum(map(len, part)) > 5] for side in parts]
        signatures = [found for side in long if (found := next((s for s in side if not any(f" {s} " in a for a in asked)), ""))]

        def judge(example: Example) -> Verdict:
            text = f" {' '.join(words(example.prompt, unicode=True))} "
            signed = next((each for each in signatures if f" {each} " in text), None)
            return ("prompt_like_answer", f"most responses of the seeds, and no prompt, have {signed!r}") if signed else None

        return split(examples, judge)


def _in_common(texts: Sequence[Sequence[str]]) -> Sequence[str]:
    """The longest beginning that more than half of the texts have."""
    common: Sequence[str] = ()
    while longer := Counter(tuple(text[: len(common) + 1]) for text in texts if len(text) > len(common)):
        best, times = longer.most_common(1)[0]
        if 2 * times <= len(texts):
            break
        common = best
    return common


@dataclass(frozen=True)
class LeakedMarkers:
    """Drops a prompt or response with conversation markers, U+FFFD or control characters in it.

    ISARA cuts at upper-case markers only, and lower-case ones leak: 2 of 16 answers in its published safety examples. We drop
    the sample instead, as what stands before a marker is often half a thought. What the seeds use themselves belongs to the
    domain and is not judged, nor is in a response what its prompt has.
    """

    markers: tuple[str, ...] = MARKERS
    """Texts that mark turns of a conversation; case counts."""
    roles: tuple[str, ...] = ROLES
    """Names that mark a turn at the beginning of a line, with a colon behind them."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rules: `marker`, `control_character`."""
        seeds = [text for seed in context.pool.seeds for text in (seed.prompt, seed.response)]
        patterns = [pattern for pattern in self._patterns() if not any(map(pattern.search, seeds))]
        known = {character for text in seeds for character in control_characters(text)}

        def rules(example: Example) -> Iterator[tuple[str, str]]:
            for name, text in (("prompt", example.prompt), ("response", example.response)):
                for found in filter(None, (pattern.search(text) for pattern in patterns)):
                    if name == "prompt" or not found.re.search(example.prompt):
                        yield "marker", f"the {name} contains {found.group().strip()!r} at character {found.start()}"
                if wrong := [character for character in control_characters(text) if character not in known]:
                    yield "control_character", f"the {name} contains U+{ord(wrong[0]):04X} at character {text.index(wrong[0])}"

        return split_by(examples, rules)

    def _patterns(self) -> list[re.Pattern[str]]:
        anywhere = [re.compile(re.escape(marker), re.IGNORECASE) for marker in self.markers]
        turns = [re.compile(rf"(?:^|\n)[ \t]*[#*]*[ \t]*{re.escape(role)}[ \t]*[*]*[:：]", re.IGNORECASE) for role in self.roles]
        # In capitals a turn's name gives itself away in the middle of a line too ("… USER: what").
        inside = [re.compile(rf"\b{re.escape(role.upper())}\b[ \t]*:") for role in self.roles if len(role) > 1]
        return anywhere + turns + inside
