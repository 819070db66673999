"""The text side of a model, wherever its weights run: tokenizer, template and window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from selfalign.engines import _weights
from selfalign.engines._decode import Stopper
from selfalign.engines._requests import fitted
from selfalign.errors import RunFailed, UserError
from selfalign.models.rendering import IGNORE, Renderer, Stops, make_renderer
from selfalign.models.sizes import window
from selfalign.models.thinking import join_thinking, split_thinking
from selfalign.types import Completion, Continuation, Example, FinishReason, Format, ModelRef, Request

Kind = Literal["prompt", "response", "text"]
"""What a request asks for: a new prompt, an answer, or how a text of the caller's own goes on."""


def kind_of(request: Request) -> Kind:
    return "text" if request.text is not None else "prompt" if request.prompt is None else "response"


class Texts:
    """Requests to token ids and generated ids back to completions; the tokenizer loads at the first use."""

    def __init__(self, model: ModelRef, format: Format, context: int | None = None) -> None:
        """`context` is the window of the server that runs the model, in tokens, where that may be narrower than the model's."""
        self._ref, self._format, self._most = model, format, context
        self._tools: tuple[Any, Any, Renderer] | None = None
        # The same request is measured, planned and sent: one rendering serves all three.
        self.ids: Callable[[Request], tuple[int, ...]] = lru_cache(maxsize=8192)(self._prompt_ids)
        self.stopper: Callable[[Kind, tuple[str, ...], frozenset[int]], Stopper] = lru_cache(maxsize=8)(self._make_stopper)

    def fit(self, request: Request, max_tokens: int) -> Request | None:
        """See `protocols.Session.fit`."""
        return fitted(request, self.context() - max_tokens, lambda shorter: len(self.ids(shorter)))

    def render(self, request: Request) -> str:
        """See `protocols.Session.render`."""
        if request.text is not None:
            return request.text
        return self.renderer.prompt_text(request.demonstrations, request.prompt, request.history, request.system)

    def training_ids(
        self, examples: Sequence[Example], shown: Sequence[Sequence[Example]], room: int
    ) -> list[tuple[list[int], list[int]]]:
        """(ids, labels) of each example behind the demonstrations `shown` with it, if any; one cut off is not said to end there.

        Raises:
            UserError: one takes more than `room` tokens.
        """
        pairs = []
        for example, before in zip(examples, shown or ((),) * len(examples), strict=True):
            ids, labels = self.renderer.pair_ids(example.prompt, example.response, example.history, example.system, before)
            end = len(ids) - (0 if example.response_finish == "stop" else self.renderer.ending)
            if end > room:
                raise UserError(f"{example.id}: prompt and response take {end} tokens, the window has room for {room}")
            pairs.append((ids[:end], labels[:end]))
        return pairs

    def continuation_ids(self, pairs: Sequence[tuple[str, str]], room: int) -> list[tuple[list[int], list[int]]]:
        """(ids, labels) of each second text behind the first one, ids beyond `room` left out at the beginning."""
        return [_behind(self.tokenizer, *pair, room) for pair in pairs]

    def embedded_ids(self, texts: Sequence[str], room: int) -> list[list[int]]:
        """Each text to embed, without what is beyond `room` tokens; an empty one is an end token."""
        nothing = [self.tokenizer.eos_token_id or 0]
        return [list(self.tokenizer(text)["input_ids"])[:room] or nothing for text in texts]

    def completion(self, request: Request, ids: Sequence[int], ended: bool, stop: tuple[str, ...]) -> Completion:
        """What the generated ids say, read by `completed`."""
        raw = str(self.tokenizer.decode(list(ids), skip_special_tokens=not self.shows_special(request)))
        return self.completed(request, raw, len(ids), ended, stop)

    def shows_special(self, request: Request) -> bool:
        """Whether special tokens must stand in the generated text: thoughts stand between marks that may be such."""
        return kind_of(request) == "response" and self.renderer.marks_thinking

    def completed(self, request: Request, raw: str, tokens: int, ended: bool, stop: tuple[str, ...]) -> Completion:
        """A generated text of so many tokens, cut before the first of the strings `stop`.

        Thoughts before an answer are no part of it, unless they are kept; one that never ends is an answer cut off.
        """
        kind = kind_of(request)
        raw = raw if kind == "text" else raw.lstrip()
        text = raw[: min((at for mark in stop if (at := raw.find(mark)) >= 0), default=len(raw))]
        finish: FinishReason = "stop" if ended or text != raw else "length"
        if kind == "text":
            return Completion(text.strip(), finish, prompt_tokens=len(self.ids(request)), generated_tokens=tokens)
        thoughts, answer = self._apart(text) if kind == "response" else ("", self.renderer.clean(text))
        if answer is None:
            answer, finish = "", "length"
        text = join_thinking(thoughts, answer) if self.renderer.keeps_thinking else answer
        return Completion(text, finish, prompt_tokens=len(self.ids(request)), generated_tokens=tokens)

    def _apart(self, text: str) -> tuple[str, str | None]:
        """Thoughts and answer of a generated text as `split_thinking` has them, cleaned; what cleaning leaves may begin with a
        mark of thoughts once more."""
        found = list[str]()
        while True:
            thoughts, answer = split_thinking(text)
            found.append(self.renderer.clean(thoughts))
            if answer is None or (text := self.renderer.clean(answer)) == answer:
                return "\n\n".join(filter(None, found)), answer

    def context(self) -> int:
        """Tokens in the window."""
        own = window(self.config, self.tokenizer)
        return own if self._most is None else min(own, self._most)

    @property
    def width(self) -> int:
        """Numbers in a hidden state."""
        return int(self.config.get_text_config().hidden_size)

    @property
    def tokenizer(self) -> Any:
        return self._load()[0]

    @property
    def config(self) -> Any:
        return self._load()[1]

    @property
    def renderer(self) -> Renderer:
        return self._load()[2]

    def _load(self) -> tuple[Any, Any, Renderer]:
        if self._tools is None:
            tokenizer, config = _weights.tokenizer_and_config(self._ref)
            self._tools = tokenizer, config, make_renderer(tokenizer, self._format)
        return self._tools

    def _prompt_ids(self, request: Request) -> tuple[int, ...]:
        if request.text is not None:
            return tuple(self.tokenizer(request.text)["input_ids"])
        return tuple(self.renderer.prompt_ids(request.demonstrations, request.prompt, request.history, request.system))

    def stops(self, kind: Kind) -> Stops:
        """What ends a text, but for what the model itself declares."""
        if kind != "text":
            return self.renderer.prompt_stops if kind == "prompt" else self.renderer.response_stops
        eos = self.tokenizer.eos_token_id
        return Stops(frozenset(() if eos is None else (eos,)), ())

    def _make_stopper(self, kind: Kind, strings: tuple[str, ...], own: frozenset[int]) -> Stopper:
        """`own` are the end tokens that the model itself declares."""
        stops = self.stops(kind)
        return Stopper(self.tokenizer, stops.ids | own, (*stops.strings, *strings))


def _behind(tokenizer: Any, before: str, after: str, room: int) -> tuple[list[int], list[int]]:
    """(ids, labels) of a text behind another, tokenised together so that no token is split at the boundary by force.

    The boundary is where the first text's own tokens end, its closing spaces counted to the second text: what
    lm-evaluation-harness does.
    """
    bare = before.rstrip()
    before, after = bare, before[len(bare) :] + after
    ids = list(tokenizer(before + after)["input_ids"])
    start = len(tokenizer(before)["input_ids"]) if before else 0
    if not start:  # nothing to stand behind: the text follows the beginning or end token
        first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        ids, start = ([] if ids[:1] == [first] else [first]) + ids, 1
    labels = [IGNORE] * start + ids[start:]
    return ids[-room:], labels[-room:]


def finite(found: list[Continuation]) -> list[Continuation]:
    """Raises RunFailed: one of them is NaN or infinite."""
    if not np.isfinite([one.total for one in found]).all():
        raise RunFailed("the model's log-probabilities are not finite; broken weights, or too narrow a number type")
    return found
