"""Killed anywhere, nothing lost: kill -9 at every named point, then the same command, and the same bytes come out."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from selfalign.cli.main import main
from selfalign.record import sums
from tests.conftest import SCRIPTED, Run, command
from tests.files import select, succeeded

SMALL = ("--rounds", 2, "--per_round", 10, "--min_yield", 0, "--engine.batch_size", 4, "--quiet")
TINY = f"{Path(__file__).parent / 'tiny_recipe.py'}:tiny"


def digest(out: Path, cli: Run) -> str:
    """One hash over all a run made: its exports and its weights."""
    target = out / "all.jsonl"
    succeeded(cli("export", out, "--data", target, "--dropped", out / "dropped.jsonl"))
    found = hashlib.sha256()
    patterns = ("*.jsonl", "round-*/*.json*", "round-*/model/*.safetensors", "round-*/model/*.json")
    for path in sorted(path for pattern in patterns for path in out.glob(pattern)):
        found.update(path.name.encode() + path.read_bytes())
    ids = Counter(json.loads(line)["id"] for line in target.read_text().splitlines())
    assert max(ids.values()) == 1
    return found.hexdigest()


def hits(tmp_path: Path, *arguments: object) -> list[str]:
    """The fault points an unbroken run passes, in order; in an interpreter of its own, with hash values of its own."""
    log = tmp_path / "points.log"
    environment = {**os.environ, "SELFALIGN_FAULT_LOG": str(log)}
    succeeded(subprocess.run(command("run", *arguments), capture_output=True, text=True, env=environment, timeout=300))
    return log.read_text().split()


def test_every_second_fault_point_of_a_scripted_run(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    points = hits(tmp_path, "isara", seeds_file, *SCRIPTED, *SMALL, "--out", tmp_path / "whole")
    wanted = digest(tmp_path / "whole", cli)
    assert len(set(points)) >= 12
    for place, (name, hits_of_it) in enumerate(Counter(points).items()):
        if place % 4 in (1, 2):  # before one commit, after the next; tests/unit/test_store.py has all of the record
            continue
        point = f"{name}:{1 if 'before' in name else hits_of_it}"  # on either side of a commit, at the first and at the last
        out = tmp_path / point
        run = ("run", "isara", seeds_file, *SCRIPTED, *SMALL, "--out", out)
        killed = cli(*run, SELFALIGN_FAULT_AT=point)
        assert killed.returncode == -signal.SIGKILL, f"{point} was not reached: {killed.stderr}"
        again = cli(*run)
        assert again.returncode == 0, f"after a kill at {point}: {again.stderr}"
        assert digest(out, cli) == wanted, f"after a kill at {point}"


def test_every_fault_point_of_a_real_training(cli: Run, seeds_file: Path, model_folder: Path, tmp_path: Path) -> None:
    options = (TINY, seeds_file, "--model", model_folder, "--rounds", 1, "--guard.parts", "none", "--quiet")
    points = hits(tmp_path, *options, "--out", tmp_path / "whole")
    wanted = digest(tmp_path / "whole", cli)
    names = [name for name in dict.fromkeys(points) if name.startswith("train")]
    assert len(names) >= 4
    run = ("run", *options, "--out", tmp_path / "out")
    for name in names:  # each goes on from the one before, and is killed further on
        interrupted = cli(*run, SELFALIGN_FAULT_AT=name)
        assert interrupted.returncode == 1, f"{name} was not reached: {interrupted.stderr}"  # the child died, the run says so
    succeeded(cli(*run))
    assert digest(tmp_path / "out", cli) == wanted


def test_killed_again_and_again_at_the_same_point(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    run = ("run", "isara", seeds_file, *SCRIPTED, *SMALL, "--out", tmp_path / "out")
    for _ in range(4):
        assert cli(*run, SELFALIGN_FAULT_AT="batch.before-commit").returncode == -signal.SIGKILL
    assert cli(*run).returncode == 0
    cli("run", "isara", seeds_file, *SCRIPTED, *SMALL, "--out", tmp_path / "whole")
    assert digest(tmp_path / "out", cli) == digest(tmp_path / "whole", cli)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_the_run_resumably(cli: Run, seeds_file: Path, tmp_path: Path, number: int, code: int) -> None:
    run = ("run", "isara", seeds_file, *SCRIPTED, *SMALL, "--engine.delay", 0.2, "--out", tmp_path / "out")
    process = subprocess.Popen(command(*run), stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for_batches(tmp_path / "out")
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "interrupted" in errors and "Traceback" not in errors
    state = json.loads(cli("status", tmp_path / "out", "--json").stdout)
    assert state["state"] == "interrupted"
    assert cli(*run).returncode == 0


def test_sigterm_ends_a_training_and_its_child(cli: Run, seeds_file: Path, model_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = ("run", TINY, seeds_file, "--model", model_folder, "--epochs", 4000, "--guard.parts", "none", "--quiet", "--out", out)
    process = subprocess.Popen(command(*run), stderr=subprocess.PIPE, text=True, start_new_session=True)
    training = out / "round-01" / "training"
    deadline = time.monotonic() + 120
    while not (training.is_dir() and any(training.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(4)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    time.sleep(0.5)
    assert not [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(training).encode() in _read(p)], "the child lives on"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_the_database_adds_up_its_rows(
    seeds_file: Path, tmp_path: Path, number: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SQLite calls that function for each row that is written, and again for all when a record is opened."""
    whole, left = sums._row_sum, iter(range(60))

    def interrupted(*values: object) -> int:
        if next(left, 0) == 59:
            os.kill(os.getpid(), number)
        return whole(*values)

    run = ["run", "isara", str(seeds_file), *map(str, SCRIPTED), *map(str, SMALL), "--out", str(tmp_path / "out")]
    for moment in ("it writes", "it opens the record"):
        with monkeypatch.context() as patched:
            patched.setattr(sums, "_row_sum", interrupted)
            assert main(run) == code, moment
        assert "goes on from here" in capsys.readouterr().err, moment
        assert select(tmp_path / "out", "SELECT value ->> 'state' FROM meta WHERE key = 'state'") == [("interrupted",)]
        left = iter(range(40, 60))
    assert main(run) == 0


def test_four_processes_on_one_folder(seeds_file: Path, tmp_path: Path) -> None:
    run = ("run", "isara", seeds_file, *SCRIPTED, *SMALL, "--engine.delay", 0.3, "--out", tmp_path / "out")
    started = [subprocess.Popen(command(*run), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    ended = [(process.communicate(timeout=120)[1], process.returncode) for process in started]
    assert sorted(code for _, code in ended) == [0, 2, 2, 2]
    owner = next(process.pid for process in started if process.returncode == 0)
    assert all(str(owner) in errors for errors, code in ended if code == 2)


def wait_for_batches(out: Path, seconds: float = 60) -> None:
    import sqlite3

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with sqlite3.connect(f"file:{out / 'run.sqlite'}?mode=ro", uri=True) as reader:
                if reader.execute("SELECT count(*) FROM batches").fetchone()[0] > 1:
                    return
        except sqlite3.Error:
            pass
        time.sleep(0.05)
    raise AssertionError("no batch was committed")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_faults_are_off_without_the_variable() -> None:
    assert not [name for name in os.environ if name.startswith("SELFALIGN_FAULT")]
