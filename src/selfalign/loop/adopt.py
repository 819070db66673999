"""The base model is measured once: a new run takes its answers over from a finished run's journal."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from selfalign.record.plain import dumps
from selfalign.record.store import Store

_SAME = ("engine", "format", "evaluators", "model", "adapter", "model_hash", "held_out_hash")
"""What two runs must share for their models to give the same greedy answers before any training."""


def measures_the_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two runs, by their identities, put the same model to the same test before round 1.

    Never where demonstrations are shown at test time or an evaluator samples its answers: those depend on the random seed.
    """
    alone = one.get("eval_retriever") is None and other.get("eval_retriever") is None
    sampled = any((part.get("sampling") or {}).get("temperature", 0) for part in one.get("evaluators", ()))
    return alone and not sampled and all(dumps(one.get(key)) == dumps(other.get(key)) for key in _SAME)


def adopt_answers(store: Store, donor: Store, seeds: Collection[str]) -> None:
    """Copies the journal of round 0 from a finished run to one that has none yet, seconds included, and notes it as an event.

    Stages about the seeds (ids `seeds`), such as the validation, stay behind, and so do replay's answers: which seeds are held
    out and which prompts replayed is drawn by run.
    """
    with donor.snapshot() as connection:
        batches = connection.execute("SELECT * FROM batches WHERE round = 0").fetchall()
        outputs = connection.execute("SELECT * FROM outputs WHERE round = 0").fetchall()
    about_seeds = {stage for _, stage, _, _, id, _ in outputs if id in seeds}
    with store.transaction("adopt") as connection:
        if connection.execute("SELECT count(*) FROM batches").fetchone()[0]:
            return
        stages = sorted({stage for _, stage, *_ in batches} - about_seeds - {"replay"})
        connection.executemany("INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?)", [row for row in batches if row[1] in stages])
        connection.executemany("INSERT INTO outputs VALUES (?, ?, ?, ?, ?, ?)", [row for row in outputs if row[1] in stages])
        if stages:
            store.event("adopted", {"from": str(donor.folder), "stages": stages})
