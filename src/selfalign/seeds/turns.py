"""Conversations as data sets write them, as a system text, earlier turns, a prompt and its response."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from selfalign.seeds.rows import Malformed, kind, list_in, listed, nothing, show, text_of
from selfalign.seeds.verdicts import refuse_cut
from selfalign.text import counted
from selfalign.types import Turns

ROLES = {
    **dict.fromkeys(("user", "human", "prompter", "customer", "client"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "chatbot", "model", "bot", "ai", "agent", "support"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(
        ("usuario", "utilisateur", "benutzer", "nutzer", "пользователь", "用户", "ユーザー", "사용자", "المستخدم"), "user"
    ),
    **dict.fromkeys(("asistente", "assistent", "ассистент", "助手", "アシスタント", "어시스턴트", "المساعد"), "assistant"),
    **dict.fromkeys(("sistema", "systeme", "системное", "系统", "システム"), "system"),
    "humanmessage": "user",  # LangChain, as the three below
    "aimessage": "assistant",
    "aimessagechunk": "assistant",
    "systemmessage": "system",
}
_BY_TURNS = "write user and assistant turns by turns, the user's first and the assistant's last"
_SHAPE = '{"role": …, "content": …} or {"from": …, "value": …}'
SAID = ("content", "value", "parts", "text", "message", "utterance")
WHO = ("role", "from", "author", "speaker", "sender", "sender_type", "author_type", "actor_type", "type")
_TURN_FIELDS = ("id", *SAID)
_SIDES = {
    "system": ("system",),
    "user": ("user", "human", "input", "prompt", "question", "instruction"),
    "assistant": ("assistant", "gpt", "bot", "output", "response", "answer"),
}
"""The names that stand for a side in turns without roles: {"human": …, "assistant": …}, {"input": …, "output": …}."""
_WEIGHTS = ("weight", "train", "training", "loss")
"""Whether an answer is to be learned, as OpenAI's and axolotl's files say."""
_THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thoughts")
_THINK = "write them before the answer as <think>…</think> and give --keep_thinking true, or take them out"
_PROGRAMS = (
    *("tool", "function", "observation", "ipython", "tool_response", "environment"),
    *("function_call", "function_call_output", "tool_call", "toolmessage", "functionmessage"),
)
_CALL = ("additional_kwargs", "usage_metadata", "response_metadata")
"""What LangChain keeps of the call of a model, for metadata."""
_NO_TEXT = ("tool_calls", "tool_call_id", "function_call", "image", "images", "audio", "video", "files", "attachments")


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
    unanswered: bool = False
    """Whether a last turn of the user was left out, as nothing answers it."""


def read_turns(field: str, value: Any, *, blank_end: bool = False) -> list[Turn]:
    """The turns of a list: role and content (text or text parts) each, or from and value, or pairs of prompt and response.

    Args:
        blank_end: whether the last turn may say nothing.

    Raises:
        Malformed: what is no such list, or a turn that needs more than texts: calls of tools, images.
    """
    if isinstance(value, str) and value.lstrip().startswith("[") and (value := list_in(value)) is None:
        raise Malformed(f"field {show(field)}: is text that is no JSON list; write the list as JSON")
    if isinstance(value, dict) and len({len(each) if isinstance(each, list) else None for each in value.values()} - {None}) == 1:
        names = [name for name in value if isinstance(value[name], list)]  # a list for each field, as `datasets` has sequences
        value = [dict(zip(names, cells, strict=True)) for cells in zip(*(value[name] for name in names), strict=True)]
    if not isinstance(value, list):
        raise Malformed(f"field {show(field)}: is {kind(value)}, not a list; {_BY_TURNS}")
    found: list[Turn] = []
    for number, turn in enumerate(value, start=1):
        where = f"{field}[{number}]"
        if field == "history" and isinstance(turn, list) and len(turn) == 2 and turn[0] not in ROLES:
            found += [Turn(role, text_of({where: text}, where)) for role, text in zip(("user", "assistant"), turn, strict=True)]
        elif isinstance(turn, dict) and (sides := _sides(turn)):
            others = {name: each for name, each in turn.items() if name not in [side for _, side in sides]}
            found += [_turn(where, {**others, "role": role, "content": turn[name]}, False) for role, name in sides]
        elif isinstance(turn, dict) and turn.get("type") == "reasoning" and not (turn.get("summary") or turn.get("content")):
            continue  # OpenAI's, which says nothing to be read
        elif isinstance(turn, dict):
            found.append(_turn(where, turn, blank_end and number == len(value)))
        else:
            raise Malformed(f"field {show(field)}: a turn is {kind(turn)}, not an object; write {_SHAPE}")
    return found


def _sides(turn: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(role, name of its text) for each side that speaks in a turn without roles; none where two names stand for one side."""
    found = [(role, name) for role, names in _SIDES.items() for name in names if name in turn]
    is_sure = len(found) == len(dict(found)) and not any(name in turn for name in (*WHO, *SAID))
    return found if is_sure else []


def _opened(turn: Mapping[str, Any]) -> Mapping[str, Any]:
    """A turn as LangChain writes it, taken out of its object, with the calls and thoughts that stand beside its text."""
    objects = (turn[name] for name in ("data", "kwargs") if isinstance(turn.get(name), dict))
    if (inner := next((each for each in objects if "content" in each), None)) is not None:
        name = turn["id"][-1] if isinstance(turn.get("id"), list) and turn["id"] else turn.get("type")
        turn = {"type": name, **inner}
    further = turn.get("additional_kwargs")
    return {
        **{
            name: each for name, each in (further if isinstance(further, dict) else {}).items() if name in (*_NO_TEXT, *_THOUGHTS)
        },
        **turn,
    }


def _turn(where: str, turn: Mapping[str, Any], may_be_blank: bool) -> Turn:
    turn = _opened(turn)
    if nothing(said := turn.get(_who(turn))):
        raise Malformed(f"field {show(where)}: has no role among its fields ({listed(turn) or 'none'}); write {_SHAPE}")
    said = text_of({where: said}, where)
    role = ROLES.get(said.strip().casefold())
    if said == "reasoning":  # OpenAI's, with its text
        raise Malformed(f"field {show(where)}: thoughts stand next to an answer; {_THINK}")
    extra = [name for name, value in turn.items() if name in _NO_TEXT and not nothing(value)] + list(_objects(turn))
    if role is None or extra:
        what = f"is a turn of {show(said)}" if role is None else f"a turn has {listed(extra)} besides its role and content"
        named = "" if role or said.casefold() in _PROGRAMS else ", or write one of these for a speaker's name"
        raise Malformed(
            f"field {show(where)}: {what}; only texts of user, assistant and system are learned, so remove the row{named}"
        )
    for told in (turn, turn.get("response_metadata")):
        refuse_cut(told if isinstance(told, dict) else {}, where)
    if thoughts := next((name for name in _THOUGHTS if not nothing(turn.get(name))), ""):
        raise Malformed(f"field {show(f'{where}.{thoughts}')}: thoughts stand next to an answer; {_THINK}")
    weights = [turn[name] for name in _WEIGHTS if turn.get(name) is not None]
    if wrong := [weight for weight in weights if weight not in (0, 1)]:
        raise Malformed(f"field {show(where)}: has the weight {show(str(wrong[0]))}; seeds have 0 or 1")
    names = [name for name in SAID if not nothing(turn.get(name))]
    whole = {name: with_parts_joined(turn[name]) for name in names}
    if other := next((name for name in names if whole[name] != whole[names[0]]), ""):
        raise Malformed(
            f"field {show(where)}: says one thing in {show(names[0])} and another in {show(other)}; remove one of them"
        )
    name = next((name for name in (*names, *SAID) if name in turn), "content")
    is_needed = not may_be_blank and role != "system"
    text = text_of({f"{where}.{name}": with_parts_joined(turn.get(name))}, f"{where}.{name}", required=is_needed)
    return Turn(role, text, all(weights))


def _who(turn: Mapping[str, Any]) -> str:
    """The name of the field that says who speaks."""
    return next((name for name in WHO if name in turn), "")


def _objects(turn: Mapping[str, Any]) -> Iterator[str]:
    """The names of fields that hold a list or an object, and nobody knows of what."""
    known = (_who(turn), *_TURN_FIELDS, *_NO_TEXT, *_THOUGHTS, *_CALL)
    return (name for name, value in turn.items() if name not in known and isinstance(value, dict | list) and value)


def further_fields(value: Any) -> dict[str, list[Any]]:
    """What turns hold besides what is learned of them, such as names, times and languages: {field: its values}, for metadata."""
    found: dict[str, list[Any]] = {}
    for turn in (_opened(each) for each in value if isinstance(each, dict)) if isinstance(value, list) else ():
        for name, each in turn.items():
            if name not in (_who(turn), *_TURN_FIELDS, *_WEIGHTS, *(side for _, side in _sides(turn))) and not nothing(each):
                found.setdefault(name, []).append(each)
    return found


def answer_alone(name: str, value: Any) -> Any:
    """The one answer that a turn or a list of turns holds, as text; anything else as it is.

    Raises:
        Malformed: more than that, or another side's turn.
    """
    if not isinstance(value, dict | list):
        return value
    if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        what = f"has {counted(len(value), 'answer')} in a list where one must stand, as text"
        raise Malformed(f"field {show(name)}: {what}; write a row for each")
    turns = read_turns(name, [value] if isinstance(value, dict) else value)
    if [turn.role for turn in turns] != ["assistant"]:
        what = f"has {counted(len(turns), 'turn')} where one of the assistant must stand"
        raise Malformed(f"field {show(name)}: {what}; put those that both answers share into the field 'prompt'")
    return turns[0].text


def shared_turns(chosen: Any, rejected: Any) -> list[Any]:
    """The turns that two whole conversations share up to their last one, as TRL and UltraFeedback write preferences; none where
    they are no such conversations."""
    sides = (chosen, rejected)
    if not all(isinstance(side, list) and len(side) > 1 for side in sides) or chosen[:-1] != rejected[:-1]:
        return []
    return list(chosen[:-1])


def joined_chats(asked: tuple[str, list[Any]], answered: tuple[str, list[Any]]) -> list[Any]:
    """What an application was given and what it gave back, each a list of turns with its name, as one conversation.

    Raises:
        Malformed: the second one neither begins with the first nor answers it.
    """
    given, back = ([(turn.role, turn.text) for turn in read_turns(*side)] for side in (asked, answered))
    if back[: len(given)] == given:
        return answered[1]
    if all(role == "assistant" for role, _ in back):
        return [*asked[1], *answered[1]]
    what = f"has turns in {show(asked[0])} and in {show(answered[0])}, and these neither begin with those nor answer them"
    raise Malformed(f"{what}; write all turns of the conversation into one list, messages")


def one_answer(name: str, value: Any) -> Any:
    """The text of a list that holds one answer, also as SQuAD writes it; anything else as it is."""
    value = value["text"] if isinstance(value, dict) and {*value} == {"text", "answer_start"} else value
    if isinstance(value, list) and len(value) > 1 and all(isinstance(each, dict) for each in value):
        sides = [_sides(each) for each in value]
        if all([role for role, _ in each] == ["assistant"] for each in sides):  # those of several models
            value = [each[side[0][1]] for each, side in zip(value, sides, strict=True)]
        elif not any(_who(each) for each in value):
            raise Malformed(
                f"field {show(name)}: has {len(value)} answers ({listed(value[0])} each); keep the one to be learned, as text"
            )
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        return value
    if len(different := list(dict.fromkeys(value))) > 1:
        raise Malformed(
            f"field {show(name)}: has {len(different)} different answers; keep the one to be learned, or write the list as text"
        )
    return different[0] if different else ""


def with_parts_joined(content: Any) -> Any:
    """Parts of text as one text, as chat templates write them; anything else as it is."""
    if isinstance(content, dict) and {*content} <= {"role", "parts"}:
        content = content.get("parts")
    if not (isinstance(content, list) and content) or (len(content) > 1 and all(isinstance(part, str) for part in content)):
        return content
    texts = []
    for part in content:
        kind_of_part = part.get("type") or "text" if isinstance(part, dict) else "text"
        if kind_of_part in (*_THOUGHTS, "redacted_thinking"):
            raise Malformed(f"a turn has a part of the type {show(kind_of_part)}: thoughts stand next to an answer; {_THINK}")
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
        if turn.role == "system" and not turn.text:
            continue
        if joined and joined[-1].role == turn.role:
            before = joined.pop()
            is_repeated = turn.role == "system" and turn.text == before.text
            text = turn.text if is_repeated else f"{before.text}\n\n{turn.text}"
            turn = Turn(turn.role, text, before.learnable and turn.learnable)
        joined.append(turn)
    alone = response_required and len(joined) > 2 and [turn.role for turn in joined[-2:]] == ["assistant", "user"]
    joined = joined[:-1] if alone else joined
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
    return Conversation(system, tuple(history), prompt, response, unanswered or joined[1].learnable, alone)
