"""GGUF files: the whole way with stand-ins for llama.cpp's programs, what refuses a file, and that nothing half is left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from selfalign.cli.main import main
from selfalign.models.sizes import read_sizes
from selfalign.record.checkpoints import read_manifest
from selfalign.record.store import Store
from selfalign.types import Example, ModelRef
from tests.llama_cpp import Answers, answering, write_tools
from tests.tiny import CHATML, tiny_model

SEEDS = [Example(f"s{i}", f"What is {i}?", f"It is {i}.", slot=i, system="Be brief.") for i in range(4)]
LEFT = {"Modelfile", "README.md", "model-Q8_0.gguf", "proof.json"}


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Answers]]:
    monkeypatch.setattr("selfalign.export.llama_cpp.PACKAGES", ())
    with answering() as (address, answers):
        yield write_tools(tmp_path / "llama.cpp", address), answers
    alive = [each for each in psutil.Process().children() if each.status() != psutil.STATUS_ZOMBIE]  # of other tests too
    left = [each for each in alive if "llama-server" in " ".join(each.cmdline())]
    assert not left


def a_run(folder: Path, model: Path, adapter: bool = False, round: int = 0) -> Path:
    with Store.open(folder, {"name": "isara"}) as store:
        store.add_seeds(SEEDS[2:], SEEDS[:2])
        store.add_model(0, ModelRef(str(model)))
        if adapter:
            place = store.round_folder(1) / "model"
            write_adapter(model, place)
            store.add_model(1, ModelRef(str(model), str(place)), read_manifest(place))
        store.finish_run(int(adapter), "done")
    return folder


def write_adapter(model: Path, folder: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    options = LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), options).save_pretrained(folder)


def test_an_adapter_becomes_a_quantised_file_with_a_modelfile(
    tmp_path: Path, model_folder: Path, tools: tuple[Path, Answers], capsys: Any
) -> None:
    run, (folder, answers) = a_run(tmp_path / "run", model_folder, adapter=True), tools
    given = ["export", str(run), "--gguf", "Q8_0", "--ollama", "--llama_cpp", str(folder)]
    assert main([*given, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)["gguf"]
    place = run / "round-01" / "gguf-Q8_0"
    assert {path.name for path in place.iterdir()} == LEFT and made["file"] == str(place / "model-Q8_0.gguf")
    assert {path.name for path in place.parent.iterdir()} == {"gguf-Q8_0", "model"}
    # Of the merged weights, the float16 file before the other.
    assert json.loads((place / "model-Q8_0.gguf").read_text())["model"].endswith("/merged")
    assert list(dict.fromkeys(answers.kinds)) == ["f16", "Q8_0"]
    proof = json.loads((place / "proof.json").read_text())
    assert (proof["kind"], proof["round"], proof["prompts_with_equal_token_ids"], proof["equal_answers"]) == ("Q8_0", 1, 7, 7)
    assert proof["log_likelihood_per_token"]["pairs"] == 4 and abs(proof["log_likelihood_per_token"]["difference"]) < 1e-4
    assert "first choice, 7 of 7 answers in full" in (place / "README.md").read_text()
    lines = (place / "Modelfile").read_text()
    assert "FROM ./model-Q8_0.gguf\n" in lines and 'SYSTEM """Be brief."""\n' in lines
    assert 'PARAMETER stop """<|im_end|>"""\n' in lines and "PARAMETER repeat_penalty 1\n" in lines
    assert main(given) == 2 and "name a new folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "fault", "said"),
    [
        ("F16", {"shift": True}, "does not have the model's tokens of a prompt (s0, at token 0)"),
        ("F16", {"model": "other"}, "does not write what the model writes, so it is not exported: to 'What is 0?'"),
        ("Q8_0", {"model": "other"}, "does not write what the model writes"),
        ("Q4_K_M", {"model": "other", "kinds": ["Q4_K_M"]}, "the Q4_K_M file is another model, so it is not exported"),
    ],
)
def test_a_file_that_is_not_the_model_is_not_written(
    tmp_path: Path, model_folder: Path, tools: tuple[Path, Answers], capsys: Any, kind: str, fault: dict[str, Any], said: str
) -> None:
    run, (folder, answers) = a_run(tmp_path / "run", model_folder), tools
    other = tiny_model(tmp_path / "other", context=2048, seed=1) if "model" in fault else None
    answers.faults = {**fault, **({"model": str(other)} if other else {})}
    out = tmp_path / "out"
    given = ["export", str(run), "--gguf", kind, "--ollama", "--gguf_out", str(out), "--llama_cpp", str(folder)]
    assert main(given) == 1
    assert said in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"run", "llama.cpp", *(["other"] if other else [])}


def test_what_is_missing_is_named_before_anything_loads(
    tmp_path: Path, model_folder: Path, tools: tuple[Path, Answers], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, (folder, _) = a_run(tmp_path / "run", model_folder), tools
    monkeypatch.setattr("selfalign.export.gguf.load_float32", None)
    monkeypatch.setattr("selfalign.export.llama_cpp.PLACES", (str(folder),))
    monkeypatch.setenv("PATH", "")

    def says(*given: str) -> str:
        assert main(["export", str(run), "--gguf", "Q8_0", *given]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    (folder / "build" / "bin" / "llama-quantize").rename(folder / "quantize")
    assert "llama.cpp's llama-quantize cannot be found on the PATH or in the usual places: clone https://" in says()
    monkeypatch.setenv("SELFALIGN_LLAMA_CPP", str(tmp_path / "run"))
    assert "convert_hf_to_gguf.py and llama-quantize and llama-server cannot be found in " in says()
    assert "there is no such folder" in says("--llama_cpp", str(tmp_path / "none"))
    (folder / "quantize").rename(folder / "build" / "bin" / "llama-quantize")
    with monkeypatch.context() as missing:
        missing.setattr("selfalign.export.llama_cpp.PACKAGES", ("sentencepiece_that_is_not_there",))
        assert "install it with: pip install sentencepiece_that_is_not_there" in says("--llama_cpp", str(folder))
    (folder / "convert_hf_to_gguf.py").write_text("import gguf_that_is_not_there")
    assert "No module named 'gguf_that_is_not_there'; pip install gguf" in says("--llama_cpp", str(folder))
    assert main(["export", str(run), "--data", "x.jsonl", "--ollama"]) == 2
    assert "--ollama changes nothing without --gguf KIND" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "bytes_a_weight"), [("F16", 2), ("Q8_0", 2 + 34 / 32)])
def test_the_disk_needs_room_for_the_files_alone(
    tmp_path: Path,
    model_folder: Path,
    tools: tuple[Path, Answers],
    capsys: Any,
    monkeypatch: Any,
    kind: str,
    bytes_a_weight: float,
) -> None:
    """The model is stored in float32, four bytes a weight."""
    run, needed = a_run(tmp_path / "run", model_folder), int(bytes_a_weight * read_sizes(model_folder).weights)
    given = ["export", str(run), "--gguf", kind, "--llama_cpp", str(tools[0])]
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=needed - 1))
    assert main(given) == 1 and f"{needed:,} bytes are needed and {needed - 1:,} are free" in capsys.readouterr().err
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=needed))
    assert main(given) == 0


def test_without_a_template_that_is_proven_the_file_alone_is_written(
    tmp_path: Path, tools: tuple[Path, Answers], capsys: Any
) -> None:
    """Its turns are numbered, which our part of Go's language does not do."""
    numbered = CHATML.replace("message['role']", "message['role'] + ' ' + loop.index | string")
    model = tiny_model(tmp_path / "model", template=numbered, context=2048)
    run, (folder, _) = a_run(tmp_path / "run", model), tools
    assert main(["export", str(run), "--gguf", "F16", "--ollama", "--llama_cpp", str(folder)]) == 1
    said = capsys.readouterr().out
    assert "proven with llama-server:" in said and "no Modelfile is written: " in said
    assert {path.name for path in (run / "round-00" / "gguf-F16").iterdir()} == {"README.md", "model-F16.gguf", "proof.json"}


@pytest.mark.parametrize("begins", [False, True])
def test_a_model_without_a_chat_template(tmp_path: Path, tools: tuple[Path, Answers], capsys: Any, begins: bool) -> None:
    """What it is asked in stands in the Modelfile alone; not where llama.cpp puts a token in front that the run does not."""
    run, (folder, answers) = a_run(tmp_path / "run", tiny_model(tmp_path / "model", template=None, context=2048)), tools
    answers.faults = {"begin": [257]} if begins else {}
    given = ["export", str(run), "--gguf", "F16", "--ollama", "--llama_cpp", str(folder), "--round", "0"]
    assert main(given) == int(begins)
    said, file = capsys.readouterr().out, run / "round-00" / "gguf-F16" / "Modelfile"
    assert "the run's format is plain: the file carries no chat template" in said
    if begins:
        assert "llama.cpp does not cut its prompt of s0 into the run's tokens" in said and not file.exists()
    else:
        assert "Question: {{ $m.Content }}\nAnswer:" in file.read_text() and '"""\nQuestion:"""' in file.read_text()
