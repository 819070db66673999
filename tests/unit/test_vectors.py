"""Texts are embedded once, and a run that goes on has the vectors of one that was never stopped."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from selfalign.encoders import Hashed
from selfalign.engines import Scripted
from selfalign.errors import RunFailed
from selfalign.loop.align import align
from selfalign.loop.vectors import RunVectors
from selfalign.protocols import Encode, Encoder, Progress, Session, TrainJob, TrainResult
from selfalign.recipe import Recipe
from selfalign.recipes import isara
from selfalign.record.store import Store
from selfalign.seeds.read import read_seeds
from selfalign.trainers import NullTrainer
from selfalign.types import Example, FloatArray, Pool
from tests.parts import generated, seeds

HELD_OUT = [Example(f"h{i}", f"Which bird sings in month {i}?", "The robin sings.", category="care") for i in range(3)]


class Counting:
    """Vectors that depend a little on the texts beside them, as padding and rounding have it, and a record of the calls."""

    def __init__(self, fixed: bool = True) -> None:
        self.fixed, self.calls = fixed, list[list[str]]()

    @contextmanager
    def open(self, session: Session) -> Iterator[Encode]:
        def encode(texts: Sequence[str]) -> FloatArray:
            self.calls.append(list(texts))
            with Hashed().open(session) as hashed:
                rows = hashed(texts)
            if texts:
                rows[:, zlib.crc32("\n".join(texts).encode()) % rows.shape[1]] += 1e-3
            unit: FloatArray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            return unit

        yield encode

    def times(self) -> Counter[str]:
        return Counter(text for call in self.calls for text in call)


class Failing:
    """Fails in one round, as a machine does."""

    def __init__(self, round: int = 0) -> None:
        self.round = round

    def train(self, job: TrainJob, progress: Progress) -> TrainResult:
        if job.round == self.round:
            raise RunFailed("the machine fell over")
        return NullTrainer().train(job, progress)


def recipe(encoder: Encoder, round: int = 0) -> Recipe:
    made = replace(isara(), rounds=3, per_round=40, min_yield=0.0, validation_share=0.0, engine=Scripted(batch_size=8))
    return replace(made, encoder=encoder, trainer=Failing(round))


def test_the_pool_and_the_held_out_prompts_are_embedded_once_in_a_run(seeds_file: Path, tmp_path: Path) -> None:
    encoder, given = Counting(), read_seeds(seeds_file)
    align(recipe(encoder), "scripted", given, tmp_path / "run", held_out=HELD_OUT)
    times = encoder.times()
    with Store.read(tmp_path / "run") as store:
        kept = [example for round in (1, 2, 3) for example in store.kept(round)]
        dropped = {drop.example.prompt for round in (1, 2, 3) for drop in store.dropped(round)}
    dropped -= {example.prompt for example in (*given, *kept)}
    assert {times[example.prompt] for example in (*given, *HELD_OUT)} == {1}
    # As a candidate and as a part of the pool, unless it is the last round's; not once more for each round to come.
    assert {times[example.prompt] for example in kept if example.round < 3} == {2}
    assert {times[example.prompt] for example in kept if example.round == 3} == {1}
    assert max(times[prompt] for prompt in dropped) == 1


def test_vectors_of_the_rounds_model_are_made_anew_for_the_next_one(seeds_file: Path, tmp_path: Path) -> None:
    encoder, given = Counting(fixed=False), read_seeds(seeds_file)
    align(recipe(encoder), "scripted", given, tmp_path / "run")
    assert {encoder.times()[example.prompt] for example in given} == {3}  # by the models of rounds 0, 1 and 2


def test_a_run_that_goes_on_has_the_same_vectors(seeds_file: Path, tmp_path: Path) -> None:
    given = read_seeds(seeds_file)
    align(recipe(Counting()), "scripted", given, tmp_path / "whole", held_out=HELD_OUT)
    with pytest.raises(RunFailed, match="fell over"):
        align(recipe(Counting(), round=2), "scripted", given, tmp_path / "broken", held_out=HELD_OUT)
    align(recipe(Counting()), "scripted", given, tmp_path / "broken", held_out=HELD_OUT)
    for name in ("round-03/kept.jsonl", "round-03/dropped.jsonl", "round-03/metrics.json"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_is_asked_for_comes_in_the_order_asked() -> None:
    encoder, pool = Counting(), Pool((seeds(), generated(1, 3)))
    vectors = RunVectors(encoder)
    prompts = [example.prompt for example in seeds()]
    asked = ["new", prompts[3], prompts[0], "new", "newer"]
    with vectors.open(None, pool) as encode:  # type: ignore[arg-type]  # this encoder uses no session
        found = encode(asked)
        assert encode([]).shape == (0, found.shape[1])
    assert encoder.calls == [prompts, ["new", "newer"], []]
    with Hashed().open(None) as plain:  # type: ignore[arg-type]
        np.testing.assert_allclose(found, plain(asked), atol=2e-3)
    with vectors.open(None, pool.add(generated(2, 3))) as encode:  # type: ignore[arg-type]
        assert (encode(asked[1:3]) == found[1:3]).all() and len(encoder.calls) == 3
