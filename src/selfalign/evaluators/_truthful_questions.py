"""The questions of TruthfulQA, from a table as its authors publish it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from selfalign.evaluators._rows import read
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
    ids: list[str] = []

    def question(fields: Mapping[str, Any]) -> Question:
        made = _question(fields)
        if made.id in ids:
            raise ValueError(f"the question is that of row {ids.index(made.id) + 1}; remove one")
        ids.append(made.id)
        return made

    return read(path, question)


def _question(fields: Mapping[str, Any]) -> Question:
    if missing := [name for name in _COLUMNS if name not in fields]:
        raise ValueError(f"has no column {listed(missing)} among {listed(fields)}; rename or add it (TruthfulQA's format)")
    text, best, *several = (str(fields[name] or "").strip() for name in _COLUMNS)
    correct, incorrect = (tuple(_closed(each) for one in cell.split(";") if (each := one.strip())) for cell in several)
    for name, cell in zip(_COLUMNS, (text, best, correct, incorrect), strict=True):
        if not cell:
            raise ValueError(f"column {show(name)} holds nothing; fill it in or remove the row")
    id = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return Question(f"truthfulqa-{id[:16]}", text, _closed(best), correct, incorrect)


def _closed(text: str) -> str:
    return text if text.endswith(".") else text + "."
