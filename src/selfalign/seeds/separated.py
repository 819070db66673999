"""The reader of CSV and TSV files, as programs and people write them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from typing import Any

from selfalign.seeds.names import is_known
from selfalign.seeds.rows import MAX_COLUMNS, MAX_FILE, Problem, Row, has_words, show
from selfalign.text import counted, is_finished

_WORDS = 5
"""Words of the longest name of a column (our own choice)."""
_INDEX = "Unnamed: 0"
"""What pandas calls the index column that it wrote without a name."""


def read_separated(name: str, text: str) -> Iterator[Row | Problem]:
    """Rows and problems of a table as RFC 4180 describes it: quotes inside quoted fields doubled, their line breaks kept.

    The separator is the one of comma, semicolon, tab and bar that cuts the header into most columns, or what Excel's first line
    `sep=;` says. Rows of empty cells alone are skipped, as are columns without a name or any content: Excel writes both. Where
    the header has a space behind its separators, those of the rows are no part of the text either.
    """
    if re.match(r'\s*(?:\[\s*)?\{\s*"', text):
        yield Problem(name, "holds JSON and no table; name it .jsonl")
        return
    csv.field_size_limit(MAX_FILE)  # the module's own limit is 128 KiB; `read` has one that names the field
    said = re.match(r'"?sep=(.)"?\r?\n', text)
    head = text[said.end() :].lstrip("\r\n") if said else text.lstrip("\r\n")
    first_line = re.split(r"[\r\n]", head, maxsplit=1)[0]
    mark = said[1] if said else max(",;\t|", key=lambda each: len(next(csv.reader([first_line], delimiter=each), [])))
    spaced = mark + " " in first_line and mark != "\t"
    skipped = text.count("\n", 0, len(text) - len(head))
    reader = csv.reader(io.StringIO(head, newline=""), delimiter=mark, strict=True, skipinitialspace=spaced)
    where = [f"{name}:{skipped + 1}"]

    def lines() -> Iterator[tuple[str, list[str]]]:
        for cells in reader:
            yield where[0], cells
            where[0] = f"{name}:{skipped + reader.line_num + 1}"

    try:
        yield from named(lines())
    except csv.Error as error:
        what = "is not valid CSV ({})".format(str(error).replace("\t", "\\t"))
        yield Problem(where[0], f"{what}; close each quote, and double the quotes inside a quoted field")


def named(lines: Iterator[tuple[str, list[Any]]]) -> Iterator[Row | Problem]:
    """The rows of a table by the names in its first row with content, and what is wrong with them.

    Args:
        lines: where each line stands, and its cells.
    """
    header = list[str]()
    for where, cells in lines:
        if not any(str(cell).strip() for cell in cells) and len(cells) <= MAX_COLUMNS:
            continue
        if header:
            is_header = sum(map(bool, header)) > 1 and list(map(str, cells)) == header  # of files put one behind the other
            yield Problem(where, "repeats the names of the columns; remove the line") if is_header else _row(where, header, cells)
            continue
        header = [_INDEX if number == 0 and cell == "" else str(cell) for number, cell in enumerate(cells)]
        if what := _unusable(header) or _no_names(header):
            yield Problem(where, what)
            return


def _row(where: str, header: list[str], cells: list[Any]) -> Row | Problem:
    while len(cells) > len(header) and cells[-1] == "":
        cells.pop()
    if len(cells) != len(header):
        has = f"has {counted(len(cells), 'field')} where the header has {len(header)}"
        return Problem(where, f"{has}; quote fields that hold the separator or a line break")
    if nameless := next((at for at, cell in enumerate(cells) if cell != "" and not header[at]), None):
        return Problem(where, f"column {nameless + 1} holds {show(str(cells[nameless]))} and has no name; name it or remove it")
    return Row(where, {column: cell for column, cell in zip(header, cells, strict=True) if column})


def _no_names(header: list[str]) -> str:
    """What is wrong where the first line is a title, a row as the others, or cut by no separator that is known."""
    if len(header) == 1 and sum(map(is_known, re.split(r"\W", header[0]))) > 1:
        return f"the first line, {show(header[0])}, is one column; separate columns by commas, semicolons, tabs or |"
    sentence = next((name for name in header if has_words(name, _WORDS + 1) or is_finished(name) or name.startswith("#")), "")
    if any(map(is_known, header)) or not (sentence or 2 * header.count("") >= len(header) > 1):
        return ""
    return f"the first line must name the columns, as in prompt,response, and holds {show(sentence or header[0])}"


def _unusable(header: list[str]) -> str:
    if len(header) > MAX_COLUMNS:
        return f"has {len(header)} columns; at most {MAX_COLUMNS} are read, so drop some"
    if twice := next((column for column in header if column and header.count(column) > 1), None):
        return f"the column {show(twice)} stands twice in the header; remove or rename one"
    return ""
