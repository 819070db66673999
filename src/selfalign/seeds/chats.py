"""Chats as tools export them: of ChatGPT and Open WebUI the branch that was shown last, of OpenInference the spans.

Those of people are refused: nothing says who asks and who answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from selfalign.seeds.names import FORMS, RESPONSES
from selfalign.seeds.rows import Broken, Row, nothing, show

_SLACK_TIME = re.compile(r"\d{9,10}\.\d+")
_PEOPLE = {
    "Slack": {"text", "ts"},
    "Discord": {"author", "content", "timestamp", "embeds"},
    "Telegram": {"from_id", "text"},
    "Zendesk": {"author_id", "body"},
}
"""What the messages of people have in the exports of these: a name for who speaks, and no role."""


def read_chat(row: Row) -> Row:
    """The row with the turns of such a chat as messages; any other row as it is.

    Raises:
        Broken: a chat of people, or one that cannot be put together.
    """
    fields = row.fields
    if any(name.startswith("attributes") or "llm." in name for name in fields) and (span := _from_span(row)):
        return replace(row, fields=span, note="the messages of an OpenInference span; what else it holds is left out")
    _refuse_people(row)
    chat, mapping = fields.get("chat"), fields.get("mapping")
    tree = chat.get("history") if isinstance(chat, dict) else None
    if isinstance(chat, dict) and isinstance(tree, dict) and isinstance(tree.get("messages"), dict):
        return _open_webui(row, chat, tree)
    if isinstance(mapping, dict) and isinstance(fields.get("current_node"), str):
        return _chatgpt(row, mapping)
    return row


def _branch(row: Row, nodes: Mapping[str, Any], last: Any, parent: str) -> list[Mapping[str, Any]]:
    """The messages of a tree from the first one to `last`, each naming the one before it. Raises Broken: one that is not there,
    or a circle: what stands before it would be lost unsaid."""
    found, at, met = list[Mapping[str, Any]](), last, set[str]()
    while not nothing(at):
        if not isinstance(node := nodes.get(str(at)), dict):
            raise Broken(row.where, f"is a chat whose message {show(str(at))} is not in it; export it again, or remove it")
        if str(at) in met:
            raise Broken(
                row.where, f"is a chat whose messages lead in a circle at {show(str(at))}; export it again, or remove it"
            )
        met.add(str(at))
        found.append(node)
        at = node.get(parent)
    return found[::-1]


def _chatgpt(row: Row, mapping: Mapping[str, Any]) -> Row:
    turns: list[dict[str, Any]] = []
    for node in _branch(row, mapping, row.fields["current_node"], "parent"):
        message = node.get("message")
        author = message.get("author") if isinstance(message, dict) else None
        if isinstance(message, dict) and isinstance(author, dict):
            content = message.get("content")
            parts = content.get("parts") if isinstance(content, dict) else content
            empty = author.get("role") == "system" and (not isinstance(parts, list) or not any(parts))
            turns += [] if empty else [{"role": author.get("role"), "content": parts}]
    named = {"id": row.fields.get("conversation_id") or row.fields.get("id"), "title": row.fields.get("title")}
    return Row(row.where, {**named, "messages": turns}, "the branch of a ChatGPT conversation that was shown last")


def _open_webui(row: Row, chat: Mapping[str, Any], tree: Mapping[str, Any]) -> Row:
    said = ("role", "content", "files", "tool_calls")
    nodes = _branch(row, tree["messages"], tree.get("currentId"), "parentId")
    turns = [{name: node[name] for name in said if name in node} for node in nodes]
    params = chat.get("params")
    system = params.get("system") if isinstance(params, dict) else None
    named = {"id": row.fields.get("id"), "title": row.fields.get("title"), "system": system}
    return Row(row.where, {**named, "messages": turns}, "the branch of an Open WebUI chat that was shown last")


def _refuse_people(row: Row) -> None:
    """Raises Broken: messages of people, of which nothing says who asks and who answers."""
    if {*row.fields} & {*FORMS, *RESPONSES}:
        return
    name = next((name for name in ("messages", "comments") if isinstance(row.fields.get(name), list)), "")
    for turn in row.fields[name] if name else [row.fields]:
        tool = next((tool for tool, has in _PEOPLE.items() if isinstance(turn, dict) and has <= turn.keys()), "")
        if tool and "role" not in turn and (tool != "Slack" or _SLACK_TIME.fullmatch(str(turn["ts"]))):
            what = f"is of an export of {tool}, which does not say who asks and who answers"
            raise Broken(
                row.where, f'{what}; write messages, a list of {{"role": "user" or "assistant", "content": …}} (docs/seeds.md)'
            )


def _from_span(row: Row) -> dict[str, Any]:
    """The messages of a call of a model as OpenInference writes them (Phoenix); nothing of other rows. Raises Broken: several
    answers."""
    flat = dict(_leaves(row.fields))
    turns: dict[tuple[str, ...], dict[str, Any]] = {}
    for path, value in flat.items():
        side, _, rest = path.partition("_messages.")
        side = side.rpartition("llm.")[2] if "llm." in side else ""
        at, _, name = rest.partition(".message.")
        if side in ("input", "output") and at.isdigit() and not nothing(value):
            name, _, below = name.partition(".")  # such as calls of tools, which a turn may not hold
            turns.setdefault((side, at.zfill(6)), {})[name] = [value] if below else value
    if not {"input", "output"} <= {side for side, _ in turns}:
        return {}
    if (count := sum(side == "output" for side, _ in turns)) > 1:
        raise Broken(row.where, f"is a span with {count} output messages; keep the one to be learned")
    id = next((value for path, value in flat.items() if path.endswith("span_id") and "parent" not in path), None)
    return {"id": id, "messages": [turns[key] for key in sorted(turns)]}


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if inside is None:
        yield path, value
    for name, each in inside or ():
        yield from _leaves(each, f"{path}.{name}" if path else str(name))
