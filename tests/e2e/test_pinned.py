"""A model of the hub is pinned: a run goes on with the revision it was begun with, or says what is different now."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.conftest import Run
from tests.tiny import tiny_model

OLD, NEW = "a" * 40, "b" * 40


def put(home: Path, commit: str, model: Path) -> Path:
    """The model as `some/tiny` in the hub's cache, `main` at this commit."""
    repository = home / "hub" / "models--some--tiny"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(commit)
    return Path(shutil.copytree(model, repository / "snapshots" / commit, dirs_exist_ok=True))


def test_another_revision_in_the_cache_is_said_and_refused(
    tmp_path: Path, model_folder: Path, seeds_file: Path, cli: Run
) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    options = ("--out", out, "--trainer.lora_rank", 2, "--trainer.max_steps", 1, "--encoder", "Hashed", "--guard.parts", "none")

    def run(model: str = "some/tiny") -> tuple[int, str]:
        done = cli("run", "sft", seeds_file, "--model", model, *options, HF_HOME=str(home))
        return done.returncode, done.stderr

    first = put(home, OLD, model_folder)
    code, said = run()
    assert code == 0, said
    adapter = json.loads((out / "round-01" / "model" / "adapter_config.json").read_text())
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == ("some/tiny", OLD)
    put(home, NEW, tiny_model(tmp_path / "other", context=2048, seed=1))
    code, said = run()
    assert code == 2
    assert f"revision {OLD} of some/tiny, and now it is {NEW}" in said and f"--model some/tiny@{OLD}" in said
    assert run(f"some/tiny@{OLD}")[0] == 0
    weights = bytearray((first / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (first / "model.safetensors").write_bytes(weights)
    code, said = run(f"some/tiny@{OLD}")  # the same revision by its name, and not what it was
    assert code == 2 and "other files of the model" in said
