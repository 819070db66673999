"""Seed files of every format as rows that know their place in the file. Nothing is guessed, converted or trimmed.

A cell that is text stays the text it was: "007", "1e5", "NA" and "2024-01-02" included. All limits are checked before the
memory they guard is spent. What the rows must hold is the business of `seeds`.
"""

from __future__ import annotations

import io
import json
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from selfalign.errors import SeedError
from selfalign.seeds.parquet import read_parquet
from selfalign.seeds.rows import (
    MAX_COLUMNS,
    MAX_FILE,
    MAX_RECORD,
    MAX_ROWS,
    MAX_VALUES,
    Item,
    JsonNumber,
    Malformed,
    Problem,
    Row,
    checked_header,
    kind,
    show,
)
from selfalign.text import counted

_OTHER_CONTENT = {
    b"\x1f\x8b": "is compressed (gzip); unpack it first",
    b"PK\x03\x04": "is a zip archive or a spreadsheet; unpack it, or export the sheet as CSV (UTF-8)",
    b"\x28\xb5\x2f\xfd": "is compressed (zstd); unpack it first",
    b"PAR1": "is a Parquet file; name it .parquet",
    b"\xff\xfe": "is UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "is UTF-16 text; save it as UTF-8",
}


def read_rows(path: str | Path) -> Iterator[Item]:
    """Header (of a tabular file), rows and problems of one file, in the file's order.

    Raises:
        SeedError: the file as a whole cannot be read: missing, too large, of another format …
    """
    path = Path(path)
    name = str(path) if str(path).isprintable() else repr(str(path))
    suffix = path.suffix.lower()
    if suffix not in _FORMATS:
        hint = "unpack it first" if suffix in (".gz", ".zip", ".zst", ".bz2", ".xz") else f"use one of {', '.join(_FORMATS)}"
        raise SeedError(f"{name}: {f'unknown suffix {show(suffix)}' if suffix else 'a name without a suffix'}; {hint}")
    raw = _read(path, name)
    if not raw.strip():
        raise SeedError(f"{name}: the file is empty; it must hold at least one example")
    for magic, what in _OTHER_CONTENT.items():
        if raw.startswith(magic) and suffix != ".parquet":
            raise SeedError(f"{name}: {what}")
    return _at_most(MAX_ROWS, _FORMATS[suffix](name, raw.removeprefix(b"\xef\xbb\xbf")), name)


def _read(path: Path, name: str) -> bytes:
    try:
        info = path.stat()
        if stat.S_ISDIR(info.st_mode):
            raise SeedError(f"{name}: is a folder; name one file in it")
        if not stat.S_ISREG(info.st_mode):  # opening a pipe could wait for ever
            raise SeedError(f"{name}: is not a regular file; save the rows to a file first")
        with path.open("rb") as file:
            raw = b"" if info.st_size > MAX_FILE else file.read(MAX_FILE + 1)
    except FileNotFoundError:
        raise SeedError(f"{name}: no such file; check the path") from None
    except SeedError:
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a possible path"
        raise SeedError(f"{name}: cannot be read ({reason}); check the path and its permissions") from None
    if info.st_size > MAX_FILE or len(raw) > MAX_FILE:
        raise SeedError(f"{name}: is larger than {MAX_FILE // 2**20} MiB; keep fewer rows")
    return raw


def _at_most(limit: int, items: Iterator[Item], name: str) -> Iterator[Item]:
    rows = 0
    for item in items:
        rows += isinstance(item, Row)
        if rows > limit:
            yield Problem(name, f"has more than {limit:,} rows; keep fewer")
            return
        yield item


def _lines(name: str, raw: bytes) -> Iterator[tuple[str, str | Problem]]:
    """Each line with its place; only a line feed ends one, so the numbers are those of any editor."""
    offset = 0
    for number, line in enumerate(io.BytesIO(raw), start=1):
        where = f"{name}:{number}"
        if len(line) > MAX_RECORD:
            yield where, Problem(where, f"the line is longer than {MAX_RECORD // 2**20} MiB; shorten it")
        elif b"\0" in line:
            yield where, Problem(where, "holds a NUL byte, so it is UTF-16 or no text at all; save it as UTF-8 text")
        else:
            try:
                yield where, line.decode("utf-8")
            except UnicodeDecodeError as error:
                byte = f"byte {offset + error.start} (0x{line[error.start]:02x})"
                yield where, Problem(where, f"{byte} is not UTF-8; save the file as UTF-8")
        offset += len(line)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | Malformed:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        return Malformed(f"has the key {show(twice)} twice in one object; remove or rename one")
    return fields


def _constant(name: str) -> Malformed:
    return Malformed(f"holds {name}, which is not a JSON value; write null or put it in quotes")


_JSON = json.JSONDecoder(object_pairs_hook=_object, parse_int=JsonNumber, parse_float=JsonNumber, parse_constant=_constant)


def _parse_json(text: str, remedy: str) -> Any:
    if text.count(",") + text.count("[") + text.count("{") > MAX_VALUES:  # an upper bound that costs no memory
        raise Malformed(f"may hold more than {MAX_VALUES:,} values; split the file")
    try:
        return _JSON.decode(text)
    except json.JSONDecodeError as error:
        raise Malformed(f"not valid JSON at column {error.colno} ({error.msg}); {remedy}", error.lineno) from None
    except RecursionError:
        raise Malformed("the JSON is nested too deeply; flatten it") from None


def _json_row(where: str, value: Any) -> Row | Problem:
    if isinstance(value, Malformed):
        return Problem(where, str(value))
    if not isinstance(value, dict):
        return Problem(where, f'is {kind(value)}, not an object; write {{"prompt": …, "response": …}}')
    if len(value) > MAX_COLUMNS:
        return Problem(where, f"has {len(value)} fields; at most {MAX_COLUMNS} are read, so drop some")
    return Row(where, value)


def _jsonl(name: str, raw: bytes) -> Iterator[Item]:
    for where, line in _lines(name, raw):
        if isinstance(line, Problem):
            yield line
        elif line.strip():
            try:
                yield _json_row(where, _parse_json(line, "each line must be one object; a file that is one array is named .json"))
            except Malformed as error:
                yield Problem(where, str(error))


def _json(name: str, raw: bytes) -> Iterator[Item]:
    try:
        text = raw.decode("utf-8")
        value = _parse_json(text, "mend it there; a file with one object a line is named .jsonl")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        yield Problem(f"{name}:{line}", f"byte {error.start} (0x{raw[error.start]:02x}) is not UTF-8; save the file as UTF-8")
        return
    except Malformed as error:
        yield Problem(f"{name}:{error.line}" if error.line else name, str(error))
        return
    if isinstance(value, dict):
        arrays = [item for item in value.values() if isinstance(item, list)]
        if len(arrays) != 1:
            yield Problem(name, f"is an object with {len(arrays)} arrays; write one array of objects: [{{…}}, {{…}}]")
            return
        value = arrays[0]
    if not isinstance(value, list):
        yield _json_row(name, value)
        return
    for number, item in enumerate(value, start=1):
        yield _json_row(f"{name} row {number}", item)


def _records(name: str, raw: bytes) -> Iterator[tuple[str, str | Problem]]:
    """CSV records with the place where each begins. Where quotes are used as they must be, a whole record has an even number."""
    start, lines, length, is_open = "", list[str](), 0, False
    for where, line in _lines(name, raw):
        if isinstance(line, Problem):
            yield where, line
            return
        start = start if lines else where
        lines.append(line)
        length += len(line)
        is_open ^= line.count('"') % 2 == 1
        if length > MAX_RECORD:
            break
        if not is_open:
            yield start, "".join(lines).removesuffix("\n").removesuffix("\r")
            lines, length = [], 0
    if lines:
        what = f"a quote opened in this record is not closed within {MAX_RECORD // 2**20} MiB"
        yield start, Problem(start, f"{what}; close it, and double the quotes inside it")


def _separated(separator: str) -> Callable[[str, bytes], Iterator[Item]]:
    """A reader of RFC 4180: fields in quotes or without any, quotes inside doubled, line breaks inside quotes kept."""
    field = re.compile(rf'"((?:[^"]++|"")*+)"|([^"\r{separator}]*+)')

    def cells(record: str) -> list[str]:
        found, position = [], 0
        while True:
            match = field.match(record, position)
            assert match is not None  # the pattern matches the empty text
            quoted, plain = match.groups()
            found.append(plain if quoted is None else quoted.replace('""', '"'))
            position = match.end() + 1
            if position > len(record):
                return found
            if len(found) > MAX_COLUMNS:
                raise Malformed(f"has more than {MAX_COLUMNS} columns; drop some")
            if record[position - 1] == "\r":
                raise Malformed("a bare carriage return stands outside quotes; save the file with LF or CRLF line ends")
            if record[position - 1] != separator:
                raise Malformed("a quote stands amid a field; quote the whole field and double the quotes inside it")

    def rows(name: str, raw: bytes) -> Iterator[Item]:
        header: list[str] | None = None
        for where, record in _records(name, raw):
            if isinstance(record, Problem):
                yield record
                return
            if not record:
                continue
            try:
                values = cells(record)
            except Malformed as error:
                yield Problem(where, str(error))
                if header is None:
                    return
                continue
            if header is None:
                header = values
                yield (first := _one_column(where, values, separator) or checked_header(where, values))
                if isinstance(first, Problem):
                    return
            elif len(values) != len(header):
                has = f"has {counted(len(values), 'field')} where the header has {len(header)}"
                yield Problem(where, f"{has}; quote fields that hold the separator")
            else:
                yield Row(where, dict(zip(header, values, strict=True)))

    return rows


def _one_column(where: str, names: list[str], separator: str) -> Problem | None:
    if len(names) == 1 and (other := re.search(r"[;,|\t]", names[0])):
        what = f"has the single column {show(names[0])}"
        return Problem(where, f"{what}; separate columns by {separator!r} instead of {other.group()!r}")
    return None


_FORMATS: dict[str, Callable[[str, bytes], Iterator[Item]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".parquet": read_parquet,
}
