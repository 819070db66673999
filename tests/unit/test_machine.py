"""What the machine lacks is said in one line with its remedy: memory, disk, wherever it runs out."""

from __future__ import annotations

import errno
import os
import resource
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from selfalign.cli.main import main
from selfalign.trainers import _child
from selfalign.trainers._process import _REMEDIES
from tests.conftest import SCRIPTED, command

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/x")


def raising(error: Exception) -> Callable[..., int]:
    def task(*arguments: object, **options: object) -> int:
        raise error

    return task


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("could not create a primitive"), "memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "memory"),
        (RuntimeError("could not create a primitive descriptor for the matmul primitive"), "memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:98] . DefaultCPUAllocator: can't allocate memory"), "memory"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "memory"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "memory"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 2543488 vs 2543376"), "disk"),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "disk"),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), "disk"),
        (ValueError("something else"), "other"),
    ],
)
def test_a_training_that_ends_for_want_of_something_says_what(tmp_path: Path, error: Exception, kind: str) -> None:
    assert _child._kind(error, tmp_path) == kind
    assert bool(_REMEDIES[kind]) == (kind != "other")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "not enough memory"),
        (ImportError("\n\nOriginal error was: libx.so: failed to map segment from shared object\n"), "not enough memory"),
        (RuntimeError("can't start new thread"), "not enough memory"),
        (FULL, "disk of /data/x is full"),
        (sqlite3.DatabaseError("database disk image is malformed"), "record of a run cannot be used"),
    ],
)
def test_no_command_shows_a_traceback_for_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, said: str
) -> None:
    monkeypatch.setattr("selfalign.cli.status.main", raising(error))
    assert main(["status", "x"]) == 1
    shown = capsys.readouterr().err
    assert said in shown and shown.count("\n") == 1


def test_too_little_memory_to_begin_with() -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (60_000 * 1024, 60_000 * 1024))

    done = subprocess.run(command("status", "x"), capture_output=True, text=True, preexec_fn=limited, timeout=100)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "not enough memory" in done.stderr, done.stderr


def test_a_disk_that_is_full_when_the_options_are_written(
    tmp_path: Path, seeds_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["run", "sft", str(seeds_file), *SCRIPTED, "--out", str(tmp_path / "out"), "--rounds", "1", "--quiet"]
    with monkeypatch.context() as patched:
        patched.setattr("selfalign.loop.align.write_synced", raising(FULL))
        assert main(run) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "is full" in said and "give the same command again" in said
    assert main(run) == 0
