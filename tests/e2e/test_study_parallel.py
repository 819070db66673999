"""A study's runs side by side: the table of one after the other, through a killed driver; a run that fails alone."""

from __future__ import annotations

import os
import subprocess
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from selfalign.cli.main import main
from selfalign.encoders import Hashed
from selfalign.engines import Scripted
from selfalign.errors import RunFailed
from selfalign.recipe import Recipe
from selfalign.recipes import isara
from selfalign.study.processes import seen_gpus, shares
from selfalign.study.ready import Arm, Study
from selfalign.study.run import Unit, needed, run_one
from selfalign.study.side_by_side import LOSSES, Ended, SideBySide
from selfalign.trainers import SFT, NullTrainer
from tests.conftest import Run, command
from tests.e2e.test_study import held_file, read, study, without_seconds
from tests.files import select, succeeded
from tests.parts import generated, seeds

__all__ = ["held_file", "study"]  # fixtures

OUTPUTS = "SELECT round, stage, slot, data FROM outputs ORDER BY round, stage, slot"


def working_on(out: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if str(out) in (process.info["cmdline"] or ()):
            found.append(process)
    return found


def until(what: str, holds: object, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < end, f"after {seconds} s not: {what}"
        time.sleep(0.05)


def test_a_killed_driver_leaves_no_process(study: tuple[object, ...], tmp_path: Path) -> None:
    out = tmp_path / "study"  # whose first batch takes longer than the test
    begun = command(*study, "--baselines", "pretrained", "--engine.delay", 900, "--parallel", 2, "--repeats", 1, "--out", out)
    with subprocess.Popen(begun, cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as driver:
        until("the first run begun", (out / "pretrained/seed-0/run.sqlite").exists)
        assert len(working_on(out)) == 2
        driver.kill()
    until("all processes gone", lambda: not working_on(out))


def test_the_table_of_one_after_the_other(cli: Run, study: tuple[object, ...], tmp_path: Path) -> None:
    alone, beside = tmp_path / "alone", tmp_path / "beside"
    arms = (*study, "--baselines", "pretrained,sft", "--repeats", 1)
    assert main([*map(str, arms), "--out", str(alone)]) == 0
    succeeded(cli(*arms, "--parallel", 2, "--out", beside))
    assert without_seconds(read(beside)) == without_seconds(read(alone))
    folders = sorted(path.parent.relative_to(alone) for path in alone.glob("*/*/run.sqlite"))
    assert folders and all(select(alone / each, OUTPUTS) == select(beside / each, OUTPUTS) for each in folders)
    adopted = "SELECT data FROM events WHERE kind = 'adopted'"
    assert not select(beside / "pretrained/seed-0", adopted)  # the cheapest measures the base model, for all
    assert select(beside / "isara/seed-0", adopted) and select(beside / "sft/seed-0", adopted)


def test_what_a_run_waits_for(tmp_path: Path) -> None:
    made = replace(isara(), engine=Scripted(), encoder=Hashed(), trainer=NullTrainer(), rounds=1, per_round=4)
    arms = [Arm("main", made, "scripted", seeds()), Arm("sft", made, "scripted", seeds(), matched="main")]
    assert {run: unit.needs for run, unit in needed(Study(arms, (), tmp_path, 2)).items()} == {
        "main/seed-0": set(),
        "sft/seed-0": {"main/seed-0"},
        "main/seed-1": {"main/seed-0"},
        "sft/seed-1": {"main/seed-0", "main/seed-1"},
    }
    other = [*arms, Arm("base", replace(made, rounds=0), "scripted", seeds()), Arm("far", made, "another", seeds())]
    needs = needed(Study(other, (), tmp_path, 1))
    assert needs["main/seed-0"].needs == {"base/seed-0"} and needs["far/seed-0"].needs == needs["base/seed-0"].needs == set()


def test_memory_decides_once_for_all_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = replace(isara(), engine=Scripted(), encoder=Hashed(), trainer=SFT(), rounds=1, per_round=4, validation_share=0)
    arms, trained = [Arm("main", made, "scripted", seeds())], list[SFT]()
    study = Study(arms, generated(1, 4), tmp_path, 1)
    decided = dict(needed(study)["main/seed-0"].trainer)
    assert decided == {"method": "full", "lora_rank": 0, "learning_rate": 2e-5, "gradient_checkpointing": True}

    def align(recipe: Recipe, *about: object, **more: object) -> None:
        trained.append(recipe.trainer)  # type: ignore[arg-type]
        raise RunFailed("far enough")

    monkeypatch.setattr("selfalign.study.run.align", align)
    other = {**decided, "method": "lora", "lora_rank": 4, "learning_rate": 1e-4}
    with pytest.raises(RunFailed, match="arm main, random seed 0: far enough"):
        run_one(study, "main/seed-0", other)
    assert trained == [SFT(method="lora", lora_rank=4, learning_rate=1e-4, gradient_checkpointing=True)]


class Losing:
    """`Places` of which the first few lose what is started there."""

    def __init__(self, *ends: Ended) -> None:
        self.ends, self.started = list(ends), list[str]()

    def prepare(self) -> None: ...

    def start(self, place: int, words: Callable[[], list[str]], heard: object) -> Losing:
        self.started.append(words()[words().index("--only") + 1])
        return self

    def poll(self) -> Ended | None:
        return self.ends.pop(0) if self.ends else None


def test_a_lost_run_comes_next_but_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfalign.study.side_by_side.is_done", lambda folder: True)
    monkeypatch.setattr("selfalign.study.side_by_side._PAUSE", 0.0)
    lost, unborn, done = Ended(None, "the node is gone", " on node n7"), Ended(None, "no room"), Ended(0)
    planned = {name: Unit(frozenset(), {}) for name in ("one", "two")}
    for ends, started in (
        ((lost, lost, done), ["one", "one", "one"]),
        ((*[unborn] * 7, lost, done), ["one"] * 9),
    ):
        places = Losing(*ends)
        with SideBySide(tmp_path, (), 1, places) as beside:  # type: ignore[arg-type]
            beside.plan(planned)
            beside.wait("one")
        assert places.started == started
    for ends in ((lost,) * LOSSES, (*[unborn] * 4, lost, lost)):
        with SideBySide(tmp_path, (), 1, Losing(*ends)) as beside:  # type: ignore[arg-type]
            beside.plan(planned)
            with pytest.raises(RunFailed, match=f"one: {LOSSES} nodes or workers were lost under it, the last one so: the node"):
                beside.wait("one")


def test_a_run_that_fails_lets_the_others_go_on(
    study: tuple[object, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(
        textwrap.dedent("""
        from dataclasses import dataclass, replace
        from selfalign.recipes import isara
        from selfalign.types import FilterResult

        @dataclass(frozen=True)
        class Loses:
            def apply(self, context, examples):
                return FilterResult((), ())

        def losing():
            return replace(isara(), name="losing", filters=(Loses(),))
        """)
    )
    arms = [*map(str, study), "--baselines", f"{mine}:losing,pretrained", "--repeats", "1", "--parallel", "2"]
    assert main([*arms, "--out", str(tmp_path / "out")]) == 1
    assert capfd.readouterr().err.splitlines()[-1].startswith("selfalign: 1 run did not finish; `selfalign study --config ")
    assert "arm losing, random seed 0: round 1, filter Loses: " in caplog.text and "; the other runs go on" in caplog.text
    found = read(tmp_path / "out")
    assert [(row["arm"], row["reason"][:22]) for row in found["failed"]] == [("losing", "round 1, filter Loses:")]
    assert list(found["arms"]) == ["isara", "pretrained"] and not working_on(tmp_path / "out")


def test_who_waits_for_a_run_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfalign.study.side_by_side.is_done", lambda folder: True)
    planned = {
        "base": Unit(frozenset(), {}),
        "main": Unit(frozenset({"base"}), {}),
        "sft": Unit(frozenset({"base", "main"}), {}, steps_of="main"),
        "last": Unit(frozenset({"base"}), {}),
    }
    places = Losing(Ended(-9), Ended(2), Ended(0))
    with SideBySide(tmp_path, (), 1, places) as beside:  # type: ignore[arg-type]
        beside.plan(planned)
        for name, said in (
            ("main", "main: its process ended with code 2"),
            ("base", "signal 9, as a system does that is short of"),
        ):
            with pytest.raises(RunFailed, match=said):
                beside.wait(name)
        beside.wait("last")
    assert places.started == ["base", "main", "last"]  # whose steps are missing does not begin


@pytest.mark.parametrize(
    ("number", "said"), [("0", "--parallel 0: give a number of runs"), ("9", "9: this machine shows 2 GPUs")]
)
def test_numbers_that_cannot_work(
    number: str,
    said: str,
    study: tuple[object, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    trained = [*map(str, study), "--trainer", "SFT", "--baselines", "pretrained", "--repeats", "1"]
    assert main([*trained, "--parallel", number, "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err


def test_runs_that_use_no_gpu_need_none(study: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    small = ("--baselines", "pretrained", "--repeats", "1", "--parallel", "2")
    assert main([*map(str, study), *small, "--out", str(tmp_path / "out")]) == 0


def test_shares_of_processors_and_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8, 14)), raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (first, one), (second, other) = shares(2, seen_gpus())
    assert (first, second) == ({8, 9, 10}, {11, 12, 13})
    assert one == {"OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": "4,5"} and other["CUDA_VISIBLE_DEVICES"] == "6,7"
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # the user's own, beside which GPUs are shared all the same
    assert shares(2, seen_gpus())[1][1] == {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "6,7"}
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "0,1")  # AMD's, which wins
    assert shares(2, seen_gpus())[1][1] == {"OMP_NUM_THREADS": "2", "HIP_VISIBLE_DEVICES": "1"}
    monkeypatch.delenv("HIP_VISIBLE_DEVICES")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert [len(cores) for cores, _ in shares(4, seen_gpus())] == [1, 1, 1, 1]
