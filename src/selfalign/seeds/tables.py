"""Examples that are in memory already: a data frame, a data set, a list of rows. Each row is checked as one of a file is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from selfalign.errors import SeedError
from selfalign.seeds.rows import MAX_ROWS, Problem, Row, as_row, listed, plain

NAME = "table"
"""How messages call it: it has no file."""


class Frame(Protocol):
    """A data frame of pandas or polars."""

    @property
    def columns(self) -> Any: ...


Table = Iterable[Mapping[str, Any]] | Frame
"""What `datasets` calls a data set is the former."""


def table_rows(table: Any) -> Iterator[Row | Problem]:
    """The rows of a table, counted from 1. Raises SeedError: it is none, it has several splits, or two columns of one name."""
    if isinstance(table, Mapping):
        if len(table) != 1:
            raise SeedError(f"{NAME}: has several splits ({listed(map(str, table))}); give one of them")
        table = next(iter(table.values()))
    for number, row in enumerate(_rows(table), 1):
        if number > MAX_ROWS:
            raise SeedError(f"{NAME}: has more than {MAX_ROWS:,} rows; keep fewer")
        yield as_row(f"{NAME} row {number}", plain(_python(row)) if isinstance(row, Mapping) else row)


def _rows(table: Any) -> Iterable[Any]:
    columns = [str(column) for column in getattr(table, "columns", ())]
    if twice := [name for name in dict.fromkeys(columns) if columns.count(name) > 1]:
        raise SeedError(f"{NAME}: has several columns of the name {twice[0]!r}; keep one of them")
    if hasattr(table, "to_dicts"):  # polars
        return list(table.to_dicts())
    if hasattr(table, "to_dict") and columns:
        return list(table.to_dict("records"))
    if isinstance(table, (bytes, str)) or not isinstance(table, Iterable):
        raise SeedError(f"{NAME}: is {type(table).__name__}; give a file, a data frame, a data set, or a list of rows")
    return table


def _python(value: Any) -> Any:
    """Without the number types of numpy, and None for what pandas has in place of a missing value."""
    if isinstance(value, Mapping):
        return {name: _python(each) for name, each in value.items()}
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if hasattr(value, "tolist"):  # an array, or one number of numpy
        value = value.tolist()
    return [_python(each) for each in value] if isinstance(value, (list, tuple)) else value
