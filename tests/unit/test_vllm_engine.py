"""The engine VLLM over a stand-in for vLLM (`tests/fake_vllm`): what vLLM is told, and what comes of its faults.

`tests/servers/test_vllm_engine.py` has the same with vLLM itself.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from selfalign.cli.main import main
from selfalign.engines import VLLM, _vllm_process
from selfalign.errors import RunFailed, UserError
from selfalign.types import Example, ModelRef, Request, Sampling
from tests.tiny import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("fake_vllm")
PAIRS = tuple(Example(f"s{i}", f"Where is place number {i}?", f"It is in hall {i}.") for i in range(6))
ASKED = [Request(f"r{i}", PAIRS[: i % 3], None if i % 2 else f"What is {i}?", 2**62 + i) for i in range(5)]
Told = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    """What the stand-in was told."""
    path = tmp_path / "told"
    monkeypatch.setenv("FAKE_VLLM_TOLD", str(path))
    return lambda: [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


@pytest.fixture
def model(model_folder: Path) -> ModelRef:
    return VLLM().check(ModelRef(str(model_folder)), PAIRS, "auto")


def adapter(
    base: Path, folder: Path, rank: int = 4, value: float = 0.5, layer: str = "q_proj", width: int = 32, **config: Any
) -> ModelRef:
    """A LoRA adapter's files, without PEFT."""
    folder.mkdir()
    written = {"peft_type": "LORA", "r": rank, "target_modules": [layer], "layers_to_transform": [0], **config}
    written |= {"base_model_name_or_path": str(base)}
    (folder / "adapter_config.json").write_text(json.dumps(written))
    side = f"base_model.model.model.layers.0.self_attn.{layer}.lora_"
    sides = {"A": np.full((rank, width), value, np.float32), "B": np.zeros((32, rank), np.float32)}
    files = {f"{side}{name}.weight": each for name, each in sides.items()}
    files |= {f"{side}magnitude_vector": np.ones(32, np.float32)} if "use_dora" in config else {}
    save_file(files, folder / "adapter_model.safetensors")
    return ModelRef(str(base), str(folder))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_vllm_is_told_everything_and_no_default_of_its_own_holds(model: ModelRef, told: Told) -> None:
    engine = VLLM(batch_size=7, dtype="bfloat16", memory=0.5, context=600, eager=True, extra={"quantization": "fp8"})
    with engine.open(model, "auto") as session:
        session.generate(ASKED, Sampling(max_tokens=9, temperature=0.7, top_p=0.9, top_k=5, stop=("\n\n",)))
        assert session.fit(Request("r", prompt="word " * 130), 9) is None, "prompts are fitted to the narrower window"
    load, _, *later = told()  # behind the one token that shows whether logits are finite
    assert load["arguments"] | {"max_model_len": 600, "gpu_memory_utilization": 0.5, "quantization": "fp8"} == load["arguments"]
    assert load["arguments"] | {"dtype": "bfloat16", "max_num_seqs": 7, "enforce_eager": True} == load["arguments"]
    assert load["arguments"]["enable_prefix_caching"] and load["arguments"]["generation_config"] == "vllm"
    assert not load["arguments"]["trust_remote_code"] and "enable_lora" not in load["arguments"]
    assert [each["do"] for each in later] == ["reset", "generate"], "no batch depends on the cache that another one left"
    given = [each["given"] for each in later[1]["params"]]
    assert [each["seed"] for each in given] == [2**62 + i for i in range(5)]
    sampling = {"max_tokens": 9, "temperature": 0.7, "top_p": 0.9, "top_k": 5, "ignore_eos": True, "detokenize": True}
    stops = {"stop": ["\n\n"], "include_stop_str_in_output": True, "stop_token_ids": [256, 257]}
    assert [each | sampling | stops for each in given[::2]] == given[::2], "of answers; a new prompt has other ends"


def test_ids_that_the_tokenizer_has_not_are_never_drawn(tmp_path: Path, told: Told) -> None:
    padded = VLLM().check(ModelRef(str(tiny_model(tmp_path / "padded", extra_vocabulary=4, context=2048))), PAIRS, "auto")
    with VLLM().open(padded, "auto") as session:
        session.generate(ASKED[:1], Sampling(max_tokens=9))
    size = len(tiny_tokenizer())
    assert told()[-1]["params"][0]["given"]["logit_bias"] == {str(size + more): -100.0 for more in range(4)}


def test_a_text_ends_with_the_token_that_completes_a_stop_string(model: ModelRef) -> None:
    """Whatever vLLM has written behind it (the stand-in looks at no strings): counts are those of the other engines."""
    request = Request("t", text="Question: Where is it?", seed=5)
    with VLLM().open(model, "auto") as session:
        whole = session.generate([request], Sampling(max_tokens=40))[0].text
        stop = whole[len(whole) // 2]
        cut = session.generate([request], Sampling(max_tokens=40, stop=(stop,)))[0]
    assert (cut.text, cut.finish, cut.generated_tokens) == (whole[: whole.index(stop)], "stop", whole.index(stop) + 1)


def test_a_judges_choices_are_one_text_and_say_what_texts_alone_do(model: ModelRef, told: Told) -> None:
    choices = [("The answer is", letter) for letter in "ABCD"]
    with VLLM().open(model, "auto") as session:
        together = session.continuation([*choices, ("It is", " long")])
        rows = [each for each in told() if each["do"] == "generate"][1:]
        assert [each["rows"] for each in rows] == [1, 1] and len(rows[0]["params"][0]["given"]["logprob_token_ids"]) == 4
        assert [session.continuation([one])[0].total for one in choices] == [one.total for one in together[:4]]
        assert sum(one.greedy for one in together[:4]) <= 1 and together[4].tokens == 5


def test_an_adapter_goes_by_its_folder_under_an_id_of_its_own(model_folder: Path, tmp_path: Path, told: Told) -> None:
    texts = []
    for round, value in enumerate((0.5, 0.6)):
        ref = VLLM().check(adapter(model_folder, tmp_path / f"{round}", rank=9, value=value), PAIRS, "auto")
        with VLLM().open(ref, "auto") as session:
            texts.append([one.text for one in session.generate(ASKED, Sampling(max_tokens=30))])
            session.likelihood(PAIRS)
    assert texts[0] != texts[1]
    loads = [each["arguments"] for each in told() if each["do"] == "load"]
    wanted = {"enable_lora": True, "max_loras": 1, "max_lora_rank": 16, "lora_target_modules": ["q_proj"]}
    assert all(each | wanted == each and each["model"] == str(model_folder) for each in loads) and len(loads) == 2
    asked = [each["lora"] for each in told() if each["do"] == "generate"]
    assert {each["lora_path"] for each in asked} == {str(tmp_path / "0"), str(tmp_path / "1")}
    assert len({each["lora_int_id"] for each in asked}) == len({each["lora_name"] for each in asked}) == 2


def test_what_cannot_be_is_said_before_anything_loads(
    model_folder: Path, tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    size = len(tiny_tokenizer())
    GPT2LMHeadModel(GPT2Config(vocab_size=size, n_positions=512, n_embd=32, n_layer=1, n_head=4)).save_pretrained(
        tmp_path / "gpt"
    )
    tiny_tokenizer().save_pretrained(tmp_path / "gpt")

    def refused(why: str, engine: VLLM = VLLM(), ref: ModelRef = ModelRef(str(model_folder))) -> None:  # noqa: B008
        _vllm_process.check.cache_clear()
        with pytest.raises(UserError, match=why):
            engine.check(ref, PAIRS, "auto")

    refused(
        r"vLLM refuses this: Model architectures \[.GPT2\w+.\] are not supported for now\. \(its log",
        ref=ModelRef(str(tmp_path / "gpt")),
    )
    refused("rank is 513, vLLM takes 512", ref=adapter(model_folder, tmp_path / "r", rank=513))
    refused("does not fit its base, .* size mismatch for", ref=adapter(model_folder, tmp_path / "other", width=48))
    refused("does not yet support DoRA", ref=adapter(model_folder, tmp_path / "dora", use_dora=True))
    refused("s0: .* the model's window has 32", VLLM(context=32))
    refused("engine.python: /no/python is no program", VLLM(python="/no/python"))
    refused("has no vLLM that can be used: .*No module named 'vllm'.*pip install", VLLM(python=sys.executable))
    monkeypatch.setenv("FAKE_VLLM_VERSION", "0.9.2")
    refused("it is version 0.9.2, and 0.30 is the oldest")
    monkeypatch.setenv("FAKE_VLLM_VERSION", "0.1.dev20+g1234")
    monkeypatch.setenv("FAKE_VLLM", "no-gpu")
    refused("needs 1 GPUs, and 0 may be used; .* --engine OpenVINO or HF")
    monkeypatch.setattr(_vllm_process, "installed", lambda: False)
    refused(r"pip install 'selfalign\[vllm\]', or name an interpreter .*--engine.python")
    assert not [each for each in told() if each["do"] == "load"]
    assert not _vllm_process._RUNNING


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"memory": 1.5}, "memory"),
        ({"dtype": "int8"}, "dtype"),
        ({"device": "mps"}, "device"),
        ({"device": "cuda:1", "tensor_parallel": 2}, "tensor_parallel"),
        ({"extra": {"model": "x"}}, "extra has model"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"VLLM: .*{name}"):
        VLLM(**options)


def test_two_models_take_turns_where_their_memory_would_not_do(model: ModelRef, tmp_path: Path, told: Told) -> None:
    other = VLLM().check(ModelRef(str(tiny_model(tmp_path / "judge", context=2048, seed=3))), PAIRS, "auto")

    def loads(memory: float) -> int:
        before, engine = len(told()), VLLM(memory=memory)
        with engine.open(model, "auto") as one, engine.open(other, "auto") as judge:
            first = one.generate(ASKED, Sampling(max_tokens=20))
            assert judge.generate(ASKED, Sampling(max_tokens=20)) != first == one.generate(ASKED, Sampling(max_tokens=20))
        return len([each for each in told()[before:] if each["do"] == "load"])

    assert (loads(0.5), loads(0.85)) == (2, 3) and not _vllm_process._RUNNING
    with VLLM().open(model, "auto") as session:  # the pooling mode is a process too
        session.generate(ASKED, Sampling(max_tokens=20))
        session.embed(["one"])
        generating, embedding = [each["pid"] for each in told() if each["do"] == "load"][-2:]
        assert not alive(generating) and alive(embedding)
    assert not alive(embedding)


def test_the_processes_of_all_gpus_end_with_the_session(model: ModelRef, told: Told) -> None:
    with VLLM(tensor_parallel=2).open(model, "auto") as session:
        session.generate(ASKED, Sampling(max_tokens=9))
        (worker,) = (each["worker"] for each in told() if each["do"] == "worker")
        assert alive(worker)
    assert not alive(worker)


def test_faults_are_one_line_and_leave_no_process(model: ModelRef, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    for fault, why in (
        ("memory", "not enough memory: No available memory.*engine.memory, engine.context"),
        ("nan", "ArithmeticError: the model's logits are not finite"),
        ("fail", "vLLM failed with RuntimeError: kernel launch failed"),
        ("die", "was killed; most often.*the same command goes on. Its log .* ends: .*the last words of a process"),
    ):
        monkeypatch.setenv("FAKE_VLLM", fault)
        with VLLM().open(model, "auto") as session, pytest.raises(RunFailed, match=why) as failed:
            session.generate(ASKED, Sampling(max_tokens=9))
        named = re.search(r"/\S+selfalign-vllm-\S+\.log", str(failed.value))
        assert named and "a library prints" in Path(named[0]).read_text("utf-8") and "\n" not in str(failed.value)
        assert not any(alive(each["pid"]) for each in told()) and not _vllm_process._RUNNING


def test_a_killed_run_goes_on_to_the_same_bytes(
    model_folder: Path, seeds_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "mine.py"
    recipe.write_text(
        "from dataclasses import replace\n"
        "from selfalign.recipes import isara\n"
        "def mine():\n"
        "    made = isara(demonstrations=2)\n"
        "    return replace(made, name='mine', rounds=1, prompt_filters=(), filters=(), min_yield=0.0, validation_share=0.0)\n"
    )

    def run(out: str) -> int:
        parts = ("--encoder", "Hashed", "--trainer", "NullTrainer", "--guard.parts", "none", "--per_round", "8", "--quiet")
        options = ("--engine", "VLLM", "--engine.batch_size", "3", "--sampling.max_tokens", "20", *parts)
        return main(
            ["run", f"{recipe}:mine", str(seeds_file), "--model", str(model_folder), "--out", str(tmp_path / out), *options]
        )

    assert run("whole") == 0, capsys.readouterr().err
    once = tmp_path / "once"
    monkeypatch.setenv("FAKE_VLLM_ONCE", str(once))
    once.write_text("die")
    capsys.readouterr()
    assert run("killed") == 1
    assert "the process that runs vLLM was killed" in capsys.readouterr().err
    assert run("killed") == 0 and not once.exists()
    exports = []
    for name in ("whole", "killed"):
        assert main(["export", str(tmp_path / name), "--data", str(tmp_path / f"{name}.jsonl")]) == 0
        exports.append((tmp_path / f"{name}.jsonl").read_bytes())
    assert exports[0] == exports[1] and exports[0].count(b"\n") == 12 + 8


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_parent_that_is_killed_leaves_nothing_behind(number: signal.Signals, model: ModelRef, told: Told) -> None:
    load = "Child('', 'auto').ask('load', **json.loads(sys.argv[1]))"
    code = f"import json, sys; from selfalign.engines._vllm_process import Child; {load}"
    asked = json.dumps(VLLM().asked(model))
    parent = subprocess.Popen([sys.executable, "-c", code, asked], env={**os.environ, "FAKE_VLLM": "sleep"})
    end = time.monotonic() + 120
    while not (pids := [each["pid"] for each in told() if each["do"] == "generate"]) and time.monotonic() < end:
        time.sleep(0.05)
    assert alive(pids[0])
    os.kill(parent.pid, number)
    parent.wait()
    while alive(pids[0]) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(pids[0])
