"""Weights of old rounds, removed while a run goes on: its record keeps what they were made of and what they were worth."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from typing import Literal

from selfalign.record import model_rows
from selfalign.record.store import Store

Keep = Literal["best", "last", "all"]
"""last: those of the best and the newest round, and of the one that the next is compared with. best: these, but for a newest one
that was rolled back."""
KIND = "removed"


def remove_weights(store: Store, before: int, needed: Collection[int]) -> None:
    """Removes the whole weights of the rounds before this one that are not needed; adapters are small and stay.

    The record says so before a file goes: killed in between, the same call removes the rest.
    """
    with store.snapshot() as connection:
        rounds = [round for round in range(1, before) if round not in needed]  # a run gone on with has later ones already
        found = {round: model_rows.read(connection, store.folder, round) for round in rounds}
    for round, row in found.items():
        if row is None or row[0].adapter or not (place := model_rows.place(row[0])).is_relative_to(store.round_folder(round)):
            continue
        model, manifest = row
        if manifest:
            size = sum(size for size, _ in manifest.values())
            with store.transaction("remove") as connection:
                model_rows.forget_files(connection, round)
                text = f"the weights of round {round} were removed ({size / 1e9:.1f} GB; --keep_weights all keeps them)"
                store.event(KIND, {"round": round, "hash": model.hash, "bytes": size, "text": text})
        shutil.rmtree(place, ignore_errors=True)
