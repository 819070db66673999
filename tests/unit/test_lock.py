"""One process works on a run folder; the others are told who it is, and its death frees the folder."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path
from typing import Any

import pytest

from selfalign.errors import UserError
from selfalign.record.lock import is_locked, locked, wait_until_free
from selfalign.record.store import Store

PROCESSES = multiprocessing.get_context("forkserver")


def _open(folder: Path, barrier: Barrier, told: Any, leave: Event) -> None:
    barrier.wait(30)
    try:
        with Store.open(folder, {"name": "test"}):
            told.put(("works", os.getpid(), ""))
            leave.wait(60)
    except UserError as error:
        told.put(("leaves", os.getpid(), str(error)))


def test_of_eight_processes_one_works_and_seven_name_it(tmp_path: Path) -> None:
    barrier, told, leave = PROCESSES.Barrier(8), PROCESSES.Queue(), PROCESSES.Event()
    processes = [PROCESSES.Process(target=_open, args=(tmp_path, barrier, told, leave)) for _ in range(8)]
    for process in processes:
        process.start()
    reports = [told.get(timeout=60) for _ in processes]
    (owner,) = (pid for what, pid, _ in reports if what == "works")
    refusals = [message for what, _, message in reports if what == "leaves"]
    assert len(refusals) == 7
    assert all(f"in use by process {owner} on " in message for message in refusals)
    os.kill(owner, signal.SIGKILL)
    for process in processes:
        process.join(30)
    Store.open(tmp_path, {"name": "test"}).close()


def test_the_lock_is_no_file_but_a_process(tmp_path: Path) -> None:
    with locked(tmp_path):
        assert is_locked(tmp_path)
        with pytest.raises(UserError, match=f"process {os.getpid()} "), locked(tmp_path):
            pass
        assert is_locked(tmp_path)
    assert (tmp_path / "lock").exists() and not is_locked(tmp_path)
    (tmp_path / "lock").write_bytes(b'{"pid": 1')
    with locked(tmp_path):
        assert is_locked(tmp_path)
        (tmp_path / "lock").write_bytes(b"\xff")
        with pytest.raises(UserError, match="another process"), locked(tmp_path):
            pass


def test_asking_never_turns_a_new_owner_away(tmp_path: Path) -> None:
    """`is_locked` takes the lock for an instant: who starts in that instant must still get it."""
    asking = (
        "from pathlib import Path; from selfalign.record.lock import is_locked\n"
        f"folder = Path({str(tmp_path)!r}); print('ready', flush=True)\nwhile True: is_locked(folder)"
    )
    with locked(tmp_path):
        pass
    askers = [subprocess.Popen([sys.executable, "-c", asking], stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for asker in askers:
            assert asker.stdout is not None and asker.stdout.readline() == b"ready\n"
        for _ in range(200):
            with locked(tmp_path):
                pass
    finally:
        for asker in askers:
            asker.kill()
            asker.communicate()


def test_a_child_of_a_dead_owner_does_not_keep_the_folder(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time; from pathlib import Path; from selfalign.record.lock import locked\n"
        f"with locked(Path({str(tmp_path)!r})):\n"
        "    child = subprocess.Popen(['sleep', '60'], close_fds=False); print(child.pid, flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    child = int(owner.stdout.readline())
    try:
        assert is_locked(tmp_path)
        owner.kill()
        owner.wait()
        with locked(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_process_that_ends_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wait_until_free(tmp_path, 60)
    assert not caplog.records
    with ExitStack() as held:
        held.enter_context(locked(tmp_path))
        wait_until_free(tmp_path, 0)
        leaving = threading.Timer(0.2, held.close)
        leaving.start()
        wait_until_free(tmp_path, 60)
        assert leaving.finished.is_set() and not is_locked(tmp_path)
    assert caplog.text.count(f"is still held by process {os.getpid()} on ") == 1
