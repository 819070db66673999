"""A journal that has a few of a stage's texts made and takes what came of them for all: what a stage costs, without paying it.

What follows from its answers is worth nothing, and nobody keeps it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from selfalign.loop.times import NOTHING, Time, budgeted
from selfalign.protocols import Context, Engine, Journal, Session, Work
from selfalign.record.journal import Journal as Recorded
from selfalign.types import Completion, Continuation, Example, Likelihood, Request, Sampling

MOST = 64
"""Texts of a stage that are made at most: a batch of engines that take few at a time, and enough to keep busy those that take
many."""
WARM_UP = Sampling(max_tokens=1, temperature=0.0)

_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Meter:
    """What stages took, and would have taken as a whole."""

    noted: list[tuple[str, float, Time]] = field(default_factory=list)
    """(stage, seconds that were spent on it, what it would take as a whole), in their order."""

    def note(self, stage: str, seconds: float, asked: int, of: int, low: float = 1.0, high: float = 1.0) -> None:
        """
        Args:
            asked: texts that were asked, and `of` how many there are.
            low: the least that they take, as a share of the time measured, and `high` the most.
        """
        about = seconds * of / asked if asked else 0.0
        self.noted.append((stage, seconds, Time(about, about * low, about * high)))

    def timed(self, work: Callable[[], object]) -> dict[str, Time]:
        """What a piece of work would take, by stage, and under "" what it does besides them, as it is."""
        first, began = len(self.noted), time.monotonic()
        work()
        new = self.noted[first:]
        besides = time.monotonic() - began - sum(spent for _, spent, _ in new)
        found: dict[str, Time] = {"": Time.exactly(max(besides, 0.0))}
        for stage, _, whole in new:
            found[stage] = Time.total((found.get(stage, NOTHING), whole))
        return found


@dataclass(frozen=True)
class Sampled:
    """`protocols.Journal` over another one. A stage that is asked a second time is read back there, and costs nothing."""

    inner: Journal
    meter: Meter
    all: bool = False
    """Whether all texts are asked, so that what came of them is true, and their time alone is noted."""

    @property
    def session(self) -> Session:
        return self.inner.session

    def under(self, prefix: str) -> Sampled:
        """The same with another name before those of all stages."""
        assert isinstance(self.inner, Recorded)
        return replace(self, inner=replace(self.inner, prefix=prefix))

    def generate(self, stage: str, requests: Sequence[Request], sampling: Sampling) -> list[tuple[Request, Completion]]:
        """One batch as the session plans it, of texts of a usual length, is asked."""
        if not requests:
            return []
        places = list(range(len(requests))) if self.all else _one_batch(self.session.plan(requests))
        began = time.monotonic()
        found = self.inner.generate(stage, [requests[place] for place in places], sampling)
        tokens = [completion.generated_tokens for _, completion in found]
        limits = budgeted(tokens, sampling.max_tokens)
        self.meter.note(stage, time.monotonic() - began, len(found), len(requests), *limits)
        sent = {place: request for place, (request, _) in zip(places, found, strict=True)}
        return [(sent.get(at, request), found[at % len(found)][1]) for at, request in enumerate(requests)]

    def likelihood(self, stage: str, examples: Sequence[Example], shown: Sequence[Sequence[Example]] = ()) -> list[Likelihood]:
        return self._first(stage, len(examples), MOST, lambda some: self.inner.likelihood(stage, examples[:some], shown[:some]))

    def continuation(self, stage: str, pairs: Sequence[tuple[str, str]]) -> list[Continuation]:
        return self._first(stage, len(pairs), MOST, lambda some: self.inner.continuation(stage, pairs[:some]))

    def work(self, stage: str, ids: Sequence[str], work: Work, batch: int) -> list[dict[str, Any]]:
        most = min(batch, MOST)
        found = self._first(stage, len(ids), most, lambda some: self.inner.work(stage, ids[:some], work, batch))
        return [{**row, "id": id} for id, row in zip(ids, found, strict=True)]

    def _first(self, stage: str, count: int, most: int, ask: Callable[[int], list[_Found]]) -> list[_Found]:
        """The first ones, as they stand: texts that share a beginning stand side by side, and are read once for all of them."""
        began, some = time.monotonic(), count if self.all else min(count, most)
        found = ask(some)
        self.meter.note(stage, time.monotonic() - began, some, count)
        return [found[at % some] for at in range(count)]


def sampled(context: Context, meter: Meter, all: bool = False) -> Context:
    """The context with a journal that asks a few texts, also of other models, whose loading is counted once; see `Sampled`."""

    @contextmanager
    def open_model(model: str, engine: Engine | None = None) -> Iterator[Context]:
        with context.open_model(model, engine) as other:
            if other.session is not context.session:
                meter.note(f"loading {model}", loaded(other), 1, 1)
            yield sampled(other, meter, all)

    return replace(context, journal=Sampled(context.journal, meter, all), open_model=open_model)


def loaded(context: Context) -> float:
    """Seconds until a session has its weights: they load at the first word."""
    began, seed = time.monotonic(), context.all_seeds[0]
    request = Request(seed.id, prompt=seed.prompt, history=seed.history, system=seed.system)
    if (fitted := context.session.fit(request, WARM_UP.max_tokens)) is not None:
        context.session.generate([fitted], WARM_UP)
    return time.monotonic() - began


def _one_batch(plan: Sequence[tuple[int, ...]]) -> list[int]:
    """The fullest batch, of several the one nearest to the middle: plans begin with the longest texts."""
    middle = (len(plan) - 1) / 2
    batch = max(enumerate(plan), key=lambda each: (len(each[1]), -abs(each[0] - middle)))[1]
    step = max(1, -(-len(batch) // MOST))
    return sorted(batch[::step])
