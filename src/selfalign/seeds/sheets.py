"""The reader of Excel's workbooks (.xlsx, .xlsm): the first sheet that is not hidden, its names of columns in the first row."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from selfalign.errors import SeedError
from selfalign.seeds.rows import MAX_COLUMNS, MAX_FILE, NoText, Problem, Row, listed
from selfalign.seeds.separated import named

_FORMULA = re.compile(rb"<(?:\w+:)?f[ />]")


def read_sheet(name: str, raw: bytes) -> Iterator[Row | Problem]:
    """Rows and problems of a workbook's first sheet. Texts are as they stand; numbers, dates and true or false are no texts to
    learn (`NoText`), as they may read otherwise on the screen. A cell merged over rows stands in each of them.

    Raises:
        SeedError: it is none, or too large.
        ModuleNotFoundError: openpyxl is not installed; the command line names the extra.
    """
    import openpyxl

    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as book:
            parts = [part for part in book.infolist() if part.filename.endswith((".xml", ".rels"))]
            if sum(part.file_size for part in parts) > MAX_FILE:
                raise SeedError(f"{name}: unpacks to more than {MAX_FILE // 2**20} MiB; keep fewer rows")
            calculates = any(_FORMULA.search(book.read(part)) for part in parts if "/worksheets/" in part.filename)
        sheets = openpyxl.load_workbook(io.BytesIO(raw), data_only=True).worksheets
        chosen = next((sheet for sheet in sheets if sheet.sheet_state == "visible"), sheets[0])
        written = openpyxl.load_workbook(io.BytesIO(raw)).worksheets if calculates else sheets  # the one has results alone
        formulas = written[sheets.index(chosen)]
        lines = [[_value(cell) for cell in row] for row in chosen.iter_rows(max_col=min(chosen.max_column, 4 * MAX_COLUMNS))]
    except SeedError:
        raise
    except Exception as error:  # of a damaged file the library may raise anything
        raise SeedError(f"{name}: cannot be read as a workbook ({error}); export the sheet as CSV (UTF-8)") from None
    for number, line in enumerate(lines, 1):
        for at, value in enumerate(line):
            if value == "" and (cell := formulas.cell(number, at + 1)).data_type == "f":
                what = "holds a formula without its result; open and save it in a spreadsheet program, or write the text there"
                raise SeedError(f"{name} row {number}: the cell {cell.coordinate} {what}")
    own = [any(value != "" for value in line) for line in lines]
    for area in chosen.merged_cells.ranges:  # a merged cell says to each of its rows what it shows
        shown = lines[area.min_row - 1][area.min_col - 1 : area.min_col]
        for number in range(area.min_row, min(area.max_row, len(lines))) if area.min_col == area.max_col else ():
            if own[number]:  # a header of two rows is one
                lines[number][area.min_col - 1 : area.min_col] = shown
    used = [at for at in range(chosen.max_column) if any(line[at : at + 1] not in ([], [""]) for line in lines)]
    rows = named((f"{name} row {number}", [line[at] for at in used]) for number, line in enumerate(lines, 1))
    others = [sheet.title for sheet in sheets if sheet is not chosen]
    note = f"the sheet {chosen.title!r}; {listed(others)} left out" if others else ""
    hidden = {f"{name} row {number}" for number, sizes in chosen.row_dimensions.items() if sizes.hidden}
    told = "hidden in the sheet, as by a filter, and read all the same"
    return (replace(row, note=told if row.where in hidden else note) if isinstance(row, Row) else row for row in rows)


def _value(cell: Any) -> str:
    value = "" if cell.value is None else cell.value
    return value if isinstance(value, str) else NoText(str(value).lower() if isinstance(value, bool) else value)
