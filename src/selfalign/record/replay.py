"""The record's part about replay rows: the base model's answers to general prompts, trained on and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfalign.record import rows
from selfalign.record.exports import everything
from selfalign.record.store import Store
from selfalign.types import Dropped, Example


def add_replay(store: Store, kept: Sequence[Example], dropped: Sequence[Dropped], seconds: float) -> None:
    """All of them, those dropped with rule and evidence, and the stage `replay`, in one transaction."""
    verdicts: list[rows.Verdict] = [(example, "replay", None, None) for example in kept]
    verdicts += [(drop.example, "replay", drop.rule, drop.evidence) for drop in dropped]
    with store.transaction("replay") as connection:
        rows.insert(connection, sorted(verdicts, key=lambda verdict: verdict[0].slot))
        store.finish_stage(0, "replay", {"prompts": len(verdicts), "kept": len(kept)}, seconds)


def replayed(store: Store) -> tuple[Example, ...]:
    """The rows that each round trains on besides its own; empty without replay."""
    return tuple(example for example, rule, _ in store.samples("verdict = 'replay'") if not rule)


def replay_rows(store: Store) -> list[dict[str, Any]]:
    """All of them as plain data; `rule` and `evidence` are "" where one is trained on."""
    return [
        {**everything(example), "rule": rule, "evidence": evidence}
        for example, rule, evidence in store.samples("verdict = 'replay'")
    ]
