"""Exports of the bundled model through llama.cpp's own programs, which `make servers` builds: SELFALIGN_LLAMA_CPP names them."""

from __future__ import annotations

import json
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from selfalign.cli.main import main
from selfalign.export.llama_cpp import find_tools, serving
from selfalign.models.names import bundled_model
from selfalign.record.checkpoints import read_manifest
from selfalign.record.store import Store
from selfalign.seeds.read import read_seeds
from selfalign.types import ModelRef

LLAMA_CPP = os.environ.get("SELFALIGN_LLAMA_CPP", "")
pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not LLAMA_CPP, reason="SELFALIGN_LLAMA_CPP names no llama.cpp with llama-server and llama-quantize built"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Round 1 is a random adapter on the bundled model, strong enough to change what it writes."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder, model = tmp_path_factory.mktemp("export") / "run", bundled_model()
    seeds = read_seeds(Path(str(files("selfalign") / "data" / "in_scope" / "seeds.jsonl")))[:12]
    torch.manual_seed(0)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    adapted: Any = get_peft_model(loaded, LoraConfig(r=8, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.02)
    with Store.open(folder, {"name": "isara"}) as store:
        store.add_seeds(seeds[6:], seeds[:6])
        store.add_model(0, ModelRef(str(model)))
        place = store.round_folder(1) / "model"
        adapted.save_pretrained(str(place))
        store.add_model(1, ModelRef(str(model), str(place)), read_manifest(place))
        store.finish_run(1, "done")
    return folder


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_K_M"])
def test_the_bundled_model_is_proven_and_answers(run: Path, tmp_path: Path, capsys: Any, kind: str) -> None:
    out = tmp_path / "out"
    assert main(["export", str(run), "--gguf", kind, "--ollama", "--gguf_out", str(out)]) == 0
    print(capsys.readouterr().out)
    proof = json.loads((out / "proof.json").read_text())
    assert proof["prompts_with_equal_token_ids"] == 11 and proof["log_likelihood_per_token"]["pairs"] == 12
    assert kind != "F16" or proof["worst_choice_nats"] <= 0.05
    assert kind == "Q4_K_M" or proof["first_choice_of_the_model"]["share"] > 0.9
    assert "You are a helpful AI assistant named SmolLM" in (out / "Modelfile").read_text()
    with serving(find_tools(None, quantises=False), out / f"model-{kind}.gguf", 512, tmp_path / "log") as server:
        asked = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 24, "temperature": 0}
        assert server.ask("/v1/chat/completions", asked)["choices"][0]["message"]["content"]


def test_another_models_file_is_refused(run: Path, tmp_path: Path, capsys: Any) -> None:
    """As if the converter had left the adapter out."""
    broken = tmp_path / "llama.cpp"
    (broken / "build").mkdir(parents=True)
    (broken / "build" / "bin").symlink_to(Path(LLAMA_CPP) / "build" / "bin")
    (broken / "convert_hf_to_gguf.py").write_text(
        f"import runpy, sys\nif len(sys.argv) > 2: sys.argv[1] = {str(bundled_model())!r}\n"
        f"sys.path.insert(0, {LLAMA_CPP!r})\nsys.path.insert(0, {LLAMA_CPP + '/gguf-py'!r})\n"
        f"runpy.run_path({LLAMA_CPP + '/convert_hf_to_gguf.py'!r}, run_name='__main__')\n"
    )
    assert main(["export", str(run), "--gguf", "F16", "--gguf_out", str(tmp_path / "out"), "--llama_cpp", str(broken)]) == 1
    assert "the float16 file does not write what the model writes" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
