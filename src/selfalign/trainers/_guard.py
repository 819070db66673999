"""What is watched while a training runs; only the training process comes here."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

from selfalign.models.device import trim_heap
from selfalign.record.checkpoints import discard, saved_checkpoints, write_manifest
from selfalign.record.faults import fault_point
from selfalign.trainers._process import STOP
from selfalign.trainers._scaling import NotFinite
from selfalign.trainers._shard import whole
from selfalign.trainers._weighted import check_finite
from selfalign.trainers._zero import last_norm

KEPT_CHECKPOINTS = 2


class Link:
    """The line to the parent: the process's standard output, which libraries no longer reach. Of several one `speaks`."""

    def __init__(self) -> None:
        self._pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self.speaks = int(os.environ.get("RANK", "0")) == 0

    def tell(self, **message: Any) -> None:
        if self.speaks or "error" in message:
            self._pipe.write(json.dumps(message) + "\n")
            self._pipe.flush()


def make_guard(link: Link, key: str, work: Path, stop_below: float = 0.0, seconds: float = 0.0) -> Any:
    """A `TrainerCallback` that reports every step, stops before a gradient that is not finite is applied, and makes
    checkpoints count: their weights checked, their manifest written last, under `key`, older ones removed only then.

    Args:
        stop_below: a step whose loss is below this is the last one.
        seconds: after so many without a checkpoint one more is made (`SFT.save_minutes`); 0: never.
    """
    import torch
    from transformers import TrainerCallback

    several = torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1

    class Guard(TrainerCallback):  # type: ignore[misc, no-any-unimported, unused-ignore]
        asked = False
        """Whether the training ended because the parent asked for it, with a checkpoint to go on from."""
        saved, took = time.monotonic(), 0.0
        """When the last checkpoint was made, or the training began, and the seconds that it took."""
        began: float | None = None
        """When a checkpoint was asked for that is not made yet."""

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
            gradients = [weight.grad for weight in parts["model"].parameters() if weight.grad is not None]
            self._check(float(whole(torch.nn.utils.get_total_norm(gradients))), state)

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
            norm = last_norm(parts["model"])  # DeepSpeed has applied it by then; but nothing of that is kept
            if norm is not None:
                self._check(norm, state)

        def _check(self, norm: float, state: Any) -> None:
            if not math.isfinite(norm):
                raise NotFinite(f"the gradient's norm is {norm} at step {state.global_step + 1} of {state.max_steps}")

        def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
            if state.global_step >= state.max_steps:
                control.should_save = False  # the finished model follows at once
            elif (work / STOP).exists() and not several:  # several might see it at different steps
                self.asked = control.should_save = control.should_training_stop = True
            elif self._is_due(parts["model"]):
                control.should_save = True
            self.began = time.monotonic() if control.should_save else None
            trim_heap()  # rows of many lengths leave gaps: 0.2 GiB after 24 steps with 135M parameters

        def _is_due(self, model: Any) -> bool:
            waited = time.monotonic() - self.saved
            # Several processes would not agree on the time, and must save together.
            if not seconds or waited < max(seconds, 20 * self.took) or several:
                return False
            room = 12 * sum(weight.numel() for weight in model.parameters() if weight.requires_grad)  # weights and two moments
            return bool(shutil.disk_usage(work).free > 2 * room)

        def on_log(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
            if "loss" in parts["logs"]:
                link.tell(step=state.global_step, loss=parts["logs"]["loss"])
                if parts["logs"]["loss"] < stop_below:  # no checkpoint of it, which would be gone on from
                    control.should_training_stop, control.should_save = True, False

        def on_save(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
            check_finite(parts["model"], f"after step {state.global_step} of {state.max_steps}")
            if several:
                torch.distributed.barrier()
            if link.speaks:
                fault_point("train.checkpoint.before-manifest")
                write_manifest(work / f"checkpoint-{state.global_step}", key)
                fault_point("train.checkpoint.after-manifest")
                for path in saved_checkpoints(work)[:-KEPT_CHECKPOINTS]:
                    discard(path)
            self.saved = time.monotonic()
            self.took = self.saved - self.began if self.began is not None else 0.0

    return Guard()
