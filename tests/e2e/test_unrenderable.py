"""Texts that mean a turn to the model: dropped by rule and counted, in recipes without any filter too, and never raised on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from selfalign.encoders import Hashed
from selfalign.engines import HF
from selfalign.loop.align import align
from selfalign.protocols import Context
from selfalign.recipe import Recipe
from selfalign.record.review import Decision, open_review
from selfalign.record.store import Store
from selfalign.retrievers import Uniform
from selfalign.scorers import Judge, Perplexity
from selfalign.trainers import NullTrainer
from selfalign.types import Completion, Example, Request, Sampling
from tests.parts import seeds
from tests.tiny import CHATML, tiny_model

WRITTEN = (
    "How do I dry a pan?",
    "Say <|im_end|> now.",
    "<|im_start|>system",
    "What is a sieve for?",
    "How do I dry a pot?",
    "And a lid?",
)
GIVEN = {4: "Say <|im_start|> aloud.", 5: "Wipe it.<|im_end|>"}
"""Responses that come with their prompts."""
SINGLE = CHATML + "{% if messages | length > 3 %}{{ raise_exception('one turn only') }}{% endif %}"


@dataclass(frozen=True)
class Written:
    """Prompts as a list in a model's text might have them, some with responses."""

    def propose(self, context: Context, count: int) -> list[Example]:
        return [
            Example(f"r{context.round:02d}-{slot:05d}", WRITTEN[slot], GIVEN.get(slot, ""), context.round, slot)
            for slot in range(count)
        ]


@dataclass(frozen=True)
class Spelling(HF):
    """What a model writes is one text, with the tokens of that text."""

    raw: str = ""

    @contextmanager
    def open(self, model: Any, format: Any) -> Iterator[Any]:
        with HF.open(self, model, format) as session:
            session.generate = lambda requests, sampling: [self._said(session._texts, each) for each in requests]  # type: ignore[method-assign]
            yield session

    def _said(self, texts: Any, request: Request) -> Completion:
        return texts.completed(request, self.raw, 5, True, ())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("tiny") / "model", context=2048))


def bare(**parts: Any) -> Recipe:
    """Two rounds without a single filter; the second one shows what the first one kept."""
    made = Recipe("bare", HF(), Hashed(), Written(), Uniform(4, 2), Sampling(max_tokens=4), NullTrainer())
    return (
        replace(made, evaluators=(), rounds=2, per_round=len(WRITTEN), min_yield=0.0, allow_overlap=True)
        if not parts
        else replace(bare(), **parts)
    )


def test_a_text_that_is_a_turn_is_dropped_and_counted(folder: str, tmp_path: Path) -> None:
    scorers = (Perplexity(model="current"), Judge(prompt_form="own"))
    for _ in range(2):  # and again: nothing of it stops a run that goes on
        align(bare(scorers=scorers, ignore_calibration=True), folder, seeds(), tmp_path / "run")
    with Store.read(tmp_path / "run") as store:
        for round in (1, 2):
            dropped = {drop.example.slot: drop for drop in store.dropped(round)}
            assert sorted([*dropped, *(example.slot for example in store.kept(round))]) == list(range(len(WRITTEN)))
            assert {slot: drop.rule for slot, drop in dropped.items()} == dict.fromkeys((1, 2, 4, 5), "not_renderable")
            assert all("which means a turn to this model" in drop.evidence for drop in dropped.values())
        assert store.state()["state"] == "done"


@pytest.mark.parametrize("raw", ["<|im_<|im_end|>end|> Well.", "<|im_<|im_<|pad|>start|>end|>Yes.", "<|im_start<|pad|>|>user"])
def test_what_a_model_writes_is_cleaned_until_it_is_a_text(folder: str, tmp_path: Path, raw: str) -> None:
    align(bare(engine=Spelling(raw=raw)), folder, seeds(), tmp_path / "run")
    with Store.read(tmp_path / "run") as store:
        assert store.state()["state"] == "done"
        assert all("<|im_" not in example.response for round in (1, 2) for example in store.kept(round))


def test_a_model_of_single_turns_loses_nothing_for_being_one(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", template=SINGLE)
    align(bare(retriever=Uniform(0, 0), rounds=1), str(folder), seeds(), tmp_path / "run")
    with Store.read(tmp_path / "run") as store:
        assert [example.slot for example in store.kept(1)] == [0, 3]


def test_an_edited_answer_that_is_a_turn_is_dropped_with_its_reason(folder: str, tmp_path: Path) -> None:
    recipe = bare(rounds=1, review=True)
    run = align(recipe, folder, seeds(), tmp_path / "run")
    assert run.best_round == 0 and run.stopped_because.startswith("round 1 waits for its review: 0 of 2 pairs decided")
    with open_review(tmp_path / "run") as review:
        first, second = review.pairs
        edits = {first: "Say <|im_end|> now.", second: "Wipe it."}
        review.decide([Decision(id, "edited", response=text) for id, text in edits.items()], "Anna")
        review.close("Anna")
    align(recipe, folder, seeds(), tmp_path / "run")
    with Store.read(tmp_path / "run") as store:
        assert [example.response for example in store.kept(1)] == ["Wipe it."] and store.state()["state"] == "done"
        (drop,) = (drop for drop in store.dropped(1) if drop.rule == "reviewed")
        assert drop.example.id == first and "which means a turn to this model" in drop.evidence
