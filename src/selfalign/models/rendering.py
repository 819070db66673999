"""Conversations to token ids: the one place, for generation, training and evaluation.

A prompt rendered one way for training and another way for generation is the quietest fault of this field, so what a model is
trained on is, token for token, what it is asked with; and with a chat template it is what the template itself would write.

The formats:

* `chat`: the model's own chat template (`models.templates`); demonstrations are earlier turns, and a default system prompt of the
  template stays.
* `plain`: lines `Question: q` and `Answer: a`, a blank line between pairs (our own choice: shown eight pairs, the bundled
  model finishes 23 of 24 answers within 96 tokens, in the published layout 3 of 24).
* `isara`: the layout of ISARA's released code (that of Safe-RLHF), `BEGINNING OF CONVERSATION: USER: q ASSISTANT: a END OF
  CONVERSATION` and a blank line. That code shows this but trains on `ASSISTANT:a`; here both have the same bytes.

The last two train on the model's end token behind the response, or, where it has none, on the text that would follow.

Texts are stripped of white space at both ends before they are rendered, in all formats.

System prompts: the one of the conversation asked about stands once, at its beginning, where the template puts it; without a
template, or without a place in it, it is a paragraph of its own in front of the first turn. A demonstration with another system
prompt has that in front of its own prompt, for its answer depends on it; not where the next prompt is to be written, as the model
would write such texts into its prompts.

Tokens at the boundary: the ids of a response are those that prompt and response have together, wherever the prompt keeps its own
ids in them. Where a token would reach over the boundary the two are tokenised apart, as in use, and `preflight` says so.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from selfalign.errors import UserError
from selfalign.models.layouts import Layout, Stops, Tokenizer, fold, layout
from selfalign.models.marks import marks_in
from selfalign.models.names import quiet
from selfalign.models.templates import Template, read_template
from selfalign.models.thinking import MARKERS, split_thinking
from selfalign.text import counted
from selfalign.types import Example, Format, Turns

__all__ = ["IGNORE", "NOTES", "Renderer", "Stops", "folder_renderer", "make_renderer", "preflight", "under"]

IGNORE = -100
"""The label of a position that is not trained on."""

_CHANGED = "the chat template changes texts of prompts"

NOTES = logging.getLogger("selfalign.models.notes")
"""Where engines say what `preflight` found worth showing."""


@dataclass(frozen=True)
class Renderer:
    """Renders for one tokenizer in one format; made by `make_renderer`."""

    tokenizer: Tokenizer
    format: Literal["chat", "plain", "isara"]
    special: Mapping[str, int]
    """The tokenizer's special tokens by their text."""
    style: Layout | Template

    @property
    def end_id(self) -> int | None:
        return self.style.end_id

    @property
    def ending(self) -> int:
        """Tokens of a response's end."""
        return len(self.tokens(self.style.end)) + (self.end_id is not None)

    @property
    def prompt_stops(self) -> Stops:
        return self.style.prompt_stops

    @property
    def response_stops(self) -> Stops:
        return self.style.response_stops

    @property
    def keeps_thinking(self) -> bool:
        """Whether thoughts are a part of the answers."""
        return isinstance(self.style, Template) and self.style.thoughts

    @property
    def marks_thinking(self) -> bool:
        """Whether marks of thoughts are special tokens here, which decoding may leave away."""
        return any(mark in self.special for pair in MARKERS for mark in pair)

    def prompt_text(self, demonstrations: Sequence[Example], prompt: str | None, history: Turns = (), system: str = "") -> str:
        """The text up to where the model writes; `prompt=None` opens the user's turn and leaves it to the model.

        The turns of the history stand before the prompt in the form of demonstrations, behind those.

        Raises:
            UserError: the template cannot render this conversation, or a text contains one of its special tokens.
        """
        turns = [(pair.prompt if prompt is None else under(system, pair), pair.response) for pair in demonstrations]
        texts = [system, *(text for turn in (*turns, *history) for text in turn), prompt or ""]
        for text in texts if self.format == "chat" else ():
            if found := self.markers_in(text):
                raise UserError(f"the text {text[:60]!r} contains {found[0]!r}, which means a turn to this model; take it out")
        return self.style.ask(system, (*turns, *history), prompt)

    def prompt_ids(
        self, demonstrations: Sequence[Example], prompt: str | None, history: Turns = (), system: str = ""
    ) -> list[int]:
        """Token ids of `prompt_text`, with the beginning-of-text token where the model wants one."""
        ids = self.tokens(self.prompt_text(demonstrations, prompt, history, system))
        return [*_beginning(self.tokenizer, self.format), *ids]

    def response_ids(self, response: str) -> list[int]:
        """Token ids of a response by itself, the end token included."""
        ids = self.tokens(self.response_text(response))
        return ids if self.end_id is None else [*ids, self.end_id]

    def response_text(self, response: str) -> str:
        """The text behind a prompt's, without the `end_id`."""
        return self.style.lead + response.strip() + self.style.end

    def pair_text(
        self, prompt: str, response: str, history: Turns = (), system: str = "", demonstrations: Sequence[Example] = ()
    ) -> str:
        """Prompt and response as one text, without the `end_id`."""
        asked = self.prompt_text(demonstrations, prompt, history, system)
        return asked + self._answer(asked, prompt, response, history, system)

    def pair_ids(
        self, prompt: str, response: str, history: Turns = (), system: str = "", demonstrations: Sequence[Example] = ()
    ) -> tuple[list[int], list[int]]:
        """(ids, labels) of one pair; labels are -100 on all before the response, the end token has its label.

        The boundary comes from the lengths, never from a token's value: a model whose padding token is its end token
        still learns to stop.
        """
        asked = self.prompt_text(demonstrations, prompt, history, system)
        answer = self._answer(asked, prompt, response, history, system)
        before, together = self.tokens(asked), self.tokens(asked + answer)
        after = together[len(before) :] if together[: len(before)] == before else self.tokens(answer)
        before = [*_beginning(self.tokenizer, self.format), *before]
        after = after if self.end_id is None else [*after, self.end_id]
        return before + after, [IGNORE] * len(before) + after

    def training_ids(self, prompt: str, response: str, history: Turns = (), system: str = "") -> tuple[list[int], list[int]]:
        """The same for training.

        Raises:
            UserError: the template itself would write this conversation otherwise.
        """
        if isinstance(self.style, Template):
            own = self.style.whole(system, history, prompt, response)
            if self.style.thoughts and split_thinking(response)[0] not in own:
                raise UserError("the chat template leaves the thoughts before an answer away; take keep_thinking out")
            _compare(self.pair_text(prompt, response, history, system), own, self.end_id is None)
        return self.pair_ids(prompt, response, history, system)

    def clean(self, text: str) -> str:
        """Generated text cut at the first marker of either turn, without special tokens, stripped."""
        before = None
        while text != before:  # what is left when a token is taken out may spell another one, or a marker
            before = text
            text = "\n" + text.lstrip()  # a marker that begins a line begins the text too
            places = [text.find(stop) for stop in {*self.prompt_stops.strings, *self.response_stops.strings}]
            text = text[: min([place for place in places if place >= 0], default=len(text))]
            for token in self.special:
                text = text.replace(token, "")
            text = text.strip()
        return text

    def markers_in(self, text: str) -> list[str]:
        """Markers and special tokens of this format that stand inside a text and would be read as structure."""
        marks = {*self.prompt_stops.strings, *self.response_stops.strings, *(self.special if self.format == "chat" else ())}
        return sorted(mark.strip() for mark in marks if mark in "\n" + text.strip())

    def marks_in(self, text: str) -> list[str]:
        """What stands inside a text of the plain text that the template writes around turns.

        Kept apart from `markers_in`: a prompt with it can be given to the model, if only as a question of a benchmark.
        """
        return marks_in(text, self.style.marks) if isinstance(self.style, Template) else []

    def _answer(self, asked: str, prompt: str, response: str, history: Turns, system: str) -> str:
        """The text of a response behind its prompt's."""
        if not (isinstance(self.style, Template) and self.style.thoughts):
            return self.response_text(response)
        own = self.style.whole(system, history, prompt, response).removeprefix(asked)
        return own[: own.rindex(self.style.end) + len(self.style.end)] if self.style.end in own else own

    def tokens(self, text: str) -> list[int]:
        """Token ids of a text in this format.

        Only a template may write special tokens; without one, a special token's name in a text is text like any other.
        """
        split = self.format != "chat"
        ids: list[int] = list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=split)["input_ids"])
        return ids


def make_renderer(tokenizer: Tokenizer, format: Format = "auto") -> Renderer:
    """The renderer of a tokenizer.

    Args:
        format: one of `Format`, which may carry arguments of the template (see `with_template_args`): what it reads besides the
            conversation, such as enable_thinking; and `keep_thinking`, with which thoughts are not switched off and are a part
            of the answers.

    Raises:
        UserError: `chat` without a chat template, arguments without one, or a template that cannot open a user's turn, never
            ends an answer or has it inside thoughts.
    """
    name, given = _split(format)
    special = {str(token): place for place, token in tokenizer.added_tokens_decoder.items() if getattr(token, "special", True)}
    if name == "plain" or name == "isara" or (name == "auto" and not tokenizer.chat_template):
        if given:
            raise UserError(
                f"template_args: there is no chat template to read {', '.join(given)} (format {name}); leave them out"
            )
        kind: Literal["plain", "isara"] = "isara" if name == "isara" else "plain"
        return Renderer(tokenizer, kind, special, layout(kind, tokenizer.eos_token_id))
    if not tokenizer.chat_template:
        raise UserError("the model has no chat template; use format plain (or auto)")
    thoughts = bool(given.pop("keep_thinking", False))
    return Renderer(tokenizer, "chat", special, read_template(tokenizer, special, given, thoughts))


def folder_renderer(folder: Path, format: Format) -> Renderer:
    """The renderer of the tokenizer in a model's folder."""
    from transformers import AutoTokenizer

    with quiet():
        tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    return make_renderer(tokenizer, format)


def preflight(renderer: Renderer, examples: Sequence[Example], context_length: int) -> list[str]:
    """Prove for the model at hand that these examples train and generate as they should; returns notes worth showing.

    For every example: its prompt has the same ids in training and in use, prompt and response are what the model's own template
    writes, the boundary is stable (the joined ids decode to the text), the end token has a label and ends a generation, no marker
    of the format stands inside its texts, and prompt and response fit `context_length` tokens.

    Raises:
        UserError: naming the example, what is wrong, and the remedy.
    """
    notes = list(renderer.style.notes)
    for example in examples:
        earlier = [("history", text) for turn in example.history for text in turn]
        for name, text in (
            ("system prompt", example.system),
            *earlier,
            ("prompt", example.prompt),
            ("response", example.response),
        ):
            if found := renderer.markers_in(text):
                raise UserError(
                    f"{example.id}: its {name} contains {found[0]!r}, which this model's {renderer.format} format reads as a "
                    "marker; take it out, or choose another format"
                )
            if found := renderer.marks_in(text):
                raise UserError(
                    f"{example.id}: its {name} contains {found[0]!r}, which this model's chat template writes around turns, and "
                    "which the model reads as one; take it out, or choose another format"
                )
        notes += [note for note in _check_pair(renderer, example, context_length) if note not in notes]
    if _CHANGED in notes and (lost := [(word, example.id) for example in examples for word in _lost(renderer, example)]):
        word, id = lost[0]
        notes.append(
            f"the chat template leaves out or rewrites {counted(len(lost), 'word')} of prompts, such as {word!r} of {id}"
        )
    if isinstance(renderer.style, Template) and not renderer.style.system_role and any(example.system for example in examples):
        style = renderer.style
        into = f"{'' if style.into == 'every' else 'the '}{style.into} user turn"
        does = f"writes a system prompt into {into}, and it is learned there"
        nowhere = "has no place for a system prompt: it stands in front of the first user turn"
        notes.append(f"the chat template {does if style.into else nowhere}")
    thinking = [example.id for example in examples if split_thinking(example.response)[0]]
    if thinking and renderer.format == "chat" and not renderer.keeps_thinking:
        notes.append(
            f"the responses of {counted(len(thinking), 'example')} ({thinking[0]}) begin with thoughts, which are learned and"
            " then cut from all that the model writes; --keep_thinking true keeps them, or take them out"
        )
    return notes


def _lost(renderer: Renderer, example: Example) -> list[str]:
    """Words before an answer that the model is not shown as they stand, but for their case; thoughts of earlier turns aside."""
    shown = renderer.prompt_text((), example.prompt, example.history, example.system).casefold()
    answers = [split_thinking(answer)[1] or "" for _, answer in example.history]
    texts = [example.system, *(asked for asked, _ in example.history), *answers, example.prompt]
    return [word for text in texts for word in text.split() if word.casefold() not in shown]


def _check_pair(renderer: Renderer, example: Example, context_length: int) -> list[str]:
    try:
        ids, labels = renderer.training_ids(example.prompt, example.response, example.history, example.system)
    except UserError as error:
        thinks = not renderer.keeps_thinking and split_thinking(example.response)[0]
        remedy = "; the response begins with thoughts: --keep_thinking true trains them" if thinks else ""
        raise UserError(f"{example.id}: {error}{remedy}") from None
    if len(ids) > context_length:
        whole = "prompt and response" if not example.history else "history, prompt and response"
        raise UserError(
            f"{example.id}: {whole} take {len(ids)} tokens but the model's window has {context_length}; "
            "shorten it or leave it out"
        )
    asked = renderer.prompt_ids((), example.prompt, example.history, example.system)
    boundary = len(asked)
    if ids[:boundary] != asked or labels != [IGNORE] * boundary + ids[boundary:]:
        raise UserError(f"{example.id}: its prompt has other tokens in training than in use; choose another format")
    stops = renderer.response_stops
    text = renderer.tokenizer.decode(ids[boundary:], skip_special_tokens=False)
    if ids[-1] not in stops.ids and not any(stop in text for stop in stops.strings):
        raise UserError(f"{example.id}: the last token it trains is not one that ends a generation; choose another format")
    beginning = len(_beginning(renderer.tokenizer, renderer.format))
    shown = renderer.prompt_text((), example.prompt, example.history, example.system)
    texts = [example.system, *(text for turn in example.history for text in turn), example.prompt]
    changed = [_CHANGED] if any(text.strip() not in shown for text in texts) else []
    return changed + _check_boundary(renderer, example, ids[beginning : None if renderer.end_id is None else -1])


def _check_boundary(renderer: Renderer, example: Example, joined: list[int]) -> list[str]:
    text = renderer.pair_text(example.prompt, example.response, example.history, example.system)
    notes = ["a token reaches over the boundary between prompt and response: they are tokenised apart, as in use"]
    if renderer.tokens(text) == joined:
        notes = []
    decoded = str(renderer.tokenizer.decode(joined, skip_special_tokens=False, clean_up_tokenization_spaces=False))
    if decoded == text:
        return notes
    if "".join(decoded.split()) == "".join(text.split()):
        return [*notes, "the tokenizer changes white space (decoded text differs from what was encoded in spaces only)"]
    place = same_until(decoded, text)
    raise UserError(
        f"{example.id}: the tokenizer does not give the text back ({text[place : place + 20]!r} becomes "
        f"{decoded[place : place + 20]!r}); remove those characters or use another model"
    )


def _split(format: str) -> tuple[str, dict[str, Any]]:
    name, _, carried = format.partition(" ")
    if name not in get_args(Format):
        raise UserError(f"format {name!r} is unknown; it is one of {', '.join(get_args(Format))}")
    try:
        given = json.loads(carried or "{}")
    except ValueError as error:
        raise UserError(f"format {name}: its template arguments {carried!r} are no JSON ({error})") from None
    if not isinstance(given, dict):
        raise UserError(
            f'format {name}: its template arguments {carried!r} are no JSON object, such as {{"enable_thinking": true}}'
        )
    return name, given


def under(system: str, pair: Example) -> str:
    """A demonstration's prompt in a conversation with this system prompt."""
    return pair.prompt if pair.system.strip() == system.strip() else fold(pair.system, pair.prompt)


def _compare(ours: str, own: str, closed: bool) -> None:
    """What is trained is what the template writes; behind a closing token it may write what it likes, else only white space."""
    if own.startswith(ours) and (closed or not own[len(ours) :].strip()):
        return
    place = same_until(ours, own)
    raise UserError(
        f"the chat template writes {own[place : place + 40]!r} where this conversation has {ours[place : place + 40]!r} "
        f"(behind {ours[max(0, place - 20) : place]!r}); take that out, or use format plain"
    )


def same_until(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Where two texts, or their ids, begin to differ."""
    return next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _beginning(tokenizer: Tokenizer, format: str) -> list[int]:
    """The token that texts begin with, where the tokenizer puts one there; a template writes it itself."""
    ids: list[int] = list(tokenizer("")["input_ids"][:1])
    return ids if format != "chat" and tokenizer.bos_token_id is not None and ids == [tokenizer.bos_token_id] else []
