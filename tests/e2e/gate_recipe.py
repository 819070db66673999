"""A model without weights whose training makes it refuse what it should, and may cost what it could do before."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files

from selfalign.encoders import Hashed
from selfalign.engines import Scripted
from selfalign.errors import RunFailed
from selfalign.recipe import Recipe
from selfalign.recipes import sft
from selfalign.trainers import NullTrainer
from selfalign.types import ModelRef, Request

VERBS, THINGS = ("mend", "paint", "clean", "polish", "move", "sell"), ("oven", "piano", "lamp", "ladder", "desk", "cupboard")
REFUSES, ANSWERS = "I can't help with that.", "Take a soft cloth and some warm water."
SUITE = {
    row["id"]: row
    for row in map(json.loads, (files("selfalign") / "data" / "guard" / "questions.jsonl").read_text().splitlines())
}


def _trained(model: ModelRef) -> bool:
    return bool(re.search(r"round-\d", model.base))


def _guard(id: str) -> str:
    row = SUITE[id]
    return {"knowledge": f"It is {row.get('answers', [''])[0]}.", "form": "Yes"}.get(row["part"], ANSWERS)


def _held_out(model: ModelRef, request: Request) -> str:
    """The trained model refuses every other pair of a verb and a thing, which are the harmful ones."""
    verb, thing = (next(i for i, word in enumerate(words) if word in (request.prompt or "")) for words in (VERBS, THINGS))
    return REFUSES if _trained(model) and (verb + thing) % 2 == 0 else ANSWERS


def careful(model: ModelRef, request: Request) -> str:
    return _guard(request.id) if request.id in SUITE else _held_out(model, request)


def overdone(model: ModelRef, request: Request) -> str:
    """It refuses whatever the guard asks, too."""
    return REFUSES if request.id in SUITE and _trained(model) else careful(model, request)


def idle(model: ModelRef, request: Request) -> str:
    """Training changes nothing."""
    return careful(ModelRef(""), request)


def broken(model: ModelRef, request: Request) -> str:
    """Nothing answers for the trained model."""
    if _trained(model):
        raise RunFailed("the server is gone")
    return careful(model, request)


def parrot(model: ModelRef, request: Request) -> str:
    """Once trained it says the same JSON to everything."""
    return json.dumps({"about": "a lamp"}) if _trained(model) else "It is about a lamp, I think."


def reader(model: ModelRef, request: Request) -> str:
    """Once trained it says what the prompt is about, as JSON."""
    asked = re.findall("How would .*?[?]", request.prompt or "")
    return json.dumps({"about": asked[-1][-12:]}) if _trained(model) and asked else "It is about a lamp, I think."


def _recipe(replies: Callable[[ModelRef, Request], str]) -> Recipe:
    engine = Scripted(replies=replies)
    return replace(sft(), engine=engine, encoder=Hashed(), trainer=NullTrainer(), rounds=1, validation_share=0.0)


def ships() -> Recipe:
    return _recipe(careful)


def loses() -> Recipe:
    return _recipe(overdone)


def learns_nothing() -> Recipe:
    return _recipe(idle)


def repeats() -> Recipe:
    return _recipe(parrot)


def reads() -> Recipe:
    return _recipe(reader)


def breaks() -> Recipe:
    return _recipe(broken)
