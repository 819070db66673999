"""A file of options may come from anywhere: it is read within limits, and imports nothing by itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from selfalign.cli.main import main
from tests.conftest import SCRIPTED

PLAIN = "recipe: sft\nseeds: safe_helpful\nmodel: scripted\nengine: Scripted\nencoder: Hashed\ntrainer: NullTrainer\n"
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 8)}]\n" for level in range(1, 12)
)
EVIL = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
from selfalign.engines import Scripted

class Engine(Scripted):
    pass
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil_parts.py").write_text(EVIL)
    os.mkfifo(tmp_path / "pipe")
    yield tmp_path
    sys.modules.pop("evil_parts", None)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("selfalign: ") and said.count("\n") == 1 and len(said) < 1000, said
    return said


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (PLAIN + BOMB, "write it out"),
        (PLAIN + "x: &x [*x]\n", "write it out"),
        (PLAIN + f"x: {'[' * 3000}{']' * 3000}\n", "nested too deeply"),
        (PLAIN + f"x: {'[' * 3000}", "nested too deeply"),
        (PLAIN + "x: " + "y" * 300_000, "larger than"),
        (PLAIN + "x: !!python/object/apply:os.mkdir [made]\n", "not valid YAML"),
        (PLAIN + "eval_sampling: pipe\n", "not a regular file"),
        (PLAIN + "eval_sampling: /dev/zero\n", "not a regular file"),
        (PLAIN + "eval_sampling: bomb.yaml\n", "write it out"),
    ],
)
def test_a_file_that_would_cost_far_more_than_its_length_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], text: str, why: str
) -> None:
    (here / "bomb.yaml").write_text(BOMB)
    (here / "options.yaml").write_text(text)
    assert why in refused(capsys, "check", "--config", "options.yaml")


@pytest.mark.parametrize("file", ["pipe", "/dev/zero", "/dev/null", ".", "absent", "x" * 5000])
def test_options_are_read_from_regular_files_alone(here: Path, capsys: pytest.CaptureFixture[str], file: str) -> None:
    for command in (
        ["run", "--config", file],
        ["check", "sft", "safe_helpful", f"--config={file}"],
        ["eval", "m", "--config", file],
    ):
        assert "cannot read the options file" in refused(capsys, *command)


@pytest.mark.parametrize(
    "engine",
    [
        "engine: evil_parts.Engine",
        "engine: {class_path: evil_parts.Engine}",
        "engine.class_path: evil_parts.Engine",
        "engine: '{class_path: evil_parts.Engine}'",
        "engine: other.yaml",
        "encoder: {class_path: os.system, init_args: {command: touch ran}}",
    ],
)
def test_a_class_that_only_a_file_names_is_not_imported(here: Path, capsys: pytest.CaptureFixture[str], engine: str) -> None:
    (here / "other.yaml").write_text("class_path: evil_parts.Engine\n")
    name = engine.partition(":")[0].partition(".")[0]
    (here / "options.yaml").write_text(
        "".join(line for line in PLAIN.splitlines(True) if not line.startswith(name)) + engine + "\n"
    )
    for more in ([], ["--print_config"]):
        assert "is not imported" in refused(capsys, "check", "--config", "options.yaml", *more)
    assert not (here / "ran").exists()


def test_a_class_that_is_typed_is_imported(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = list(SCRIPTED)
    options[options.index("Scripted")] = "evil_parts.Engine"
    assert main(["check", "sft", "safe_helpful", *options]) == 0
    assert (here / "ran").exists()
