"""The reader of Excel's workbooks (.xlsx, .xlsm): the first sheet that is not hidden, its names of columns in the first row."""

from __future__ import annotations

import io
import json
import posixpath
import re
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

from selfalign.errors import SeedError
from selfalign.seeds.rows import MAX_COLUMNS, MAX_FILE, Problem, Row, listed
from selfalign.seeds.separated import named

_ESCAPED = re.compile("_x([0-9A-Fa-f]{4})_")


def read_sheet(name: str, raw: bytes) -> Iterator[Row | Problem]:
    """Rows and problems of a workbook's first sheet. Texts are as they stand; numbers, dates (which are numbers) and true or
    false stay such values, so that none is taken for a text that reads otherwise on the screen.

    Raises:
        SeedError: it is none, or too large.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as book:
            if sum(part.file_size for part in book.infolist() if part.filename.endswith((".xml", ".rels"))) > MAX_FILE:
                raise SeedError(f"{name}: unpacks to more than {MAX_FILE // 2**20} MiB; keep fewer rows")
            sheets = [each for each in _parsed(book, "xl/workbook.xml").iter() if _tag(each) == "sheet"]
            shown = [each for each in sheets if each.get("state", "visible") == "visible"] or sheets
            links = {each.get("Id"): each.get("Target", "") for each in _parsed(book, "xl/_rels/workbook.xml.rels")}
            path = posixpath.join("/xl", links[next(value for key, value in shown[0].items() if key.endswith("}id"))])[1:]
            known = "xl/sharedStrings.xml" in book.namelist()
            texts = [_text(each) for each in _parsed(book, "xl/sharedStrings.xml")] if known else []
            lines = list(_lines(name, _parsed(book, path), texts))
    except (
        zipfile.BadZipFile,
        ElementTree.ParseError,
        KeyError,
        IndexError,
        ValueError,
        RuntimeError,
        OSError,
        StopIteration,
    ) as error:
        raise SeedError(f"{name}: cannot be read as a workbook ({error}); export the sheet as CSV (UTF-8)") from None
    width = max((len(cells) for _, cells in lines), default=0)
    filled = [(where, cells + [""] * (width - len(cells))) for where, cells in lines]
    used = [at for at in range(width) if any(cells[at] != "" for _, cells in filled)]
    rows = named((where, [cells[at] for at in used]) for where, cells in filled)
    others = [each.get("name", "") for each in sheets if each is not shown[0]]
    note = f"the sheet {shown[0].get('name')!r}; {listed(others)} left out" if others else ""
    return (replace(row, note=note) if isinstance(row, Row) else row for row in rows)


def _parsed(book: zipfile.ZipFile, path: str) -> ElementTree.Element:
    return ElementTree.fromstring(book.read(path))


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _text(element: ElementTree.Element) -> str:
    """The text of a cell, all its runs; not how it is pronounced."""
    runs = [each for child in element if _tag(child) != "rPh" for each in child.iter() if _tag(each) == "t"]
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), "".join(each.text or "" for each in runs))


def _lines(name: str, sheet: ElementTree.Element, texts: list[str]) -> Iterator[tuple[str, list[Any]]]:
    number = 0
    for row in (each for each in sheet.iter() if _tag(each) == "row"):
        number, cells = int(row.get("r", number + 1)), list[Any]()
        for cell in row:
            column = _place(cell.get("r", "")) or len(cells) + 1
            if column <= 4 * MAX_COLUMNS or _value(cell, texts) != "":
                cells += [""] * (column - 1 - len(cells)) + [_value(cell, texts)]
        yield f"{name} row {number}", cells


def _place(reference: str) -> int:
    """The number of a column, counted from 1, by the letters before its row; 0 where there are none."""
    place = 0
    for letter in re.match("[A-Z]{0,3}", reference)[0]:  # type: ignore[index]
        place = place * 26 + ord(letter) - ord("A") + 1
    return place


def _value(cell: ElementTree.Element, texts: list[str]) -> Any:
    kind, said = cell.get("t", "n"), next((each.text or "" for each in cell if _tag(each) == "v"), "")
    if kind == "inlineStr":
        return "".join(map(_text, (each for each in cell if _tag(each) == "is")))
    if kind in ("n", "b") and said:
        return bool(int(said)) if kind == "b" else json.loads(said)
    return texts[int(said)] if kind == "s" else said
