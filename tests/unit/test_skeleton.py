"""What a model is not, or has not, is said before anything is generated: no kind of model, no weight, no layer is made up."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from selfalign.errors import UserError
from selfalign.models.files import WEIGHTS
from selfalign.models.names import quiet
from selfalign.models.sizes import read_sizes
from selfalign.models.skeleton import skeleton
from selfalign.trainers._memory import Load, need
from selfalign.trainers._model import count_adapter
from tests.conftest import Refused, Run
from tests.tiny import tiny_tokenizer

BLOCK = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SIDES = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
EXPERTS = {"num_key_value_heads": 2, "num_local_experts": 4}
LOAD = Load(8, 300, 150, half=True, eight_bit=False, distils=False, rank=16, target="all-linear")


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Path]:
    def make(model: str, **options: Any) -> Path:
        """A random model of this class, by the options of its configuration."""
        tokenizer, kind = tiny_tokenizer(context=2048), getattr(transformers, model)
        ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        config = kind.config_class(vocab_size=len(tokenizer), max_position_embeddings=2048, **ids, **options)
        with quiet():
            kind(config).save_pretrained(tmp_path / model)
            tokenizer.save_pretrained(tmp_path / model)
        return tmp_path / model

    return make


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("LlamaForSequenceClassification", BLOCK, "lacks 1 of the weights of a LlamaForCausalLM, such as lm_head.weight"),
        ("T5ForConditionalGeneration", {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1}, "has an encoder, no model that"),
        ("BartForConditionalGeneration", {"d_model": 32, **SIDES}, "BartForConditionalGeneration has an encoder, no model that"),
        ("BertForMaskedLM", BLOCK, "BertForMaskedLM has an encoder, no model that transformers loads to write texts"),
        ("LlavaForConditionalGeneration", None, "LlavaForConditionalGeneration is no model that transformers loads to write"),
    ],
)
def test_what_writes_no_texts_is_refused(
    made: Callable[..., Path], seeds_file: Path, refused: Refused, model: str, options: Any, said: str
) -> None:
    seen = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    both = {"vision_config": {"model_type": "clip_vision_model", **seen, "image_size": 28, "patch_size": 14}}
    if options is None:
        options = {**both, "text_config": {"model_type": "llama", **BLOCK, "vocab_size": 260, "max_position_embeddings": 2048}}
    folder = made(model, **options)
    for words in (("check", "isara", seeds_file), ("run", "sft", seeds_file, "--out", "run")):
        assert said in refused(*words, "--model", folder)
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("num_hidden_layers", 3, "lacks 9 of the weights of a LlamaForCausalLM, such as model.layers.2."),
        (
            "intermediate_size",
            128,
            "model.layers.0.mlp.down_proj.weight has the shape (32, 64) in its files and (32, 128) by its",
        ),
        ("quantization_config", {"quant_method": "gptq", "bits": 4}, "its weights are quantised (gptq), and so neither trained"),
        ("quantization_config", {"load_in_4bit": True}, "its weights are quantised (bitsandbytes), and so neither trained"),
        ("quantization", {"bits": 4, "group_size": 64}, "its weights are quantised (MLX), and so neither trained"),
    ],
)
def test_what_is_not_whole_is_refused(
    model_folder: Path, tmp_path: Path, seeds_file: Path, refused: Refused, key: str, value: Any, said: str
) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: value}))
    for engine in ("HF", "Scripted"):  # one that loads the model, and one that leaves that to the trainer
        given = ("--engine", engine, "--trainer", "SFT")
        assert said in refused("check", "isara", seeds_file, "--model", folder, *given)


def test_weights_of_other_numbers_or_of_more_layers_are_not_taken_in_silence(
    model_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    config, weights = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1, "layer_types": None}))
    skeleton(folder)
    assert "holds 9 weights that a LlamaForCausalLM does not read, such as model.layers.1." in caplog.text
    (folder / "config.json").write_text(json.dumps(config))
    for kind, name in ((torch.float8_e4m3fn, "F8_E4M3"), (torch.int8, "I8")):
        save_file({key: weight.to(kind) if "mlp" in key else weight for key, weight in weights.items()}, folder / WEIGHTS)
        with pytest.raises(
            UserError, match=rf"model.layers.0.mlp.down_proj.weight is stored as {name}, and config.json does not"
        ):
            skeleton(folder)


def test_a_model_that_takes_no_adapter_is_refused_one(
    made: Callable[..., Path], model_folder: Path, seeds_file: Path, refused: Refused
) -> None:
    mamba = made("MambaForCausalLM", hidden_size=32, num_hidden_layers=2, state_size=4)
    given = ("check", "isara", seeds_file, "--trainer.method", "lora")
    assert "scaled_dot_product_attention" in (said := refused(*given, "--model", mamba))
    assert said.endswith("; --engine.attention names another one, such as eager"), "before anything is generated"
    said = refused(*given, "--model", mamba, "--engine.attention", "eager")
    assert said.startswith("selfalign: trainer SFT: MambaForCausalLM takes no adapter with --trainer.lora_target 'all-linear': ")
    said = refused(*given, "--model", model_folder, "--trainer.lora_target", r".*\.w_proj")
    assert r"LlamaForCausalLM takes no adapter with --trainer.lora_target '.*\\.w_proj': Target modules" in said


def test_experts_of_one_tensor_are_not_brought_to_four_bits(made: Callable[..., Path]) -> None:
    folder = made("MixtralForCausalLM", **BLOCK, **EXPERTS)
    sizes = read_sizes(folder)
    one = 3 * 32 * 64
    assert sizes.shared == 2 * 4 * one and sum(a * b for a, b in sizes.matrices.values()) == 2 * (2 * 32 * 32 + 2 * 16 * 32)
    assert need("qlora", True, sizes, LOAD).weights > 2 * sizes.shared, "two bytes each, as transformers leaves them"
    pytest.importorskip("bitsandbytes")
    four = transformers.BitsAndBytesConfig(load_in_4bit=True)
    net = transformers.AutoModelForCausalLM.from_pretrained(folder, quantization_config=four, dtype=torch.bfloat16)
    assert {weight.dtype for name, weight in net.named_parameters() if "experts" in name} == {torch.bfloat16}
    assert count_adapter(folder, 16, "all-linear") > 16 * sum(a + b for a, b in sizes.matrices.values()), "experts get one too"


def test_sizes_that_a_configuration_leaves_to_its_kind_are_known(made: Callable[..., Path]) -> None:
    folder = made("Gemma3ForCausalLM", **BLOCK, head_dim=8, num_key_value_heads=2)
    config = json.loads((folder / "config.json").read_text())
    default = transformers.Gemma3TextConfig()
    assert read_sizes(folder).vocabulary == config.pop("vocab_size")
    del config["max_position_embeddings"]
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 260}))
    assert read_sizes(folder).window == default.max_position_embeddings
    layers = {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 2048}
    assert read_sizes(made("MptForCausalLM", **layers)).layers == 2


@pytest.fixture
def edited(model_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    def edit(name: str, **values: Any) -> Path:
        """The tiny model with other values in one of its files."""
        folder = Path(shutil.copytree(model_folder, tmp_path / "edited"))
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps({**content, **values}), encoding="utf-8")
        return folder

    return edit


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("config.json", {"max_position_embeddings": 0}, "max_position_embeddings = 0 in the model's files says no window: it is"),
        ("config.json", {"max_position_embeddings": -1}, "= -1 in the model's files says no window: it is taken as 2,048 tokens"),
        ("tokenizer_config.json", {"model_max_length": -1}, "model_max_length = -1 in the model's files says no window"),
        ("generation_config.json", {"eos_token_id": [257, 99999]}, "eos_token_id in the model's files names 99999, no id of a"),
        ("generation_config.json", {"eos_token_id": -1}, "eos_token_id in the model's files names -1, no id of a token of it"),
        (
            "generation_config.json",
            {"eos_token_id": "<|im_end|>"},
            "names <|im_end|>, no id of a token of it, which ends nothing",
        ),
    ],
    ids=str,
)
def test_a_window_or_an_end_that_is_none_is_told(
    edited: Callable[..., Path], cli: Run, seeds_file: Path, name: str, values: dict[str, Any], told: str
) -> None:
    done = cli("check", "sft", seeds_file, "--model", edited(name, **values), "--encoder", "Hashed")
    assert done.returncode == 0 and told in done.stdout + done.stderr
    assert (done.stdout + done.stderr).count("in the model's files") == 1


def test_an_end_that_stands_in_answers_is_refused(edited: Callable[..., Path], refused: Refused, seeds_file: Path) -> None:
    """Each answer would be cut there, as the letter T ends it."""
    letter = tiny_tokenizer()("T")["input_ids"][0]
    folder = edited("generation_config.json", eos_token_id=[257, letter])
    said = refused("check", "sft", seeds_file, "--model", folder, "--encoder", "Hashed")
    assert f"seed-0001: its response holds 'T', the token {letter}, and eos_token_id in the model's files" in said
