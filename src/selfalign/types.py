"""The records that pass between the parts: frozen, plain data, no behaviour to speak of.

Identity is by `id`, which never changes when a score or a verdict is added.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

FinishReason = Literal["stop", "length", "context"]
"""stop: the model ended the turn itself; length: it ran into max_tokens; context: no room in its window to begin."""

FloatArray = NDArray[np.float32]

Format = Literal["auto", "chat", "plain", "isara"]
"""The model's chat template, plain lines, the published layout, or auto; it may carry arguments, see `with_template_args`."""

Turns = tuple[tuple[str, str], ...]
"""Earlier turns of a conversation, the oldest first: (prompt, response) each."""

Metadata = Mapping[str, str]
"""Extra columns of a seed file, kept as they came and handed through to the exports."""

Unit = Literal["number", "share", "points", "amount", "count"]
"""share: a part of a whole, 0 … 1; points: a difference of two shares, -1 … 1; both are shown times 100. amount: a number that is
never below 0, such as the words of an answer; count: one that is shown whole."""
Better = Literal["higher", "lower", "neither"]
LATER: Mapping[str, bool] = {"later": True}  # metadata of an option younger than runs to be gone on with: no difference if unset
SHARES = ("share", "points")  # the units that are shown times 100
BOUNDS: Mapping[str, tuple[float, float]] = {
    "number": (-math.inf, math.inf),
    "share": (0.0, 1.0),
    "points": (-1.0, 1.0),
    "amount": (0.0, math.inf),
    "count": (0.0, math.inf),
}
"""The values that a metric can have, by unit."""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A link from a sample to an example shown in one of its prompts."""

    id: str
    similarity: float | None = None
    """Cosine similarity to the prompt being answered; None where it was drawn at random."""


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt with its response: a seed (round 0) or a sample some round generated.

    With a history it is a later turn of a conversation: the history is context, the response alone is learned or measured.
    """

    id: str
    prompt: str
    response: str
    round: int = 0
    slot: int = 0
    """Its place among the round's candidates (or its row among the seeds), counted from 0."""
    category: str = ""
    prompt_finish: FinishReason = "stop"
    response_finish: FinishReason = "stop"
    prompt_demonstrations: tuple[Demonstration, ...] = ()
    response_demonstrations: tuple[Demonstration, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    metadata: Metadata = field(default_factory=dict)
    history: Turns = ()
    system: str = ""
    """Instructions that stand before the whole conversation, as a system turn; "" where there are none."""

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def full_prompt(self) -> str:
        """All that the response answers, as one text for judges and comparisons: the prompt behind its history."""
        return transcript(self.history, self.prompt)


PREFERRED = "preferred"
"""The key in a rejected answer's metadata under which stands the id of the example whose answer is preferred to it."""
ROLLOUT = "rollout"  # the key that marks an answer that a teacher is to correct, in its metadata: nothing may imitate it


@dataclass(frozen=True, slots=True)
class Preference:
    """Two answers to one prompt, for a preference loss. In the record each is a sample; the rejected one names the other."""

    chosen: Example
    rejected: Example


@dataclass(frozen=True, slots=True)
class Request:
    """One thing an engine shall write; the engine renders it for its model (see `rendering`).

    With `prompt=None` the model is asked for the next prompt itself: the user's turn is opened and left to it.
    """

    id: str
    demonstrations: tuple[Example, ...] = ()
    """Shown in this order, the first one first."""
    prompt: str | None = None
    seed: int = 0
    """64-bit random seed of this row's own stream: the same row gives the same text in any batch."""
    text: str | None = None
    """The exact text to go on from, in place of anything rendered: for prompt forms that an evaluation prescribes."""
    history: Turns = ()
    """Turns that stand between the demonstrations and the prompt; like the prompt, never cut."""
    system: str = ""
    """The system prompt of the conversation, "" for none."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What an engine wrote for one request, cleaned of special tokens and stop strings, stripped."""

    text: str
    finish: FinishReason
    prompt_tokens: int = 0
    generated_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Log-probability of a response given its prompt: the sum over its tokens (end token included) in nats."""

    total: float
    tokens: int

    @property
    def per_token(self) -> float:
        return self.total / max(self.tokens, 1)


@dataclass(frozen=True, slots=True)
class Continuation:
    """Log-probability of a text behind another one (no end token), and whether greedy decoding would have written it."""

    total: float
    tokens: int
    greedy: bool


@dataclass(frozen=True)
class Sampling:
    """How to decode. The defaults sample from the model's own distribution."""

    max_tokens: int = 96
    """0 takes what the seeds need, in tokens of the model at hand (`loop.budgets`)."""
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    """Keeps the likeliest tokens that have this probability together; 1 keeps every token."""
    top_k: int = 0
    """Keeps so many of the likeliest tokens; 0 keeps every token."""
    stop: tuple[str, ...] = ()
    """Strings that end the text, besides the format's own end of turn; the text is cut before the first of them."""
    beams: int = 1
    """Above 1 beam search (beam sampling where temperature > 0), as ISARA's authors decode. What follows is theirs too."""
    repetition_penalty: float = 1.0
    """Above 1 tokens of the prompt and the text become less likely; 1.1 ruins few-shot prompts of a small model (measured)."""
    no_repeat_ngram: int = 0
    """So many tokens never follow on one another twice; 0 is off."""
    length_penalty: float = 1.0
    """Of beams: a larger one prefers longer texts."""
    length_decay: tuple[int, float] | None = None
    """(start, factor) of an exponential decay of sequence length, counted in generated tokens."""
    rules: Literal["today", "transformers-4.31"] = "today"
    """Of length_decay and length_penalty, k tokens past the start. today: the end's score s becomes s + |s|·(factor^k - 1), and a
    beam's is divided by (generated length)^length_penalty. transformers-4.31, ISARA's scripts' own: s·factor^k, with beams less
    likely; by (prompt and generated length)^length_penalty; and `stop` ends no beam (see `engines/_beams.py`)."""

    def __post_init__(self) -> None:
        for name, wrong in (
            ("max_tokens", self.max_tokens < 0),
            ("temperature", not self.temperature >= 0.0),
            ("top_p", not 0.0 < self.top_p <= 1.0),
            ("top_k", self.top_k < 0),
            ("beams", self.beams < 1),
            ("repetition_penalty", not self.repetition_penalty > 0.0),
            ("no_repeat_ngram", self.no_repeat_ngram < 0),
            ("length_decay", self.length_decay is not None and not (self.length_decay[0] >= 0 and self.length_decay[1] > 0.0)),
            ("rules", self.rules not in ("today", "transformers-4.31")),
        ):
            if wrong:
                raise ValueError(f"Sampling: {name} = {getattr(self, name)} is out of range")


GREEDY = Sampling(max_tokens=96, temperature=0.0)
"""How models answer held-out prompts where a recipe does not say otherwise."""


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model on disk or on the hub: a base (folder, or name@commit) and, for LoRA, the folder of an adapter on it."""

    base: str
    adapter: str | None = None
    hash: str = ""
    """SHA-256 over the manifest of its files where we made or could read them; part of every sample's lineage."""

    @property
    def name(self) -> str:
        """The base as its author calls it: without the revision that stands behind the name of a model of the hub."""
        return self.base if self.base.startswith("/") else self.base.partition("@")[0]


@dataclass(frozen=True, slots=True)
class Dropped:
    """A candidate that is not kept: by which named rule, and the evidence (counts, the text it collided with)."""

    example: Example
    rule: str
    evidence: str


@dataclass(frozen=True, slots=True)
class FilterResult:
    """Both halves, always: kept + dropped is what came in, in the order it came."""

    kept: tuple[Example, ...]
    dropped: tuple[Dropped, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one prompt contributes to a metric."""

    id: str
    """The prompt's id in its evaluation: the same prompt under another model has the same one, so that they can be paired."""
    value: float
    stratum: str = ""


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure about a model with its 95 % interval; n is the number of prompts behind it."""

    name: str
    value: float
    low: float
    high: float
    n: int
    outcomes: tuple[Outcome, ...] = ()
    """Prompt by prompt: `value` is the sum over the strata of the mean of their outcomes (one stratum: the plain mean; the
    balance J has refusals of the harmful as +1 and of the harmless as -1). Empty where a metric is no such mean."""
    unit: Unit = "number"
    """How it is shown, and in which bounds it and its interval in a study lie (`BOUNDS`)."""
    better: Better = "higher"
    """Which way is good. Of a metric with no good side (neither) a verdict says higher or lower."""

    def __post_init__(self) -> None:
        for name, choices in (("unit", get_args(Unit)), ("better", get_args(Better))):
            if getattr(self, name) not in choices:
                raise ValueError(f"Metric: {name} = {getattr(self, name)!r} of {self.name}: one of {', '.join(choices)}")
        low, high = BOUNDS[self.unit]
        if self.value < low or self.value > high:  # NaN, the value of nothing, passes
            bounds = f"{low:g} … {high:g}, where its unit, {self.unit}, lies"
            raise ValueError(f"Metric: {self.name} = {self.value} is outside {bounds}")


def with_template_args(format: Format, args: Mapping[str, Any]) -> Format:
    """A format that carries arguments for the chat template, as one string that every record can hold: `auto {"thinking": true}`.

    Wherever a format goes (engines, training, merging) the arguments go with it; `models.rendering` takes them apart again.
    """
    return cast(Format, f"{format} {json.dumps(dict(args), sort_keys=True)}") if args else format


def preferred_to(example: Example) -> str:
    """The id of the example whose answer is preferred to this one's, a rejected one; "" for any other, and for all seeds."""
    return example.metadata.get(PREFERRED, "") if example.round else ""


def preferences(examples: Sequence[Example]) -> list[Preference]:
    """The pairs among some examples, in the order of the rejected answers."""
    by_id = {example.id: example for example in examples}
    return [Preference(by_id[id], example) for example in examples if (id := preferred_to(example)) in by_id]


def shared_system(examples: Sequence[Example]) -> str:
    """The system prompt that all of these examples have, "" where they differ."""
    systems = {example.system for example in examples}
    return systems.pop() if len(systems) == 1 else ""


def transcript(history: Turns, prompt: str) -> str:
    """A prompt with what was said before it, a paragraph for each text; the prompt alone where nothing was."""
    if not history:
        return prompt
    said = [text for asked, answered in history for text in (f"User: {asked}", f"Assistant: {answered}")]
    return "\n\n".join([*said, f"User: {prompt}"])


def cosines(rows: FloatArray, known: FloatArray) -> NDArray[np.float64]:
    """Of unit vectors, to six decimals: by the last bits of a product in float32 equals come in another order elsewhere."""
    return np.asarray(np.round(rows.astype(np.float64) @ known.astype(np.float64).T, 6))


def derive_seed(seed: int, *path: int | str) -> int:
    """A 63-bit random seed for one draw: a hash of the run's seed and the draw's place (round, stage, slot …).

    Counter-based, so what a sample draws depends on where it stands and not on what was drawn before it.
    """
    text = "/".join(str(part) for part in (seed, *path))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def in_pool_order(examples: Iterable[Example]) -> tuple[Example, ...]:
    """Oldest round first, and within a round by place: any two prompts that show the same examples show them in this order."""
    return tuple(sorted(examples, key=lambda example: (example.round, example.slot, example.id)))


@dataclass(frozen=True, slots=True)
class Pool:
    """`parts[0]` are the seeds (D0), `parts[k]` what round k kept (D_k)."""

    parts: tuple[tuple[Example, ...], ...]

    @property
    def seeds(self) -> tuple[Example, ...]:
        return self.parts[0]

    @property
    def examples(self) -> tuple[Example, ...]:
        """All of them, oldest round first."""
        return tuple(chain.from_iterable(self.parts))

    def add(self, kept: tuple[Example, ...]) -> Pool:
        return Pool((*self.parts, kept))

    def single_turns(self) -> Pool:
        """Where demonstrations come from: no rejected answers, and no pairs with earlier turns ("And why?" shows nothing)."""
        return Pool(tuple(tuple(one for one in part if not (one.history or preferred_to(one))) for part in self.parts))

    def shares(self, demonstrations: int, generated: int) -> list[tuple[tuple[Example, ...], int]]:
        """How many demonstrations each part gives to one prompt: (part, count), the seeds first, empty parts left out.

        ISARA's budget: `generated` from each generated round, the rest of `demonstrations` from the seeds (its code takes 1 of
        C = 8). Where the rounds would ask for more than there is room for, the newest go first. No part gives more than it has.
        """
        rounds, left = list[tuple[tuple[Example, ...], int]](), demonstrations
        for part in reversed(self.parts[1:]):
            if take := min(generated, len(part), left):
                rounds.append((part, take))
                left -= take
        return ([(self.seeds, take)] if (take := min(left, len(self.seeds))) else []) + rounds[::-1]


_UNPARSED, _FLAGGED = "_unparsed", "_flagged"
"""Ends of keys in `Example.metadata`; the score's name stands before them."""


def is_score_name(name: str) -> bool:
    """Whether a score may be called so: lower-case letters, digits and underscores, as it is a part of rules and metrics."""
    return name.isidentifier() and name == name.lower()


def with_score(example: Example, name: str, value: float, flag: str = "") -> Example:
    """The example with one score more; `flag` says why the value must not be trusted, with the words that made it so.

    Raises:
        ValueError: a value that is not finite.
    """
    if not math.isfinite(value):
        raise ValueError(f"score {name} of {example.id} is {value}: scores are finite; use `without_score` where there is none")
    marks = {**example.metadata, f"{name}{_FLAGGED}": flag} if flag else example.metadata
    return replace(example, scores={**example.scores, name: float(value)}, metadata=marks)


def without_score(example: Example, name: str, why: str) -> Example:
    """The example as it is with the reason why it has no such score: the raw text that no number was found in, or no room."""
    return replace(example, metadata={**example.metadata, f"{name}{_UNPARSED}": why or "(nothing written)"})


def unusable(example: Example, name: str) -> tuple[str, str] | None:
    """(rule, evidence) for an example whose score cannot be used; None where it can.

    Rules: `judge_addressed` (the text speaks to the judge), `unparsed` (a scorer tried and got no score), `unscored` (no
    scorer of the recipe gives a score of this name).
    """
    if flag := example.metadata.get(f"{name}{_FLAGGED}"):
        return "judge_addressed", flag
    if name in example.scores:
        return None
    if (why := example.metadata.get(f"{name}{_UNPARSED}")) is not None:
        return "unparsed", why
    return "unscored", f"no score {name!r}; the example has: {', '.join(sorted(example.scores)) or 'none'}"
