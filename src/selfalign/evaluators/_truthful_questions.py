"""The questions of TruthfulQA, from a table as its authors publish it."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

from selfalign.errors import UserError
from selfalign.seeds.rows import listed, show

_COLUMNS = ("Question", "Best Answer", "Correct Answers", "Incorrect Answers")


@dataclass(frozen=True)
class Question:
    """A row of the file. Answers are trimmed and end in a full stop, as the official code does it."""

    id: str
    """From the question's SHA-256, so it is the same in every edition and selection."""
    text: str
    best: str
    correct: tuple[str, ...]
    incorrect: tuple[str, ...]


def read_questions(path: str) -> list[Question]:
    """The questions of a table with the columns Question, Best Answer, Correct Answers and Incorrect Answers; the last two hold
    answers separated by semicolons. Other columns are not used. Editions differ (817 questions once, 790 now).

    Raises:
        UserError: no such file, a column is missing, a cell is empty, or a question comes twice; with its line.
    """
    if not path.lower().endswith((".csv", ".tsv")):
        raise UserError(f"{path}: is not a .csv or .tsv file; give a table in TruthfulQA's format")
    found: dict[str, tuple[Question, int]] = {}
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file, delimiter="\t" if path.lower().endswith(".tsv") else ",")
            columns, line = table.fieldnames or (), 2
            if missing := [name for name in _COLUMNS if name not in columns]:
                what = f"has no column {listed(missing)} among {listed(columns)}; rename or add it (TruthfulQA's format)"
                raise UserError(f"{path}:1: {what}")
            for row in table:
                question = _question({name: (row[name] or "").strip() for name in _COLUMNS}, f"{path}:{line}")
                if question.id in found:
                    raise UserError(f"{path}:{line}: the question is that of line {found[question.id][1]}; remove one")
                found[question.id], line = (question, line), table.line_num + 1
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        what = "no such file; check the path" if isinstance(error, FileNotFoundError) else f"cannot be read as a table: {error}"
        raise UserError(f"{path}: {what}") from None
    if not found:
        raise UserError(f"{path}: has no rows; it must hold at least one question")
    return [question for question, _ in found.values()]


def _question(cells: dict[str, str], where: str) -> Question:
    text, best, *several = cells.values()
    correct, incorrect = (tuple(_closed(each) for one in cell.split(";") if (each := one.strip())) for cell in several)
    for name, cell in zip(_COLUMNS, (text, best, correct, incorrect), strict=True):
        if not cell:
            raise UserError(f"{where}: column {show(name)} holds nothing; fill it in or remove the row")
    id = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return Question(f"truthfulqa-{id[:16]}", text, _closed(best), correct, incorrect)


def _closed(text: str) -> str:
    return text if text.endswith(".") else text + "."
