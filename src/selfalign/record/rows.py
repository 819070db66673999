"""Examples to rows of the record and back, equal to the last bit."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from selfalign.errors import RunFailed
from selfalign.record.plain import dumps
from selfalign.types import PREFERRED, ROLLOUT, Demonstration, Dropped, Example, Metric, Outcome, Turns

COLUMNS = "id, round, slot, prompt, response, category, prompt_finish, response_finish, metadata, history"
_INSERT = f"INSERT INTO samples ({COLUMNS}, verdict, rule, evidence) VALUES ({', '.join('?' * 13)})"
_LINKS = "SELECT sample, part, demonstration, similarity, d.id FROM demonstrations JOIN samples d ON d.number = demonstration"

REJECTED = f"(round > 0 AND json_extract(metadata, '$.{PREFERRED}') IS NOT NULL)"
"""The condition on samples that are rejected answers (`types.preferred_to`), in SQL."""
TAUGHT = f"(round > 0 AND json_extract(metadata, '$.{ROLLOUT}') IS NOT NULL)"
"""The same for answers that a teacher is to correct."""
IMITATED = f"NOT {REJECTED} AND NOT {TAUGHT}"
"""The same for samples whose answers may be imitated: seeds, and what is in neither of the others."""

LEFT_OUT = f"SELECT count(*) FILTER (WHERE {REJECTED}), count(*) FILTER (WHERE {TAUGHT}) FROM samples WHERE verdict = 'kept'"
"""Counts the kept samples that may not be imitated: rejected ones, and those that a teacher corrects."""

Verdict = tuple[Example, str, str | None, str | None]
"""(example, verdict, rule, evidence)."""


def verdicts(kept: Sequence[Example], dropped: Sequence[Dropped], of_kept: str = "kept") -> list[Verdict]:
    """Those that are kept, as `of_kept`, then those that are dropped."""
    return [*((one, of_kept, None, None) for one in kept), *((one.example, "dropped", one.rule, one.evidence) for one in dropped)]


Written = tuple[Example, str, str]
"""(example, rule, evidence); the last two are "" where it was not dropped."""


def number(value: float | None) -> float | None:
    """A REAL column holds no NaN: it comes back as NULL, so it goes in as one."""
    return None if value is None or math.isnan(value) else float(value)


def insert(connection: sqlite3.Connection, verdicts: Sequence[Verdict]) -> None:
    """Writes samples with their demonstrations and scores, in the order given; inside the caller's transaction.

    Raises:
        RunFailed: an id or a place that is taken, or a demonstration that is no sample of this run.
    """
    try:
        connection.executemany(_INSERT, (_columns(*each) for each in verdicts))
    except sqlite3.IntegrityError as error:
        raise RunFailed(f"samples of round {verdicts[0][0].round} cannot be recorded: {error}") from error
    examples = [example for example, *_ in verdicts]
    numbers = numbers_of(connection, {e.id for e in examples} | {d.id for e in examples for d in _shown(e)})
    unknown = [(e.id, d.id) for e in examples for d in _shown(e) if d.id not in numbers]
    if unknown:
        raise RunFailed(f"sample {unknown[0][0]} names demonstration {unknown[0][1]}, which is no sample of this run")
    connection.executemany(
        "INSERT INTO demonstrations (sample, part, position, demonstration, similarity) VALUES (?, ?, ?, ?, ?)",
        (
            (numbers[e.id], part, place, numbers[d.id], number(d.similarity))
            for e in examples
            for part, shown in (("prompt", e.prompt_demonstrations), ("response", e.response_demonstrations))
            for place, d in enumerate(shown)
        ),
    )
    connection.executemany(
        "INSERT INTO scores (sample, name, value) VALUES (?, ?, ?)",
        ((numbers[e.id], name, number(value)) for e in examples for name, value in e.scores.items()),
    )


def rewrite(connection: sqlite3.Connection, verdicts: Sequence[Verdict]) -> None:
    """Samples that are there already, with another verdict or another text; their demonstrations and scores stay as they are."""
    query = f"UPDATE samples SET ({COLUMNS}, verdict, rule, evidence) = ({', '.join('?' * 13)}) WHERE id = ?"
    connection.executemany(query, ((*_columns(*each), each[0].id) for each in verdicts))


def numbers_of(connection: sqlite3.Connection, ids: Iterable[str]) -> dict[str, int]:
    """The row numbers of samples by id; an id that is none is left out."""
    found: dict[str, int] = {}
    rest = iter(sorted(ids))
    while some := list(islice(rest, 500)):
        places = ", ".join("?" * len(some))
        found.update(connection.execute(f"SELECT id, number FROM samples WHERE id IN ({places})", some).fetchall())
    return found


def read(connection: sqlite3.Connection, where: str, values: Sequence[Any] = ()) -> Iterator[Written]:
    """The samples that meet a condition, in the order they were written.

    Memory does not grow with their number: samples, demonstrations and scores are read side by side.
    """
    chosen = f"SELECT number FROM samples WHERE {where}"
    samples = connection.execute(f"SELECT number, {COLUMNS}, rule, evidence FROM samples WHERE {where} ORDER BY number", values)
    links = _Beside(connection.execute(f"{_LINKS} WHERE sample IN ({chosen}) ORDER BY sample, part, position", values))
    scores = _Beside(
        connection.execute(f"SELECT sample, name, value FROM scores WHERE sample IN ({chosen}) ORDER BY sample, name", values)
    )
    for key, *columns, rule, evidence in samples:
        yield _example(columns, links.take(key), scores.take(key)), rule or "", evidence or ""


def conserve(round: int, candidates: int, kept: Sequence[Example], dropped: Sequence[Dropped]) -> None:
    """The last check before a round's samples are written: each slot once, kept or dropped by a named rule.

    Raises:
        RunFailed: the rows do not balance; the message has the counts.
    """
    examples = [*kept, *(drop.example for drop in dropped)]
    slots, ids = sorted(example.slot for example in examples), {example.id for example in examples}
    strange = [example.id for example in examples if example.round != round]
    if slots != list(range(candidates)) or len(ids) != candidates or strange:
        missing, twice = sorted(set(range(candidates)) - set(slots)), len(examples) - min(len(set(slots)), len(ids))
        raise RunFailed(
            f"round {round}, stage filter: {candidates} candidates in, {len(kept)} kept + {len(dropped)} dropped out;"
            f" slots missing: {missing[:3]}, rows twice: {twice}, rows not of this round: {strange[:3]}"
        )
    if nameless := [drop.example.id for drop in dropped if not drop.rule]:
        raise RunFailed(f"round {round}, stage filter: {nameless[0]} is dropped without a named rule")


def insert_metrics(connection: sqlite3.Connection, round: int, metrics: Iterable[Metric]) -> None:
    """A metric written again takes the place of its older value.

    Raises:
        RunFailed: a metric has two outcomes of the same prompt.
    """
    for m in metrics:
        if len({outcome.id for outcome in m.outcomes}) < len(m.outcomes):
            raise RunFailed(f"round {round}: the metric {m.name} has two outcomes of the same prompt; an evaluator is broken")
        connection.execute("DELETE FROM metrics WHERE round = ? AND name = ?", (round, m.name))  # and its outcomes
        figures = (number(m.value), number(m.low), number(m.high))
        connection.execute(
            "INSERT INTO metrics (round, name, value, low, high, n, unit, better) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (round, m.name, *figures, m.n, m.unit, m.better),
        )
        connection.executemany(
            "INSERT INTO outcomes (round, metric, prompt, stratum, value) VALUES (?, ?, ?, ?, ?)",
            ((round, m.name, outcome.id, outcome.stratum, number(outcome.value)) for outcome in m.outcomes),
        )


def read_metrics(connection: sqlite3.Connection, round: int) -> list[Metric]:
    query = "SELECT name, value, low, high, n, unit, better FROM metrics WHERE round = ? ORDER BY rowid"
    return [
        Metric(name, _real(value), _real(low), _real(high), n, unit=unit, better=better)
        for name, value, low, high, n, unit, better in connection.execute(query, (round,))
    ]


def read_outcomes(connection: sqlite3.Connection, round: int, metric: str) -> tuple[Outcome, ...]:
    found = connection.execute(
        "SELECT prompt, value, stratum FROM outcomes WHERE round = ? AND metric = ? ORDER BY prompt", (round, metric)
    )
    return tuple(Outcome(id, _real(value), stratum) for id, value, stratum in found)


class _Beside:
    """The rows of a query ordered by sample, taken sample by sample as another query goes on."""

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self._cursor = cursor
        self._next = cursor.fetchone()

    def take(self, sample: int) -> list[tuple[Any, ...]]:
        taken = []
        while self._next is not None and self._next[0] == sample:
            taken.append(self._next)
            self._next = self._cursor.fetchone()
        return taken


def _real(value: float | None) -> float:
    return math.nan if value is None else value


def _columns(example: Example, verdict: str, rule: str | None, evidence: str | None) -> tuple[Any, ...]:
    e = example
    head = (e.id, e.round, e.slot, e.prompt, e.response, e.category, e.prompt_finish, e.response_finish)
    said = {"system": e.system, "turns": e.history} if e.system else e.history
    return (*head, dumps(dict(e.metadata)), dumps(said), verdict, rule, evidence)


def _shown(example: Example) -> tuple[Demonstration, ...]:
    return (*example.prompt_demonstrations, *example.response_demonstrations)


def _example(columns: Sequence[Any], links: Sequence[tuple[Any, ...]], scores: Sequence[tuple[Any, ...]]) -> Example:
    found = dict(zip(COLUMNS.split(", "), columns, strict=True))
    found["metadata"] = json.loads(found["metadata"])
    found["system"], found["history"] = said_before(found["history"])
    found["scores"] = {name: _real(value) for _, name, value in scores}
    for part in ("prompt", "response"):
        found[f"{part}_demonstrations"] = tuple(Demonstration(name, near) for _, of, _, near, name in links if of == part)
    return Example(**found)


def has_later_turn(connection: sqlite3.Connection, where: str, values: Sequence[Any] = ()) -> bool:
    """Whether any of the samples that meet a condition has earlier turns."""
    return _any(connection, f"""{where} AND history != '[]' AND history NOT LIKE '{{%"turns":[]}}'""", values)


def has_system(connection: sqlite3.Connection, where: str, values: Sequence[Any] = ()) -> bool:
    """Whether any of the samples that meet a condition has a system text."""
    return _any(connection, f"{where} AND history LIKE '{{%'", values)


def _any(connection: sqlite3.Connection, where: str, values: Sequence[Any]) -> bool:
    return connection.execute(f"SELECT 1 FROM samples WHERE {where} LIMIT 1", values).fetchone() is not None


def said_before(history: str) -> tuple[str, Turns]:
    """(system, history) of the example, from the column `history`."""
    found = json.loads(history)
    system, turns = (found["system"], found["turns"]) if isinstance(found, dict) else ("", found)
    return system, tuple((prompt, response) for prompt, response in turns)
