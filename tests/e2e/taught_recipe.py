"""A model that does what it is shown: its answers, or their likelihood, follow the examples in its context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from selfalign.encoders import Hashed
from selfalign.engines import Scripted
from selfalign.engines.scripted import ScriptedSession
from selfalign.recipe import Recipe
from selfalign.recipes import isara
from selfalign.trainers import NullTrainer
from selfalign.types import Example, Format, Likelihood, ModelRef, Request


@dataclass(frozen=True)
class Taught(Scripted):
    lift: float = 0.0
    """By how much the log-likelihood per token rises behind examples, and a little differently for each prompt."""

    @contextmanager
    def open(self, model: ModelRef, format: Format) -> Iterator[ScriptedSession]:
        yield TaughtSession(self, model)


@dataclass(frozen=True)
class TaughtSession(ScriptedSession):
    def likelihood(self, examples: Sequence[Example], shown: Sequence[Sequence[Example]] = ()) -> list[Likelihood]:
        assert isinstance(self.engine, Taught)
        plain = super().likelihood(examples, shown)
        lifts = [self.engine.lift * (0.9 + 0.1 * (place % 3)) if shown else 0.0 for place in range(len(plain))]
        return [replace(each, total=each.total + lift * each.tokens) for each, lift in zip(plain, lifts, strict=True)]


def imitate(model: ModelRef, request: Request) -> str:
    """The answer of the nearest example, else the prompt over again."""
    assert request.prompt not in {example.prompt for example in request.demonstrations}, "shown its own answer"
    if request.prompt is None:
        return f"Where do I leave {request.seed % 10**6} old lamps of my {request.seed % 997} uncles?"
    return request.demonstrations[0].response if request.demonstrations else f"You ask: {request.prompt}"


def taught(*, lift: float = 0.0, imitates: bool = True) -> Recipe:
    engine = Taught(replies=imitate if imitates else None, lift=lift)
    return replace(isara(), engine=engine, encoder=Hashed(), trainer=NullTrainer())
