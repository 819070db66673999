"""What every scorer must keep to, over every scorer found in the folder, and that the check sees what breaks it."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import pkgutil
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import selfalign.scorers
from selfalign.contracts import check_scorer
from selfalign.protocols import Context, Engine, Scorer
from selfalign.scorers import Reward
from selfalign.types import Example, FloatArray, Request
from tests.parts import calling, context

MODULES = [name for _, name, _ in pkgutil.iter_modules(selfalign.scorers.__path__) if not name.startswith("_")]
SCORERS: list[type[Scorer]] = [
    part
    for name in MODULES
    for _, part in inspect.getmembers(importlib.import_module(f"selfalign.scorers.{name}"), inspect.isclass)
    if part.__module__ == f"selfalign.scorers.{name}" and hasattr(part, "score")
]
every_scorer = pytest.mark.parametrize("part", SCORERS, ids=lambda part: part.__name__)
WINDOW = 4000


@dataclasses.dataclass(frozen=True)
class Window:
    """A session that can say what fits and embed: what scorers ask of one beside the journal's calls."""

    characters: int = WINDOW

    def fit(self, request: Request, max_tokens: int) -> Request | None:
        return request if len(request.text or request.prompt or "") + max_tokens <= self.characters else None

    def embed(self, texts: Sequence[str]) -> FloatArray:
        rows = np.array([[text.count(letter) + 0.1 for letter in "aeiounrst"] for text in texts], dtype=np.float32)
        unit: FloatArray = rows.reshape(-1, 9) / np.linalg.norm(rows.reshape(-1, 9), axis=1, keepdims=True)
        return unit


def scoring_context(**changes: Any) -> Context:
    """A context for a scorer, with the session above or the one given; any other model's context is the same one."""

    @contextmanager
    def open_model(model: str, engine: Engine | None = None) -> Iterator[Context]:
        yield made

    names = ("generate", "likelihood", "continuation", "session")
    calls = {"session": Window(), **{name: changes.pop(name) for name in names if name in changes}}
    made = calling(dataclasses.replace(context(open_model=open_model), **changes), **calls)
    return made


def test_every_file_holds_a_scorer() -> None:
    assert {part.__module__.rpartition(".")[2] for part in SCORERS} == set(MODULES)


@every_scorer
def test_contract(part: type[Scorer], reward_model: Path) -> None:
    check_scorer(part(**({"model": str(reward_model), "device": "cpu"} if part is Reward else {})))


@dataclasses.dataclass(frozen=True)
class Broken:
    fault: str

    def score(self, context: Context, examples: Sequence[Example]) -> list[Example]:
        value = {"nan": math.nan, "whole": 1}.get(self.fault, 2.0)
        found = [dataclasses.replace(each, scores={**each.scores, "mine": value}) for each in examples]
        if self.fault == "order":
            return found[::-1]
        if self.fault == "loses":
            return found[1:]
        if self.fault == "forgets":
            return [dataclasses.replace(each, scores={"mine": 1.0}) for each in examples]
        if self.fault == "rewrites":
            return [dataclasses.replace(each, response=each.response + ".") for each in found]
        if self.fault == "is silent":
            return [*found[:-1], *examples[-1:]]
        if self.fault == "shouts":
            return [dataclasses.replace(each, scores={**each.scores, "Mine": 1.0}) for each in examples]
        if self.fault == "wavers":
            return [dataclasses.replace(each, scores={**each.scores, "mine": random.random()}) for each in examples]
        return found


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("nan", "finite float, not nan"),
        ("whole", "finite float, not 1"),
        ("order", "same order"),
        ("loses", "same order"),
        ("forgets", "already stay"),
        ("rewrites", "nothing but scores"),
        ("is silent", "or the reason why not"),
        ("shouts", "lower-case letters"),
        ("wavers", "same scores"),
    ],
)
def test_the_contract_sees_a_broken_scorer(fault: str, words: str) -> None:
    check_scorer(Broken("none"))
    with pytest.raises(AssertionError, match=rf"Broken: .*{words}"):
        check_scorer(Broken(fault))


def test_options_that_are_not_plain_are_seen() -> None:
    for part, words in ((Broken, "an instance"), (Thawed(), "is frozen"), (Broken(["none"]), "fault is")):  # type: ignore[arg-type]
        with pytest.raises(AssertionError, match=words):
            check_scorer(part)  # type: ignore[arg-type]


@dataclasses.dataclass
class Thawed:
    def score(self, context: Context, examples: Sequence[Example]) -> list[Example]:
        return list(examples)
