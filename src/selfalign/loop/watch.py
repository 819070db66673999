"""A run's progress on its way to the person: with the end of the whole run, and written down for `selfalign status`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

from selfalign.loop.progress import at, say
from selfalign.loop.times import duration
from selfalign.protocols import Progress
from selfalign.recipe import Recipe
from selfalign.record.now import forget_now, write_now
from selfalign.record.status import stage_seconds
from selfalign.record.store import Store
from selfalign.text import counted

EVERY = 5.0
"""Seconds between two writings of where a stage stands."""
_ONCE = ("seeds", "seed_rules", "replay")
"""Stages of round 0 that no later round repeats, by how they begin."""
_EVERY, _POINT = ("validation", "guards", "choose"), "aim-"
"""Stages that every round has, whichever models are evaluated; and how those of `aim_over_refusal` begin."""
POINTS = "the points of --aim_over_refusal"
_UNNAMED = -1


class Ahead(NamedTuple):
    """What follows the stage at hand, as far as the run has measured it."""

    seconds: float
    repeats: int
    """How often the stage at hand comes again."""
    unmeasured: tuple[str, ...]
    """What follows and was not measured yet, in words."""


def ahead(recipe: Recipe, seconds: Mapping[int, Mapping[str, float]], round: int, stage: str) -> Ahead:
    """What follows a stage of a round, in a run whose rounds took `seconds` so far, by stage.

    A round to come is taken to cost what the last whole one did, and what is measured of this one; before there is a whole one,
    what round 0 cost (the base model's evaluation) and what is measured of round 1. A run may end earlier than after its last
    round.
    """
    if round < 0:
        return Ahead(0.0, 0, ("the rest",))
    again, later = recipe.trains and recipe.evaluate == "every", recipe.rounds - round
    evaluation = _evaluation(seconds)
    here = seconds.get(round, {})
    of_shipped = round and not again and stage in evaluation and stage not in _EVERY
    if of_shipped or stage.startswith(_POINT):  # nothing is made any more
        rest = sum(spent for name, spent in evaluation.items() if name not in (*here, *_EVERY, stage)) * (not again)
        return Ahead(rest, 0, (POINTS,) if stage.startswith(_POINT) else ())
    made = [each for each in sorted(seconds) if 0 < each < round]
    before = dict(seconds[made[-1]]) if made else evaluation if again else {}
    usual = {**before, **(here if round else {})}
    rest = sum(spent for name, spent in usual.items() if round and name not in (*here, stage))
    whole = sum(spent for name, spent in usual.items() if name != stage)
    last = 0.0 if again or not recipe.trains else sum(evaluation.values())  # that of the model to ship
    known = {*usual, *here, *evaluation, stage}
    aims = recipe.aim_over_refusal is not None and recipe.trains and recipe.rounds > 0
    needed = [
        ("the base model's evaluation", not round and "guards" not in known),
        ("candidates", recipe.rounds * recipe.per_round > 0 and "filter" not in known),
        ("training", recipe.rounds > 0 and recipe.trains and "train" not in known),
        (POINTS, aims),
    ]
    repeats = later if round or again or stage in _EVERY else min(later, 1)
    recurs = not stage.startswith(_ONCE) and (round > 0 or recipe.trains)
    return Ahead(rest + later * whole + last, repeats if recurs else 0, tuple(name for name, missing in needed if missing))


def _evaluation(seconds: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    """What measuring a model took, by that of the base model."""
    return {name: spent for name, spent in seconds.get(0, {}).items() if not name.startswith(_ONCE)}


def outline(recipe: Recipe, seconds: Mapping[int, Mapping[str, float]], round: int, training: float) -> str:
    """What each stage takes, as far as it was measured when a run's first training has begun; "" once one is done.

    Args:
        training: seconds that this one will have taken by its first steps.
    """
    if any("train" in stages for stages in seconds.values()):
        return ""
    parts = [
        ("candidates", sum(spent for name, spent in seconds.get(round, {}).items() if name != "train")),
        ("training", training),
        ("evaluation" if recipe.evaluate == "every" else "evaluation of the model to ship", sum(_evaluation(seconds).values())),
    ]
    said = ", ".join(f"{name} {duration(spent)}" for name, spent in parts if spent >= 0.5)
    return f"time by stage, {counted(recipe.rounds, 'round')} at most: {said}"


class Watch:
    """`protocols.Progress` of one run."""

    def __init__(self, shown: Progress, recipe: Recipe, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._shown, self._recipe, self._store, self._clock = shown, recipe, store, clock
        self._stage, self._written = "", 0.0
        self._total = self._first = self._done = 0
        self._began, self._ahead = 0.0, Ahead(0.0, 0, ())
        self._outlined = False

    def start(self, stage: str, total: int, done: int = 0) -> None:
        self._stage, self._total, self._first, self._done, self._began = stage, total, done, done, self._clock()
        self._ahead = ahead(self._recipe, stage_seconds(self._store), *_named(stage))
        self._shown.start(stage, total, done)
        self._write()

    def advance(self, count: int = 1, note: str = "") -> None:
        self._done += count
        self._outline()
        self._shown.advance(count, "; ".join(filter(None, (note, self._run_ends()))))
        if self._clock() - self._written >= EVERY:
            self._write()

    def finish(self) -> None:
        self._shown.finish()
        forget_now(self._store.folder)

    def say(self, text: str) -> None:
        say(self._shown, text)

    def _left(self) -> tuple[float, float] | None:
        """Seconds to the end of the stage and of all that is measured of the run; None before anything was done."""
        if self._done == self._first:
            return None
        spent = self._clock() - self._began
        left = spent * (self._total - self._done) / (self._done - self._first)
        whole = (spent + left) * self._total / (self._total - self._first)  # also of what was done before we began
        return left, left + self._ahead.seconds + self._ahead.repeats * whole

    def _outline(self) -> None:
        """Says what each stage takes, once, when the first training has made two steps: its first one takes longer."""
        round, stage = _named(self._stage)
        if self._outlined or stage != "train" or self._done - self._first != 2 or self._total - self._first < 4:
            return
        self._outlined = True
        left, _ = self._left() or (0.0, 0.0)
        training = (self._clock() - self._began + left) * self._total / (self._total - self._first)
        if text := outline(self._recipe, stage_seconds(self._store), round, training):
            self.say(f"{text}; {self._run_ends()}")

    def _run_ends(self) -> str:
        if (left := self._left()) is None:
            return ""
        now = self._clock()
        if missing := " and ".join(self._ahead.unmeasured):
            return f"run not before {at(now + left[1], now)} ({missing} still to be measured)"
        return f"run ends about {at(now + left[1], now)}"

    def _write(self) -> None:
        now, left = self._clock(), self._left()
        self._written = now
        spent = now - self._began
        found = {
            "stage": self._stage,
            "done": self._done,
            "total": self._total,
            "per_second": (self._done - self._first) / spent if left and spent > 0 else None,
            "at": _iso(now),
            "stage_ends": left and _iso(now + left[0]),
            "run_ends": left and _iso(now + left[1]),
            "unmeasured": list(self._ahead.unmeasured),
        }
        write_now(self._store.folder, found)


@contextmanager
def watched(shown: Progress, recipe: Recipe, store: Store) -> Iterator[Watch]:
    """The progress of a run in the block; when it is left, no stage is open any more."""
    forget_now(store.folder)
    try:
        yield Watch(shown, recipe, store)
    finally:
        forget_now(store.folder)


def _named(stage: str) -> tuple[int, str]:
    """Round and name of a stage as `Journal` and trainers say it, "round 2: respond"."""
    round, _, name = stage.partition(": ")
    number = round.removeprefix("round ")
    return (int(number), name) if number.isdecimal() else (_UNNAMED, stage)


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
