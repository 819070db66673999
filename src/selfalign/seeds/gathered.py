"""Conversations whose turns stand in rows of their own or in a tree, and questions under the text that they are about, as rows.

A turn in each row (`conversation_id`, `role`, `content`), OpenAssistant's messages and trees, SQuAD.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from selfalign.seeds.chats import read_chat
from selfalign.seeds.names import CHATS, FORMS, RESPONSES
from selfalign.seeds.rows import Broken, Problem, Row, json_text, listed, nothing, show
from selfalign.seeds.turns import ROLES, SAID, WHO
from selfalign.seeds.verdicts import number
from selfalign.text import plain_name

_WHO = WHO[:-1]  # a type may be any
_TALKS = (
    *("conversationid", "convid", "dialogid", "dialogueid", "chatid", "threadid", "sessionid"),
    *("conversation", "thread", "session"),
)
_ORDERS = (
    *("turn", "turnid", "turnindex", "turnnumber", "messageindex"),
    *("position", "order", "step", "index", "seq", "sequence"),
)
_ISO = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d")
_TIMES = ("timestamp", "createdat", "createdtime", "sentat", "datetime", "date", "time", "ts")
_MARKS_OF_PEOPLE = ("labels", "emojis", "detoxify", "replies", "events")
"""What people and programs thought of a message of OpenAssistant's; nothing of it is said."""
_MAX_TURNS = 1_000


@dataclass(frozen=True, slots=True)
class _Message:
    where: str
    fields: Mapping[str, Any]
    replies: list[_Message] = field(default_factory=list)

    @property
    def role(self) -> str:
        return ROLES.get(str(self.fields.get(_who(self.fields))).strip().casefold(), "")

    @property
    def is_kept(self) -> bool:
        says = [str(self.fields.get(name)).casefold() for name in ("deleted", "review_result")]
        return says[0] != "true" and says[1] != "false"


def gathered(items: Iterable[Row | Problem]) -> Iterator[Row | Problem]:
    """The rows, with those of one conversation as one row; any others as they are."""
    items = iter(items)
    first = next(items, None)
    everything = itertools.chain([] if first is None else [first], items)
    if isinstance(first, Row) and (gather := _gatherer(first.fields)):
        rows: list[Row] = []
        for item in everything:
            if isinstance(item, Problem):
                yield item
            else:
                rows.append(item)
        try:
            yield from gather(rows)
        except Broken as error:
            yield Problem(*error.args)
        return
    for item in everything:
        try:
            yield from _unfolded(item) if isinstance(item, Row) else [item]
        except Broken as error:
            yield Problem(*error.args)


def _gatherer(fields: Mapping[str, Any]) -> Any:
    """What gathers rows of these fields: none where they are no turns, or nothing says whose."""
    is_pair = any(name in fields for name in (*FORMS, *CHATS, *RESPONSES))
    if is_pair or not _Message("", fields).role or not any(name in fields for name in SAID):
        return None
    if "parent_id" in fields and "message_id" in fields:
        return _from_tree
    return _from_turns if _named(fields, _TALKS) else None


def _who(fields: Mapping[str, Any]) -> str:
    return next((name for name in _WHO if name in fields), "")


def _named(fields: Mapping[str, Any], names: Sequence[str]) -> str:
    """The column of the first of these names."""
    by_name = {plain_name(name): name for name in fields}
    return next((by_name[name] for name in names if name in by_name), "")


def _from_turns(rows: Sequence[Row]) -> Iterator[Row]:
    talk, order, time = (_named(rows[0].fields, names) for names in (_TALKS, _ORDERS, _TIMES))
    talks: dict[str, list[Row]] = {}
    for row in rows:
        if nothing(row.fields.get(talk)):
            raise Broken(
                row.where, f"field {show(talk)}: is missing, so that nothing says to which conversation the turn belongs"
            )
        id = row.fields[talk]
        talks.setdefault(id if isinstance(id, str) else json_text(id), []).append(row)
    note = f"gathered from {len(rows)} rows of one turn each, by {show(talk)}"
    for id, turns in talks.items():
        places = [number(row.fields.get(order)) for row in turns]
        if order and None not in places and len({*places}) == len(places):
            turns = [row for _, row in sorted(zip(places, turns, strict=True), key=lambda pair: pair[0] or 0.0)]
        elif time and not order:
            turns = _by_time(turns, time)
        yield _talk(id, [_Message(row.where, row.fields) for row in turns], (talk, order), note)


def _by_time(turns: list[Row], time: str) -> list[Row]:
    """The turns from the oldest to the newest one; as they stand where their times are no numbers, and not those of ISO 8601."""
    said = [str(row.fields.get(time)) for row in turns]
    numbers = [number(row.fields.get(time)) for row in turns]
    times: list[Any] = [each or 0.0 for each in numbers] if None not in numbers else [*said]
    if None in numbers and not all(map(_ISO.match, said)):
        return turns
    backwards = times[0] > times[-1]  # the newest one first: so are those of the same second
    places = sorted(range(len(turns)), key=lambda at: (times[at], -at if backwards else at))
    return [turns[at] for at in places]


def _from_tree(rows: Sequence[Row]) -> Iterator[Row]:
    by_id: dict[str, _Message] = {}
    for row in rows:
        own = str(row.fields.get("message_id"))
        if own in by_id:
            raise Broken(row.where, f"field 'message_id': {show(own)} is also that of {by_id[own].where}; remove one of the two")
        by_id[own] = _Message(row.where, row.fields)
    roots = []
    for message in by_id.values():
        parent = message.fields.get("parent_id")
        if nothing(parent):
            roots.append(message)
        elif (above := by_id.get(str(parent))) is None:
            raise Broken(
                message.where, f"field 'parent_id': no row has the message_id {show(str(parent))}; add it, or remove the row"
            )
        else:
            above.replies.append(message)
    hanging = list(roots)
    for message in hanging:
        hanging += message.replies
    if len(hanging) < len(rows):
        raise Broken(rows[0].where, "is of a file whose 'parent_id's lead in a circle; leave that of a first message empty")
    paths = [path for root in roots for path in _paths(root)]
    left = len(rows) - len({id(message) for path in paths for message in path})
    yield from _talks(paths, f" ({left} of {len(rows)} messages)")


def _talks(paths: Sequence[tuple[_Message, ...]], count: str) -> Iterator[Row]:
    note = "a tree of messages: of several answers the best-ranked one; others, and what is deleted or not answered, are left out"
    for path in paths:
        yield _talk(str(path[-1].fields.get("message_id") or ""), path, ("message_id", "parent_id"), note + count)


def _paths(root: _Message) -> Iterator[tuple[_Message, ...]]:
    """The conversations of a tree: of several answers the best one, of what users wrote after it each that is answered."""
    stack: list[tuple[_Message, ...]] = [(root,)] if root.is_kept else []
    while stack:
        path = stack.pop()
        if len(path) > _MAX_TURNS:
            raise Broken(root.where, f"begins a conversation of more than {_MAX_TURNS} turns; keep fewer")
        replies = [reply for reply in path[-1].replies if reply.is_kept]
        answers = [reply for reply in replies if reply.role == "assistant"]
        further = [_best(answers)] if answers else [reply for reply in replies if any(each.is_kept for each in reply.replies)]
        stack += [(*path, reply) for reply in reversed(further)]
        if not further and path[-1].role == "assistant":
            yield path


def _best(answers: Sequence[_Message]) -> _Message:
    ranks = [number(answer.fields.get("rank")) for answer in answers]
    if len(answers) > 1 and (None in ranks or ranks.count(min(rank for rank in ranks if rank is not None)) > 1):
        what = f"is one of {len(answers)} answers to the same message, and their ranks do not say which is best"
        raise Broken(answers[0].where, f"{what}; give each its 'rank', or keep one of them")
    return min(zip(ranks, answers, strict=True), key=lambda pair: pair[0] or 0.0)[1]


def _talk(id: str, messages: Sequence[_Message], without: tuple[str, ...], note: str) -> Row:
    """One row of turns; what all of them have alike, such as a category, stands beside them."""
    turns = [
        {name: value for name, value in message.fields.items() if name and name not in (*without, *_MARKS_OF_PEOPLE)}
        for message in messages
    ]
    own = {_who(turns[0]), *SAID}
    plain = [name for name, value in turns[0].items() if name not in own and not isinstance(value, list | dict)]
    alike = [name for name in plain if all(turn.get(name) == turns[0][name] for turn in turns)]
    rest = {name: turns[0][name] for name in alike if not nothing(turns[0][name])}
    said = [{name: value for name, value in turn.items() if name not in alike} for turn in turns]
    return Row(
        messages[0].where, {"id": id, **{name: value for name, value in rest.items() if name != "id"}, "messages": said}, note
    )


def _unfolded(row: Row) -> Iterator[Row]:
    row = read_chat(row)
    asked, paragraphs = row.fields.get("prompt"), row.fields.get("paragraphs")
    if isinstance(asked, dict) and isinstance(asked.get("replies"), list):
        root = _nested(row.where, asked)
        yield from _talks([*_paths(root)], "")
    elif isinstance(paragraphs, list) and all(
        isinstance(each, dict) and isinstance(each.get("qas"), list) for each in paragraphs
    ):
        for number_, paragraph in enumerate(paragraphs, 1):
            for place, asking in enumerate(paragraph["qas"], 1):
                where = f"{row.where}, paragraph {number_}, question {place}"
                yield Row(where, _question(where, paragraph, asking), "a question about a paragraph (SQuAD)")
    else:
        yield row


def _nested(where: str, message: Mapping[str, Any]) -> _Message:
    """A message with all that hangs from it. As deep as a row may be (`rows`)."""
    replies = message.get("replies")
    below = [_nested(where, each) for each in replies if isinstance(each, dict)] if isinstance(replies, list) else []
    return _Message(where, message, below)


def _question(where: str, paragraph: Mapping[str, Any], asking: Any) -> dict[str, Any]:
    if not isinstance(asking, dict) or not isinstance(asking.get("answers"), list):
        raise Broken(where, f"has no answers among {listed(asking) if isinstance(asking, dict) else 'nothing'}; write them there")
    texts = [answer.get("text") if isinstance(answer, dict) else answer for answer in asking["answers"]]
    return {
        **{name: value for name, value in asking.items() if name != "answers"},
        "context": paragraph.get("context"),
        "answer": texts,
    }
