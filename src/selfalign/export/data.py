"""Data files made from the record: JSON lines or Parquet, each whole or not at all."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from selfalign.errors import UserError
from selfalign.export.cards import data_card
from selfalign.record import rows
from selfalign.record.disk import check_place, whole_file
from selfalign.record.exports import before_columns, write_lines
from selfalign.record.review import waiting
from selfalign.record.store import Store
from selfalign.types import PREFERRED, Turns

_log = logging.getLogger(__name__)

DataFormat = Literal["plain", "messages", "prompt-completion", "alpaca", "sharegpt"]


class Said(NamedTuple):
    """All that is said in a row."""

    system: str
    history: Turns
    prompt: str
    response: str

    def turns(self, system: str, user: str, assistant: str) -> list[tuple[str, str]]:
        """(role, text) in order, under the names that a format has for the roles."""
        pairs = [pair for asked, said in (*self.history, self[2:]) for pair in ((user, asked), (assistant, said))]
        return [(system, self.system), *pairs] if self.system else pairs


class Before(NamedTuple):
    """What any row of the file has before its prompt. A trainer takes the first row's form for that of all (TRL does), so that
    every row has a place for it."""

    system: bool
    history: bool


def messages(said: Said) -> list[dict[str, str]]:
    """{"role", "content"} of each turn, the system text first where there is one."""
    return [{"role": role, "content": text} for role, text in said.turns("system", "user", "assistant")]


def _prompt_completion(said: Said, before: Before) -> dict[str, Any]:
    if any(before):
        return {"prompt": messages(said)[:-1], "completion": messages(said)[-1:]}
    return {"prompt": said.prompt, "completion": said.response}


_SHAPES: Mapping[DataFormat, Callable[[Said, Before], dict[str, Any]]] = {
    "plain": lambda s, before: {"prompt": s.prompt, "response": s.response, **before_columns(*s[:2], *before)},
    "messages": lambda s, _: {"messages": messages(s)},
    "prompt-completion": _prompt_completion,
    "alpaca": lambda s, before: {"instruction": s.prompt, "input": "", "output": s.response, **before_columns(*s[:2], *before)},
    "sharegpt": lambda s, _: {"conversations": [{"from": f, "value": text} for f, text in s.turns("system", "human", "gpt")]},
}

_ROWS_AT_ONCE = 10_000


def export_data(store: Store, file: str | Path, format: DataFormat = "plain") -> int:
    """Writes kept samples, and the seeds as round 0, oldest round first.

    Rejected answers, and those that a teacher corrects, are left out, for whatever is trained on these rows would imitate them;
    see `export_preferences`. So are replay rows: they are no pairs of the behaviour, and stand in the run folder,
    `round-00/replay.jsonl`.

    JSON lines of {"id", "round", "category", "validation"}, `metadata` where any row has some, and the format's own fields;
    Parquet where the name ends in `.parquet`. `read_seeds` reads all of them back. System texts and earlier turns stand in the
    messages. Where any row has some, every row of the other formats has a place for them: in prompt-completion both fields are
    lists of messages (TRL's conversational form), plain and alpaca have fields `system` and `history`, a list of
    [prompt, response].

    Returns:
        The number of rows written.

    Raises:
        UserError: a format or file that cannot be.
    """
    if format not in _SHAPES:
        raise UserError(f"no data format {format!r}: use one of {', '.join(_SHAPES)}")
    where = f"verdict NOT IN ('dropped', 'replay') AND {rows.IMITATED}"
    return _write_samples(store, file, where, lambda said, _, before: _SHAPES[format](said, before))


def export_preferences(store: Store, file: str | Path) -> int:
    """Writes the kept answers that were rejected, each with the one preferred to it, oldest round first.

    JSON lines of {"id", "round", "category", "validation"} of the rejected answer, `metadata` where any row has some, and
    {"prompt", "chosen", "rejected"}; Parquet where the name ends in `.parquet`. Where any row has a system text or earlier turns,
    the three are lists of messages in all rows (TRL's conversational form). `read_seeds` reads both back.

    Returns:
        The number of pairs written.

    Raises:
        UserError: no such pairs, or a file that cannot be.
    """

    def shape(rejected: Said, preferred: str | None, before: Before) -> dict[str, Any]:
        if not any(before):
            return {"prompt": rejected.prompt, "chosen": preferred, "rejected": rejected.response}
        chosen, other = messages(rejected._replace(response=preferred or "")), messages(rejected)
        return {"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": other[-1:]}

    return _write_samples(store, file, f"verdict = 'kept' AND {rows.REJECTED}", shape, preferred=True)


def _write_samples(
    store: Store,
    file: str | Path,
    where: str,
    shape: Callable[[Said, str | None, Before], dict[str, Any]],
    preferred: bool = False,
) -> int:
    """The samples that meet a condition, oldest round first.

    Args:
        where: the condition in SQL.
        shape: from a sample, the answer preferred to it and what any row has before its prompt to the format's own fields.
        preferred: whether there must be such answers; None stands for each elsewhere.
    """
    with store.snapshot() as connection:
        chosen = _finished_rounds(store)
        where += f" AND round IN ({', '.join('?' * len(chosen))})"
        if preferred and not connection.execute(f"SELECT 1 FROM samples WHERE {where} LIMIT 1", chosen).fetchone():
            raise UserError(f"{store.folder} has no pairs of a preferred and a rejected answer; recipes such as dpo make them")
        before = Before(rows.has_system(connection, where, chosen), rows.has_later_turn(connection, where, chosen))
        keys = f"SELECT DISTINCT key FROM samples, json_each(samples.metadata) WHERE {where} ORDER BY key"
        names = [key for (key,) in connection.execute(keys, chosen) if not (preferred and key == PREFERRED)]
        better = f"(SELECT c.response FROM samples c WHERE c.id = json_extract(samples.metadata, '$.{PREFERRED}'))"
        columns = f"id, round, category, verdict = 'validation', metadata, history, prompt, response, {better}"
        found = connection.execute(f"SELECT {columns} FROM samples WHERE {where} ORDER BY round, slot, number", chosen)

        def row(values: Sequence[Any]) -> dict[str, Any]:
            id, round, category, validation, metadata, history, prompt, response, other = values
            own = {"id": id, "round": round, "category": category, "validation": bool(validation)}
            known = json.loads(metadata)
            extra = {"metadata": {name: known.get(name) for name in names}} if names else {}
            return {**own, **extra, **shape(Said(*rows.said_before(history), prompt, response), other, before)}

        sample = row(("", 0, "", 0, json.dumps(dict.fromkeys(names, "")), '[["", ""]]', "", "", ""))
        return write_rows(Path(file), map(row, found), sample)


def export_dropped(store: Store, file: str | Path) -> int:
    """Writes the dropped candidates with `rule` and `evidence`, as `export_data` does the kept ones."""
    with store.snapshot() as connection:
        names = ("id", "round", "prompt", "response", "rule", "evidence")
        where = "verdict = 'dropped'"
        before = Before(rows.has_system(connection, where), rows.has_later_turn(connection, where))
        found = connection.execute(f"SELECT history, {', '.join(names)} FROM samples WHERE {where} ORDER BY round, slot, number")
        written = (
            {**dict(zip(names, row, strict=True)), **before_columns(*rows.said_before(history), *before)}
            for history, *row in found
        )
        sample = {**{name: 0 if name == "round" else "" for name in names}, **before_columns("", (("", ""),), *before)}
        return write_rows(Path(file), written, sample)


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
    with whole_file(card) as temporary:
        temporary.write_text(text, "utf-8")
    return card


def _finished_rounds(store: Store) -> list[int]:
    """All rounds that have samples, without one that waits for its review, which is said."""
    with store.snapshot() as connection:
        known = [found for (found,) in connection.execute("SELECT DISTINCT round FROM samples ORDER BY round")]
    if (unreviewed := waiting(store)) is not None:
        known.remove(unreviewed)
        shows = f"`selfalign review {store.folder}` shows them"
        _log.warning("left out: the pairs of round %d wait for their review; %s", unreviewed, shows)
    return known


def write_rows(file: Path, written: Iterable[Mapping[str, Any]], sample: Mapping[str, Any]) -> int:
    """Rows to a JSONL or Parquet file, whole or not at all, and their number; `sample` is a row of the right shape: Parquet has
    the columns even where there are no rows.

    Raises:
        UserError: a file that cannot be written.
    """
    check_place(file)
    if file.suffix.lower() in (".csv", ".tsv", ".xlsx", ".json"):
        raise UserError(f"{file}: data is written as JSON lines (.jsonl) or Parquet (.parquet)")
    try:
        return _write_parquet(file, written, sample) if file.suffix.lower() == ".parquet" else write_lines(file, written)
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from error


def _write_parquet(file: Path, written: Iterable[Mapping[str, Any]], sample: Mapping[str, Any]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, count, rest = pa.Table.from_pylist([sample]).schema, 0, iter(written)
    with whole_file(file) as temporary, pq.ParquetWriter(temporary, schema) as out:
        while some := list(islice(rest, _ROWS_AT_ONCE)):
            out.write_table(pa.Table.from_pylist(some, schema=schema))
            count += len(some)
    return count
