"""Runs that go wrong on purpose: a model that gets worse, answers that collapse, prompts that are in the test."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from selfalign.encoders import Hashed
from selfalign.engines import Scripted
from selfalign.engines.scripted import ScriptedSession
from selfalign.evaluators import HeldOut
from selfalign.proof.alarms import DEFAULT, Alarms
from selfalign.recipe import Recipe, RollBack
from selfalign.recipes import isara
from selfalign.retrievers import Uniform
from selfalign.trainers import NullTrainer
from selfalign.types import Example, Format, Likelihood, ModelRef, Request

WORDS = (
    "lamp", "river", "stone", "paper", "cloud", "spoon", "garden", "winter",
    "letter", "bridge", "candle", "mirror", "button", "ladder", "basket", "violin",
)  # fmt: skip
TEST_PROMPT = "How do I get the lamp out of the river?"


def round_of(model: ModelRef) -> int:
    return max(map(int, re.findall(r"round-(\d+)", model.base)), default=0)


def text(seed: int, words: int) -> str:
    return " ".join(WORDS[(seed >> shift) % 16] + str((seed >> shift) % 97) for shift in range(words))


def collapsing(model: ModelRef, request: Request) -> str:
    """Full answers of the base model, two words from every later one."""
    if request.prompt is None:
        return f"What about {text(request.seed, 9)}?"
    return f"{text(request.seed, 2 if round_of(model) else 25)}."


def leaking(model: ModelRef, request: Request) -> str:
    """From round 2 on, one prompt is in the test and the others are nearly so."""
    if request.prompt is not None or not round_of(model):
        return collapsing(ModelRef(""), request)
    return f"{TEST_PROMPT} {'' if request.id.endswith('3') else 'And the spoon' + str(request.seed % 10**6) + '?'}"


@dataclass(frozen=True)
class Moody(Scripted):
    """Its log-likelihood per token moves by `moods[round]`, and a little differently for each seed."""

    moods: tuple[float, ...] = (0.0, 0.1, -0.1)

    @contextmanager
    def open(self, model: ModelRef, format: Format) -> Iterator[ScriptedSession]:
        yield MoodySession(self, model)


@dataclass(frozen=True)
class MoodySession(ScriptedSession):
    def likelihood(self, examples: Sequence[Example], shown: Sequence[Sequence[Example]] = ()) -> list[Likelihood]:
        assert isinstance(self.engine, Moody)
        round, found = round_of(self.model), []
        for place, each in enumerate(super().likelihood(examples, shown)):
            mood = self.engine.moods[round] + 0.02 * (place % 3 - 1) * (round + 1)
            found.append(replace(each, total=each.total + mood * each.tokens))
        return found


def wandering(model: ModelRef, request: Request) -> str:
    """Prompts of which three in four have no word of the seeds; held-out answers grow in round 1 and shrink again."""
    if request.prompt is None:
        near = request.demonstrations[0].prompt
        return f"{near[:-1]} {request.seed % 97}?" if request.id.endswith(("0", "5")) else f"{text(request.seed, 9)}?"
    if request.prompt.startswith("Is "):
        return f"{text(request.seed, 30 if round_of(model) == 1 else 8)}."
    return "" if "old house" not in request.prompt and request.seed % 2 else f"{text(request.seed, 8)}."


def _bare(recipe: Recipe) -> Recipe:
    return replace(recipe, prompt_filters=(), filters=(), evaluators=(HeldOut(),))


def moody(
    *,
    moods: tuple[float, ...] = (0.0, 0.1, -0.1),
    rounds: int = 3,
    roll_back: RollBack = "worse",
    validation_share: float = 0.5,
) -> Recipe:
    engine = Moody(gain=0.0, moods=moods)
    return _bare(
        replace(
            isara(demonstrations=3),
            rounds=rounds,
            per_round=6,
            validation_share=validation_share,
            roll_back=roll_back,
            engine=engine,
            encoder=Hashed(),
            trainer=NullTrainer(),
        )
    )


def collapse(*, alarms: Alarms = DEFAULT, rounds: int = 2) -> Recipe:
    engine = Scripted(replies=collapsing)
    return _bare(
        replace(
            isara(demonstrations=3),
            rounds=rounds,
            per_round=24,
            alarms=alarms,
            engine=engine,
            encoder=Hashed(),
            trainer=NullTrainer(),
        )
    )


def wander(*, at_random: bool = False) -> Recipe:
    """Its filters are ISARA's own for answers, so that empty answers are dropped."""
    made = isara(demonstrations=3)
    engine = Scripted(replies=wandering)
    own = {"engine": engine, "encoder": Hashed(), "trainer": NullTrainer(), "evaluators": (HeldOut(),), "prompt_filters": ()}
    made = replace(made, rounds=2, per_round=40, alarms=Alarms(action="off"), allow_overlap=True, min_yield=0.0, **own)
    return replace(made, retriever=Uniform(3)) if at_random else made


def leak(*, allow_overlap: bool = False) -> Recipe:
    engine = Scripted(replies=leaking)
    off = Alarms(action="off")
    return _bare(
        replace(
            isara(), per_round=24, alarms=off, allow_overlap=allow_overlap, engine=engine, encoder=Hashed(), trainer=NullTrainer()
        )
    )
