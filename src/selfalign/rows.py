"""Examples to rows of the record and back, equal to the last bit."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from selfalign.errors import RunFailed
from selfalign.types import Demonstration, Example

COLUMNS = "id, round, slot, prompt, response, category, prompt_finish, response_finish, metadata"
_INSERT = f"INSERT INTO samples ({COLUMNS}, verdict, rule, evidence) VALUES ({', '.join('?' * 12)})"
_LINKS = "SELECT sample, part, demonstration, similarity, d.id FROM demonstrations JOIN samples d ON d.number = demonstration"

Verdict = tuple[Example, str, str | None, str | None]
"""(example, verdict, rule, evidence)."""


def dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def number(value: float | None) -> float | None:
    """A REAL column holds no NaN: it comes back as NULL, so it goes in as one."""
    return None if value is None or math.isnan(value) else float(value)


def insert(connection: sqlite3.Connection, verdicts: Sequence[Verdict]) -> None:
    """Writes samples with their demonstrations and scores, in the order given; inside the caller's transaction.

    Raises:
        RunFailed: a demonstration that is no sample of this run.
    """
    connection.executemany(_INSERT, (_columns(*each) for each in verdicts))
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


def numbers_of(connection: sqlite3.Connection, ids: Iterable[str]) -> dict[str, int]:
    """The row numbers of samples by id; an id that is none is left out."""
    found: dict[str, int] = {}
    rest = iter(sorted(ids))
    while some := list(islice(rest, 500)):
        places = ", ".join("?" * len(some))
        found.update(connection.execute(f"SELECT id, number FROM samples WHERE id IN ({places})", some).fetchall())
    return found


def read(connection: sqlite3.Connection, where: str, values: Sequence[Any] = ()) -> Iterator[tuple[Example, str | None, str | None]]:
    """(example, rule, evidence) of the samples that meet a condition, in the order they were written.

    Memory does not grow with their number: samples, demonstrations and scores are read side by side.
    """
    chosen = f"SELECT number FROM samples WHERE {where}"
    samples = connection.execute(f"SELECT number, {COLUMNS}, rule, evidence FROM samples WHERE {where} ORDER BY number", values)
    links = _Beside(connection.execute(f"{_LINKS} WHERE sample IN ({chosen}) ORDER BY sample, part, position", values))
    scores = _Beside(
        connection.execute(f"SELECT sample, name, value FROM scores WHERE sample IN ({chosen}) ORDER BY sample, name", values)
    )
    for key, *columns, rule, evidence in samples:
        yield _example(columns, links.take(key), scores.take(key)), rule, evidence


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


def _columns(example: Example, verdict: str, rule: str | None, evidence: str | None) -> tuple[Any, ...]:
    e = example
    head = (e.id, e.round, e.slot, e.prompt, e.response, e.category, e.prompt_finish, e.response_finish)
    return (*head, dumps(dict(e.metadata)), verdict, rule, evidence)


def _shown(example: Example) -> tuple[Demonstration, ...]:
    return (*example.prompt_demonstrations, *example.response_demonstrations)


def _example(columns: Sequence[Any], links: Sequence[tuple[Any, ...]], scores: Sequence[tuple[Any, ...]]) -> Example:
    id, round, slot, prompt, response, category, prompt_finish, response_finish, metadata = columns
    return Example(
        id=id,
        prompt=prompt,
        response=response,
        round=round,
        slot=slot,
        category=category,
        prompt_finish=prompt_finish,
        response_finish=response_finish,
        prompt_demonstrations=tuple(Demonstration(name, near) for _, part, _, near, name in links if part == "prompt"),
        response_demonstrations=tuple(Demonstration(name, near) for _, part, _, near, name in links if part == "response"),
        scores={name: math.nan if value is None else value for _, name, value in scores},
        metadata=json.loads(metadata),
    )
