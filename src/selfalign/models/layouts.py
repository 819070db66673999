"""How conversations without a chat template are written, and what both ways of writing have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from selfalign.types import Turns


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


@dataclass(frozen=True, slots=True)
class Layout:
    """A format without a template, beside which a `Template` stands; a system prompt is its first paragraph."""

    user: str
    assistant: str
    closing: str
    """What stands behind each answer."""
    marks: tuple[str, ...]
    end_id: int | None = None
    """The model's end token."""
    lead: str = " "
    """White space that a response begins with."""
    notes: tuple[str, ...] = ()

    @property
    def end(self) -> str:
        """What closes a response, before the end token."""
        # Without an end token the model learns to open the next question, which is a stop string.
        return self.closing or ("" if self.end_id is not None else _BETWEEN + self.user)

    @property
    def prompt_stops(self) -> Stops:
        return Stops(frozenset(() if self.end_id is None else (self.end_id,)), self.marks)

    response_stops = prompt_stops

    def ask(self, system: str, turns: Turns, prompt: str | None) -> str:
        """The text up to where the model writes an answer, or with prompt=None the next prompt."""
        pairs = "".join(f"{self._asked(asked)} {answered.strip()}{self.closing}{_BETWEEN}" for asked, answered in turns)
        return fold(system, pairs + (self.user if prompt is None else self._asked(prompt)))

    def _asked(self, prompt: str) -> str:
        return f"{self.user} {prompt.strip()}{self.assistant}"


def layout(format: Literal["plain", "isara"], eos: int | None) -> Layout:
    """The layout of a format for a model with this end token, None for none."""
    found = replace(LAYOUTS[format], end_id=eos)
    if eos is None:
        return replace(found, notes=(f"the model has no end token; it learns to stop by writing {found.end.strip()!r}",))
    return found


def fold(system: str, text: str) -> str:
    """A system prompt as the first paragraph of a text, for lack of a better place."""
    return f"{system.strip()}{_BETWEEN}{text}" if system.strip() else text


_BETWEEN = "\n\n"

LAYOUTS = {
    "plain": Layout("Question:", "\nAnswer:", "", ("\nQuestion:", "\nAnswer:")),
    "isara": Layout(
        "BEGINNING OF CONVERSATION: USER:",
        " ASSISTANT:",
        " END OF CONVERSATION",
        ("BEGINNING OF CONVERSATION:", "USER:", "ASSISTANT:", "END OF CONVERSATION"),
    ),
}
