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
from selfalign.trainers._average import Average
from selfalign.trainers._process import STOP
from selfalign.trainers._shard import whole
from selfalign.trainers._weighted import NotFinite, check_finite
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


def make_guard(
    link: Link, key: str, work: Path, stop_below: float = 0.0, seconds: float = 0.0, average: Average | None = None
) -> Any:
    """A `TrainerCallback` that reports every step and stops before a gradient that is not finite is applied. A checkpoint counts
    once its weights are checked and its manifest, written last, stands under `key`; only then are older ones removed.

    Args:
        stop_below: a step whose loss is below this is the last one.
        seconds: after so many without a checkpoint one more is made (`SFT.save_minutes`); 0: never.
        average: follows each step, and stands in every checkpoint.
    """
    from transformers import TrainerCallback

    return type("Guard", (_Guard, TrainerCallback), {})(link, key, work, stop_below, seconds, average)


class _Guard:
    asked = False
    """Whether the training ended because the parent asked for it, with a checkpoint to go on from."""

    def __init__(self, link: Link, key: str, work: Path, stop_below: float, seconds: float, average: Average | None) -> None:
        import torch

        self._link, self._key, self._work, self._average = link, key, work, average
        self._stop_below, self._seconds = stop_below, seconds
        self._several = torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
        self._saved, self._took = time.monotonic(), 0.0  # the last checkpoint (or the start), and the seconds that it took
        self._began: float | None = None  # when a checkpoint was asked for that is not made yet

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        import torch

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
        if self._average:
            self._average.follow(parts["model"])
        if state.global_step >= state.max_steps:
            control.should_save = False  # the finished model follows at once
        elif (self._work / STOP).exists() and not self._several:  # several might see it at different steps
            self.asked = control.should_save = control.should_training_stop = True
        elif self._is_due(parts["model"]):
            control.should_save = True
        self._began = time.monotonic() if control.should_save else None
        trim_heap()  # rows of many lengths leave gaps: 0.2 GiB after 24 steps with 135M parameters

    def _is_due(self, model: Any) -> bool:
        waited = time.monotonic() - self._saved
        # Several processes would not agree on the time, and must save together.
        if not self._seconds or waited < max(self._seconds, 20 * self._took) or self._several:
            return False
        room = 12 * sum(weight.numel() for weight in model.parameters() if weight.requires_grad)  # weights and two moments
        return bool(shutil.disk_usage(self._work).free > 2 * room)

    def on_log(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        if "loss" in parts["logs"]:
            self._link.tell(step=state.global_step, loss=parts["logs"]["loss"])
            if parts["logs"]["loss"] < self._stop_below:  # no checkpoint of it, which would be gone on from
                control.should_training_stop, control.should_save = True, False

    def on_save(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        check_finite(parts["model"], f"after step {state.global_step} of {state.max_steps}")
        if self._several:
            import torch

            torch.distributed.barrier()
        if self._link.speaks:
            folder = self._work / f"checkpoint-{state.global_step}"
            if self._average:
                self._average.write(folder)
            fault_point("train.checkpoint.before-manifest")
            write_manifest(folder, self._key)
            fault_point("train.checkpoint.after-manifest")
            for path in saved_checkpoints(self._work)[:-KEPT_CHECKPOINTS]:
                discard(path)
        self._saved = time.monotonic()
        self._took = self._saved - self._began if self._began is not None else 0.0
