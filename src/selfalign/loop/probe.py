"""What every stage of a run will take on this machine, by a batch of each and a few training steps; all of it is thrown away."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import accumulate
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from selfalign.evaluators import Guard, Refusal
from selfalign.loop import parts
from selfalign.loop.context import Setup, opened
from selfalign.loop.guards import calibrate_judges, check_training_data, try_rules
from selfalign.loop.outlay import kept_of, kept_text
from selfalign.loop.plan import evaluations, points
from selfalign.loop.preflight import prepared
from selfalign.loop.progress import Renamed
from selfalign.loop.replay import make_replay
from selfalign.loop.sampled import MOST, Meter, Sampled, loaded, sampled
from selfalign.loop.stages import train_job
from selfalign.loop.steps import make_round
from selfalign.loop.times import NOTHING, Time, duration
from selfalign.loop.vectors import RunVectors
from selfalign.proof.stats import wilson
from selfalign.protocols import Context, Flags, Progress, declared
from selfalign.recipe import Recipe
from selfalign.record.replay import replayed
from selfalign.record.store import Store
from selfalign.text import counted
from selfalign.types import Example, FilterResult, Pool

STEPS = 4
"""Training steps that are made. The first one, which sets up more than it trains, counts only where it is alone."""
NAMES = {"propose": "prompts", "respond": "answers", "": "filters"}
"""The stages of a round's candidates, in words."""


class Stage(NamedTuple):
    """Some work of a run that comes so many times, and what it takes each time."""

    name: str
    times: int
    each: Time


@dataclass(frozen=True)
class Made:
    """A round of few candidates."""

    asked: int
    """How many were asked for."""
    result: FilterResult

    @property
    def rows(self) -> int:
        return len(self.result.kept) + len(self.result.dropped)

    @property
    def share(self) -> tuple[float, float, float]:
        """How many rows are kept for each candidate that is asked for: as it was, at least and at most."""
        if not self.rows:
            return 0.0, 0.0, 0.0
        per = self.rows / self.asked
        kept, low, high = wilson(len(self.result.kept), self.rows)
        return kept * per, low * per, high * per


@dataclass
class Trial:
    """Progress of a training that is ended after a few steps."""

    shown: Progress
    total: int = 0
    marks: list[float] = field(default_factory=list)
    """When the first step began, and when each one was done."""

    def start(self, stage: str, total: int, done: int = 0) -> None:
        self.total = total
        self.shown.start("training steps", min(total, STEPS))
        self.marks.append(time.monotonic())

    def advance(self, count: int = 1, note: str = "") -> None:
        self.marks.append(time.monotonic())
        self.shown.advance(count)
        if len(self.marks) > STEPS and self.total > STEPS:
            raise _EnoughError

    def finish(self) -> None: ...

    @property
    def step(self) -> Time:
        took = [after - before for before, after in zip(self.marks, self.marks[1:], strict=False)]
        steps = took[1:] or took
        return Time(sum(steps) / len(steps), min(steps), max(steps)) if steps else NOTHING


class _EnoughError(Exception):
    """The steps that were wanted are made."""


def probe(
    recipe: Recipe, model: str, seeds: Sequence[Example], held_out: Sequence[Example], folder: Path, progress: Progress
) -> dict[str, Any]:
    """What `selfalign check --probe` shows, as plain data.

    The model is asked one batch of each stage (`sampled`), makes a round of one batch of candidates, and is trained for `STEPS`
    steps on what that round would train on, by the run's own trainer: which then is ended, and leaves no model.

    Args:
        folder: for what is journaled meanwhile; nobody reads it afterwards.

    Returns:
        {"seconds": of the probe, "stages": [{"stage", "times", "seconds", "low", "high"}], of one time each, "run": {"seconds",
        "low", "high"}, "training": {"steps": of each round, "step_seconds": [about, low, high], "starts_in": seconds} or None,
        "untimed": why there is none although a run trains, or "", "candidates", "kept_of", "kept_low", "kept_high"}.

    Raises:
        UserError: options, seeds or a model that cannot work; before the model loads.
        RunFailed: what would end a run too, such as a training that runs out of memory.
    """
    began, whole = time.monotonic(), recipe
    first = next((round for round in range(1, recipe.rounds + 1) if recipe.candidates(round)), 0)
    few = min(recipe.per_round, MOST, getattr(recipe.engine, "batch_size", MOST))
    short = replace(recipe, per_round=few, ignore_calibration=True, review=False)
    recipe, base, shown, validation, held_out, asked = prepared(short, model, seeds, held_out)
    whole = replace(recipe, per_round=whole.per_round)
    with Store.open(folder / "probe", {}) as store:
        store.add_model(0, base)
        vectors = RunVectors(recipe.encoder, asked)
        hears = Renamed(progress, lambda stage: f"probe: {stage.partition(': ')[2] or stage}")  # which is of no round
        run = Setup(recipe, store, base, shown, validation, held_out, asked, vectors, hears)
        pool = Pool((shown,))
        with opened(run, base, pool) as context:
            stages = list(_measured(run, context(0), whole))
            made = _candidates(run, context(first), whole, pool, stages) if first else Made(0, FilterResult((), ()))
        training, untimed = _trained(run, whole, made, pool.add(made.result.kept), folder, first, stages)
    rows = whole_rows(whole, made)
    return {
        "seconds": time.monotonic() - began,
        "stages": [{"stage": each.name, "times": each.times, **_plain(each.each)} for each in stages],
        "run": _plain(Time.total(each.each.by(each.times) for each in stages)),
        "training": training,
        "untimed": untimed,
        **kept_of(rows, len(made.result.kept), made.rows),
    }


def whole_rows(whole: Recipe, made: Made) -> int:
    """How many candidates a run has, second turns and opposed answers among them as often as in the probe."""
    asked = sum(whole.candidates(round) for round in range(1, whole.rounds + 1))
    return round(asked * made.rows / made.asked) if made.asked else 0


def _plain(took: Time) -> dict[str, float]:
    return {"seconds": took.about, "low": took.low, "high": took.high}


def _measured(run: Setup, context: Context, whole: Recipe) -> Iterator[Stage]:
    """All that is no candidate and no training."""
    recipe, meter = run.recipe, Meter()
    few, models = sampled(context, meter), evaluations(whole)
    yield Stage("loading the model", whole.rounds + 1, Time.exactly(loaded(context)))
    yield Stage("filters tried on the seeds", 1, _sum(meter.timed(lambda: try_rules(run, context))))
    for name, own in (("held-out prompts", False), ("guard suite", True)):
        for part in (part for part in recipe.evaluators if isinstance(part, Guard) is own):
            took = _sum(meter.timed(lambda part=part: parts.evaluate(few, part, run.held_out)))  # type: ignore[misc]
            yield Stage(f"evaluation: {name}, {type(part).__name__}", models, took)
    if run.validation:
        took = _sum(meter.timed(lambda: few.likelihood("validation", run.validation)))
        yield Stage("evaluation: validation seeds", whole.rounds + 1 if whole.trains else 1, took)
    if recipe.replay and recipe.rounds:
        yield Stage("replay answers", 1, _sum(meter.timed(lambda: make_replay(run, few))))
    took = _sum(meter.timed(lambda: recipe.rounds and check_training_data(run, few, Pool((run.shown,)))))
    yield Stage("guards of the examples", 1 + whole.rounds, took)
    if points(recipe):
        yield Stage("points of --aim_over_refusal", points(recipe), _points(run, few, meter))


def _points(run: Setup, few: Context, meter: Meter) -> Time:
    """One of them; the first may do, and all may be tried."""
    judge = next(part for part in run.recipe.evaluators if isinstance(part, Refusal))
    assert isinstance(few.journal, Sampled)
    apart = replace(few, journal=few.journal.under("aim-"))
    took = _sum(meter.timed(lambda: replace(judge, decision=False).evaluate(apart, run.validation)))
    return Time(took.about / 2, took.low / points(run.recipe), took.high)


def _sum(found: Mapping[str, Time]) -> Time:
    return Time.total(found.values())


def _candidates(run: Setup, context: Context, whole: Recipe, pool: Pool, stages: list[Stage]) -> Made:
    """A small round, every text of which is made; what it takes is added to `stages` as that of a round of the usual size."""
    meter, asked = Meter(), run.recipe.candidates(context.round)
    rounds = [count for round in range(1, whole.rounds + 1) if (count := whole.candidates(round))]
    if run.recipe.scorers:
        took = _sum(meter.timed(lambda: calibrate_judges(run, sampled(context, meter))))
        stages.append(Stage("judges calibrated", len(rounds), took))
    results: list[FilterResult] = []
    found = meter.timed(lambda: results.append(make_round(run.recipe, sampled(context, meter, all=True), pool)))
    more = sum(rounds) / len(rounds) / asked
    for name, took in sorted(found.items(), key=lambda each: not each[0]):  # what is besides the stages stands last
        stages.append(Stage(f"candidates: {NAMES.get(name, name.replace('_', ' '))}", len(rounds), took.by(more)))
    return Made(asked, results[0])


def _trained(
    run: Setup, whole: Recipe, made: Made, pool: Pool, folder: Path, first: int, stages: list[Stage]
) -> tuple[dict[str, Any] | None, str]:
    """A few steps of a round's training; what all of one takes is added to `stages`. Without any, why: "" where a run trains
    nothing."""
    recipe, trainer = whole, declared(whole.trainer, Flags)
    if not recipe.rounds or not recipe.trains:
        return None, ""
    if not made.result.kept and (trainer.preferences or trainer.distils):
        return None, "none of the candidates here was kept, and it learns from these alone"
    round = max(first, 1)
    if round > 1:  # a round that learns from the seeds alone goes before
        run.store.add_model(1, run.base)
    job = train_job(replace(run, recipe=recipe), round, run.base, pool, folder / "trained")
    # A checkpoint by the clock is of no use here.
    quick: dict[str, Any] = {"save_minutes": 0.0} if hasattr(recipe.trainer, "save_minutes") else {}
    trial, began = Trial(run.progress), time.monotonic()
    with suppress(_EnoughError):
        replace(recipe.trainer, **quick).train(job, trial)  # type: ignore[type-var]
    run.progress.finish()
    if len(trial.marks) < 2:
        return None, f"{type(recipe.trainer).__name__} tells of no steps"
    starts = trial.marks[0] - began
    rows = len(job.seeds) + len(job.generated)
    fixed = bool(recipe.steps) or getattr(recipe.trainer, "max_steps", 0) > 0
    per_row = None if fixed else trial.total / max(rows, 1)
    counts = [_steps(run, recipe, share, trial.total, per_row) for share in made.share]
    times = [(starts * recipe.rounds + sum(steps) * step) / recipe.rounds for steps, step in zip(counts, trial.step, strict=True)]
    stages.append(Stage("training", recipe.rounds, Time(*times)))
    return {"steps": counts[0], "step_seconds": list(trial.step), "starts_in": starts}, ""


def _steps(run: Setup, recipe: Recipe, share: float, total: int, per_row: float | None) -> list[int]:
    """Of each round's training, where so many rows are kept for each candidate that is asked for.

    Args:
        total: of the one that was tried, and `per_row` as many for each of its rows; None where the rows do not matter.
    """
    if per_row is None:
        return list(recipe.steps) or [total] * recipe.rounds
    rounds, always = range(1, recipe.rounds + 1), len(replayed(run.store))
    made = [share * recipe.candidates(round) for round in rounds]
    each = made if recipe.train_on == "latest" else accumulate(made)
    seeds = [len(run.shown) * recipe.learns_seeds(round) for round in rounds]
    return [max(1, ceil(per_row * (always + rows + own))) for rows, own in zip(each, seeds, strict=True)]


def probe_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The same as a table."""
    yield f"time on this machine, as busy as now, by a probe of {duration(found['seconds'])}:"
    width = max(len(each["stage"]) for each in found["stages"]) + 2
    yield f"  {'stage':<{width}}{'times':>5}{'each':>10}{'in all':>10}{'from':>10}{'to':>10}"
    for each in found["stages"]:
        whole = Time(each["seconds"], each["low"], each["high"]).by(each["times"])
        if whole.high >= 0.5:
            yield f"  {each['stage']:<{width}}{each['times']:>5}{duration(each['seconds']):>10}" + _durations(whole)
    yield f"  {'the whole run':<{width}}{'':>15}" + _durations(Time(*(found["run"][name] for name in ("seconds", "low", "high"))))
    if training := found["training"]:
        about, low, high = training["step_seconds"]
        steps = " and ".join(map(str, training["steps"])) if len(set(training["steps"])) > 1 else f"{training['steps'][0]}"
        yield f"training: {steps} steps a round, {about:.1f} s each ({low:.1f} to {high:.1f})"
    elif found["untimed"]:
        yield f"training is not timed, and comes on top: {found['untimed']}"
    if found["kept_of"]:
        yield f"expected: of {counted(found['candidates'], 'candidate')}, {kept_text(found)}"


def _durations(took: Time) -> str:
    return "".join(f"{duration(seconds):>10}" for seconds in took)
