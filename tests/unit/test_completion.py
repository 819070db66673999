"""`selfalign completion`: what a real shell completes by the script."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from selfalign.cli.main import main


def test_a_shell_completes_commands_recipes_and_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out, encoding="utf-8")
    for typed, wanted in (
        ("sta", {"status"}),
        ("run self_d", {"self_distill"}),
        ("run ditto --trainer.loss.start_b", {"--trainer.loss.start_below"}),
        ("run isara --trainer.meth", {"--trainer.method"}),
        ("run ./mine.py:recipe --per_r", {"--per_round"}),
        ("study isara seeds.jsonl --repe", {"--repeats"}),
        ("run isara seeds.jsonl --repe", set()),
        ("export runs/first --mer", {"--merge"}),
        ("export runs/fi", set()),  # left to the shell, which completes files
    ):
        words = f"COMP_WORDS=(selfalign {typed}); COMP_CWORD={len(typed.split())}; _selfalign; echo ${{COMPREPLY[@]}}"
        shell = subprocess.run(["bash", "-c", f"source {tmp_path / 'script'}; {words}"], capture_output=True, text=True)
        assert (set(shell.stdout.split()), shell.stderr) == (wanted, ""), typed
    assert main(["completion", "fish"]) == 2
    assert "there is one for bash and zsh" in capsys.readouterr().err
