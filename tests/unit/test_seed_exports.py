"""What real tools export: read with all that an answer depends on, or refused in one line; nothing is lost or spoilt unsaid."""

from __future__ import annotations

import io
import json
import sys
from datetime import date
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from selfalign.errors import SeedError
from selfalign.seeds.notes import seed_notes
from selfalign.seeds.read import read_seeds, read_with_notes
from tests.conftest import SCRIPTED, Refused, Run
from tests.unit.test_seed_forms import PAIR, TURNS, one, said
from tests.unit.test_seeds import refusal, write

HI = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Yes?"}]
CELLS = {"inputs": '{"question": "Why?"}', "outputs": '{"answer": "So."}'}
"""LangSmith's table."""


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (CELLS, PAIR),
        ({"input": json.dumps({"messages": TURNS[:1]}), "expectedOutput": "So."}, PAIR),  # Langfuse
        ({"input": {"messages": TURNS[:1]}, "expectedOutput": "So.", "metadata": None}, PAIR),
        ({"messages": [*HI, *TURNS[:1]], "expected_output": "So."}, ("", (("Hi.", "Yes?"),), "Why?", "So.")),
        ({"input": {"question": "Why?"}, "expected": {"answer": "So."}}, PAIR),  # Braintrust
        (
            {
                "request": {"contents": [{"role": "user", "parts": [{"text": "Why?"}]}]},
                "response": {"candidates": [{"content": {"role": "model", "parts": [{"text": "So."}]}, "finishReason": "STOP"}]},
            },
            PAIR,
        ),
        ({"text": "Why?", "_task_hash": 1, "field_id": "user_input", "user_input": "So.", "answer": "accept"}, PAIR),  # Prodigy
        ({"Customer message": "Why?", "Agent reply": "So."}, PAIR),
        ({"messages": [{"sender": "customer", "text": "Why?"}, {"sender": "agent", "text": "So."}]}, PAIR),
        ({"prompt": "Why?", "response": "So.", "context": [1, 2], "done_reason": "stop"}, PAIR),  # Ollama
        ({"input": '{"text": "Why?"}', "output": '{"label": "So."}'}, ("", (), '{"text": "Why?"}', '{"label": "So."}')),
        ({"inputs": '{"q": "Why?", "n": 2}', "outputs": "So."}, ("", (), '{"q": "Why?", "n": 2}', "So.")),
    ],
    ids=lambda value: json.dumps(value)[:70] if isinstance(value, dict) else "",
)
def test_rows_of_tools(tmp_path: Path, row: dict[str, Any], expected: tuple[Any, ...]) -> None:
    assert said(one(tmp_path, row)) == expected


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "Why?", "completion": "So", "finish_reason": "length"}, ("'finish_reason'", "'length', not at the end")),
        ({"messages": [TURNS[0], {**TURNS[1], "stop_reason": "max_tokens"}]}, ("'messages[2].stop_reason'", "remove the row")),
        (
            {"prompt": "Why?", "response": {"role": "assistant", "content": "So", "stop_reason": "max_tokens"}},
            ("stop_reason", "not at the end"),
        ),
        ({"messages": TURNS[:1], "expected_output": "So.", "reference": "No."}, ("several answers", "'reference'")),
        ({"prompt": "Why?", "response": "\u200b\u00a0"}, ("'response'", "is empty")),
        ({"text": "Why?", "user_input": "So."}, ("'text', 'user_input' may each be it", "'prompt'")),
        ({"chosen": [*HI, *TURNS], "rejected": [*HI[:1], *HI[1:], *HI]}, ("differ before their last turns",)),
        ({"author": "Ann", "content": "Why?"}, ("conversation_id", "write user or assistant for who speaks")),
        ({"messages": [{"from": "Ann", "value": "Why?"}]}, ("'Ann'", "for a speaker's name")),
    ],
)
def test_rows_of_tools_that_are_refused(tmp_path: Path, row: dict[str, Any], words: tuple[str, ...]) -> None:
    message = refusal(write(tmp_path, "s.jsonl", json.dumps(row)))
    assert all(word in message for word in words), message


def test_turns_in_rows_are_put_in_order_by_their_times(tmp_path: Path) -> None:
    """An export with the newest turn first would answer one question with what was said before it."""
    turns = ["Hi.", "Yes?", "Why?", "So.", "Thanks!"]
    rows = [
        {"ticket": "t", "conversation_id": "c", "role": ("user", "assistant")[at % 2], "text": text, "created_at": f"{time}"}
        for at, (text, time) in enumerate(zip(turns, [f"2026-01-02T10:00:0{second}Z" for second in (1, 2, 3, 3, 4)], strict=True))
    ]
    for some in (rows, rows[::-1]):
        example = read_seeds(write(tmp_path, "s.jsonl", "\n".join(map(json.dumps, some))))[-1]
        assert (example.history, example.prompt, example.response) == ((("Hi.", "Yes?"),), "Why?", "So.")


def test_tables_with_blank_first_rows_and_a_category_in_their_language(tmp_path: Path) -> None:
    (example,) = read_seeds(write(tmp_path, "s.csv", ";;\n;;\nFrage;Antwort;Kategorie\nWhy?;So.;eigen\n"))
    assert (example.prompt, example.response, example.category) == ("Why?", "So.", "eigen")


def test_what_cannot_be_seen_in_texts_is_told(tmp_path: Path) -> None:
    answers = ("Say\r\nso.", "\ufeffSay so.", "{\\rtf1\\ansi Say so.}", "'=Say so.")
    rows = [{"prompt": f"Why is it {answer!r} {n}?", "response": answer} for answer in answers for n in range(2)]
    notes = seed_notes(read_seeds(write(tmp_path, "s.jsonl", "\n".join(map(json.dumps, rows)))))
    for what in ("line breaks of Windows", "characters that are not seen", "HTML, RTF or Excel", "an apostrophe before a sign"):
        assert sum(what in note and note.startswith("2 of 8") for note in notes) == 1, notes


def test_seeds_that_repeat_one_another_are_told(tmp_path: Path, cli: Run) -> None:
    rows = [{"prompt": f"How do I mend the old {thing} at home?", "response": f"Take the {thing} apart."} for thing in "abcdef"]
    again = {**rows[0], "prompt": "Please: how do I mend the old a at home"}
    write(tmp_path, "s.jsonl", "\n".join(map(json.dumps, [*rows, again])))
    result = cli("check", "isara", "s.jsonl", *SCRIPTED)
    assert (
        "note: 1 of 7 seeds have a prompt and an answer of another one, but for a few words (seed-0007 and seed-0001)"
        in result.stdout
    )
    write(tmp_path, "s.jsonl", "\n".join(map(json.dumps, rows)))
    assert "of another one" not in cli("check", "isara", "s.jsonl", *SCRIPTED).stdout


def workbook(**sheets: list[list[Any]]) -> bytes:
    """A workbook of these sheets' rows; a name that begins with an underscore is that of a hidden one."""
    out, book = io.BytesIO(), openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        sheet.sheet_state = "hidden" if name.startswith("_") else "visible"
        for row in rows:
            sheet.append(row)
    book.save(out)
    return out.getvalue()


HEAD: list[list[Any]] = [[None], [None, "prompt", "response", "day"]]


def test_a_workbook_is_read_by_its_first_sheet(tmp_path: Path, refused: Refused) -> None:
    rows = [*HEAD, [None], [None, "Why & how?", "So, so.", date(2026, 5, 3)]]
    (example,), notes = read_with_notes(write(tmp_path, "s.xlsx", workbook(_old=[], Seeds=rows, Notes=[])))
    assert (example.prompt, example.response, example.metadata) == ("Why & how?", "So, so.", {"day": "2026-05-03 00:00:00"})
    assert notes == ("1 row: the sheet 'Seeds'; '_old', 'Notes' left out",)
    book = openpyxl.load_workbook(io.BytesIO(workbook(Seeds=rows)))
    book.active.row_dimensions[4].hidden = True
    book.save(tmp_path / "s.xlsx")
    assert "1 row: hidden in the sheet" in read_with_notes(tmp_path / "s.xlsx")[1][0]
    write(tmp_path, "s.xlsx", workbook(Seeds=[*HEAD, [None, "When?", date(2026, 5, 3)]]))
    assert "row 3: field 'response': is the value 2026-05-03 00:00:00" in refused("check", "isara", "s.xlsx", *SCRIPTED)
    write(tmp_path, "s.xlsx", workbook(Seeds=[*HEAD, [None, "Why?", 45321], [None, "How?", True]]))
    line = refused("check", "isara", "s.xlsx", *SCRIPTED)
    assert "s.xlsx row 3: field 'response': is the number 45321 where text must stand" in line and "(and 1 more)" in line
    for spoilt in (b"PK\x03\x04", b"PK", workbook(Seeds=rows)[:-40]):
        with pytest.raises(SeedError, match=r"cannot be read as a workbook .*export the sheet as CSV"):
            read_seeds(write(tmp_path, "s.xlsx", spoilt))


def test_a_workbook_without_its_reader_names_the_package(
    tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "s.xlsx", workbook(Seeds=[*HEAD, [None, "Why?", "So."]]))
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    line = refused("check", "isara", "s.xlsx", *SCRIPTED)
    assert "check needs the package openpyxl: pip install 'selfalign[notebook]'" in line


def test_a_label_is_no_part_of_a_prompt_that_holds_its_letters(tmp_path: Path, cli: Run) -> None:
    """`no` stands in "not": such prompts would never be answered by it."""
    rows = [
        {"prompt": f"Is the {thing} one fit for sale?", "response": ("yes", "no")[at % 2]} for at, thing in enumerate("abcdefghi")
    ]
    write(tmp_path, "s.jsonl", "\n".join(map(json.dumps, [*rows, {"prompt": "Is it not broken, and fit?", "response": "no"}])))
    assert "response_in_prompt" not in cli("check", "isara", "s.jsonl", *SCRIPTED).stdout


def test_a_form_for_each_category_is_suggested(tmp_path: Path, cli: Run) -> None:
    ails = ("a cough", "chest pain", "a cold", "numb fingers", "heartburn", "blurred sight", "a stiff neck", "a head wound")
    rows = [
        {"prompt": f"I have had {ail} since {day}; what now?", "response": f"{says} {ail} {end}.", "category": kind}
        for at, ail in enumerate(ails)
        for day in ("Monday", "Friday")
        for kind, says, end in [(("mild", "CARE: For", "take a rest"), ("urgent", "ESCALATE: With", "call a doctor"))[at % 2]]
    ]
    write(tmp_path, "s.jsonl", "\n".join(map(json.dumps, rows)))
    assert "--expect 'mild=regex:CARE: For.*take a rest\\.' --expect 'urgent=regex:ESCALATE: With.*call" in (
        cli("check", "isara", "s.jsonl", *SCRIPTED).stdout
    )


def test_conversations_that_all_begin_with_one_greeting_say_what_is_missing(tmp_path: Path, refused: Refused) -> None:
    rows = [{"messages": [*HI, {"role": "user", "content": f"Why {n}?"}, TURNS[1]]} for n in range(6)]
    write(tmp_path, "s.jsonl", "\n".join(map(json.dumps, rows)))
    assert "1 seed example without earlier turns" in (line := refused("check", "isara", "s.jsonl", *SCRIPTED))
    assert "add pairs that begin a conversation (greetings that are the same count once)" in line


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (["tone", "refund"], "has 2 names, 'tone', 'refund', where a pair has one"),
        ('["tone", "refund"]', "has 2 names, 'tone', 'refund', where a pair has one"),  # a cell of a table
        ({"name": "tone"}, "is an object, where a pair has one"),
    ],
    ids=str,
)
def test_several_categories_of_a_pair_are_refused(tmp_path: Path, refused: Refused, value: Any, said: str) -> None:
    file = write(tmp_path, "s.jsonl", json.dumps({"prompt": "Why?", "response": "So.", "category": value}))
    assert f"s.jsonl:1: field 'category': {said}; write the one that says what" in refused("check", "isara", file, *SCRIPTED)


@pytest.mark.parametrize(
    ("value", "category"),
    [("['tone']", "tone"), (["tone", None], "tone"), ("[]", ""), ([], ""), ("[urgent] tone", "[urgent] tone")],
    ids=str,
)
def test_a_list_of_one_category_is_that_one(tmp_path: Path, value: Any, category: str) -> None:
    assert one(tmp_path, {"prompt": "Why?", "response": "So.", "category": value}).category == category


def test_a_list_as_numpy_prints_it_is_no_list_of_one(tmp_path: Path) -> None:
    assert one(tmp_path, {"prompt": "Why?", "response": "So.", "category": "['a' 'b']"}).category == "['a' 'b']"  # not ab


@pytest.mark.parametrize("nothing", [None, ""])
def test_empty_columns_of_another_form_are_left_out(tmp_path: Path, nothing: Any) -> None:
    """A table of rows of several forms has all their columns."""
    others = dict.fromkeys(("messages", "conversations", "question", "answer", "instruction", "output"), nothing)
    row = one(tmp_path, {"prompt": "Why?", "response": "So.", **others})
    assert said(row) == PAIR and not row.metadata
    row = one(tmp_path, {"prompt": nothing, "response": nothing, "messages": TURNS})
    assert said(row) == PAIR and not row.metadata


def rows_of(folder: Path, prompts: list[str], answers: list[str] = [], **columns: list[str]) -> Path:  # noqa: B006
    answers = answers or [f"This is answer {number} of all." for number in range(len(prompts))]
    cells = zip(prompts, answers, *columns.values(), strict=True)
    names = ("prompt", "response", *columns)
    return write(folder, "s.jsonl", "\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in cells))


QUESTIONS = [f"Where is the parcel of customer {number}?" for number in range(6)]
RUSSIAN = [f"Где сейчас мой заказ {number}?" for number in range(6)]
FRENCH = [f"Le numéro {number} est arrivé, s'il vous plaît ?" for number in range(6)]
GERMAN = [f"Wo hört man schönere Lieder als hier, Nummer {number}?" for number in range(6)]
ENGLISH = [f"It\u2019s parcel {number}, isn\u2019t it?" for number in range(6)]


@pytest.mark.parametrize(
    ("prompts", "written", "read"),
    [
        (RUSSIAN, "koi8-r", "cp1251"),
        (RUSSIAN, "cp1251", "koi8-r"),
        (FRENCH, "cp850", "cp1252"),
        (GERMAN, "cp850", "cp1252"),
        (FRENCH, "mac_roman", "cp1252"),
        (ENGLISH, "cp1252", "latin-1"),
    ],
)
def test_letters_of_another_code_page_are_told(cli: Run, tmp_path: Path, prompts: list[str], written: str, read: str) -> None:
    spoilt = [prompt.encode(written).decode(read) for prompt in prompts]
    assert "6 of 6 seeds have letters spoilt" in cli("check", "isara", rows_of(tmp_path, spoilt), *SCRIPTED).stdout
    assert "spoilt" not in " ".join(seed_notes(read_seeds(rows_of(tmp_path, prompts))))


@pytest.mark.parametrize(
    "prompts",
    [
        [f"ЧТО ДЕЛАТЬ С ПАССАЖИРОМ {number} БЕЗ БИЛЕТА?" for number in range(6)],
        [f"Что такое мРНК и кДНК, вопрос {number}?" for number in range(6)],
        [f"What is {number}x÷y³ in m³?" for number in range(6)],
        [f"Où\u00a0? À quelle heure ouvre le guichet {number}\u00a0?" for number in range(6)],
        [f"Who of the “Titanic”s crew sat in boat {number}?" for number in range(6)],
    ],
    ids=["capitals", "abbreviations", "sums", "French marks", "quotes"],
)
def test_what_only_looks_so_is_not_called_spoilt(tmp_path: Path, prompts: list[str]) -> None:
    assert not [note for note in seed_notes(read_seeds(rows_of(tmp_path, prompts))) if "seeds have" in note]


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"stars": ["★★★★★", "★"] * 3}, "'stars' (1 to 5): answers are learned whatever their rating"),
        ({"rating": ["4/5", "1/5"] * 3}, "'rating' (1 to 4): answers are learned whatever their rating"),
        ({"category": ["tone", "refund", "tone, refund"] * 2}, "'tone, refund': several categories in one field are"),
        ({"category": ["İade", "iade"] * 3}, "'İade', 'iade' are 2 categories, and differ in case"),
        ({"answers": ["{“day”: “Monday”}"] * 6}, "an answer that looks like JSON and is none"),
        (
            {"answers": [f" Yes, {number}." for number in range(6)]},
            "as ' Yes, 0.' in seed-0001; it is left out of what is learned",
        ),
        ({"prompts": [each.replace(" ", "\u00a0") for each in QUESTIONS]}, "spaces that do not break in place of spaces"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_stands_out_is_told(cli: Run, tmp_path: Path, columns: dict[str, list[str]], told: str) -> None:
    file = rows_of(tmp_path, **{"prompts": QUESTIONS, **columns})  # type: ignore[arg-type]
    assert told in cli("check", "isara", file, *SCRIPTED).stdout


def test_two_marks_of_the_byte_order_are_no_text(tmp_path: Path) -> None:
    assert read_seeds(write(tmp_path, "s.jsonl", '\ufeff\ufeff{"prompt": "Why?", "response": "So."}'))[0].prompt == "Why?"
