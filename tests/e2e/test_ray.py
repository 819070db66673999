"""Workers and studies on a Ray cluster: the bytes of one machine, through a killed driver and a lost node; what cannot work is
said."""

from __future__ import annotations

import os
import platform
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from selfalign.cli.main import main
from selfalign.engines import HF, Ray, Scripted
from selfalign.engines._ray_workers import DEATHS, Crew, Task, Worker
from selfalign.errors import ProcessDied, RunFailed, UserError
from selfalign.models.cluster import connect, versions
from selfalign.models.files import model_hash
from selfalign.record.lock import locked
from selfalign.study.on_ray import Sight, look
from selfalign.types import ModelRef, Request, Sampling
from tests.conftest import Run, command
from tests.e2e.test_study import held_file, read, study, without_seconds
from tests.e2e.test_study_parallel import OUTPUTS, until, working_on
from tests.files import select, succeeded

__all__ = ["held_file", "study"]  # fixtures

MODEL = Scripted().check(ModelRef("scripted"), (), "auto")
TASK = Task(MODEL, "auto", MODEL.hash, None)
ASKED = ([Request("r1", prompt="What is a kettle?", seed=3)], Sampling(max_tokens=40))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A head without processors and two nodes with one worker's worth of `gen` each."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'selfalign[ray]'")
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_worker_niceness="0")
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 80 * 2**20}
    noticing = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": noticing, **small}
    started = Cluster(initialize_head=True, head_node_args=head)
    try:
        nodes = [started.add_node(num_cpus=1, resources={"gen": 1}, **small) for _ in range(2)]
        yield started, nodes
    finally:
        started.shutdown()


def batches(out: Path, stage: str) -> int:
    try:
        with sqlite3.connect(f"file:{out / 'run.sqlite'}?mode=ro", uri=True) as connection:
            return int(connection.execute("SELECT count(*) FROM batches WHERE stage = ?", (stage,)).fetchone()[0])
    except sqlite3.Error:
        return 0


def test_the_bytes_of_one_machine_through_a_killed_driver_and_a_lost_node(
    cli: Run, cluster: Any, seeds_file: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.py"  # its scorer asks the base model, while the workers have that of round 1 open
    mine.write_text(
        textwrap.dedent("""
        from dataclasses import replace
        from selfalign.recipes import isara
        from selfalign.scorers import Perplexity

        def mine():
            return replace(isara(), scorers=(Perplexity(),))
        """)
    )
    parts = ("--model", "scripted", "--encoder", "Hashed", "--trainer", "NullTrainer", "--rounds", 2, "--per_round", 80)
    common = ("run", f"{mine}:mine", seeds_file, *parts, "--min_yield", 0, "--quiet")
    spread = ("--engine", "Ray", "--engine.address", cluster[0].address, "--engine.resources", "{gen: 1}")
    inner = ("--engine.inner", "Scripted", "--engine.inner.batch_size", 2, "--engine.inner.delay", 0.2)
    out, whole = tmp_path / "ray", tmp_path / "whole"
    assert cli(*common, "--engine", "Scripted", "--engine.batch_size", 2, "--out", whole).returncode == 0

    killed = cli(*common, *spread, *inner, "--out", out, SELFALIGN_FAULT_AT="batch.after-commit:9")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = {stage: batches(out, stage) for stage in ("propose_prompt", "propose", "respond")}
    with subprocess.Popen(
        command(*common, *spread, *inner, "--out", out), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            deadline = time.monotonic() + 200
            while running.poll() is None and batches(out, "respond") < 4 and time.monotonic() < deadline:
                time.sleep(0.05)
            cluster[0].remove_node(cluster[1][0], allow_graceful=False)
            said, errors = running.communicate(timeout=300)
        finally:
            running.kill()
    assert running.returncode == 0, errors
    assert any(before.values())  # the killed run had work in the record
    assert "is lost; another one does its batch" in errors and "room for 1 of 2 workers" in errors, errors
    assert "raylet" not in said  # standard output is ours
    for folder in (whole, out):
        succeeded(cli("export", folder, "--data", folder / "all.jsonl", "--dropped", folder / "dropped.jsonl"))
    for name in ("all.jsonl", "dropped.jsonl"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()

    refused = cli(*common, *spread, *inner, "--engine.resources", "{gen: 2}", "--out", tmp_path / "none")
    assert refused.returncode == 2 and "no node has room for a worker (CPU 1, gen 2)" in refused.stderr, refused.stderr


def node_of(cluster: Any, out: Path, run: str) -> Any:
    """The node on which a study's run is at work, once it is."""
    found = list[Any]()

    def looked() -> bool:
        for process in working_on(out):
            if run in process.info["cmdline"]:
                raylet = process.parents()[1].pid
                found.extend(node for node in cluster.worker_nodes if node.all_processes["raylet"][0].process.pid == raylet)
        return bool(found)

    until(f"{run} begun", looked, 300)
    return found[0]


def test_a_study_on_two_nodes_through_a_lost_one_and_a_killed_driver(
    cli: Run, cluster: Any, study: tuple[object, ...], tmp_path: Path
) -> None:
    alone, out, stuck = tmp_path / "alone", tmp_path / "out", tmp_path / "stuck"
    if len(cluster[0].worker_nodes) < 2:  # a test above took one away
        cluster[0].add_node(num_cpus=1, resources={"gen": 1}, object_store_memory=80 * 2**20)
    arms = (*study, "--baselines", "pretrained", "--repeats", 2)
    spread = ("--parallel", 2, "--address", cluster[0].address, "--resources", "{gen: 1}")
    quiet: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    assert main([*map(str, arms), "--out", str(alone)]) == 0

    with subprocess.Popen(command(*arms, *spread, "--engine.delay", 1, "--out", out), cwd=tmp_path, text=True, **quiet) as driver:
        lost = node_of(cluster[0], out, "isara/seed-0")
        until("the loop at work", lambda: batches(out / "isara/seed-0", "propose"), 300)
        cluster[0].remove_node(lost, allow_graceful=False)
        said, errors = driver.communicate(timeout=600)
    assert driver.returncode == 0, errors
    assert "is lost; it goes on from its folder on another one" in errors and "cannot tell whether isara" in said, errors
    assert without_seconds(read(out)) == without_seconds(read(alone))
    for run in ("pretrained/seed-0", "isara/seed-0", "isara/seed-1"):
        assert all(select(alone / run, query) == select(out / run, query) for query in (OUTPUTS, "SELECT count(*) FROM batches"))

    with subprocess.Popen(command(*arms, *spread, "--engine.delay", 900, "--out", stuck), cwd=tmp_path, **quiet) as driver:
        until("the first run begun", (stuck / "pretrained/seed-0/run.sqlite").exists, 300)
        assert len(working_on(stuck)) == 2
        driver.kill()
        driver.communicate()
    until("all processes gone", lambda: not working_on(stuck))

    refused = cli(*arms, *spread, "--resources", "{gen: 2}", "--out", tmp_path / "none")
    assert refused.returncode == 2 and "no node has room for a run (CPU 1, gen 2)" in refused.stderr, refused.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--address", "ray://head:10001"), "give auto or HOST:PORT, on a machine of the cluster"),
        (("--address", "127.0.0.1:1"), "no Ray cluster at --address 127.0.0.1:1: [Errno 111] Connection refused"),
        (("--address", "auto", "--num_gpus=-1"), "num_cpus, num_gpus or resources are out of range"),
        (("--parallel", "2", "--resources", "{gen: 1}"), "--resources is about runs on a cluster: give --address too"),
        (("--num_gpus", "1"), "--num_gpus is about runs on a cluster: give --address too"),
    ],
)
def test_options_of_a_study_that_cannot_work(
    options: tuple[str, ...], said: str, study: tuple[object, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*map(str, study), "--out", str(tmp_path / "out"), *options]) == 2
    errors = capsys.readouterr().err
    assert said in errors and len(errors.splitlines()) == 1, errors


def test_a_node_that_does_not_see_the_same_is_refused(tmp_path: Path) -> None:
    out, model = tmp_path / "study", tiny_folder(tmp_path)
    out.mkdir()
    with locked(out):
        sight = Sight(tmp_path, out, (out / "lock").read_bytes(), {model: model_hash(model)}, versions())
        look(sight)
        for wrong, said in (
            (replace(sight, folder=tmp_path / "gone"), "the folder .*gone, in which the command was given, is not there"),
            (replace(sight, out=tmp_path), "the study's folder .* is not the same there; give --out a folder on a file system"),
            (replace(sight, mark=b"{}"), "the study's folder .* is not the same there"),
            (replace(sight, models={model: "0123"}), r"the model .* holds another model there \(.*…\) than here \(0123…\)"),
            (replace(sight, models={tmp_path / "gone": "0123"}), "the model .*gone is not there; put it on a file system"),
            (replace(sight, versions={**versions(), "Python": "3.9.1"}), "Python is 3.9.1 on the machine with the command, "),
            (replace(sight, versions={**versions(), "selfalign": "0.0.1"}), "selfalign is 0.0.1 on the machine with the command"),
        ):
            with pytest.raises(UserError, match=said) as refused:
                look(wrong)
            assert str(refused.value).startswith(f"study --address: node {platform.node()}: ")
    with pytest.raises(UserError, match=r"locks on .* do not reach it, so two nodes could write to one run"):
        look(sight)  # as where the lock is seen by the machine that holds it alone


def tiny_folder(tmp_path: Path) -> Path:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    return model


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--engine.workers", "0"), "Ray: workers, num_cpus, num_gpus or resources are out of range"),
        (("--engine.num_gpus=-1",), "Ray: workers, num_cpus, num_gpus or resources are out of range"),
        (("--engine.resources", "{gen: 0}"), "Ray: workers, num_cpus, num_gpus or resources are out of range"),
        (("--engine.address", "ray://head:10001"), "give auto or HOST:PORT, on a machine of the cluster"),
        (("--engine.inner", "OpenAI"), "no part named OpenAI; there are HF, VLLM, OpenVINO, Scripted"),
        (("--engine.inner.batchsize", "4"), "there is no option --engine.inner.batchsize"),
        (("--engine.inner.device", "cuda:1"), "Ray: inner.device = cuda:1 is one GPU, and each worker is given others"),
        (
            ("--engine.inner", "VLLM", "--engine.num_gpus", "0.5"),
            "num_gpus = 0.5 of a worker is less than its inner.memory = 0.85",
        ),
        (
            ("--engine.inner", "VLLM", "--engine.inner.tensor_parallel", "2", "--engine.num_gpus", "1"),
            "num_gpus = 1 of a worker is less than its inner.tensor_parallel = 2",
        ),
    ],
)
def test_options_that_cannot_work(
    options: tuple[str, ...], said: str, seeds_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ("run", "isara", str(seeds_file), "--model", "scripted", "--out", str(tmp_path / "out"), "--engine", "Ray")
    assert main([*run, *options]) == 2
    errors = capsys.readouterr().err
    assert said in errors and len(errors.splitlines()) == 1, errors


def test_no_cluster_and_no_ray(seeds_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfalign.models.cluster.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'selfalign\[ray\]'"):
        Ray(Scripted()).check(MODEL, (), "auto")
    with pytest.raises(ValueError, match="inner is itself"):
        Ray(Ray())  # type: ignore[arg-type]


def test_a_signal_is_ours_and_not_rays(monkeypatch: pytest.MonkeyPatch) -> None:
    fake: Any = ModuleType("ray")
    fake.is_initialized, fake._private = lambda: False, SimpleNamespace(worker=ModuleType("worker"))
    fake.init = lambda **_: signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as Ray's does, with one that aborts
    monkeypatch.setitem(sys.modules, "ray", fake)
    before = signal.getsignal(signal.SIGTERM)
    connect("auto", "--address")
    assert signal.getsignal(signal.SIGTERM) is before


def test_where_work_is_done_is_no_part_of_what_is_done() -> None:
    here, there = Ray(HF(batch_size=4)), Ray(HF(batch_size=4), workers=8, address="auto", num_gpus=1, resources={"gen": 1})
    assert here == there != Ray(HF(batch_size=5))


def test_a_worker_answers_only_with_the_same_model(tmp_path: Path) -> None:
    worker = Worker(Scripted())
    with pytest.raises(UserError, match=r"scripted holds another model there \(.*…\) than here \(0123…\)"):
        worker.call(replace(TASK, files="0123"), "generate", ASKED)
    with pytest.raises(UserError, match=r"the run folder .*gone is not there; give --out a folder on a file system that all"):
        worker.call(replace(TASK, folder=tmp_path / "gone"), "generate", ASKED)
    found, said = worker.call(replace(TASK, folder=tmp_path), "generate", ASKED)
    with Scripted().open(MODEL, "auto") as session:
        assert found == session.generate(*ASKED) and said == []


class Dead(Exception):
    """What Ray says of a worker's process, not of its session."""


class Stand:
    """Stands for an actor's handle: each method is called at once, and dies where it is told to."""

    def __init__(self, deaths: int, worker: Worker) -> None:
        self._deaths, self._worker = deaths, worker

    def __getattr__(self, name: str) -> Any:
        def remote(*arguments: Any) -> Any:
            done: Future[Any] = Future()
            try:
                if name == "call" and self._deaths:
                    self._deaths -= 1
                    raise Dead("the process ended")
                done.set_result(getattr(self._worker, name)(*arguments))
            except Dead as error:
                done.set_exception(error)
            except Exception as error:
                raised = RuntimeError("as Ray wraps it")
                raised.cause = error  # type: ignore[attr-defined]
                done.set_exception(raised)
            return type("Ref", (), {"future": lambda _: done})()

        method: Any = type("Method", (), {"remote": staticmethod(remote), "options": lambda self, **_: self})()
        return method


def crew(*deaths: int) -> Crew:
    """Workers that die as often as each is told."""
    made = Crew(Ray(Scripted(), workers=len(deaths)))
    made._workers = [Stand(each, Worker(Scripted())) for each in deaths]
    for place in range(len(deaths)):
        made._call_up(place)
    return made


def test_a_batch_is_done_anew_but_not_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    calls = [([replace(ASKED[0][0], id=f"r{row}", seed=row)], ASKED[1]) for row in range(5)]
    with Scripted().open(MODEL, "auto") as session:
        wanted = {place: session.generate(*call) for place, call in enumerate(calls)}
    assert dict(crew(DEATHS - 1).run(TASK, "generate", calls)) == dict(crew(1, 0).run(TASK, "generate", calls)) == wanted
    assert caplog.text.count("is lost; another one does its batch") == DEATHS
    with pytest.raises(RunFailed, match=f"{DEATHS} workers died under one batch, the last one so: the process ended"):
        dict(crew(DEATHS).run(TASK, "generate", calls))


def test_a_worker_whose_own_process_died_is_as_one_that_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    """As where vLLM is killed, and the actor that asks it is not."""

    class Asking(Worker):
        def __init__(self, deaths: int) -> None:
            super().__init__(Scripted())
            self.left = deaths

        def call(self, *arguments: Any) -> Any:
            self.left -= 1
            if self.left >= 0:
                raise ProcessDied("the process that runs vLLM was killed")
            return super().call(*arguments)

    def of(*deaths: int) -> Crew:
        made = crew(*[0] * len(deaths))
        made._workers = [Stand(0, Asking(each)) for each in deaths]
        return made

    wanted = dict(crew(0).run(TASK, "generate", [ASKED]))
    assert dict(of(1, 1).run(TASK, "generate", [ASKED])) == wanted
    assert caplog.text.count("is lost; another one does its batch (the process that runs vLLM was killed)") == 2
    with pytest.raises(RunFailed, match=f"{DEATHS} workers died under one batch, the last one so: the process that runs vLLM"):
        dict(of(DEATHS).run(TASK, "generate", [ASKED]))


def test_what_a_session_raises_is_raised_and_a_run_that_was_broken_off_leaves_nothing_behind() -> None:
    workers = crew(0, 0)  # the second one still has its call when the run is broken off
    with pytest.raises(AttributeError, match="no_such"):
        dict(workers.run(TASK, "no_such", [ASKED]))
    begun = workers.run(TASK, "generate", [ASKED, ASKED])
    next(begun)
    begun.close()
    ((place, found),) = workers.run(TASK, "embed", [(["a kettle"],)])
    assert place == 0 and found.shape == (1, 512)


def test_a_worker_with_another_selfalign_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "ready", lambda self: ("node-7", {"selfalign": "0.0.1"}))
    with pytest.raises(RunFailed, match=r"selfalign is 0.0.1 on node-7, .* here; install the same on all nodes"):
        dict(crew(0).run(TASK, "generate", [ASKED]))
