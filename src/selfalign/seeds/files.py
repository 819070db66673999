"""Seed files of every format as rows that know their place in the file.

A cell that is text stays the text it was: "007", "1e5", "NA" and "2024-01-02" included. What the rows must hold is the
business of `read`.
"""

from __future__ import annotations

import csv
import io
import json
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from selfalign.errors import SeedError
from selfalign.seeds.parquet import read_parquet
from selfalign.seeds.rows import MAX_COLUMNS, MAX_FILE, MAX_ROWS, Malformed, Problem, Row, as_row, show
from selfalign.text import counted

_OTHER_CONTENT = {
    b"\x1f\x8b": "is compressed (gzip); unpack it first",
    b"PK\x03\x04": "is a zip archive or a spreadsheet; unpack it, or export the sheet as CSV (UTF-8)",
    b"\x28\xb5\x2f\xfd": "is compressed (zstd); unpack it first",
    b"PAR1": "is a Parquet file; name it .parquet",
    b"\xff\xfe": "is UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "is UTF-16 text; save it as UTF-8",
}


def read_rows(path: str | Path) -> Iterator[Row | Problem]:
    """Rows and problems of one file, in the file's order.

    Raises:
        SeedError: the file as a whole cannot be read: missing, too large, of another format …
    """
    path = Path(path)
    name = str(path) if str(path).isprintable() else repr(str(path))
    suffix = path.suffix.lower()
    if suffix not in (*_TEXTS, ".parquet"):
        several = ", ".join((*_TEXTS, ".parquet"))
        hint = "unpack it first" if suffix in (".gz", ".zip", ".zst", ".bz2", ".xz") else f"use one of {several}"
        raise SeedError(f"{name}: {f'unknown suffix {show(suffix)}' if suffix else 'a name without a suffix'}; {hint}")
    raw = _read(path, name)
    if not raw.strip():
        raise SeedError(f"{name}: the file is empty; it must hold at least one example")
    if suffix == ".parquet":
        return read_parquet(name, raw)
    return _at_most(MAX_ROWS, _TEXTS[suffix](name, _decoded(name, raw)), name)


def _read(path: Path, name: str) -> bytes:
    try:
        info = path.stat()
        if stat.S_ISDIR(info.st_mode):
            raise SeedError(f"{name}: is a folder; name one file in it")
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
    if (at := raw.find(b"\0")) >= 0:
        line = raw.count(b"\n", 0, at) + 1
        raise SeedError(f"{name}:{line}: holds a NUL byte, so it is UTF-16 or no text at all; save it as UTF-8 text")
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
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
        return Problem(at, f"not valid JSON at column {error.colno} ({error.msg}); {remedy}")
    except RecursionError:
        return Problem(where, "the JSON is nested too deeply; flatten it")
    except ValueError:
        return Problem(where, "holds a number of thousands of digits; put it in quotes")


def _jsonl(name: str, text: str) -> Iterator[Row | Problem]:
    """Only a line feed ends a line, so the numbers are those of any editor."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{name}:{number}"
            value = _parsed(where, line, "each line must be one object; a file that is one array is named .json")
            yield value if isinstance(value, Problem) else as_row(where, value)


def _json(name: str, text: str) -> Iterator[Row | Problem]:
    value = _parsed(name, text, "mend it there; a file with one object a line is named .jsonl")
    if isinstance(value, dict):
        arrays = [item for item in value.values() if isinstance(item, list)]
        if len(arrays) != 1:
            value = Problem(name, f"is an object with {len(arrays)} arrays; write one array of objects: [{{…}}, {{…}}]")
        else:
            value = arrays[0]
    if isinstance(value, list):
        yield from (as_row(f"{name} row {number}", item) for number, item in enumerate(value, start=1))
    else:
        yield value if isinstance(value, Problem) else as_row(name, value)


def _separated(separator: str) -> Callable[[str, str], Iterator[Row | Problem]]:
    """A reader of RFC 4180: fields in quotes or without any, quotes inside doubled, line breaks inside quotes kept."""

    def rows(name: str, text: str) -> Iterator[Row | Problem]:
        csv.field_size_limit(MAX_FILE)  # the module's own limit is 128 KiB; `read` has one that names the field
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        header, where = list[str](), f"{name}:1"
        try:
            for cells in reader:
                if not cells:
                    pass
                elif not header:
                    header = cells
                    if what := _unusable(header, separator):
                        yield Problem(where, what)
                        return
                elif len(cells) != len(header):
                    has = f"has {counted(len(cells), 'field')} where the header has {len(header)}"
                    yield Problem(where, f"{has}; quote fields that hold the separator")
                else:
                    yield Row(where, dict(zip(header, cells, strict=True)))
                where = f"{name}:{reader.line_num + 1}"
        except csv.Error as error:
            what = "is not valid CSV ({})".format(str(error).replace("\t", "\\t"))
            yield Problem(where, f"{what}; close each quote, and double the quotes inside a quoted field")

    return rows


def _unusable(header: list[str], separator: str) -> str:
    if len(header) == 1 and (other := next((mark for mark in ";,|\t" if mark in header[0]), "")):
        return f"has the single column {show(header[0])}; separate columns by {separator!r} instead of {other!r}"
    if len(header) > MAX_COLUMNS:
        return f"has {len(header)} columns; at most {MAX_COLUMNS} are read, so drop some"
    if "" in header:
        return f"column {header.index('') + 1} has no name; name it or remove it"
    if twice := next((column for column in header if header.count(column) > 1), None):
        return f"the column {show(twice)} stands twice in the header; remove or rename one"
    return ""


_TEXTS: dict[str, Callable[[str, str], Iterator[Row | Problem]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
}
