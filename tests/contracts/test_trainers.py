"""What every trainer must keep to, over every trainer found in the folder."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from pathlib import Path

import pytest

import selfalign.trainers
from selfalign.errors import RunFailed
from selfalign.protocols import Trainer, TrainJob
from selfalign.record.checkpoints import read_manifest
from selfalign.trainers import DPO, SFT, Distill, Ditto
from selfalign.types import Demonstration, Example, ModelRef

MODULES = [name for _, name, _ in pkgutil.iter_modules(selfalign.trainers.__path__) if not name.startswith("_")]
TRAINERS: list[type[Trainer]] = [
    part
    for name in MODULES
    for _, part in inspect.getmembers(importlib.import_module(f"selfalign.trainers.{name}"), inspect.isclass)
    if part.__module__ == f"selfalign.trainers.{name}" and hasattr(part, "train")
]
OPTIONS = {SFT: {"learning_rate": 1e-3, "max_steps": 2, "batch_size": 6}}
LOSSES = (DPO(), Distill(), Ditto())
CASES = [*((part, OPTIONS.get(part, {})) for part in TRAINERS), *((SFT, {**OPTIONS[SFT], "loss": loss}) for loss in LOSSES)]
Make = Callable[..., TrainJob]


class Told:
    """Progress that keeps what it is told."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.total = self.done = self.finished = 0

    def start(self, stage: str, total: int, done: int = 0) -> None:
        self.stages.append(stage)
        self.total, self.done = total, done

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def make(model_folder: Path, tmp_path: Path) -> Make:
    """A job with changes, in a folder of its own."""

    seeds = tuple(Example(f"s{i}", f"Question {i}?", f"Answer {i}.") for i in range(5))

    def build(name: str, **changes: object) -> TrainJob:
        given = {
            "round": 2,
            "start": ModelRef(str(model_folder), hash="start"),
            "seeds": seeds,
            "shown": seeds,
            "generated": tuple(
                Example(
                    f"g{i}",
                    f"Question {i % 5}?",
                    f"It is {i}.",
                    round=1,
                    response_demonstrations=(Demonstration("s0"),),
                    metadata={"preferred": f"s{i % 5}"},
                )
                for i in range(6)
            ),
            "seed_weight": None,
            "format": "auto",
            "seed": 3,
            "learning_rate_scale": 0.5,
            "work": tmp_path / name / "training",
            "out": tmp_path / name / "model",
        }
        return TrainJob(**{**given, **changes})  # type: ignore[arg-type]

    return build


def test_every_file_holds_a_trainer() -> None:
    assert len({part.__module__ for part in TRAINERS}) == len(MODULES) >= 2


@pytest.mark.parametrize(
    ("part", "options"), CASES, ids=[f"{part.__name__}-{type(given.get('loss')).__name__}" for part, given in CASES]
)
def test_contract(part: type[Trainer], options: dict[str, object], make: Make) -> None:
    trainer = part(**options)
    assert dataclasses.is_dataclass(trainer)
    told, job = Told(), make("one")
    result = trainer.train(job, told)

    rows = (*job.seeds, *job.generated)
    assert sorted([*result.trained, *(drop.example.id for drop in result.dropped)]) == sorted(row.id for row in rows)
    assert all(drop.rule and drop.evidence for drop in result.dropped)
    assert Path(result.model.adapter or result.model.base) == job.out and result.model.hash
    assert any(job.out.iterdir())
    assert result.steps == len(result.losses) == told.total == told.done >= 1 and told.finished == 1
    assert "round 2" in told.stages[0]
    compares = getattr(trainer, "preferences", False)  # a pair counts as a seed where its preferred answer is one
    assert result.tokens > 0 and (result.seed_weight == 1 if compares else 0 < result.seed_weight < 1)

    again = make("two")
    same = trainer.train(again, Told())
    assert read_manifest(again.out) == read_manifest(job.out), "the same job gives the same bytes, wherever it writes"
    assert same.model.hash == result.model.hash and same.losses == result.losses

    other = make("three", generated=job.generated[:3] if compares else (), seed_weight=0.25)
    alone = trainer.train(other, Told())
    assert alone.seed_weight == 1.0, "with nothing generated all of the loss is the seeds'"
    assert read_manifest(other.out) != read_manifest(job.out)

    with pytest.raises(RunFailed, match="exists already"):
        trainer.train(job, Told())
