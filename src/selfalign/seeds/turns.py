"""Conversations as data sets write them, as a system text, earlier turns, a prompt and its response."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from selfalign.seeds.rows import Malformed, kind, listed, nothing, show, text_of
from selfalign.types import Turns

_ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
_BY_TURNS = "write user and assistant turns by turns, the user's first and the assistant's last"
_SHAPE = '{"role": …, "content": …} or {"from": …, "value": …}'
_TURN_FIELDS = ("role", "from", "content", "value", "name", "weight", "id")


class Turn(NamedTuple):
    """What one side says; role: user, assistant or system."""

    role: str
    text: str
    learnable: bool = True
    """Not where its weight is 0, as OpenAI's files say that a response shall not be learned."""


class Conversation(NamedTuple):
    """What `conversation` makes of turns."""

    system: str
    history: Turns
    prompt: str
    response: str
    first_is_learnable: bool
    """Whether the first response may be learned by itself."""


def read_turns(field: str, value: Any, *, blank_end: bool = False) -> list[Turn]:
    """The turns of a list: role and content (text or text parts) each, or from and value, or pairs of prompt and response.

    Args:
        blank_end: whether the last turn may say nothing.

    Raises:
        Malformed: what is no such list, or a turn that needs more than texts: calls of tools, images.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):  # a list in a table of texts
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Malformed(f"field {show(field)}: is text that is no JSON list; write the list as JSON") from None
    if not isinstance(value, list):
        raise Malformed(f"field {show(field)}: is {kind(value)}, not a list; {_BY_TURNS}")
    found: list[Turn] = []
    for number, turn in enumerate(value, start=1):
        where = f"{field}[{number}]"
        if field == "history" and isinstance(turn, list) and len(turn) == 2 and turn[0] not in _ROLES:
            found += [Turn(role, text_of({where: text}, where)) for role, text in zip(("user", "assistant"), turn, strict=True)]
        elif isinstance(turn, dict):
            found.append(_turn(where, turn, blank_end and number == len(value)))
        else:
            raise Malformed(f"field {show(field)}: a turn is {kind(turn)}, not an object; write {_SHAPE}")
    return found


def _turn(where: str, turn: Mapping[str, Any], may_be_blank: bool) -> Turn:
    said = text_of({where: turn.get("role", turn.get("from"))}, where)
    role = _ROLES.get(said.strip().casefold())
    extra = [name for name, value in turn.items() if name not in _TURN_FIELDS and not nothing(value)]
    if role is None or extra:
        what = f"is a turn of {show(said)}" if role is None else f"a turn has {listed(extra)} besides its role and content"
        raise Malformed(f"field {show(where)}: {what}; only texts of user, assistant and system are learned, so remove the row")
    weight = turn.get("weight")
    if weight not in (None, 0, 1) or isinstance(weight, bool):
        raise Malformed(f"field {show(where)}: has the weight {show(str(weight))}; seeds have 0 or 1")
    name = "value" if "value" in turn and "content" not in turn else "content"
    text = text_of({f"{where}.{name}": _joined(turn.get(name))}, f"{where}.{name}", required=not may_be_blank)
    return Turn(role, text, weight != 0)


def _joined(content: Any) -> Any:
    """Parts of text as one text, as chat templates write them; anything else as it is."""
    if not (isinstance(content, list) and content):
        return content
    texts = []
    for part in content:
        kind_of_part = part.get("type") or "text" if isinstance(part, dict) else "text"
        if kind_of_part not in ("text", "input_text", "output_text"):
            raise Malformed(f"a turn has a part of the type {show(str(kind_of_part))}; only texts are learned, so remove the row")
        texts.append(text_of(part, "text") if isinstance(part, dict) else text_of({"text": part}, "text"))
    return "".join(texts)


def conversation(field: str, turns: Iterable[Turn], *, response_required: bool) -> Conversation:
    """Turns taken apart; turns of one side in a row become one, a blank line between them.

    Raises:
        Malformed: the order of the turns cannot be learned.
    """
    joined: list[Turn] = []
    for turn in turns:
        if joined and joined[-1].role == turn.role:
            before = joined.pop()
            is_repeated = turn.role == "system" and turn.text == before.text
            text = turn.text if is_repeated else f"{before.text}\n\n{turn.text}"
            turn = Turn(turn.role, text, before.learnable and turn.learnable)
        joined.append(turn)
    system = joined.pop(0).text if joined and joined[0].role == "system" else ""
    roles = [turn.role for turn in joined]
    unanswered = len(roles) % 2 == 1
    if not roles or roles != [("user", "assistant")[at % 2] for at in range(len(roles))] or (unanswered and response_required):
        remedy = "put the system turn first" if "system" in roles else _BY_TURNS
        raise Malformed(f"field {show(field)}: has the turns {listed(roles) or 'none'}; {remedy}")
    if not unanswered and not joined[-1].learnable:
        raise Malformed(f"field {show(field)}: its last response has the weight 0, so there is nothing to learn; remove the row")
    texts = [turn.text for turn in joined] + ([""] if unanswered else [])
    *history, (prompt, response) = zip(texts[::2], texts[1::2], strict=True)
    return Conversation(system, tuple(history), prompt, response, unanswered or joined[1].learnable)
