"""A model that answers wrongly behind the user's own examples: a run and a preview say so before they teach its answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from selfalign import align
from selfalign.encoders import Hashed
from selfalign.engines import Scripted
from selfalign.recipes import isara
from selfalign.record.status import warnings
from selfalign.record.store import Store
from selfalign.trainers import NullTrainer
from selfalign.types import Example, ModelRef, Request

THINGS = ("lamp", "stove", "roof", "violin", "kettle", "drum", "atlas", "fence", "radio", "ladder", "table", "window")


def in_fields(thing: str, day: str) -> str:
    return json.dumps({"thing": thing, "day": day})


def pairs(answer: str) -> list[Example]:
    """Of JSON: the day is in the prompt. Of labels: by the thing's first letter."""
    days = ("Monday", "Friday", "Sunday")
    return [
        Example(
            f"s{place}",
            f"The {thing} must be mended by {days[place % 3]}, please.",
            in_fields(thing, days[place % 3]) if answer == "json" else "early" if thing[0] < "l" else "late",
        )
        for place, thing in enumerate(THINGS)
    ]


def replying(seeds: Sequence[Example], right: int) -> Scripted:
    """The first `right` seeds' prompts are answered as the seeds do; everything else has the form and a wrong content."""
    known = {seed.prompt: seed.response for seed in seeds[:right]}

    def reply(model: ModelRef, request: Request) -> str:
        if request.prompt is None:
            return f"The {request.seed % 97} chairs of the hall must be counted by Tuesday, please."
        wrong = in_fields(request.prompt.split()[1], "Tuesday") if seeds[0].response.startswith("{") else "never"
        return known.get(request.prompt, wrong)

    return Scripted(replies=reply)


@pytest.mark.parametrize("answer", ["json", "labels"])
@pytest.mark.parametrize("right", [0, 12])
def test_wrong_answers_behind_the_seeds_are_told(tmp_path: Path, answer: str, right: int) -> None:
    seeds = pairs(answer)
    recipe = replace(
        isara(), engine=replying(seeds, right), encoder=Hashed(), trainer=NullTrainer(), rounds=1, per_round=6, min_yield=0.0
    )
    align(recipe, "any", seeds, tmp_path / "run")
    with Store.read(tmp_path / "run") as store:
        said = [text for text in warnings(store) if "as the seed does" in text]
    if right:
        assert said == []
        return
    by_field = " (right by field: thing 10, day 0)" if answer == "json" else ""
    assert len(said) == 1 and said[0].startswith(
        f"evaluation: asked the prompts of 10 seeds and shown others, the model answers 0 as the seed does [0, 28 %]{by_field}: "
    )


def test_seeds_of_prose_are_not_asked(tmp_path: Path) -> None:
    seeds = [replace(seed, response=f"We mend your {THINGS[place]} on time.") for place, seed in enumerate(pairs("json"))]
    asked: list[str] = []

    def reply(model: ModelRef, request: Request) -> str:
        asked.append(request.id)
        return "We count the chairs of the hall on time." if request.prompt else "The chairs of the hall must be counted."

    recipe = replace(isara(), engine=Scripted(replies=reply), encoder=Hashed(), trainer=NullTrainer(), rounds=1, per_round=6)
    align(replace(recipe, min_yield=0.0), "any", seeds, tmp_path / "run")
    assert asked and not {seed.id for seed in seeds} & set(asked)
