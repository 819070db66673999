"""Data files made from the record: JSON lines or Parquet, each whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from selfalign.errors import UserError
from selfalign.export.cards import data_card
from selfalign.record import rows
from selfalign.record.disk import whole_file
from selfalign.record.exports import history_column, write_lines
from selfalign.record.store import Store
from selfalign.types import Turns

DataFormat = Literal["plain", "messages", "prompt-completion", "alpaca"]

Shape = Callable[[str, str, Turns], dict[str, Any]]
"""A row's own fields from its prompt, response and history."""


def _messages(prompt: str, response: str, history: Turns) -> list[dict[str, str]]:
    turns = (*history, (prompt, response))
    return [{"role": role, "content": text} for turn in turns for role, text in zip(("user", "assistant"), turn, strict=True)]


_SHAPES: Mapping[DataFormat, Shape] = {
    "plain": lambda prompt, response, _: {"prompt": prompt, "response": response},
    "messages": lambda *row: {"messages": _messages(*row)},
    "prompt-completion": lambda prompt, response, _: {"prompt": prompt, "completion": response},
    "alpaca": lambda prompt, response, _: {"instruction": prompt, "input": "", "output": response},
}

_CONVERSATIONS: Mapping[DataFormat, Shape] = {
    "plain": lambda *row: {**_SHAPES["plain"](*row), **history_column(row[2], True)},
    "messages": _SHAPES["messages"],
    "prompt-completion": lambda *row: {"prompt": _messages(*row)[:-1], "completion": _messages(*row)[-1:]},
    "alpaca": lambda *row: {**_SHAPES["alpaca"](*row), **history_column(row[2], True)},
}
"""Of every row where any has earlier turns. A trainer takes the first row's form for that of all (TRL does), so none differs."""

_ROWS_AT_ONCE = 10_000


def export_data(store: Store, file: str | Path, format: DataFormat = "plain", rounds: Sequence[int] | None = None) -> int:
    """Writes kept samples, and the seeds as round 0, oldest round first; `rounds` chooses some of them.

    JSON lines of {"id", "round"} and the format's own fields; Parquet where the name ends in `.parquet`. Earlier turns stand in
    the messages. Where any row has some, every row of the other formats has a place for them: in prompt-completion both fields
    are lists of messages (TRL's conversational form), plain and alpaca have a field `history`, a list of [prompt, response].

    Returns:
        The number of rows written.

    Raises:
        UserError: a format, round or file that cannot be.
    """
    if format not in _SHAPES:
        raise UserError(f"no data format {format!r}: use one of {', '.join(_SHAPES)}")
    with store.snapshot() as connection:
        chosen = _rounds(store, rounds)
        where = f"verdict != 'dropped' AND round IN ({', '.join('?' * len(chosen))})"
        shape = (_CONVERSATIONS if rows.has_later_turn(connection, where, chosen) else _SHAPES)[format]
        query = f"SELECT id, round, prompt, response, history FROM samples WHERE {where} ORDER BY round, slot, number"
        written = (
            {"id": id, "round": round, **shape(prompt, response, rows.turns(history))}
            for id, round, prompt, response, history in connection.execute(query, chosen)
        )
        return _write_rows(Path(file), written, {"id": "", "round": 0, **shape("", "", (("", ""),))})


def export_dropped(store: Store, file: str | Path) -> int:
    """Writes the dropped candidates with `rule` and `evidence`, as `export_data` does the kept ones."""
    with store.snapshot() as connection:
        names = ("id", "round", "prompt", "response", "rule", "evidence")
        where = "verdict = 'dropped'"
        later = rows.has_later_turn(connection, where)
        found = connection.execute(f"SELECT history, {', '.join(names)} FROM samples WHERE {where} ORDER BY round, slot, number")
        written = (
            {**dict(zip(names, row, strict=True)), **history_column(rows.turns(history), later)} for history, *row in found
        )
        sample = {**{name: 0 if name == "round" else "" for name in names}, **history_column((("", ""),), later)}
        return _write_rows(Path(file), written, sample)


def export_data_card(store: Store, file: str | Path, format: DataFormat = "plain", license: str | None = None) -> Path:
    """Writes the dataset card of `file` next to it: `kept.card.md` for `kept.jsonl`.

    Raises:
        UserError: as `data_card`, or the file is none that has a place (a pipe, a terminal).
    """
    data = Path(file)
    if data.exists() and not data.is_file():
        raise UserError(f"{file} is no regular file: a card is written next to one only")
    card = data.with_name(f"{data.stem}.card.md")
    text = data_card(store, license=license, file=data.name, format=format)
    with whole_file(card, "export") as temporary:
        temporary.write_text(text, "utf-8")
    return card


def _rounds(store: Store, rounds: Sequence[int] | None) -> list[int]:
    with store.snapshot() as connection:
        known = [found for (found,) in connection.execute("SELECT DISTINCT round FROM samples ORDER BY round")]
    for round in rounds or ():
        if round not in known:
            raise UserError(f"{store.folder} has no samples of round {round}: it has those of {', '.join(map(str, known))}")
    return known if rounds is None else sorted(set(rounds))


def _write_rows(file: Path, written: Iterable[Mapping[str, Any]], sample: Mapping[str, Any]) -> int:
    if file.is_dir() or not file.parent.is_dir():
        raise UserError(f"{file}: {'is a folder' if file.is_dir() else 'its folder does not exist'}; name a file to write")
    if file.suffix.lower() in (".csv", ".tsv", ".xlsx", ".json"):
        raise UserError(f"{file}: data is written as JSON lines (.jsonl) or Parquet (.parquet)")
    try:
        return _write_parquet(file, written, sample) if file.suffix.lower() == ".parquet" else write_lines(file, written)
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from error


def _write_parquet(file: Path, written: Iterable[Mapping[str, Any]], sample: Mapping[str, Any]) -> int:
    """`sample` is a row of the right shape: the columns are there even where there are no rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, count = pa.Table.from_pylist([sample]).schema, 0
    with whole_file(file, "export") as temporary, pq.ParquetWriter(temporary, schema) as out:
        for some in _chunks(written):
            out.write_table(pa.Table.from_pylist(some, schema=schema))
            count += len(some)
    return count


def _chunks(written: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    rest = iter(written)
    while some := list(islice(rest, _ROWS_AT_ONCE)):
        yield some
