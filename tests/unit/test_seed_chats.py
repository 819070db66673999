"""Chats and tables as tools export them: read where roles are sure, refused in one line where they are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from selfalign.seeds.notes import seed_notes
from selfalign.seeds.read import read_with_notes
from tests.unit.test_seed_forms import PAIR, one, said
from tests.unit.test_seeds import refusal, write

ANSWER = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "So."}]}
TREE = {
    "currentId": "b",
    "messages": {
        "a": {"id": "a", "parentId": None, "role": "user", "content": "Why?"},
        "b": {"id": "b", "parentId": "a", "role": "assistant", "content": "So."},
        "c": {"id": "c", "parentId": "a", "role": "assistant", "content": "No."},
    },
}


def tree(last: str, a: str | None = None) -> dict[str, Any]:
    """The tree with another last message, or another one before its first."""
    nodes: Any = TREE["messages"]
    return {"currentId": last, "messages": {**nodes, "a": {**nodes["a"], "parentId": a}}}


HUMAN = {"lc": 1, "type": "constructor", "id": ["langchain", "HumanMessage"], "kwargs": {"content": "Why?"}}
AI = {"type": "ai", "data": {"content": "So.", "additional_kwargs": {}, "response_metadata": {"finish_reason": "stop"}}}
CALLS = {"content": "So.", "additional_kwargs": {"tool_calls": [{"id": "1"}]}}
CUT = {"content": "So", "response_metadata": {"finish_reason": "length"}}
SPAN = {
    "llm.input_messages": [{"message": {"role": "user", "content": "Why?"}}],
    "llm.output_messages.0.message.role": "assistant",
    "llm.output_messages.0.message.content": "So.",
}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instructions": "Short.", "input": "Why?", "output": [ANSWER]}, ("Short.", *PAIR[1:])),
        ({"input": "Why?", "output": [{"type": "reasoning", "summary": []}, ANSWER]}, PAIR),
        ({"chat": {"history": TREE, "params": {"system": "Short."}}}, ("Short.", *PAIR[1:])),
        ({"messages": [HUMAN, AI]}, PAIR),
        ({"instructions": "Mend.", "input": "A fence.", "output": ["So."]}, ("", (), "Mend.\n\nA fence.", "So.")),  # Alpaca's
        ({"name": "llm", "attributes": SPAN}, PAIR),
        ({"attributes.llm.input_messages": [{"message.role": "user", "message.content": "Why?"}], **SPAN}, PAIR),
    ],
)
def test_chats_with_sure_roles_are_read(tmp_path: Path, row: dict[str, Any], expected: tuple[Any, ...]) -> None:
    assert said(one(tmp_path, row)) == expected


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"type": "message", "user": "U1", "text": "Why?", "ts": "1700000000.1"}, "export of Slack"),
        ({"user": "U1", "text": "Why?", "ts": "1700000000.1"}, "export of Slack"),
        ({"chat": {"history": tree("b", a="z")}}, "message 'z' is not in it"),
        ({"chat": {"history": tree("x")}}, "message 'x' is not in it"),
        ({"chat": {"history": tree("b", a="b")}}, "lead in a circle at 'b'"),
        ({"current_node": "b", "mapping": {"b": {"parent": "a"}}}, "message 'a' is not in it"),
        ({"input": "Why?", "output": [{"type": "reasoning", "summary": ["Hm."]}, ANSWER]}, "thoughts stand next to an answer"),
        ({"input": "Why?", "output": [{"type": "function_call", "name": "f"}]}, "a turn of 'function_call'; only texts"),
        ({"messages": [HUMAN, {"type": "ai", "data": CUT}]}, "'length', not at the end"),
        ({"messages": [{"author": {"name": "a"}, "content": "Why?", "timestamp": "x", "embeds": []}]}, "export of Discord"),
        ({"messages": [{"from": "Ann", "from_id": "user1", "text": "Why?"}]}, "export of Telegram"),
        ({"subject": "Why?", "comments": [{"author_id": 5, "body": "Why?"}]}, "export of Zendesk"),
        ({"input": "Why?", "output": [ANSWER], "status": "incomplete"}, "'status'"),
        ({"input": "Why?", "output": [ANSWER], "previous_response_id": "r"}, "'previous_response_id'"),
        ({"messages": [HUMAN, {"type": "ai", "data": CALLS}]}, "'tool_calls'"),
        ({"attributes": {**SPAN, "llm.output_messages.1.message.content": "No."}}, "2 output messages"),
        ({"attributes": {**SPAN, "llm.output_messages.0.message.tool_calls.0.tool_call.id": "1"}}, "'tool_calls'"),
        ({"custom_id": "a", "response": {"body": {"choices": []}}}, "holds no prompt"),
    ],
)
def test_chats_that_do_not_say_enough_are_refused(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    assert words in refusal(write(tmp_path, "s.jsonl", json.dumps(row)))


def test_block_texts_of_yaml_lose_the_line_break_of_the_file(tmp_path: Path) -> None:
    path = write(
        tmp_path, "s.yaml", '- prompt: |\n    Why?\n  response: |\n    So.\n\n    Yes.\n- {prompt: "Who?", response: "I.\\n"}\n'
    )
    examples, notes = read_with_notes(path)
    assert [(each.prompt, each.response) for each in examples] == [("Why?", "So.\n\nYes."), ("Who?", "I.\n")]
    assert "without the line break at its end" in notes[0]


def test_a_header_repeated_within_a_table_is_no_example(tmp_path: Path) -> None:
    assert ":3: repeats the names" in refusal(write(tmp_path, "s.csv", "prompt,response\nWhy?,So.\nprompt,response\n"))


@pytest.mark.parametrize("value", ['="So"', "So."])
def test_formulas_and_merged_cells_of_a_workbook(tmp_path: Path, value: str) -> None:
    book, path = openpyxl.Workbook(), tmp_path / "s.xlsx"
    for cells in (["category", "prompt", "response"], ["a", "Why?", value], [None, "Who?", "I."]):
        book.active.append(cells)
    book.active.merge_cells("A2:A3")
    book.save(path)
    if value.startswith("="):
        assert "the cell C2 holds a formula without its result" in refusal(path)
    else:
        assert [each.category for each in read_with_notes(path)[0]] == ["a", "a"]


def test_a_title_above_the_names_of_columns_is_told(tmp_path: Path) -> None:
    assert "the first line must name the columns" in refusal(write(tmp_path, "s.csv", "My FAQ,\nprompt,response\nWhy?,So.\n"))


def test_what_langchain_keeps_of_a_call_is_told(tmp_path: Path) -> None:
    row = {"messages": [HUMAN, {"type": "ai", "data": {**AI["data"], "usage_metadata": {"total": 9}}}]}  # type: ignore[dict-item]
    examples, _ = read_with_notes(write(tmp_path, "s.jsonl", json.dumps(row)))
    (note,) = [note for note in seed_notes(examples) if note.startswith("not learned")]
    assert "'messages.usage_metadata'" in note and "'messages.response_metadata'" in note
