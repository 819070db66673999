"""A table or figure of a paper: what it says of itself, and how it is written with the paper's figures beside ours."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from papers.kit import Kit

Figures = Mapping[str, Mapping[str, float]]
"""Row, column, the figure that stands there."""


@dataclass(frozen=True)
class Cell:
    """One figure of ours, in the paper's unit, with its 95 % interval over prompts, and random seeds where there are several."""

    row: str
    column: str
    value: float
    low: float = math.nan
    """NaN, with `high`, for a plain count."""
    high: float = math.nan
    n: int = 0
    """Prompts behind it."""
    runs: int = 1
    """Random seeds behind it."""


@dataclass(frozen=True)
class Table:
    """A file `papers/<paper>/<table>.py` holds one, as `TABLE`."""

    title: str
    paper: Figures
    """The paper's own figures, row by row: rows begin with a model's short name."""
    source: str
    """Where they stand: in the paper, or in what its authors published with it."""
    models: Mapping[str, str]
    """Short name and hub name of the models in it; `--model` takes either, or SHORT=FOLDER."""
    fill: Callable[[Kit], Iterable[Cell]]
    """Makes the data, runs what is not yet run, and gives our figures."""
    needs: tuple[str, ...] = ()
    """Files and folders it reads, by their names in `--data`; see `kit.NEEDS`."""
    unit: str = "%"
    digits: int = 1
    notes: tuple[str, ...] = ()
    """What a reader must know before comparing."""


def as_json(name: str, table: Table, cells: Sequence[Cell], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The table as plain data; figures that nobody has are null."""
    rows = [
        {
            **{key: None if isinstance(value, float) and math.isnan(value) else value for key, value in asdict(cell).items()},
            "paper": table.paper.get(cell.row, {}).get(cell.column),
        }
        for cell in cells
    ]
    return {
        "table": name,
        "title": table.title,
        "unit": table.unit,
        **facts,
        "source_of_the_papers_figures": table.source,
        "notes": list(table.notes),
        "cells": rows,
    }


def as_markdown(name: str, table: Table, cells: Sequence[Cell], facts: Mapping[str, Any]) -> str:
    """The table with the paper's figure behind ours in each cell."""
    ours = dict.fromkeys(cell.column for cell in cells)
    columns = [*(name for name in dict.fromkeys(chain(*table.paper.values())) if name in ours)]
    columns += [name for name in ours if name not in columns]
    found = {(cell.row, cell.column): cell for cell in cells}
    lines = [f"# {name}: {table.title}", "", f"Ours [95 % interval], then the paper's; in {table.unit}.", ""]
    lines += [f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for row in dict.fromkeys(cell.row for cell in cells):
        figures = [_both(table, found.get((row, column)), table.paper.get(row, {}).get(column)) for column in columns]
        lines.append(f"| {row} | {' | '.join(figures)} |")
    told = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in facts.items())
    lines += ["", f"- Ours: {told}.", f"- The paper's figures: {table.source}.", *(f"- {note}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def _both(table: Table, cell: Cell | None, published: float | None) -> str:
    form = f"{{:.{table.digits}f}}"
    theirs = "paper –" if published is None else f"paper {form.format(published)}"
    if cell is None:
        return f"– · {theirs}"
    value, low, high = (form.format(each).replace("nan", "?") for each in (cell.value, cell.low, cell.high))
    return f"{value}{'' if math.isnan(cell.low) else f' [{low}, {high}]'} · {theirs}"
