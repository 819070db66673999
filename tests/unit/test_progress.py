"""What a person who waits is told, by a clock that the tests turn."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from selfalign import align, read_seeds
from selfalign.cli.main import main
from selfalign.encoders import Hashed
from selfalign.engines import Scripted
from selfalign.errors import TimeUp
from selfalign.loop.bars import Bars
from selfalign.loop.progress import Lines, Quiet, Until
from selfalign.loop.watch import Watch, ahead
from selfalign.recipes import isara
from selfalign.record.status import status
from selfalign.record.store import Store
from selfalign.trainers import NullTrainer
from tests.conftest import SCRIPTED, Run

TWO = time.mktime((2026, 3, 2, 14, 0, 0, 0, 0, -1))
PARTS = {"engine": Scripted(), "encoder": Hashed(), "trainer": NullTrainer()}
RECIPE = replace(isara(), rounds=3, per_round=16, **PARTS)


@dataclass
class Clock:
    now: float = TWO

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def told() -> tuple[Lines, list[str], Clock]:
    found: list[str] = []
    clock = Clock()
    return Lines(found.append, clock), found, clock


def test_off_a_terminal_the_first_line_comes_at_once_and_then_one_a_minute(told: tuple[Lines, list[str], Clock]) -> None:
    lines, found, clock = told
    lines.start("round 1: respond", 600, 20)
    assert found == ["round 1: respond: 20 of 600"]
    for _ in range(29):
        clock.now += 4
        lines.advance(2, "run ends about 15:30")
    assert found[1:] == ["round 1: respond: 50 of 600, 2.0 s each, ends 14:19; run ends about 15:30"]
    clock.now += 59
    lines.tick()
    assert len(found) == 3, "nothing moves, and 60 seconds have passed since the last line"
    lines.finish()
    assert found[-1] == "round 1: respond: 580 in 175.0 s"
    clock.now += 120
    lines.tick()
    lines.tick()
    assert found[4:] == ["at work between stages after round 1: respond, for 2 min"]


def test_nothing_is_said_before_the_checks_are_through_but_once_a_minute(told: tuple[Lines, list[str], Clock]) -> None:
    lines, found, clock = told
    for _ in range(3):  # what is wrong with options or files is told in one line
        lines.tick()
        clock.now += 30
    assert found == ["preparing: checks and loading, for 1 min"]


def test_an_end_on_another_day_has_its_date(told: tuple[Lines, list[str], Clock]) -> None:
    lines, found, clock = told
    lines.start("round 1: train\x1b[31m", 100)
    clock.now += 3600
    lines.advance(4)
    assert found[-1] == "round 1: train[31m: 4 of 100, 900.0 s each, ends 03 Mar 15:00"


def test_a_terminal_keeps_one_bar_and_a_line_for_each_stage_done() -> None:
    file = StringIO()
    with Bars(Console(file=file, force_terminal=True, width=200)) as bars:
        for name in ("round 1: propose", "round 1: respond"):
            bars.start(name, 4)
            bars.advance(4, "loss [b]0.1")
            bars.finish()
        bars.say("[b]kept[/b]")
        assert not bars.live.tasks
    assert "round 1: propose: 4 in" in file.getvalue() and "[b]kept[/b]" in file.getvalue()


MEASURED = {0: {"seed_rules": 5.0, "held_out": 40.0, "guards": 2.0}}
FIRST = {**MEASURED, 1: {"propose": 30.0, "respond": 60.0, "filter": 10.0}}
WHOLE = {**FIRST, 1: {**FIRST[1], "train": 300.0, "held_out": 50.0, "guards": 2.0}}


@pytest.mark.parametrize(
    ("seconds", "round", "stage", "expected"),
    [
        ({}, 0, "held_out", (0.0, 3, ("the base model's evaluation", "candidates", "training"))),
        (MEASURED, 1, "propose", (3 * 42.0, 2, ("candidates", "training"))),
        (FIRST, 1, "train", (42.0 + 2 * 142.0, 2, ())),
        (WHOLE, 2, "propose", (60 + 10 + 300 + 52.0 + 422.0, 1, ())),
        ({**WHOLE, 2: WHOLE[1], 3: {"propose": 1.0, "respond": 1.0, "filter": 1.0}}, 3, "train", (52.0, 0, ())),
        (WHOLE, -1, "something of a part's own", (0.0, 0, ("the rest",))),
    ],
)
def test_what_follows_costs_what_it_cost_before(seconds: Any, round: int, stage: str, expected: tuple[Any, ...]) -> None:
    assert ahead(RECIPE, seconds, round, stage) == expected


def test_where_rounds_are_not_evaluated_the_model_to_ship_is(tmp_path: Path) -> None:
    once = replace(RECIPE, evaluate="shipped")
    assert ahead(once, FIRST, 1, "train") == (2 * 100.0 + 42.0, 2, ())
    assert ahead(once, {}, 0, "held_out")[:2] == (0.0, 1), "once more, for the model to ship"
    assert ahead(once, {**WHOLE, 2: {"train": 1.0}}, 2, "held_out") == (0.0, 0, ()), "which is round 2's: no round follows"


def test_what_only_this_round_has_comes_again(tmp_path: Path) -> None:
    seeds_first = {**MEASURED, 1: {"train": 300.0, "held_out": 50.0}, 2: {"propose": 30.0, "filter": 10.0}}
    assert ahead(RECIPE, seeds_first, 2, "respond") == (350.0 + 390.0, 1, ())


def test_the_points_of_an_aim_are_not_forgotten() -> None:
    aimed = replace(RECIPE, aim_over_refusal=0.1)
    assert ahead(aimed, WHOLE, 2, "propose").unmeasured == ("the points of --aim_over_refusal",)
    assert ahead(aimed, WHOLE, 1, "aim-0.5-held_out") == (0.0, 0, ("the points of --aim_over_refusal",))


def test_the_first_training_tells_what_each_stage_takes(tmp_path: Path, told: tuple[Lines, list[str], Clock]) -> None:
    lines, found, clock = told
    with Store.open(tmp_path / "run", {"name": "mine", "rounds": 3}) as store:
        watch = Watch(lines, RECIPE, store, clock)
        for round, stages in FIRST.items():
            for name, spent in stages.items():
                store.finish_stage(round, name, {}, spent)
        watch.start("round 1: train", 10)
        for _ in range(3):
            clock.now += 30
            watch.advance(1, "loss 0.5")
    said = "time by stage, 3 rounds at most: candidates 2 min, training 5 min, evaluation 42 s; run ends about 14:20"
    assert [line for line in found if line.startswith("time by")] == [said]


@pytest.fixture
def seeds(seeds_file: Path) -> Any:
    return read_seeds(seeds_file)


def test_status_says_the_stage_at_hand(seeds: Any, tmp_path: Path, cli: Run) -> None:
    with Store.open(tmp_path / "run", {"name": "mine", "rounds": 3}) as store:
        clock = Clock()
        watch = Watch(Quiet(), RECIPE, store, clock)
        store.finish_stage(0, "guards", {}, 1.0)
        watch.start("round 1: train", 100, 10)
        assert status(store)["progress"] | {"at": ""} == {
            "stage": "round 1: train",
            "done": 10,
            "total": 100,
            "per_second": None,
            "at": "",
            "stage_ends": None,
            "run_ends": None,
            "unmeasured": ["candidates"],
        }
        clock.now += 60
        watch.advance(30, "loss 0.5")
        told = cli("status", "run")
        assert "running: round 1: train, 40 of 100, 2.0 s each, ends " in told.stdout, told.stdout + told.stderr
        assert "candidates still to be measured" in told.stdout
        found = json.loads(cli("status", "run", "--json").stdout)["progress"]
        assert (found["per_second"], found["done"]) == (0.5, 40)
        seconds = [datetime.fromisoformat(found[name]).timestamp() - clock.now for name in ("stage_ends", "run_ends")]
        assert seconds == [120.0, 120 + 2 * 200 + 3 * 1.0], "two more trainings of a hundred steps, three evaluations"
        watch.finish()
        assert status(store)["progress"] is None
    assert not (tmp_path / "run" / "progress.json").exists()


def test_a_run_from_python_speaks_on_standard_error(seeds: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = replace(RECIPE, rounds=1)
    align(few, "scripted", seeds, tmp_path / "shown")
    said = capsys.readouterr()
    assert said.err.startswith("cost at most: ") and "round 1: respond: " in said.err and said.out == ""
    assert said.err.count("  kept     ") == 2 == said.err.count("  dropped  ")
    align(few, "scripted", seeds, tmp_path / "silent", progress=None)
    assert capsys.readouterr().err == ""


def test_a_limit_of_time_ends_a_run_after_the_batch_at_hand(seeds: Any, tmp_path: Path) -> None:
    clock = Clock()
    until = Until(0.5, clock=clock)
    until.start("round 0: held_out", 4)
    until.advance()
    clock.now += 1800
    with pytest.raises(TimeUp, match=r"the 0\.5 hours that it was given are over"):
        until.advance()
    one = replace(RECIPE, rounds=1)
    with pytest.raises(TimeUp):
        align(one, "scripted", seeds, tmp_path / "halves", progress=Until(1e-9))
    with Store.read(tmp_path / "halves") as store:
        assert status(store)["state"] == "interrupted" and len(store.done_batches(0, "validation")) > 0
    for folder in ("halves", "whole"):
        align(one, "scripted", seeds, tmp_path / folder, progress=None)
    kept = [(tmp_path / folder / "round-01" / "kept.jsonl").read_bytes() for folder in ("halves", "whole")]
    assert kept[0] == kept[1]


def test_max_hours_is_no_failure_and_no_part_of_the_run(
    seeds_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("isara", str(seeds_file), *SCRIPTED, "--rounds", "1", "--per_round", "16", "--quiet")
    run = ("run", *options, "--out", str(tmp_path / "run"))
    assert main([*run, "--max_hours", "1e-9"]) == 0
    said = capsys.readouterr()
    assert "hours that it was given are over: the same command goes on from here" in said.out and said.err == ""
    assert "max_hours:" not in (tmp_path / "run" / "run.yaml").read_text()
    assert main([*run, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "done"
    assert main([*run, "--max_hours", "0"]) == 2
    assert capsys.readouterr().err == "selfalign: --max_hours 0: give a number of hours above 0\n"
    (tmp_path / "asked.jsonl").write_text('{"prompt": "Where is it?"}\n{"prompt": "Why is that?"}\n')
    few = ("--held_out", str(tmp_path / "asked.jsonl"), "--baselines", "pretrained", "--repeats", "1")
    study = ("study", *options, *few, "--out", str(tmp_path / "study"))
    assert main([*study, "--max_hours", "1e-9"]) == 0
    assert "hours that it was given are over; the same command goes on from here" in capsys.readouterr().err
