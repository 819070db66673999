"""A run that generates and filters but trains nothing: the null trainer with an engine that runs real models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from selfalign.encoders import Hashed
from selfalign.engines import Scripted
from selfalign.engines.scripted import ScriptedSession
from selfalign.loop.align import align
from selfalign.recipes import isara
from selfalign.record.status import status
from selfalign.record.store import Store
from selfalign.seeds.read import read_seeds
from selfalign.trainers import NullTrainer
from selfalign.types import Format, ModelRef
from tests.conftest import Run
from tests.files import succeeded

SMALL = ("--rounds", 2, "--per_round", 3, "--min_yield", 0, "--demonstrations", 2, "--encoder", "Hashed", "--quiet")


@dataclass(frozen=True)
class Real(Scripted):
    """The scripted engine, but for a model it must have been given."""

    pretends = False

    @contextmanager
    def open(self, model: ModelRef, format: Format) -> Iterator[ScriptedSession]:
        assert model.base == "any", "no folder of a round is a model here"
        with super().open(model, format) as session:
            yield session


def test_every_round_goes_on_with_the_model_as_it_came(seeds_file: Path, cli: Run, tmp_path: Path) -> None:
    recipe = replace(isara(), rounds=2, per_round=24, min_yield=0.0, engine=Real(), encoder=Hashed(), trainer=NullTrainer())
    for _ in range(2):  # also where it stands there already
        done = align(recipe, "any", read_seeds(seeds_file), tmp_path / "out")
        assert done.model.base == "any"
        assert (done.best_round, done.stopped_because) == (0, "all 2 rounds done; nothing was trained")
    with Store.read(tmp_path / "out") as store:
        rounds = status(store)["rounds"]
        assert len({example.id for k in (1, 2) for example in store.kept(k)}) == rounds[1]["kept"] + rounds[2]["kept"] > 10
        assert [row["model"] for row in rounds] == ["any"] * 3 and [row["tokens"]["trained"] for row in rounds] == [0] * 3
        last = store.kept(2)[0].id
    data = tmp_path / "all.jsonl"
    succeeded(cli("export", tmp_path / "out", "--data", data, "--card"))
    assert {json.loads(line)["round"] for line in data.read_text().splitlines()} == {0, 1, 2}
    passport = cli("show", tmp_path / "out", last)
    assert passport.returncode == 0 and "any" in passport.stdout and "trained into" not in passport.stdout
    assert cli("report", tmp_path / "out").returncode == 0


def test_with_a_real_engine_it_ends(cli: Run, model_folder: Path, seeds_file: Path, tmp_path: Path) -> None:
    decoding = ("--prompt_sampling.max_tokens", 8, "--sampling.max_tokens", 8)
    options = ("--model", model_folder, "--engine", "HF", "--trainer", "NullTrainer", *SMALL, *decoding)
    checked = cli("check", "isara", seeds_file, *options)
    assert "nothing is trained: each round goes on with the base model\n" in checked.stdout, checked.stderr
    done = succeeded(cli("run", "isara", seeds_file, *options, "--json", "--out", tmp_path / "out"))
    told = json.loads(done.stdout)
    assert told["state"] == "done" and told["best_round"] == 0
