"""The report's tables as CSV that a spreadsheet may open."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Table = tuple[Sequence[str], Iterable[Sequence[Any]]]
"""(names of the columns, rows)."""


def run_tables(run: Mapping[str, Any]) -> dict[str, Table]:
    rounds = run["rounds"]
    return {
        "verdict": (
            ("metric", "pretrained", "best", "difference", "low", "high", "p", "prompts", "verdict"),
            [
                [row[key] for key in ("name", "before", "after", "difference", "low", "high", "p", "n", "told")]
                for row in run["verdict"]["rows"]
            ],
        ),
        "metrics": (
            ("round", "metric", "value", "low", "high", "n"),
            [
                [row["round"], name, metric["value"], metric["low"], metric["high"], metric["n"]]
                for row in rounds
                for name, metric in row["metrics"].items()
            ],
        ),
        "yields": (
            ("round", "verdict", "rule", "count"),
            [
                each
                for row in rounds
                if row["candidates"]
                for each in (
                    [row["round"], "kept", "", row["kept"]],
                    *([row["round"], "dropped", rule, count] for rule, count in row["dropped"].items()),
                )
            ],
        ),
        "length": (
            ("round", "samples", "words p10", "median", "p90"),
            [[row["round"], row["n"], row["low"], row["median"], row["high"]] for row in run["lengths"]],
        ),
        "loss": (
            ("round", "step", "loss"),
            [[row["round"], step, loss] for row in rounds for step, loss in enumerate(row["losses"], 1)],
        ),
        "costs": (
            ("round", "what", "unit", "amount"),
            [
                each
                for row in rounds
                for each in (
                    *([row["round"], stage, "seconds", seconds] for stage, seconds in row["seconds"].items()),
                    *([row["round"], kind, "tokens", count] for kind, count in row["tokens"].items()),
                )
            ],
        ),
    }


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """CSV whose cells no spreadsheet takes for a formula: text that begins like one is led by an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")  # as RFC 4180 has it; a lone CR in a cell is quoted too
    writer.writerow(header)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return out.getvalue()


def _cell(value: Any) -> Any:
    """Numbers stay as they are (−0.5 is no formula), None is an empty cell."""
    return "'" + value if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
