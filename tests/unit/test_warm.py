"""The copies that the other tests start are as good as interpreters: the same words and codes, and children of this process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import warm
from tests.conftest import command

pytestmark = pytest.mark.skipif(warm.source(False) is None, reason="copies are made on Linux alone, and without a GPU")


@pytest.mark.parametrize("words", [["--version"], ["nope"], ["status", "none"], ["run", "./own.py:own", "--help"]])
def test_a_copy_says_what_an_interpreter_says(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "own.py").write_text("def own():\n    raise RuntimeError('of my own')\nown()\n")
    cold = subprocess.run(command(*words), cwd=tmp_path, capture_output=True, text=True)
    found = warm.run(words, tmp_path, os.environ, 60)
    assert found is not None and (found.returncode, found.stdout) == (cold.returncode, cold.stdout)
    if "Traceback" in cold.stderr:  # of runpy, one of the two has a few lines more
        assert found.stderr.splitlines()[-1] == cold.stderr.splitlines()[-1] and "Traceback" in found.stderr
    else:
        assert found.stderr == cold.stderr


def test_a_copy_has_an_environment_of_its_own_and_dies_of_its_signals(tmp_path: Path) -> None:
    log = tmp_path / "points"
    words = ["run", "isara", "safe_helpful", "--model", "scripted", "--engine", "Scripted", "--encoder", "Hashed", "--out", "out"]
    told = {**os.environ, "SELFALIGN_FAULT_LOG": str(log), "SELFALIGN_FAULT_AT": "#3"}
    found = warm.run(words, tmp_path, told, 60)
    assert found is not None and found.returncode == -signal.SIGKILL
    assert len(log.read_text().split()) == 3 and "SELFALIGN_FAULT_AT" not in os.environ
    assert (tmp_path / "out" / "run.sqlite").exists()


def test_what_could_change_the_imports_takes_an_interpreter(tmp_path: Path) -> None:
    assert warm.run(["--version"], tmp_path, {**os.environ, "PYTHONHASHSEED": "1"}, 60) is None
    assert sys.flags.hash_randomization
