"""Devices: none is taken that was not given, one that is not there is refused, and fp16 scales its loss."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from selfalign.cli.main import main
from selfalign.cli.recipe_options import build
from selfalign.cli.run import make_parser
from selfalign.engines import _weights
from selfalign.errors import UserError
from selfalign.models import device
from selfalign.recipes import isara
from selfalign.trainers import CrossEntropy
from selfalign.trainers._batches import weigh
from selfalign.trainers._child import arguments
from selfalign.trainers._process import surroundings
from selfalign.trainers._weighted import LossScale, NotFinite, Steps, make_trainer
from tests.unit.test_sft import SMALL, alone, job, plan, tokenised


@pytest.mark.parametrize(
    ("named", "seen", "only"),
    [
        ("auto", None, None),
        ("cuda", "2,3", "2,3"),
        ("cuda:1", None, "1"),
        ("cuda:1", "2, 3", "3"),
        ("cuda:0", "GPU-5f", "GPU-5f"),
        ("cuda:1", "3", ""),
        ("cpu", "2,3", ""),
        ("mps", None, ""),
    ],
)
def test_a_training_sees_only_what_it_was_given(named: str, seen: str | None, only: str | None) -> None:
    given = {} if seen is None else {"CUDA_VISIBLE_DEVICES": seen}
    found = surroundings(named, given)
    assert found.get("CUDA_VISIBLE_DEVICES") == only and found["GOMP_SPINCOUNT"] == "10000"
    assert "GOMP_SPINCOUNT" not in surroundings(named, {"OMP_WAIT_POLICY": "ACTIVE"}), "the user's own stays"
    of_amd = {"HIP_VISIBLE_DEVICES": seen, "CUDA_VISIBLE_DEVICES": "7"} if seen else {}  # of two variables AMD's wins there
    assert surroundings(named, of_amd).get("HIP_VISIBLE_DEVICES") == (only if seen else None)
    assert surroundings(named, given, four_bits=True) == {**found, "MALLOC_MMAP_THRESHOLD_": "1000000"}


def test_one_option_places_engine_trainer_encoder_and_judges(
    model_folder: Path, seeds_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = make_parser(isara, "run")
    options = parser.parse_args(["isara", "seeds", "--device", "cpu", "--win_rate.judge", "m/m", "--win_rate.engine", "HF"])
    recipe = build(isara, parser, options)
    judge = next(part for part in recipe.evaluators if type(part).__name__ == "WinRate")
    parts = (recipe.engine, recipe.trainer, recipe.encoder, judge.engine)  # type: ignore[attr-defined]
    assert [part.device for part in parts] == ["cpu"] * 4  # type: ignore[union-attr]
    for named in ("cuda:7", "mps", "tpu", "meta"):
        assert main(["check", "isara", str(seeds_file), "--model", str(model_folder), "--device", named]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"selfalign: device {named!r} is ") and said.count("\n") == 1


def test_emulated_bf16_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    for real, kind in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True, real=real: including_emulation or real
        )
        assert device.half_type(cuda) == kind == _weights.dtype("auto", cuda)
    assert device.half_type(torch.device("mps")) is None


@pytest.mark.parametrize(
    ("name", "has", "kind"),
    [
        ("Intel Xeon", {"avx512_bf16"}, None),
        ("Intel Xeon", {"avx512_bf16", "amx_bf16"}, torch.bfloat16),
        ("AMD EPYC", {"avx512_bf16"}, torch.bfloat16),
        ("AMD EPYC", set(), None),
    ],
)
def test_processors_compute_in_what_they_are_quicker_in(
    monkeypatch: pytest.MonkeyPatch, name: str, has: set[str], kind: torch.dtype | None
) -> None:
    known = {"cpu_name": name, **{each: each in has for each in ("avx512_bf16", "amx_bf16")}}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    assert device.half_type(torch.device("cpu")) is kind is device.half_type(torch.device("cpu"), "auto")
    assert device.half_type(torch.device("cpu"), "bf16") is torch.bfloat16, "as asked"
    assert _weights.dtype("auto", torch.device("cpu")) is (kind or torch.float32), "engines too"


def test_a_step_that_overflows_in_fp16_is_computed_again_and_none_is_lost(model: Path, tmp_path: Path) -> None:
    net, data = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), alone(tokenised(model))
    steps = Steps(data, plan(data, 1, 2, 0, 4, 2), weigh(data, None), 0, 1, CrossEntropy().collate)
    found = {}
    for name, precision, scale in (("plain", "fp32", None), ("fp16", "fp16", LossScale()), ("high", "fp16", LossScale(2.0**40))):
        spec = replace(SMALL, precision=precision).spec(job(model, tmp_path / name))  # type: ignore[arg-type]
        its = copy.deepcopy(net)
        trainer = make_trainer(its, arguments(spec, its, 4, tmp_path / name), steps, [], CrossEntropy().total, scale)
        trainer.train()
        found[name] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(found["plain"]) == 4 and scale is not None and scale.factor < 2.0**32
    assert found["high"] == pytest.approx(found["fp16"], abs=1e-3) and found["fp16"] == pytest.approx(found["plain"], abs=0.02)
    with pytest.raises(NotFinite, match="in fp16"):
        its.get_input_embeddings().weight.grad = torch.full_like(its.get_input_embeddings().weight, torch.nan)
        LossScale(1.0).unscale(its)


def test_a_name_that_is_no_device_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="device 'gpu' is unknown; use auto, cpu, cuda, cuda:1 or mps"):
        replace(SMALL, device="gpu").check()
