"""What a finished run came to: its best round, the outcomes of that round's model, and what all of it cost."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from selfalign.record.status import status
from selfalign.record.store import Store
from selfalign.types import Example, Metric


@dataclass(frozen=True)
class Costs:
    """Everything a run spent, rounds that were rolled back included; means over runs are fractions."""

    optimiser_steps: float
    trained_tokens: float
    """Response tokens with a label, over all epochs."""
    generated_tokens: float
    """Written for candidates; answers to held-out prompts, which every arm writes, are not counted."""
    prompt_tokens_per_answer: float
    """Tokens read before each held-out answer of the best round's model, demonstrations included: paid for ever after."""
    seconds: float
    """All stages, evaluation included."""

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def run_costs(store: Store, best_round: int, held_out: Collection[str]) -> Costs:
    """The costs of a finished run; `held_out`: the ids of the prompts it was measured on, none where evaluators bring theirs."""
    rounds = status(store)["rounds"]
    training = [store.training(row["round"]) for row in rounds]
    with store.snapshot() as connection:
        written = connection.execute(
            "SELECT o.data FROM outputs o JOIN samples s ON s.id = o.id AND s.round = o.round WHERE s.round > 0"
        )
        generated = sum(int(json.loads(data).get("generated_tokens", 0)) for (data,) in written)
        answers = connection.execute(
            "SELECT id, data FROM outputs o WHERE round = ? AND NOT EXISTS (SELECT 1 FROM samples s WHERE s.id = o.id)",
            (best_round,),
        )
        asked = [json.loads(data) for id, data in answers if id in held_out or not held_out]
        read = [row["prompt_tokens"] for row in asked if "prompt_tokens" in row]
    return Costs(
        optimiser_steps=sum(int(each.get("steps", 0)) for each in training),
        trained_tokens=sum(int(each.get("tokens", 0)) for each in training),
        generated_tokens=generated,
        prompt_tokens_per_answer=sum(read) / len(read) if read else 0.0,
        seconds=sum(sum(row["seconds"].values()) for row in rounds),
    )


def mean_costs(runs: Sequence[Costs]) -> Costs:
    """Field by field, over the runs of an arm."""
    rows = [each.plain() for each in runs]
    return Costs(**{name: sum(row[name] for row in rows) / len(rows) for name in rows[0]})


@dataclass(frozen=True)
class Finished:
    """What an arm of a study came to on one random seed."""

    seed: int
    folder: str
    best_round: int
    stopped_because: str
    steps: tuple[int, ...]
    """Optimiser steps of each round trained."""
    costs: Costs
    metrics: dict[str, Metric]
    """By name, with their outcomes, of the best round's model; those that are no mean over prompts are left out."""


def read_run(out: Path, folder: str, seed: int, held_out: Sequence[Example]) -> Finished:
    """A finished run, from the folder `out/folder`; `held_out` are the prompts it was measured on."""
    with Store.read(out / folder) as store:
        state = store.state()
        best = int(state["best_round"])
        steps: list[int] = []
        while training := store.training(len(steps) + 1):
            steps.append(int(training["steps"]))
        return Finished(
            seed=seed,
            folder=folder,
            best_round=best,
            stopped_because=state["stopped_because"],
            steps=tuple(steps),
            costs=run_costs(store, best, {example.id for example in held_out}),
            metrics=paired_metrics(store, best),
        )


def paired_metrics(store: Store, round: int) -> dict[str, Metric]:
    """The metrics of a round that can be compared prompt by prompt, with their outcomes, by name."""
    whole = [replace(metric, outcomes=store.outcomes(round, metric.name)) for metric in store.metrics(round)]
    return {metric.name: metric for metric in whole if metric.outcomes}
