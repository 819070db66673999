"""Seed files of every format as rows that know their place in the file.

A cell that is text stays the text it was: "007", "1e5", "NA" and "2024-01-02" included. What the rows must hold is the
business of `read`.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfalign.errors import SeedError
from selfalign.seeds.data_sets import read_data_set
from selfalign.seeds.names import is_known, is_shared
from selfalign.seeds.packed import PACKED, unpacked
from selfalign.seeds.parquet import read_parquet
from selfalign.seeds.rows import (
    MAX_FILE,
    MAX_ROWS,
    Malformed,
    Problem,
    Row,
    as_row,
    has_words,
    is_conversation,
    listed,
    plain,
    show,
)
from selfalign.seeds.separated import read_separated
from selfalign.seeds.sheets import read_sheet

_OTHER_CONTENT = {
    b"SQLite format 3": "is a database; write its rows as .csv: sqlite3 -header -csv FILE 'SELECT * FROM …'",
    **dict.fromkeys((b"ARROW1", b"\xff\xff\xff\xff"), "is an Arrow file; write it as .parquet"),
    b"\xd0\xcf\x11\xe0": "is a workbook of the old form; export the sheet as CSV (UTF-8)",
    **dict.fromkeys((b"\xff\xfe\0\0", b"\0\0\xfe\xff"), "is UTF-32; save it as UTF-8"),
    b"BZh": "is compressed (bzip2); name it .bz2, as in seeds.jsonl.bz2",
    b"\xfd7zXZ": "is compressed (xz); name it .xz, as in seeds.jsonl.xz",
    b"\x1f\x8b": "is compressed (gzip); name it .gz, as in seeds.jsonl.gz",
    b"PK\x03\x04": "is a zip archive or a spreadsheet; name it .zip or .xlsx",
    b"\x28\xb5\x2f\xfd": "is compressed (zstd); name it .zst, as in seeds.jsonl.zst",
    b"PAR1": "is a Parquet file; name it .parquet",
}
_OTHER_SUFFIXES = {
    **dict.fromkeys((".xls", ".xlsb", ".ods", ".numbers"), "export the sheet as CSV (UTF-8), names of columns in row 1"),
    **dict.fromkeys(
        (".md", ".markdown", ".docx", ".doc", ".pdf", ".html", ".rtf"),
        "write the pairs into a table with the columns prompt and response, a .csv",
    ),
    ".txt": "rename it by what it holds: .jsonl for an object in each line, .csv or .tsv for a table with names of columns",
    **dict.fromkeys(
        (".jsonlines", ".jl", ".json5", ".jsonc"), "name it .jsonl or .json, without comments and commas at the ends"
    ),
    **dict.fromkeys((".arrow", ".feather", ".orc", ".avro"), "write it as .parquet"),
    **dict.fromkeys(
        (".toml", ".xml", ".py", ".pkl", ".sqlite", ".sqlite3", ".db"), "write its rows as .jsonl, an object in each line"
    ),
    ".tar": "unpack it and name one of its files",
}
"""What to do with files of other kinds, by suffix."""
_BYTES = {".parquet": read_parquet, ".xlsx": read_sheet, ".xlsm": read_sheet}
"""Readers of what is no text."""
_WORDS = 4
"""Words from which on a text next to the rows is no name (our own choice)."""
_MAX_YAML = 4 * 2**20
_YAML_REMEDY = "mend it there; a text with a colon, a # or a tab stands in quotes, and one document in a file"
_ON_HUB = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(?::[\w./-]+)?", re.ASCII)


def read_rows(path: str | Path) -> Iterator[Row | Problem]:
    """Rows and problems of one file or data set, in its order.

    Raises:
        SeedError: it cannot be read as a whole: missing, too large, of another format …
    """
    source = str(path)
    name = source if source.isprintable() else repr(source)
    suffixes = [suffix.lower() for suffix in Path(source).suffixes]
    packed = suffixes[-1] if suffixes and suffixes[-1] in PACKED else ""
    suffix = "".join(suffixes[-2:-1] if packed and packed != ".zip" else suffixes[-1:])
    folder, _, split = (source, "", "") if os.path.isdir(source) else source.rpartition(":")  # noqa: PTH112 (a name may be no path)
    if os.path.isdir(folder):  # noqa: PTH112
        return read_data_set(name, folder, split)
    if suffix not in (*_TEXTS, *_BYTES) and not packed and not os.path.lexists(source) and _ON_HUB.fullmatch(source):
        return read_data_set(name, *source.partition(":")[::2])
    if suffix not in (*_TEXTS, *_BYTES, ".zip"):
        hint = f"use one of {', '.join((*_TEXTS, *_BYTES))}, .gz behind it, or a folder or name of a data set"
        hint = _OTHER_SUFFIXES.get(suffix, hint)
        raise SeedError(f"{name}: {f'unknown suffix {show(suffix)}' if suffix else 'a name without a suffix'}; {hint}")
    raw = _read(Path(source), name)
    if packed:
        inner, raw = unpacked(name, raw, packed, (*_TEXTS, *_BYTES))
        suffix = Path(inner).suffix.lower() or suffix
    if not raw.strip():
        raise SeedError(f"{name}: the file is empty; it must hold at least one example")
    rows = _BYTES[suffix](name, raw) if suffix in _BYTES else _TEXTS[suffix](name, _decoded(name, raw))
    return _at_most(MAX_ROWS, rows, name)


def _read(path: Path, name: str) -> bytes:
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):  # opening a pipe could wait for ever
            raise SeedError(f"{name}: is not a regular file; save the rows to a file first")
        if info.st_size > MAX_FILE:
            raise SeedError(f"{name}: is larger than {MAX_FILE // 2**20} MiB; keep fewer rows")
        return path.read_bytes()
    except FileNotFoundError:
        raise SeedError(f"{name}: no such file; check the path") from None
    except SeedError:
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a possible path"
        raise SeedError(f"{name}: cannot be read ({reason}); check the path and its permissions") from None


def _decoded(name: str, raw: bytes) -> str:
    for magic, what in _OTHER_CONTENT.items():
        if raw.startswith(magic):
            raise SeedError(f"{name}: {what}")
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):  # what Excel calls "Unicode text"
        try:
            return raw.decode("utf-16")
        except UnicodeDecodeError:
            raise SeedError(f"{name}: begins as UTF-16 text and goes on as something else; save it as UTF-8") from None
    if (at := raw.find(b"\0")) >= 0:
        line = raw.count(b"\n", 0, at) + 1
        raise SeedError(f"{name}:{line}: holds a NUL byte, so it is UTF-16 or no text at all; save it as UTF-8 text")
    try:
        return raw.decode("utf-8").lstrip("\ufeff")
    except UnicodeDecodeError as error:
        line, byte = raw.count(b"\n", 0, error.start) + 1, f"byte {error.start} (0x{raw[error.start]:02x})"
        raise SeedError(f"{name}:{line}: {byte} is not UTF-8; save the file as UTF-8") from None


def _at_most(limit: int, items: Iterator[Row | Problem], name: str) -> Iterator[Row | Problem]:
    for number, item in enumerate(items):
        if number == limit:
            yield Problem(name, f"has more than {limit:,} rows; keep fewer")
            return
        yield item


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | Malformed:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        return Malformed(f"has the key {show(twice)} twice in one object; remove or rename one")
    return fields


def _constant(name: str) -> float | None:
    return None if name == "NaN" else float(name)  # what is missing in a table of pandas comes as NaN


def _parsed(where: str, text: str, remedy: str) -> Any:
    """The JSON value, or a `Problem`."""
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except json.JSONDecodeError as error:
        at = f"{where}:{error.lineno}" if "\n" in text else where
        return Problem(at, f"not valid JSON at column {error.colno} ({error.msg}); {_json_remedy(error, text) or remedy}")
    except RecursionError:
        return Problem(where, "the JSON is nested too deeply; flatten it")
    except ValueError:
        return Problem(where, "holds a number of thousands of digits; put it in quotes")


_IN_JSON = {
    "Unterminated string": r"where a text goes on in the next line, write its line break as \n",
    "Invalid control character": r"write line breaks and tabs inside a text as \n and \t",
    "Invalid \\": r"write a backslash inside a text as two: \\",
    "Expecting ',' delimiter": r"a quote inside a text is written as \", and commas stand between fields",
}


def _json_remedy(error: json.JSONDecodeError, text: str) -> str:
    """What people write that is no JSON, with what to do; "" for anything else."""
    rest = text[error.pos :].lstrip()
    if not rest and text.strip() != "{":
        return "the end is missing; close the bracket there, or write the file anew"
    if (known := next((what for begins, what in _IN_JSON.items() if error.msg.startswith(begins)), "")) and text.strip() != "{":
        return known
    if rest.startswith(("True", "False", "None")):
        return "write true, false and null, as JSON has them"
    if error.msg == "Extra data":
        return (
            "remove the comma behind the object"
            if rest[:1] == ","
            else "write each object on a line of its own, as `jq -c .` does"
        )
    if text.strip() == "{":
        return "each line must be one object, and this one goes on in the next; `jq -c .` writes each on one"
    if rest.startswith(("#", "//", "/*")):
        return "JSON has no comments; remove them"
    if "trailing comma" in error.msg or (rest[:1] in ("]", "}") and text[: error.pos].rstrip()[-1:] == ","):
        return "remove the comma before the bracket"
    if rest[:1] in ("'", "“", "”", "`") or ("property name" in error.msg and rest[:1].isalpha()):
        return "write names and texts in straight double quotes"
    return ""


def _jsonl(name: str, text: str) -> Iterator[Row | Problem]:
    """Only a line feed ends a line, so the numbers are those of any editor. A file that is one array is read as one."""
    if text.lstrip().startswith("["):
        array = _parsed(name, text, "mend it there")
        if isinstance(array, list) or text.split(maxsplit=1)[0] == "[":
            yield from _table(name, array)
            return
    for number, line in enumerate(text.replace("\n\ufeff", "\n").split("\n"), start=1):  # where files were put together
        if line.strip():
            where = f"{name}:{number}"
            value = _parsed(where, line, "each line must be one object; an array is named .json, a table .csv")
            yield value if isinstance(value, Problem) else as_row(where, value)


def _json(name: str, text: str) -> Iterator[Row | Problem]:
    """One array, or an object in each line, as `datasets` writes this suffix too."""
    first, _, rest = text.strip().partition("\n")
    if rest and isinstance(_parsed(name, first, ""), dict):
        return _jsonl(name, text)
    return _table(name, _parsed(name, text, "mend it there; a file with one object a line is named .jsonl"))


def _yaml(name: str, text: str) -> Iterator[Row | Problem]:
    """YAML with a list of examples, such as InstructLab's qna.yaml. What is not text there must be put in quotes."""
    import yaml

    if len(text) > _MAX_YAML:
        return iter([Problem(name, f"is larger than {_MAX_YAML // 2**20} MiB, which takes long to read; write it as JSONL")])
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            return iter([Problem(name, "repeats a part by its name (*name), which a few bytes can blow up; write it out")])
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if twice := _key_twice(root):
            what = f"has the key {show(twice.value)} twice; remove or rename one"
            return iter([Problem(f"{name}:{twice.start_mark.line + 1}", what)])
        blocks, cut = _without_last_break(root), list(_comments(root, text))
        value = plain(loader.construct_document(root)) if root else None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or "it cannot be parsed"
        return iter([Problem(f"{name}:{mark.line + 1}" if mark else name, f"not valid YAML ({what}); {_YAML_REMEDY}")])
    note = "a block of text (| or >) without the line break at its end, which YAML adds" if blocks else ""
    if cut:
        lines = f"line {cut[0]}{' and others' if cut[1:] else ''}"
        note = f"what follows a # behind a text ({lines}) is a comment and left out; quotes keep it"
    return (replace(row, note=row.note or note) if isinstance(row, Row) else row for row in _table(name, value))


def _inside(node: Any) -> list[Any]:
    return [] if isinstance(node.value, str) else [each for it in node.value for each in (it if isinstance(it, tuple) else (it,))]


def _key_twice(node: Any) -> Any:
    """A key that stands in its object before, as YAML forbids and its readers overlook; None where there is none."""
    met = set[str]()
    for key, _ in (pair for pair in (node.value if node else ()) if isinstance(pair, tuple)):
        if isinstance(key.value, str) and (key.value in met or met.add(key.value)):  # type: ignore[func-returns-value]
            return key
    return next((found for each in (_inside(node) if node else ()) if (found := _key_twice(each))), None)


def _comments(node: Any, text: str) -> Iterator[int]:
    """The lines where a comment follows a text without quotes: it may be meant as its end."""
    if node and isinstance(node.value, str) and node.style is None:
        behind = text[node.end_mark.index :].partition("\n")[0]
        if re.match(r"[ \t]*#", behind) and has_words(node.value, 2):
            yield node.end_mark.line + 1
    for each in _inside(node) if node else ():
        yield from _comments(each, text)


def _without_last_break(node: Any) -> bool:
    """Takes the line break off the ends of block texts: it ends a line of the file, and no answer. Whether any had one."""
    if isinstance(node.value if node else "", str):
        is_block = node is not None and node.style in ("|", ">") and node.value.endswith("\n") and not node.value.endswith("\n\n")
        if is_block:
            node.value = node.value[:-1]
        return is_block
    return sum(map(_without_last_break, _inside(node))) > 0


def _table(name: str, value: Any) -> Iterator[Row | Problem]:
    """The rows of a parsed file: an array of objects or pairs, an object that holds one, or columns as pandas writes them."""
    shared, note = dict[str, Any](), ""
    if isinstance(value, dict):
        value = _from_columns(_inmost(value))
    if isinstance(value, dict):
        texts = {key: each for key, each in value.items() if isinstance(each, str) and each.strip()}
        shared = {key: each for key, each in texts.items() if is_shared(key)}
        others = [key for key, each in texts.items() if key not in shared and has_words(each, _WORDS)]
        found = _array(name, value)
        shared, others, value = ({}, [], value) if found is value else (shared, others, found)
        told = ((shared, "taken into each of them"), (others, "left out; name it system if all answers depend on it"))
        note = "; ".join(f"{listed(names)}, next to the rows in the file, {what}" for names, what in told if names)
    if isinstance(value, dict) and (pairs := _named_by_prompt(value)):
        value, note = pairs, "a prompt and its response each, read from the names in an object and their texts"
    if isinstance(value, list):
        for number, item in enumerate(_from_lists(value), start=1):
            row = as_row(f"{name} row {number}", item)
            yield replace(row, fields={**shared, **row.fields}, note=note) if isinstance(row, Row) else row
    else:
        yield value if isinstance(value, Problem) else as_row(name, value)


def _inmost(value: dict[str, Any]) -> dict[str, Any]:
    """The object with the arrays, where it stands alone in another one, as {"data": {"rows": […]}}."""
    inside = [each for each in value.values() if isinstance(each, dict | list)]
    if len(inside) != 1 or not isinstance(inside[0], dict) or any(map(is_known, value)):
        return value
    inner = _inmost(inside[0])
    return inner if any(isinstance(each, list) for each in inner.values()) else value


def _array(name: str, value: dict[str, Any]) -> Any:
    """The one array of rows in an object; the object itself where it is a row; else what is wrong with it."""
    arrays = {key: item for key, item in value.items() if isinstance(item, list)}
    if {"features", "rows"} <= arrays.keys():  # what the hub's viewer gives
        arrays = {"rows": arrays["rows"]}
    of_rows = {key: item for key, item in arrays.items() if any(isinstance(each, dict | list) for each in item)}
    if any(map(is_conversation, arrays.values())) or (not of_rows and (any(map(is_known, value)) or _named_by_prompt(value))):
        return value
    arrays = of_rows or arrays
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    names, remedy = f" ({listed(arrays)})" if arrays else "", "write one array of objects: [{…}, {…}]"
    if arrays:
        jq = f", as `jq .{key}` does" if (key := next(iter(arrays))).isidentifier() else ""
        remedy = f"keep one of them{jq}; a test set goes to --held_out"
    return Problem(name, f"is an object with {len(arrays)} arrays{names}; {remedy}")


def _named_by_prompt(value: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of {"Why …?": "So.", …}: sentences as the names of texts."""
    is_such = len(value) > 1 and all(isinstance(each, str) and not is_known(key) for key, each in value.items())
    sentences = [key for key in value if len(key.split()) > 1 or not key.isascii()]
    return [{"prompt": key, "response": each} for key, each in value.items()] if is_such and len(sentences) == len(value) else []


def _from_lists(value: list[Any]) -> list[Any]:
    """Rows out of lists of cells where the first one names the columns; anything else as it is."""
    if len(value) < 2 or not all(isinstance(row, list) and len(row) == len(value[0]) for row in value):
        return value
    names = [name for name in value[0] if isinstance(name, str) and is_known(name)]
    return [dict(zip(map(str, value[0]), row, strict=True)) for row in value[1:]] if names else value


def _from_columns(table: dict[str, Any]) -> Any:
    """Rows out of {"prompt": {"0": …}}, {"0": {"prompt": …}}, {"prompt": […]} or {"columns": …, "data": …}; any other object
    as it is. The names of rows are their ids, but for numbers, which count them."""
    columns, several = list(table.values()), len(table) > 1
    if isinstance(names := table.get("columns"), list) and isinstance(data := table.get("data"), list):
        rectangular = all(isinstance(cells, list) and len(cells) == len(names) for cells in data)
        return [dict(zip(map(str, names), cells, strict=True)) for cells in data] if rectangular else table
    if several and all(isinstance(column, dict) for column in columns) and not any(map(is_known, table)):
        return [{**row, **({} if key.isdigit() or "id" in row else {"id": key})} for key, row in table.items()]
    if several and all(isinstance(column, dict) and column.keys() == columns[0].keys() for column in columns):
        return [{name: column[key] for name, column in table.items()} for key in columns[0]]
    texts = several and all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns)
    if texts and not any(isinstance(cell, dict) for column in columns for cell in column):
        return [dict(zip(table, cells, strict=True)) for cells in zip(*columns, strict=True)]
    return table


_TEXTS: dict[str, Callable[[str, str], Iterator[Row | Problem]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": read_separated,
    ".tsv": read_separated,
    ".yaml": _yaml,
    ".yml": _yaml,
}
