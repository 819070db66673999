"""The questions of TruthfulQA, from a table as its authors publish it or from a data set of the Hugging Face hub."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfalign.errors import UserError
from selfalign.models.names import may_be_on_hub
from selfalign.seeds.files import read_rows
from selfalign.seeds.rows import Problem, listed, show

_COLUMNS = ("Question", "Best Answer", "Correct Answers", "Incorrect Answers")
_FIELDS = ("question", "best_answer", "correct_answers", "incorrect_answers")
"""What the hub's data set calls the columns."""
_CONFIGURATION, _SPLIT = "generation", "validation"
"""Where the hub's data set has its questions; another one may have a single configuration and split of other names."""
_OTHER_FILES = (".json", ".jsonl", ".parquet", ".txt", ".xlsx", ".zip")

_Cells = tuple[str, str, tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True)
class Question:
    """A row of the file. Answers are trimmed and end in a full stop, as the official code does it."""

    id: str
    """From the question's SHA-256, so it is the same in every edition and selection."""
    text: str
    best: str
    correct: tuple[str, ...]
    incorrect: tuple[str, ...]


def read_questions(source: str) -> list[Question]:
    """The questions of a table with the columns Question, Best Answer, Correct Answers and Incorrect Answers, or of a data set.

    In a table the last two hold answers separated by semicolons. In a data set (a folder, or the hub's name of one, which is
    downloaded once) the columns are question, best_answer, correct_answers and incorrect_answers, the last two lists; of its
    configurations "generation" is read where there is one, of its splits "validation" or the only one. Other columns are not
    used.

    Raises:
        UserError: no such file or data set, a column is missing, a cell is empty, or a question comes twice; with its place.
    """
    table = source.lower().endswith((".csv", ".tsv"))
    found: dict[str, tuple[Question, str]] = {}
    for where, cells in _of_table(source) if table else _of_data_set(source):
        for name, cell in zip(_COLUMNS if table else _FIELDS, cells, strict=True):
            if not cell:
                raise UserError(f"{where}: column {show(name)} holds nothing; fill it in or remove the row")
        question = _question(*cells)
        if question.id in found:
            raise UserError(f"{where}: the question is that of {found[question.id][1]}; remove one")
        found[question.id] = question, where
    if not found:
        raise UserError(f"{source}: has no rows; it must hold at least one question")
    return [question for question, _ in found.values()]


def _question(text: str, best: str, correct: tuple[str, ...], incorrect: tuple[str, ...]) -> Question:
    id = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return Question(f"truthfulqa-{id[:16]}", text, _closed(best), tuple(map(_closed, correct)), tuple(map(_closed, incorrect)))


def _closed(text: str) -> str:
    return text if text.endswith(".") else text + "."


def _of_table(path: str) -> Iterator[tuple[str, _Cells]]:
    for item in read_rows(path):
        if isinstance(item, Problem):
            raise UserError(f"{item.where}: {item.what}")
        _need(item.where, _COLUMNS, list(item.fields))
        text, best, correct, incorrect = (str(item.fields[name]) for name in _COLUMNS)
        yield item.where, (text.strip(), best.strip(), _trimmed(correct.split(";")), _trimmed(incorrect.split(";")))


def _of_data_set(name: str) -> Iterator[tuple[str, _Cells]]:
    rows = _loaded(name)
    _need(name, _FIELDS, rows.column_names)
    for place, row in enumerate(rows):
        text, best, correct, incorrect = (row[field] for field in _FIELDS)
        where = f"{name}: row {place}"
        if not all(isinstance(each, list) for each in (correct, incorrect)):
            raise UserError(f"{where}: {_FIELDS[2]} and {_FIELDS[3]} must be lists of answers")
        yield where, (str(text or "").strip(), str(best or "").strip(), _trimmed(correct), _trimmed(incorrect))


def _loaded(name: str) -> Any:
    """The rows of the data set's questions, from the hub or a local folder; no code of the data set's own runs."""
    folder = Path(name).expanduser()
    here = folder.is_dir()
    if not here and (folder.suffix in _OTHER_FILES or not may_be_on_hub(name)):
        raise UserError(
            f"{name}: is not a .csv or .tsv file; give a table in TruthfulQA's format, or a data set with its columns (a folder,"
            " or its name on the hub)"
        )
    try:
        import datasets
    except ImportError:
        raise UserError(f"{name}: data sets need the package datasets; install it with: pip install 'selfalign[eval]'") from None
    source, bars = str(folder.resolve()) if here else name, not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        known = datasets.get_dataset_config_names(source)
        splits: Any = datasets.load_dataset(source, _CONFIGURATION if _CONFIGURATION in known else None)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{name}: cannot be loaded as a data set ({show(reason, 160)}); check the name, or give a local table (.csv)"
        ) from error
    finally:
        if bars:
            datasets.enable_progress_bars()
    if _SPLIT not in splits and len(splits) != 1:
        raise UserError(f"{name}: has the splits {listed(list(splits))}; one of them must be called {_SPLIT}, or be the only one")
    return splits[_SPLIT] if _SPLIT in splits else next(iter(splits.values()))


def _need(where: str, wanted: tuple[str, ...], columns: Any) -> None:
    if missing := [name for name in wanted if name not in columns]:
        raise UserError(
            f"{where}: has no column {listed(missing)} among {listed(columns)}; rename or add it (TruthfulQA's format)"
        )


def _trimmed(answers: list[Any]) -> tuple[str, ...]:
    return tuple(text for each in answers if (text := str(each or "").strip()))
