"""What the tests share: seeds, the real command line in a subprocess, and the tiny model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import warm
from tests.tiny import tiny_model, tiny_reward_model

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTHONPATH" in os.environ:  # tests start processes in folders of their own
    os.environ["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, os.environ["PYTHONPATH"].split(os.pathsep)))
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in the background: tests send it
    signal.signal(signal.SIGINT, signal.default_int_handler)
warm.ENVIRONMENT.update(os.environ)

SCRIPTED = ("--model", "scripted", "--engine", "Scripted", "--encoder", "Hashed", "--trainer", "NullTrainer")
"""Options of a run without any model."""

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Refused = Callable[..., str]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "selfalign", *map(str, arguments)]


@pytest.fixture(autouse=True, scope="module")
def environment() -> Iterator[None]:
    """What a file and its libraries (Ray, for one) set in the environment ends with it, else the next ones begin cold."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def warm_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training processes begin with their libraries imported."""
    warm.train_warm(monkeypatch)


@pytest.fixture
def cold_trainings(warm_trainings: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are interpreters of their own, as users have them."""
    from selfalign.trainers import _process

    monkeypatch.setattr(_process, "subprocess", subprocess)


@pytest.fixture
def cli(tmp_path: Path) -> Run:
    """Runs `selfalign …` in a folder of the test's own; `env` adds to the environment."""

    def run(*arguments: object, timeout: float = 300, **env: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **env}
        if (done := warm.run([str(each) for each in arguments], tmp_path, environment, timeout)) is not None:
            return done
        return subprocess.run(command(*arguments), capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=timeout)

    return run


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """The one line with which `selfalign …` declines to begin; in this process, whose parsers are made already."""

    def run(*arguments: object) -> str:
        from selfalign.cli.main import main

        monkeypatch.chdir(tmp_path)
        assert main([str(word) for word in arguments]) == 2
        said = capsys.readouterr()
        (line,) = said.err.strip().splitlines()
        assert not said.out
        return line

    return run


@pytest.fixture
def seeds_file(tmp_path: Path) -> Path:
    return write_seeds(tmp_path)


def write_seeds(folder: Path) -> Path:
    """Twelve pairs in two categories."""
    rows = [
        {
            "prompt": f"How do I {verb} the {thing} in the old house today?",
            "response": f"Take the {thing} and {verb} it slowly with a soft cloth. Then let it rest for an hour.",
            "category": "care" if number % 2 else "repair",
        }
        for number, (verb, thing) in enumerate(
            (verb, thing) for verb in ("clean", "mend", "paint") for thing in ("table", "window", "roof", "stove")
        )
    ]
    path = folder / "seeds.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def fake_vllm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """vLLM is there, for this process and those that it starts: the stand-in of `tests/fake_vllm`."""
    from selfalign.engines import _vllm_process

    there = str(Path(__file__).parent / "fake_vllm")
    monkeypatch.syspath_prepend(there)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([there, *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where logs stay that a message names
    _vllm_process.check.cache_clear()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny random model, made once."""
    return tiny_model(tmp_path_factory.mktemp("tiny") / "model", context=2048)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model that trainings start from."""
    return tiny_model(tmp_path_factory.mktemp("start") / "model", pad="eos", context=256)


@pytest.fixture(scope="session")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny reward model, trained once."""
    return tiny_reward_model(tmp_path_factory.mktemp("reward") / "model")
