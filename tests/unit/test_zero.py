"""What DeepSpeed is asked for, without the package; a round trained by it is in tests/e2e/test_fsdp.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from selfalign.trainers import _zero
from selfalign.trainers._guard import make_guard
from selfalign.trainers._shard import is_cut
from selfalign.trainers._weighted import NotFinite


@pytest.mark.parametrize(
    ("options", "away"),
    [
        ({"zero": 2}, set()),
        ({}, set()),
        ({"zero": 2, "offload": True}, {"offload_optimizer"}),
        ({"offload": True}, {"offload_optimizer", "offload_param"}),
    ],
)
def test_the_options_are_a_configuration_of_deepspeed(options: dict[str, Any], away: set[str]) -> None:
    made = _zero.settings({"max_grad_norm": 0.5, **options}, "cuda", torch.bfloat16, hidden=64)
    zero = made["zero_optimization"]
    assert zero["stage"] == options.get("zero", 3) and made["gradient_clipping"] == 0.5
    assert {name for name in zero if name.startswith("offload")} == away
    assert all(zero[name] == {"device": "cpu", "pin_memory": True} for name in away), "copies run while it computes"
    assert made["torch_autocast"]["lower_precision_safe_modules"] == [], "gradients are averaged in float32"
    assert "torch_autocast" not in _zero.settings({"max_grad_norm": 0.0}, "cpu", None, hidden=64)


@pytest.mark.parametrize(("norm", "said"), [(2.5, None), (float("nan"), "nan"), (-1.0, "nan"), (float("inf"), "inf")])
def test_a_gradient_that_is_not_finite_ends_the_training(tmp_path: Path, norm: float, said: str | None) -> None:
    model, state = torch.nn.Linear(1, 1), SimpleNamespace(global_step=3, max_steps=9)
    guard: Any = make_guard(SimpleNamespace(speaks=True, tell=None), "key", tmp_path)
    guard.on_optimizer_step(None, state, None, model=model)  # not DeepSpeed's
    assert not is_cut(model)
    vars(model)[_zero._ENGINE] = SimpleNamespace(get_global_grad_norm=lambda: norm)
    assert is_cut(model)
    if said is None:
        return guard.on_optimizer_step(None, state, None, model=model)
    with pytest.raises(NotFinite, match=f"^the gradient's norm is {said} at step 4 of 9$"):
        guard.on_optimizer_step(None, state, None, model=model)
    return None


def test_the_schedule_sets_the_rate_of_groups_that_are_others_after_a_checkpoint_was_read() -> None:
    inner = SimpleNamespace(param_groups=[{"lr": 1.0}], state={})
    made: list[str] = []
    found = _zero.optimizer_of(SimpleNamespace(optimizer=inner, step=lambda: made.append("step")))
    inner.param_groups = [{"lr": 1.0}]
    schedule = torch.optim.lr_scheduler.LambdaLR(found, lambda step: 0.5**step)
    found.step()
    schedule.step()
    assert made == ["step"] and inner.param_groups[0]["lr"] == 0.5
