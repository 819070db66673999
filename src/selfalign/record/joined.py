"""Seeds that joined a run on its way: their rows stand among the seeds, and an event says for which round they came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from selfalign.record import rows
from selfalign.record.store import Store
from selfalign.text import counted
from selfalign.types import Example

KIND = "joined"


def join(store: Store, seeds: Sequence[Example], round: int, changed: Mapping[str, Any]) -> None:
    """Writes seeds that are shown and trained on from a round on, all of them or none.

    Args:
        changed: the options that the run has from that round on in place of those of its identity: token budgets.
    """
    first = len(store.seeds()) + len(store.validation_seeds())
    placed = [replace(seed, slot=first + place) for place, seed in enumerate(seeds)]
    with store.transaction("join") as connection:
        rows.insert(connection, rows.verdicts(placed, (), "seed"))
        text = f"{counted(len(seeds), 'seed')} joined for round {round} on"
        store.event(KIND, {"round": round, "ids": [seed.id for seed in seeds], "changed": dict(changed), "text": text})


def joined(store: Store) -> list[tuple[int, tuple[Example, ...]]]:
    """(the first round that has them, the seeds) of all that joined, in the order of the rounds, one for each."""
    since = since_round(store)
    found: dict[int, list[Example]] = {}
    for seed in store.seeds():
        if seed.id in since:
            found.setdefault(since[seed.id], []).append(seed)
    return [(round, tuple(seeds)) for round, seeds in sorted(found.items())]


def since_round(store: Store) -> dict[str, int]:
    """The ids of the seeds that joined, with the first round that has them."""
    return {id: data["round"] for *_, data in store.events(KIND) for id in data["ids"]}


def identity_of(store: Store, round: int) -> dict[str, Any]:
    """The run's options as a round has them."""
    found = store.identity()
    for *_, data in store.events(KIND):
        found |= data["changed"] if data["round"] <= round else {}
    return found


def begun(store: Store) -> int:
    """The newest round that has something in the record; 0 where none has begun."""
    with store.snapshot() as connection:
        tables = " UNION ".join(f"SELECT round FROM {table}" for table in ("samples", "batches", "stages", "models"))
        return int(connection.execute(f"SELECT coalesce(max(round), 0) FROM ({tables})").fetchone()[0])
