"""What a finished run came to: its best round, the outcomes of that round's model, and the costs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from selfalign.errors import UserError
from selfalign.record.schema import NAME as RECORD
from selfalign.record.status import shortcuts, status
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
    rows = [asdict(each) for each in runs]
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
    copies: bool = False
    """Whether no model wrote its answers (`retrievers.Copied`)."""
    aim: str = ""
    """How the shipped model was chosen on the curve (`Recipe.aim_over_refusal`), in words; "" where it was not."""
    trains: bool = False
    """Whether it was to train anything."""
    of_round: int | None = None
    """The round whose training the shipped model has, where that is another than the best one: it lies on the way there."""
    shortcuts: Sequence[dict[str, Any]] = ()
    """As `Candidate.shortcuts`."""


def read_run(out: Path, folder: str, seed: int, held_out: Sequence[Example]) -> Finished:
    """A finished run, from the folder `out/folder`; `held_out` are the prompts it was measured on."""
    with Store.read(out / folder) as store:
        state = store.state()
        best, aims = int(state["best_round"]), [data for *_, data in store.events("aim")]
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
            shortcuts=shortcuts(store),
            aim=aims[-1]["text"] if aims else "",
            of_round=aims[-1]["of"] if aims else None,
            trains=bool(store.identity().get("rounds")),
            copies=str((store.identity().get("eval_retriever") or {}).get("part", "")).endswith(".Copied"),
        )


def paired_metrics(store: Store, round: int) -> dict[str, Metric]:
    """The metrics of a round that can be compared prompt by prompt, with their outcomes, by name."""
    whole = [replace(metric, outcomes=store.outcomes(round, metric.name)) for metric in store.metrics(round)]
    return {metric.name: metric for metric in whole if metric.outcomes}


@dataclass(frozen=True)
class Candidate:
    """A model that may be shipped and the one it would replace, as a record holds them."""

    name: str
    """It in words: "round 2 of runs/first"."""
    other: str
    """The one it would replace."""
    unfinished: str
    """Why there is no such model yet, or none that can be loaded; "" where there is one."""
    unchanged: str
    """Why it is the base model itself; "" where it is another one."""
    before: dict[str, Metric]
    """By name with their outcomes, as `paired_metrics`: of the model that it would replace."""
    after: dict[str, Metric]
    """Of the model itself."""
    shortcuts: list[dict[str, Any]]
    """What trivial rules reach on the held-out prompts (`proof.shortcuts.audit`)."""
    repeated: float | None
    """Share of its answers to held-out prompts that it gives to another one too; None where it answered none."""
    seeds: tuple[Example, ...] = ()
    """Those of its training, or that it was measured with."""
    evaluators: tuple[Mapping[str, Any], ...] = ()
    """What measured it, as the record has them."""


def read_candidate(folder: Path) -> Candidate:
    """Of a run its best round against the base model; of `selfalign eval --compare` the model against the other one.

    Raises:
        UserError: no record, or an evaluation of one model alone.
    """
    with Store.read(folder) as store:
        if not store.identity().get("rounds"):
            return _compared(folder, store)
        where = status(store)
        best, state, why = where["best_round"] or 0, where["state"], where["stopped_because"]
        done = state == "done"
        damaged = store.model_problems(best) if done and best else []
        waiting = f"the run is not finished: {state}{f' ({why})' if why else ''}"
        return Candidate(
            name=f"round {best} of {folder}" if best else str(folder),
            other="the base model",
            unfinished=waiting if not done else f"the model of round {best} is damaged: {damaged[0]}" if damaged else "",
            unchanged=f"no round is better than the base model, which the run keeps: {why}" if done and not best else "",
            before=paired_metrics(store, 0),
            after=paired_metrics(store, best) if done and best else {},
            **_measured(store, best),
        )


def _measured(store: Store, round: int) -> dict[str, Any]:
    """What a candidate has of the record that measured it."""
    texts = [output["text"].strip() for output in store.done_batches(round, "held_out").values() if "text" in output]
    count = Counter(texts)
    return {
        "shortcuts": shortcuts(store),
        "repeated": sum(count[text] > 1 for text in texts) / len(texts) if texts else None,
        "seeds": (*store.seeds(), *store.validation_seeds()),
        "evaluators": tuple(store.identity().get("evaluators", ())),
    }


def _compared(folder: Path, store: Store) -> Candidate:
    others = sorted(each.parent for each in folder.glob(f"compared-*/{RECORD}"))
    if len(others) != 1:
        found = f"{len(others)} of them" if others else "none"
        raise UserError(
            f"{folder} is an evaluation, and the model to compare with is missing: {found} is kept there; measure both by"
            " `selfalign eval MODEL --compare OTHER --guard.parts knowledge,form,answered --out DIR`"
        )
    with Store.read(others[0]) as other:
        states = {side: status(each)["state"] for side, each in (("its first model", store), ("its second model", other))}
        waiting = [f"the evaluation of {side} is not finished: {state}" for side, state in states.items() if state != "done"]
        return Candidate(
            name=str(folder),
            other=others[0].name.removeprefix("compared-"),
            unfinished="; ".join(waiting),
            unchanged="",
            before=paired_metrics(other, 0),
            after=paired_metrics(store, 0),
            **_measured(store, 0),
        )
