"""The strict seed reader: what it accepts stays byte-equal, what it refuses is named with place, field and remedy."""

from __future__ import annotations

import csv
import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selfalign.errors import SeedError, UserError
from selfalign.seeds.read import read_seeds
from selfalign.seeds.rows import is_blank
from selfalign.text import normalise

PAIR = '{"prompt": "p", "response": "r"}\n'


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(path: Path, *, response_required: bool = True) -> str:
    """The message without the path it must begin with; one line, as every refusal."""
    with pytest.raises(SeedError) as caught:
        read_seeds(path, response_required=response_required)
    message = str(caught.value)
    assert isinstance(caught.value, UserError)
    assert message.isprintable()
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


# What is read.


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "Why?", "response": "So."}, "Why?"),
        ({"question": "Why?", "answer": "So."}, "Why?"),
        ({"instruction": "Why?", "output": "So."}, "Why?"),
        ({"instruction": "Why?", "input": "", "output": "So."}, "Why?"),
        ({"instruction": "Why?", "input": None, "output": "So."}, "Why?"),
        ({"instruction": "Sum up.", "input": " A text.\n", "output": "So."}, "Sum up.\n\n A text.\n"),
        ({"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]}, "Why?"),
        ({"messages": [{"role": "user", "content": "Why?", "name": None}, {"role": "assistant", "content": "So."}]}, "Why?"),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json", ".JSONL"])
def test_row_forms(tmp_path: Path, row: dict[str, object], prompt: str, suffix: str) -> None:
    text = json.dumps(row) if "l" in suffix.lower()[4:] or suffix == ".ndjson" else json.dumps([row])
    (example,) = read_seeds(write(tmp_path, "s" + suffix, text))
    assert (example.prompt, example.response, example.id, example.round, example.slot) == (prompt, "So.", "seed-0001", 0, 0)
    assert example.metadata == {}


def test_json_object_that_holds_one_array(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "response": "b"}, {"prompt": "c", "response": "d"}]
    path = write(tmp_path, "s.json", json.dumps({"version": 1, "data": rows}))
    assert [example.prompt for example in read_seeds(path)] == ["a", "c"]


def test_ids_categories_slots_and_metadata(tmp_path: Path) -> None:
    first = '{"id": "x", "prompt": "a", "response": "b", "category": "c-1.2", "n": 1.5, "big": %s, "tags": ["é", 2, null]}' % (
        10**20
    )
    second = '{"prompt": "c", "response": "d", "category": null, "note": " kept "}'
    one, two = read_seeds(write(tmp_path, "s.jsonl", f"{first}\n\n{second}\n"))
    assert (one.id, one.category, one.slot) == ("x", "c-1.2", 0)
    assert one.metadata == {"n": "1.5", "big": f"1{0:020}", "tags": '["é",2,null]'}
    assert (two.id, two.category, two.slot) == ("seed-0002", "", 1)
    assert two.metadata == {"note": " kept "}


@pytest.mark.parametrize(("suffix", "separator"), [(".csv", ","), (".tsv", "\t")])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_separated_text_stays_text(tmp_path: Path, suffix: str, separator: str, ending: str) -> None:
    cells = (
        ["prompt", "response", "a", "b"],
        ["007", "1e5", "NA", "null"],
        ["2024-01-02", "true", "", ' "" '],
        ["x", '"a""b\r\n,\t"', "-", "-"],
    )
    cells[2][3] = '" "" "'
    text = ending.join(separator.join(row) for row in cells)
    examples = read_seeds(write(tmp_path, "s" + suffix, text))
    assert [(e.prompt, e.response, e.metadata["a"], e.metadata["b"]) for e in examples] == [
        ("007", "1e5", "NA", "null"),
        ("2024-01-02", "true", "", ' " '),
        ("x", 'a"b\r\n,\t', "-", "-"),
    ]


def test_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    assert len(read_seeds(write(tmp_path, "s.csv", b"\xef\xbb\xbfprompt,response\na,b\n"))) == 1
    assert len(read_seeds(write(tmp_path, "s.jsonl", b"\xef\xbb\xbf" + PAIR.encode()))) == 1
    assert len(read_seeds(write(tmp_path, "s.json", b"\xef\xbb\xbf[" + PAIR.encode() + b"]"))) == 1


def test_more_than_a_hundred_seeds_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, "s.jsonl", "".join(json.dumps({"prompt": f"p{i}", "response": "r"}) + "\n" for i in range(1000)))
    assert [example.slot for example in read_seeds(path)] == list(range(1000))


def test_held_out_prompts_need_no_response(tmp_path: Path) -> None:
    path = write(tmp_path, "s.jsonl", '{"prompt": "a"}\n{"prompt": "b", "response": ""}\n{"prompt": "c", "response": "r"}\n')
    assert [example.response for example in read_seeds(path, response_required=False)] == ["", "", "r"]
    assert refusal(path).startswith(":1: field 'response': is missing")
    turns = write(tmp_path, "m.jsonl", '{"messages": [{"role": "user", "content": "a"}]}')
    assert read_seeds(turns, response_required=False)[0].prompt == "a"
    assert "'user'; write user and assistant turns by turns" in refusal(turns)


# Strings through every format and back.

characters = st.characters(codec="utf-8", exclude_categories=["Cs"]).filter(lambda c: c >= " " or c in "\t\n\r")
lookalikes = st.sampled_from(
    ["007", "1e5", "NA", "null", "true", "2024-01-02", "NaN", "1,5", '"', "'", "=1+1", "\ufeffx", "\u2028a", " a "]
)
texts = (st.text(characters, max_size=20) | lookalikes).filter(lambda text: not is_blank(text))
tables = st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=5, unique_by=lambda row: normalise(row[0]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=tables)
def test_strings_come_back_byte_equal(tmp_path: Path, rows: list[tuple[str, str, str]]) -> None:
    names = ("prompt", "response", "note")
    records = [dict(zip(names, row, strict=True)) for row in rows]
    write(tmp_path, "s.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    write(tmp_path, "s.json", json.dumps(records, ensure_ascii=False))
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "s.parquet")
    for name, separator in (("s.csv", ","), ("s.tsv", "\t")):
        with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter=separator).writerows([names, *rows])
    for name in ("s.jsonl", "s.json", "s.parquet", "s.csv", "s.tsv"):
        assert [(e.prompt, e.response, e.metadata["note"]) for e in read_seeds(tmp_path / name)] == rows, name


# What is refused: the place, the field and the remedy.

REFUSED: list[tuple[str, str | bytes, str, str]] = [
    # whole files
    ("s.txt", PAIR, ": unknown suffix '.txt'", ".jsonl"),
    ("seeds", PAIR, ": a name without a suffix", ".jsonl"),
    ("s.jsonl.gz", b"\x1f\x8b\x08\x00", ": cannot be unpacked as gz", "pack it anew"),
    ("s.csv.gz", PAIR, ": cannot be unpacked as gz", "pack it anew"),
    ("s.jsonl.gz", gzip.compress(b" " * (65 * 2**20)), ": unpacks to more than 64 MiB", "keep fewer"),
    ("s.txt.gz", gzip.compress(PAIR.encode()), ": unknown suffix '.txt'", ".jsonl"),
    ("s.zip", b"PK", ": cannot be unpacked as zip", "pack it anew"),
    ("s.jsonl", b"\x1f\x8b\x08\x00", ": is compressed", "name it .gz"),
    ("s.csv", b"PK\x03\x04abc", ": is a zip archive or a spreadsheet", "name it .zip or .xlsx"),
    ("s.jsonl", "", ": the file is empty", "at least one"),
    ("s.csv", " \n\n", ": the file is empty", "at least one"),
    ("s.csv", "prompt,response\n", ": has no rows", "at least one"),
    ("s.json", "[]", ": has no rows", "at least one"),
    ("s.jsonl", PAIR.encode("utf-16")[:-1], ": begins as UTF-16", "save it as UTF-8"),
    ("s.jsonl", PAIR.encode("utf-16-le"), ":1: holds a NUL byte", "save it as UTF-8"),
    ("s.csv", "prompt,response\na,b\nc,\xe9\n".encode("latin-1"), ":3: byte 22 (0xe9) is not UTF-8", "save the file as UTF-8"),
    ("s.jsonl", PAIR.encode() + b"\xff", ":2: byte 33 (0xff) is not UTF-8", "save the file as UTF-8"),
    ("s.json", b'[\n"\xff"]', ":2: byte 3 (0xff) is not UTF-8", "save the file as UTF-8"),
    # JSON
    ("s.jsonl", PAIR + "\n{'prompt': 1}", ":3: not valid JSON at column 2", "straight double quotes"),
    ("s.jsonl", "[\n" + PAIR, ":3: not valid JSON", "close the bracket"),
    ("s.json", PAIR + "{", ":2: not valid JSON at column 2", "each line must be one object"),
    ("s.json", "{\n" + PAIR, ":2: not valid JSON at column 1", "named .jsonl"),
    ("s.json", '{"x": 1}', ": is an object with 0 arrays", "write one array"),
    ("s.json", '{"a": [{}], "b": [{}]}', ": is an object with 2 arrays", "keep one of them"),
    ("s.json", "7", ": is the number 7, not an object", '{"prompt"'),
    ("s.json", f"[{PAIR}, [1]]", " row 2: is a list, not an object", '{"prompt"'),
    ("s.jsonl", PAIR + "null\n", ":2: is null, not an object", '{"prompt"'),
    ("s.json", "[" * 100_000, ": the JSON is nested too deeply", "flatten"),
    (
        "s.jsonl",
        '{"prompt": "p", "response": "r", "x": ' + "[" * 50 + "]" * 50 + "}",
        ":1: field 'x': is nested more than 32 deep",
        "flatten",
    ),
    ("s.jsonl", '{"prompt": "p", "prompt": "q", "response": "r"}', ":1: has the key 'prompt' twice", "remove or rename"),
    (
        "s.json",
        f'[{PAIR}, {{"prompt": "q", "response": "r", "response": "s"}}]',
        " row 2: has the key 'response' twice",
        "remove",
    ),
    ("s.jsonl", '{"prompt": "p", "response": NaN}', ":1: field 'response': is null", "fill it in"),
    (
        "s.jsonl",
        '{"prompt": "p", "response": "r", "x": [-Infinity]}',
        ":1: field 'x': holds a number without a finite value",
        "quotes",
    ),
    ("s.json", "[" + "1" * 5000 + "]", ": holds a number of thousands of digits", "quotes"),
    # fields
    ("s.jsonl", '{"prompt": "p", "response": 42}', ":1: field 'response': is the number 42 where text must stand", "quotes"),
    ("s.jsonl", '{"prompt": true, "response": "r"}', ":1: field 'prompt': is true where text must stand", "quotes"),
    ("s.jsonl", '{"prompt": null, "response": "r"}', ":1: field 'prompt': is null", "fill it in or remove the row"),
    ("s.jsonl", '{"prompt": {"a": 1}, "response": "r"}', ":1: field 'prompt': is an object", "quotes"),
    ("s.jsonl", PAIR + '{"prompt": "q", "response": " \\n"}', ":2: field 'response': is empty", "fill it in"),
    (
        "s.jsonl",
        '{"prompt": "a\\u0000b", "response": "r"}',
        ":1: field 'prompt': holds the control character U+0000 at character 2",
        "remove",
    ),
    ("s.jsonl", '{"prompt": "p", "response": "\\ud83d"}', ":1: field 'response': holds half a surrogate pair U+D83D", "remove"),
    (
        "s.jsonl",
        '{"prompt": "p", "response": "r", "n": "\\u001b[0m"}',
        ":1: field 'n': holds the control character U+001B",
        "remove",
    ),
    ("s.jsonl", '{"prompt": "p", "response": "r", "\\ud83d": ""}', ":1: field '\\ud83d': has no usable name", "1 to 128"),
    ("s.jsonl", '{"prompt": "' + "x" * 2**20 + 'x", "response": "r"}', ":1: field 'prompt': is longer than 1,048,576", "shorten"),
    (
        "s.jsonl",
        '{"id": "a\\nb", "prompt": "p", "response": "r"}',
        ":1: field 'id': 'a\\nb' holds a control character",
        "plain id",
    ),
    ("s.jsonl", json.dumps({"id": "x" * 129, "prompt": "p", "response": "r"}), ":1: field 'id': 'xxx", "plain id"),
    # forms
    ("s.jsonl", '{"prompt": "p", "respones": "r"}', ":1: field 'response': is missing", "rename 'respones' to 'response'?"),
    (
        "s.jsonl",
        '{"prompt": "p", "response": "r", "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}',
        ":1: mixes 'prompt', 'response', 'messages'",
        "rename the others",
    ),
    (
        "s.jsonl",
        '{"prompt": "p", "response": "r", "answer": "s"}',
        ":1: mixes 'prompt', 'response', 'answer'",
        "rename the others",
    ),
    ("s.jsonl", '{"prompt": "p", "Prompt": "q", "response": "r"}', ":1: has the field 'prompt' twice", "rename one"),
    ("s.jsonl", '{"prompt": "p", "chosen": "r", "rejected": 7}', ":1: field 'rejected': is the number 7", "in quotes"),
    (
        "s.jsonl",
        '{"prompt": "p", "chosen": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "r"}], "rejected": "s"}',
        ":1: field 'chosen': has 2 turns",
        "into the field 'prompt'",
    ),
    ("s.jsonl", '{"prompt": "p", "response": "q", "chosen": "r"}', ":1: mixes 'prompt', 'response', 'chosen'", "keep one pair"),
    (
        "s.jsonl",
        '{"prompt": "p", "chosen": "r", "rejected": "s"}\n{"prompt": "p", "chosen": "t", "rejected": "s"}',
        ":2: the prompt 'p' is the same",
        "remove one of the two",
    ),
    ("s.jsonl", '{"instrucion": "p", "input": "q", "output": "r"}', ":1: has no prompt", "rename 'instrucion' to 'instruction'?"),
    ("s.jsonl", '{"category": "%s", "prompt": "p", "response": "r"}' % ("x" * 65), ":1: field 'category'", "up to 64"),
    ("s.jsonl", '{"id": true, "prompt": "p", "response": "r"}', ":1: field 'id': is true", "quotes"),
    ("s.jsonl", '{"metadata": {"a": "b"}, "a": "c", "prompt": "p", "response": "r"}', ":1: field 'metadata': has 'a'", "rename"),
    ("s.yaml", "a: [b\nc: d", ":2: not valid YAML", "mend it"),
    ("s.yaml", "- {question: p, answer: yes}", " row 1: field 'answer': is true where text must stand", "quotes"),
    ("s.jsonl", "{}", ":1: has no prompt among its fields (none)", "prompt + response"),
    ("s.jsonl", json.dumps({f"c{i}": "" for i in range(65)}), ":1: has 65 fields", "drop some"),
    ("s.jsonl", '{"messages": "hi"}', ":1: field 'messages': is text, not a list", "by turns, the user's first"),
    (
        "s.jsonl",
        '{"messages": []}',
        ":1: field 'messages': has the turns none",
        "by turns, the user's first",
    ),
    ("s.jsonl", '{"messages": [["user", "hi"]]}', ":1: field 'messages': a turn is a list, not an object", "role"),
    # duplicates
    (
        "s.jsonl",
        PAIR + '\n{"prompt": " P\\n", "response": "s"}',
        ":3: the prompt ' P\\n' is the same as that of {path}:1",
        "remove one",
    ),
    (
        "s.jsonl",
        '{"id": "a", "prompt": "p", "response": "r"}\n{"id": "a", "prompt": "q", "response": "r"}',
        ":2: field 'id': 'a' is also the id of {path}:1",
        "its own",
    ),
    (
        "s.jsonl",
        '{"id": "seed-0002", "prompt": "p", "response": "r"}\n{"prompt": "q", "response": "r"}',
        ":2: field 'id': is missing, and by its place would be 'seed-0002', the id of {path}:1",
        "its own",
    ),
    # CSV
    ("s.csv", "prompt,text\na,b\n", ":2: field 'response': is missing among 'prompt', 'text'", "expected prompt + response"),
    ("s.csv", "prompt,response,prompt\na,b,c\n", ":1: the column 'prompt' stands twice", "rename"),
    ("s.csv", 'prompt,response\n"a\nb",c\nd,e,f\n', ":4: has 3 fields where the header has 2", "quote"),
    ("s.csv", "prompt,response\na\n", ":2: has 1 field where the header has 2", "quote"),
    ("s.csv", 'prompt,response\na,b\nc,"d\ne,f\n', ":3: is not valid CSV (unexpected end of data)", "close each quote"),
    ("s.csv", 'prompt,response\na,"b"c\n', ":2: is not valid CSV (',' expected", "double the quotes"),
    ("s.csv", "," * 1_000_000, ":1: has 1000001 columns", "drop some"),
    ("s.csv", "prompt,response\n" + "," * 1_000_000 + "x", ":2: has 1000001 fields where the header has 2", "quote"),
    ("s.csv", "prompt,,response\na,,b\nc,x,d\n", ":3: column 2 holds 'x' and has no name", "name it or remove it"),
    ("s.csv", "sep=;\r\nprompt;text\r\na;b\r\n", ":3: field 'response': is missing", "expected prompt + response"),
    ("s.csv", b"prompt,response\na,b\x00\n", ":2: holds a NUL byte", "UTF-8"),
    ("s.csv", b"prompt,response\na,\x07b\n", ":2: field 'response': holds the control character U+0007", "remove it"),
    # Parquet
    ("s.parquet", PAIR, ": cannot be read as Parquet", "write the file anew"),
    ("s.parquet", b"PAR1PAR1", ": cannot be read as Parquet", "write the file anew"),
    ("s.jsonl", b"PAR1", ": is a Parquet file", "name it .parquet"),
]


@pytest.mark.parametrize(("name", "content", "start", "remedy"), REFUSED, ids=[f"{row[0]}{row[2][:40]}" for row in REFUSED])
def test_refusals(tmp_path: Path, name: str, content: str | bytes, start: str, remedy: str) -> None:
    path = write(tmp_path, name, content)
    message = refusal(path)
    assert message.startswith(start.replace("{path}", str(path)))
    assert remedy in message


def test_first_problem_is_told_and_the_others_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path, "s.jsonl", PAIR + "7\n" + '{"prompt": "q", "response": ""}\n' + PAIR)
    assert refusal(path).startswith(":2: is the number 7")
    assert refusal(path).endswith("(and 2 more)")


def test_paths_that_are_no_readable_file(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "none.jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert "is not a regular file" in refusal(tmp_path / "pipe.jsonl")
    with pytest.raises(SeedError, match="cannot be read"):
        read_seeds("a\0b.jsonl")
    with pytest.raises(SeedError, match="cannot be read") as caught:
        read_seeds(tmp_path / ("x" * 300 + "\n.jsonl"))
    assert str(caught.value).isprintable()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_file_without_permission(tmp_path: Path) -> None:
    path = write(tmp_path, "s.jsonl", PAIR)
    path.chmod(0)
    assert "Permission denied" in refusal(path)


def test_too_large_files_are_refused_unread(tmp_path: Path) -> None:
    path = write(tmp_path, "s.jsonl", PAIR)
    os.truncate(path, 10 * 2**30)  # sparse
    assert "is larger than 64 MiB" in refusal(path)


def test_too_many_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfalign.seeds.tables.MAX_ROWS", 2_000)
    monkeypatch.setattr("selfalign.seeds.files.MAX_ROWS", 2_000)
    path = write(tmp_path, "s.csv", "prompt\n" + "\n".join(map(str, range(2_001))))
    assert refusal(path, response_required=False) == ": has more than 2,000 rows; keep fewer"
