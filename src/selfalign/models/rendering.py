"""Conversations to token ids: the one place, for generation, training and evaluation.

A prompt rendered one way for training and another way for generation is the quietest fault of this field, so prompt and
response are tokenised apart and joined, always: what a model is trained on is, token for token, what it is asked with.

The formats:

* `chat`: the model's own chat template; demonstrations are earlier turns, and a default system prompt of the template stays.
* `plain`: lines `Question: q` and `Answer: a`, a blank line between pairs (our own choice: shown eight pairs, the bundled
  model finishes 23 of 24 answers within 96 tokens, in the published layout 3 of 24).
* `isara`: the layout of ISARA's released code (that of Safe-RLHF), `BEGINNING OF CONVERSATION: USER: q ASSISTANT: a END OF
  CONVERSATION` and a blank line. That code shows this but trains on `ASSISTANT:a`; here both have the same bytes.

The last two train on the model's end token behind the response, or, where it has none, on the text that would follow.

Prompts and responses are stripped of white space at both ends before they are rendered, in both formats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from selfalign.errors import UserError
from selfalign.types import Example, Format, Turns

IGNORE = -100
"""The label of a position that is not trained on."""

_SENTINEL = "qzv7sentinel7vzq"


@dataclass(frozen=True, slots=True)
class Layout:
    """Markers of a format without a template."""

    user: str
    assistant: str
    end: str
    stops: tuple[str, ...]

    def ask(self, prompt: str) -> str:
        return f"{self.user} {prompt.strip()}{self.assistant}"


LAYOUTS = {
    "plain": Layout("Question:", "\nAnswer:", "", ("\nQuestion:", "\nAnswer:")),
    "isara": Layout(
        "BEGINNING OF CONVERSATION: USER:",
        " ASSISTANT:",
        " END OF CONVERSATION",
        ("BEGINNING OF CONVERSATION:", "USER:", "ASSISTANT:", "END OF CONVERSATION"),
    ),
}
_BETWEEN = "\n\n"


class Tokenizer(Protocol):
    """What is used of a Hugging Face tokenizer."""

    eos_token_id: int | None
    bos_token_id: int | None
    chat_template: Any

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]: ...
    def __call__(self, text: str, **options: Any) -> Any: ...
    def decode(self, ids: Any, **options: Any) -> Any: ...
    def apply_chat_template(self, conversation: Any, **options: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class Stops:
    """What ends a text: any of these token ids, or any of these strings in its text."""

    ids: frozenset[int]
    strings: tuple[str, ...]


@dataclass(frozen=True)
class Renderer:
    """Renders for one tokenizer in one format; made by `make_renderer`."""

    tokenizer: Tokenizer
    format: Literal["chat", "plain", "isara"]
    special: Mapping[str, int]
    """The tokenizer's special tokens by their text."""
    end: str
    """The text that closes a response (in `chat` up to and including the template's end-of-turn token)."""
    end_id: int | None
    """The end token put behind `end`, where `end` does not finish with a special token itself."""
    prompt_stops: Stops
    """What ends a prompt that the model writes."""
    response_stops: Stops
    """What ends a response."""

    def prompt_text(self, demonstrations: Sequence[Example], prompt: str | None, history: Turns = ()) -> str:
        """The text up to where the model writes; `prompt=None` opens the user's turn and leaves it to the model.

        The turns of the history stand before the prompt in the form of demonstrations, behind those.

        Raises:
            UserError: the template cannot render this conversation, or a text contains one of its special tokens.
        """
        turns = (*((pair.prompt, pair.response) for pair in demonstrations), *history)
        if layout := LAYOUTS.get(self.format):
            pairs = (f"{layout.ask(asked)} {answered.strip()}{layout.end}{_BETWEEN}" for asked, answered in turns)
            return "".join(pairs) + (layout.user if prompt is None else layout.ask(prompt))
        texts = [text for turn in turns for text in turn]
        texts += [] if prompt is None else [prompt]
        for text in texts:
            if found := self.markers_in(text):
                raise UserError(f"the text {text[:60]!r} contains {found[0]!r}, which means a turn to this model; take it out")
        if prompt is not None:
            return str(_render(self.tokenizer, texts, generate=True))
        return _cut(_render(self.tokenizer, [*texts, _SENTINEL]))[0].rstrip(" ")

    def prompt_ids(self, demonstrations: Sequence[Example], prompt: str | None, history: Turns = ()) -> list[int]:
        """Token ids of `prompt_text`, with the beginning-of-text token where the model wants one."""
        ids = _tokens(self.tokenizer, self.prompt_text(demonstrations, prompt, history), self.format)
        return [*_beginning(self.tokenizer, self.format), *ids]

    def response_ids(self, response: str) -> list[int]:
        """Token ids of a response behind its prompt, the end token included."""
        ids = _tokens(self.tokenizer, self.response_text(response), self.format)
        return ids if self.end_id is None else [*ids, self.end_id]

    def response_text(self, response: str) -> str:
        """The text behind a prompt's, without the `end_id`."""
        return ("" if self.format == "chat" else " ") + response.strip() + self.end

    def training_ids(
        self, prompt: str, response: str, history: Turns = (), demonstrations: Sequence[Example] = ()
    ) -> tuple[list[int], list[int]]:
        """(ids, labels) of one pair; labels are -100 on all before the response, the end token has its label.

        The boundary comes from the lengths, never from a token's value: a model whose padding token is its end token
        still learns to stop.
        """
        before, after = self.prompt_ids(demonstrations, prompt, history), self.response_ids(response)
        return before + after, [IGNORE] * len(before) + after

    def stops(self, prompt: str | None) -> Stops:
        """What ends the text that `prompt_ids(…, prompt)` asks for."""
        return self.prompt_stops if prompt is None else self.response_stops

    def clean(self, text: str) -> str:
        """Generated text cut at the first marker of either turn, without special tokens, stripped."""
        text = "\n" + text.lstrip()  # a marker that begins a line begins the text too
        places = [text.find(stop) for stop in {*self.prompt_stops.strings, *self.response_stops.strings}]
        text = text[: min([place for place in places if place >= 0], default=len(text))]
        for token in self.special:
            text = text.replace(token, "")
        return text.strip()

    def markers_in(self, text: str) -> list[str]:
        """Markers and special tokens of this format that stand inside a text and would be read as structure."""
        marks = {*self.prompt_stops.strings, *self.response_stops.strings, *(self.special if self.format == "chat" else ())}
        return sorted(mark.strip() for mark in marks if mark in "\n" + text.strip())


def make_renderer(tokenizer: Tokenizer, format: Format = "auto") -> Renderer:
    """The renderer of a tokenizer.

    Raises:
        UserError: `chat` without a chat template, or a template that cannot open a user's turn or never ends one.
    """
    if format not in get_args(Format):
        raise UserError(f"format {format!r} is unknown; it is one of {', '.join(get_args(Format))}")
    special = {str(token): place for place, token in tokenizer.added_tokens_decoder.items() if getattr(token, "special", True)}
    if format == "plain" or format == "isara" or (format == "auto" and not tokenizer.chat_template):
        return _marked_renderer(tokenizer, special, "isara" if format == "isara" else "plain")
    if not tokenizer.chat_template:
        raise UserError("the model has no chat template; use format plain (or auto)")
    return _chat_renderer(tokenizer, special)


def preflight(renderer: Renderer, examples: Sequence[Example], context_length: int) -> list[str]:
    """Prove for the model at hand that these examples train and generate as they should; returns notes worth showing.

    For every example: its prompt has the same ids in training and in use (with the model's own template too), the
    boundary is stable (the joined ids decode to the text), the end token has a label and ends a generation, no marker of the
    format stands inside its texts, and prompt and response fit `context_length` tokens.

    Raises:
        UserError: naming the example, what is wrong, and the remedy.
    """
    notes = _format_notes(renderer)
    for example in examples:
        earlier = [("history", text) for turn in example.history for text in turn]
        for name, text in (*earlier, ("prompt", example.prompt), ("response", example.response)):
            if found := renderer.markers_in(text):
                raise UserError(
                    f"{example.id}: its {name} contains {found[0]!r}, which this model's {renderer.format} format reads as a "
                    "marker; take it out, or choose another format"
                )
        notes += [note for note in _check_pair(renderer, example, context_length) if note not in notes]
    return notes


def _check_pair(renderer: Renderer, example: Example, context_length: int) -> list[str]:
    ids, labels = renderer.training_ids(example.prompt, example.response, example.history)
    if len(ids) > context_length:
        whole = "prompt and response" if not example.history else "history, prompt and response"
        raise UserError(
            f"{example.id}: {whole} take {len(ids)} tokens but the model's window has {context_length}; "
            "shorten it or leave it out"
        )
    asked = renderer.prompt_ids((), example.prompt, example.history)
    boundary = len(asked)
    if ids[:boundary] != asked or labels != [IGNORE] * boundary + ids[boundary:]:
        raise UserError(f"{example.id}: its prompt has other tokens in training than in use; choose another format")
    if renderer.format == "chat":
        texts = [text for turn in example.history for text in turn]
        own = _render(renderer.tokenizer, [*texts, example.prompt], generate=True, tokenize=True)
        if list(own) != asked:
            raise UserError(f"{example.id}: the chat template gives other tokens when asked for them directly; use format plain")
    stops = renderer.response_stops
    text = renderer.tokenizer.decode(ids[boundary:], skip_special_tokens=False)
    if ids[-1] not in stops.ids and not any(stop in text for stop in stops.strings):
        raise UserError(f"{example.id}: the last token it trains is not one that ends a generation; choose another format")
    return _check_boundary(renderer, example, asked, ids[boundary:])


def _check_boundary(renderer: Renderer, example: Example, asked: list[int], answered: list[int]) -> list[str]:
    beginning = len(_beginning(renderer.tokenizer, renderer.format))
    joined = (asked + answered)[beginning : None if renderer.end_id is None else -1]
    text = renderer.prompt_text((), example.prompt, example.history) + renderer.response_text(example.response)
    decoded = str(renderer.tokenizer.decode(joined, skip_special_tokens=False, clean_up_tokenization_spaces=False))
    if decoded == text:
        return []
    if "".join(decoded.split()) == "".join(text.split()):
        return ["the tokenizer changes white space (decoded text differs from what was encoded in spaces only)"]
    place = next((at for at, (a, b) in enumerate(zip(decoded, text, strict=False)) if a != b), min(len(decoded), len(text)))
    raise UserError(
        f"{example.id}: the tokenizer does not give the text back ({text[place : place + 20]!r} becomes "
        f"{decoded[place : place + 20]!r}); remove those characters or use another model"
    )


def _format_notes(renderer: Renderer) -> list[str]:
    if renderer.format != "chat" and renderer.tokenizer.eos_token_id is None:
        return [f"the model has no end token; it learns to stop by writing {renderer.end.strip()!r}"]
    if renderer.format == "chat" and "strftime_now" in str(renderer.tokenizer.chat_template):
        return ["the chat template writes today's date into every prompt: a run that crosses midnight changes its prompts"]
    return []


def _marked_renderer(tokenizer: Tokenizer, special: Mapping[str, int], format: Literal["plain", "isara"]) -> Renderer:
    layout, eos = LAYOUTS[format], tokenizer.eos_token_id
    stops = Stops(frozenset(() if eos is None else (eos,)), layout.stops)
    # Without an end token the model learns to open the next question, which is a stop string.
    end = layout.end or ("" if eos is not None else _BETWEEN + layout.user)
    return Renderer(tokenizer, format, special, end=end, end_id=eos, prompt_stops=stops, response_stops=stops)


def _chat_renderer(tokenizer: Tokenizer, special: Mapping[str, int]) -> Renderer:
    header, asked = _cut(_render(tokenizer, [_SENTINEL], generate=True))
    after = _cut(_render(tokenizer, ["Hi", _SENTINEL]))[1]
    eos = frozenset(() if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,))
    closing, turn = _first(special, after), _first(special, asked)
    # A model that opens a turn instead of closing its own has finished too.
    opening = frozenset(special[token] for token in (_last(special, header), _last(special, asked)) if token)
    if closing is None and tokenizer.eos_token_id is None:
        raise UserError("the chat template closes no response and the model has no end token; use format plain")
    mark = header.strip().splitlines()[-1].strip() if header.strip() else ""
    return Renderer(
        tokenizer=tokenizer,
        format="chat",
        special=special,
        end="" if closing is None else after[: after.index(closing) + len(closing)],
        end_id=tokenizer.eos_token_id if closing is None else None,
        prompt_stops=Stops(
            eos | opening | ({special[turn]} if turn else frozenset()), () if turn or not asked.strip() else (asked.strip(),)
        ),
        response_stops=Stops(
            eos | opening | ({special[closing]} if closing else frozenset()), () if closing or not mark else (mark,)
        ),
    )


def _first(special: Mapping[str, int], text: str) -> str | None:
    found = [(text.index(token), -len(token), token) for token in special if token in text]
    return min(found)[2] if found else None


def _last(special: Mapping[str, int], text: str) -> str | None:
    found = [(text.rindex(token), token) for token in special if token in text]
    return max(found)[1] if found else None


def _render(tokenizer: Tokenizer, texts: Sequence[str], *, generate: bool = False, tokenize: bool = False) -> Any:
    """Texts as alternating turns, the user's first, through the model's own template."""
    turns = [{"role": "assistant" if place % 2 else "user", "content": text.strip()} for place, text in enumerate(texts)]
    options = {"return_dict": False} if tokenize else {}
    try:
        return tokenizer.apply_chat_template(turns, tokenize=tokenize, add_generation_prompt=generate, **options)
    except Exception as error:  # the template is the model author's program: it may raise anything
        raise UserError(f"the model's chat template fails on {len(turns)} turns ({error}); use format plain") from error


def _cut(rendered: str) -> tuple[str, str]:
    if rendered.count(_SENTINEL) != 1:
        raise UserError("the model's chat template does not show each turn's text once, unchanged; use format plain")
    before, _, after = rendered.partition(_SENTINEL)
    return before, after


def _tokens(tokenizer: Tokenizer, text: str, format: str) -> list[int]:
    # Only a template may write special tokens; without one, a special token's name in a text is text like any other.
    ids: list[int] = list(tokenizer(text, add_special_tokens=False, split_special_tokens=format != "chat")["input_ids"])
    return ids


def _beginning(tokenizer: Tokenizer, format: str) -> list[int]:
    """The token that texts begin with, where the tokenizer puts one there; a template writes it itself."""
    ids: list[int] = list(tokenizer("")["input_ids"][:1])
    return ids if format != "chat" and tokenizer.bos_token_id is not None and ids == [tokenizer.bos_token_id] else []
