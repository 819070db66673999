"""An engine without a model, for tests of recipes and parts: what it writes is a pure function of the request."""

from __future__ import annotations

import hashlib
import random
import re
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import ClassVar

import numpy as np

from selfalign.engines._requests import fitted, in_order
from selfalign.errors import UserError
from selfalign.text import cut_at_markers, words
from selfalign.types import (
    Completion,
    Continuation,
    Example,
    FloatArray,
    Format,
    Likelihood,
    ModelRef,
    Request,
    Sampling,
    derive_seed,
)

Replies = Callable[[ModelRef, Request], str]

_OPENINGS = ("How do I", "What helps me", "Can you show me how to", "Why should I", "Where do I learn to", "Tell me how to")
_VERBS = ("mend", "paint", "store", "carry", "measure", "describe", "replace", "sort", "hide", "borrow", "clean", "sell")
_THINGS = (
    "a kettle", "the old fence", "my bicycle", "three letters", "a radio", "the garden gate", "some bread", "a violin",
    "the attic", "a spare key", "two maps", "my neighbour's ladder", "a warm coat", "the water meter", "an atlas", "a drum",
)  # fmt: skip
_PLACES = ("at home", "before winter", "without tools", "on a train", "in one day", "for a friend", "by hand", "at school")
_ODD = ("Draw it.", "...", "Look at https://example.org and say what it is.")
_ANSWERS = ("Begin with a clean table and good light", "Ask somebody who has done it before", "Take your time and write it down")
_MORE = ("then go on step by step", "and keep what is left for later", "since haste spoils the result", "and rest in between")


@dataclass(frozen=True)
class Scripted:
    """Replies without a model; a word is a token.

    By default it writes plausible pairs that follow from the request's random seed, its demonstrations and the model's hash, so
    that rounds differ; some of them are empty, too short, copied, unfinished or leak a marker, so that filters have work. A
    text that ends in the number of a list's next item is gone on with as a list, some items of which are not in form, and one
    that ends in "Label:" with a label and an input.
    """

    pretends: ClassVar[bool] = True
    batch_size: int = 8
    """Requests in one batch."""
    delay: float = 0.0
    """Seconds that a batch takes."""
    replies: Mapping[str, str] | Replies | None = None
    """By request id (a missing one is a KeyError) or computed from model and request; None takes the default pairs."""
    window: int = 2048
    """Tokens of prompt and reply together."""
    gain: float = 0.1
    """How much the log-likelihood per token rises with each round, which the model's folder names, `round-NN/model`."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.window < 1 or not self.delay >= 0.0:
            raise ValueError(f"Scripted: batch_size, window and delay are out of range in {self}")

    def check(self, model: ModelRef, seeds: Sequence[Example], format: Format) -> ModelRef:
        """Any model name will do. Raises UserError: a seed is longer than the window."""
        for seed in seeds:
            if (length := _length(seed.full_prompt) + _length(seed.response)) > self.window:
                raise UserError(f"{seed.id}: prompt and response take {length} tokens, the window has {self.window}; shorten it")
        return replace(model, hash=hashlib.sha256(f"{model.base}\0{model.adapter}".encode()).hexdigest())

    def token_lengths(self, model: ModelRef, texts: Sequence[str]) -> list[int]:
        """As `EngineLimits.token_lengths`."""
        return [len(text.split()) + 1 for text in texts]

    @contextmanager
    def open(self, model: ModelRef, format: Format) -> Iterator[ScriptedSession]:
        yield ScriptedSession(self, model)


@dataclass(frozen=True)
class ScriptedSession:
    """`protocols.Session` without a model."""

    engine: Scripted
    model: ModelRef

    def fit(self, request: Request, max_tokens: int) -> Request | None:
        return fitted(request, self.engine.window - max_tokens, lambda shorter: _length(self.render(shorter)))

    def plan(self, requests: Sequence[Request]) -> list[tuple[int, ...]]:
        return in_order(requests, self.engine.batch_size)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        if requests and self.engine.delay:
            time.sleep(self.engine.delay)
        return [self._complete(request, sampling) for request in requests]

    def likelihood(self, examples: Sequence[Example], shown: Sequence[Sequence[Example]] = ()) -> list[Likelihood]:
        return [self._likelihood(example) for example in examples]

    def continuation(self, pairs: Sequence[tuple[str, str]]) -> list[Continuation]:
        found = [self._likelihood(Example("", before, after)) for before, after in pairs]
        return [Continuation(one.total, one.tokens, greedy=one.per_token > -2.05) for one in found]

    def embed(self, texts: Sequence[str]) -> FloatArray:
        rows = np.zeros((len(texts), 512), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            row[0] = 0.1  # an empty text has a direction too
            for word in words(text, unicode=True):  # characters, in scripts without spaces
                row[zlib.crc32(word.encode("utf-8", "surrogatepass")) % 512] += 1.0
        unit: FloatArray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit

    def render(self, request: Request) -> str:
        if request.text is not None:
            return request.text
        turns = (*((pair.prompt, pair.response) for pair in request.demonstrations), *request.history)
        shown = "".join(f"USER: {asked}\nASSISTANT: {answered}\n\n" for asked, answered in turns)
        shown = f"SYSTEM: {request.system}\n\n{shown}" if request.system else shown
        return shown + ("USER:" if request.prompt is None else f"USER: {request.prompt}\nASSISTANT:")

    def _complete(self, request: Request, sampling: Sampling) -> Completion:
        given = self.engine.replies
        if given is None:
            asked = request.prompt is None and request.text is None
            text = _prompt(self.model, request) if asked else _begun(self.model, request) or _response(self.model, request)
        else:
            text = given(self.model, request) if callable(given) else given[request.id]
        text, max_tokens = cut_at_markers(text, sampling.stop).strip(), sampling.max_tokens
        words = text.split()
        cut = len(words) > max_tokens
        return Completion(
            text=" ".join(words[:max_tokens]) if cut else text,
            finish="length" if cut else "stop",
            prompt_tokens=_length(self.render(request)),
            generated_tokens=max_tokens if cut else len(words) + 1,
        )

    def _likelihood(self, example: Example) -> Likelihood:
        rounds = [int(found[1]) for part in PurePath(self.model.base).parts if (found := re.fullmatch(r"round-(\d+)", part))]
        tokens = _length(example.response) + (example.response_finish == "stop")
        share = zlib.crc32(f"{example.system}{example.full_prompt}\0{example.response}".encode("utf-8", "surrogatepass")) / 2**32
        return Likelihood((-2.0 - share + self.engine.gain * max(rounds, default=0)) * tokens, tokens)


def _length(text: str) -> int:
    return len(text.split())


def _draw(model: ModelRef, request: Request) -> random.Random:
    return random.Random(derive_seed(request.seed, model.hash, request.prompt or ""))


def _prompt(model: ModelRef, request: Request) -> str:
    draw = _draw(model, request)
    kind = draw.random()
    if kind < 0.03:
        return ""
    if kind < 0.08:
        return "Why though?"
    shown = [*(pair.prompt for pair in request.demonstrations), *(asked for asked, _ in request.history)]
    if kind < 0.14 and shown:
        return draw.choice(shown)
    about = " ".join(draw.choice(shown).rstrip("?.! ").split()[-2:]) if shown else "all this"
    return f"{draw.choice(_OPENINGS)} {draw.choice(_VERBS)} {draw.choice(_THINGS)} {draw.choice(_PLACES)}, thinking of {about}?"


def _begun(model: ModelRef, request: Request) -> str:
    """How a text in a form goes on: behind "6." or "6. Instruction:" with a dozen items; "" where it has no such form."""
    draw, text = _draw(model, request), request.text or ""
    if text.endswith("Label:"):
        return f"{draw.choice(('yes', 'no'))}\nInput: {draw.choice(_ANSWERS)}, {draw.choice(_MORE)}."
    found = re.search(r"(?:^|\n)(\d+)\.( Instruction:)?$", text)
    if not found:
        return ""
    first, items = int(found[1]), []
    for number in range(first, first + 12):
        task = f"{draw.choice(_OPENINGS)} {draw.choice(_VERBS)} {draw.choice(_THINGS)} {draw.choice(_PLACES)}?"
        if draw.random() < 0.1:
            task = draw.choice(_ODD)
        if found[2]:
            given = draw.choice(("<noinput>", f"It is {draw.choice(_THINGS)}.", f"{draw.choice(_ANSWERS)}."))
            task += f"\n{number}. Input:\n{given}\n###" if draw.random() > 0.05 else "\n###"
        items.append(task if number == first else f"{number}.{found[2] or ''} {task}")
    return "\n".join(items)


def _response(model: ModelRef, request: Request) -> str:
    draw = _draw(model, request)
    kind = draw.random()
    about = " ".join((request.prompt or "").rstrip("?.! ").split()[:6])
    if kind < 0.05:
        return "No."
    if kind < 0.10:
        return f"{draw.choice(_ANSWERS)} " * 200
    if kind < 0.13:
        return f"{draw.choice(_ANSWERS)}. END OF CONVERSATION"
    if kind < 0.40:
        return f"I can't help with that. If it is about {about.lower()}, {draw.choice(_MORE)}, or ask for {draw.choice(_THINGS)}."
    return f"{draw.choice(_ANSWERS)}, {draw.choice(_MORE)}. For {draw.choice(_THINGS)} you need {draw.choice(_THINGS)}: {about}."
