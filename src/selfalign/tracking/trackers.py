"""Experiment trackers that a run's figures can be sent to: four of them in one small form, each an extra package.

They get figures, names of metrics and of filter rules, the name of the run, and its options as text. Never a prompt, a
response, or what a tracker would gather about the machine by itself, as far as it lets that be switched off.

Our own choice over `accelerate.tracking`: all four would need torch and a branch of their own there too, and its MLflow
tracker sends a request for each step (500 losses to a local database took it 22 s, in batches 0.4 s).
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from selfalign.errors import UserError

PROJECT = "selfalign"
"""Of wandb and trackio; the experiment of mlflow."""


class Point(NamedTuple):
    """One figure of a run."""

    name: str
    """With a group before a slash, as all four draw it: metrics/balance."""
    axis: Literal["round", "step"]
    """What `step` counts: rounds (0: the base model), or optimiser steps over all rounds, from 1."""
    step: int
    value: float


class Tracker(Protocol):
    """A tracker opened on the run in `folder`: `name` is for people; `id` is what the tracker called the run when it was first
    opened, "" for a run that it does not know yet."""

    id: str

    def __init__(self, folder: Path, name: str, id: str, options: Mapping[str, str]) -> None: ...

    def log(self, points: Sequence[Point]) -> None:
        """On return they are stored or queued where a crash of this process does not lose them, as far as the tracker can."""
        ...

    def close(self, done: bool) -> None:
        """`done` is False where the run failed or was interrupted and may be gone on with."""
        ...


class TensorBoard:
    """Event files in `DIR/tensorboard`: `tensorboard --logdir DIR` shows them, those of a whole study too."""

    def __init__(self, folder: Path, name: str, id: str, options: Mapping[str, str]) -> None:
        self.id = "tensorboard"
        self._writer: Any = import_module("torch.utils.tensorboard").SummaryWriter(str(folder / "tensorboard"))
        if not id:
            self._writer.add_text("options", "\n".join(f"    {option}: {value}" for option, value in options.items()))

    def log(self, points: Sequence[Point]) -> None:
        for point in points:
            self._writer.add_scalar(point.name, point.value, point.step)
        self._writer.flush()

    def close(self, done: bool) -> None:
        self._writer.close()


class MLflow:
    """A run of the experiment `selfalign`, wherever `MLFLOW_TRACKING_URI` points (mlflow's own default without it).

    Through the client and not `mlflow.start_run`, which would add the user's name and the path of the program.
    """

    _BATCH = 100
    """Parameters (at most this many) and metrics (at most ten times as many) of one request."""

    def __init__(self, folder: Path, name: str, id: str, options: Mapping[str, str]) -> None:
        self._entities: Any = import_module("mlflow.entities")
        self._client: Any = import_module("mlflow").MlflowClient()
        self.id = id
        if id:
            self._client.update_run(id, "RUNNING")
            return
        experiment = self._client.get_experiment_by_name(PROJECT)
        place = experiment.experiment_id if experiment else self._client.create_experiment(PROJECT)
        self.id = self._client.create_run(place, run_name=name).info.run_id
        self._send("params", [self._entities.Param(_plain_name(option), value) for option, value in options.items()])

    def log(self, points: Sequence[Point]) -> None:
        now = int(time.time() * 1000)
        metrics = [self._entities.Metric(_plain_name(point.name), point.value, now, point.step) for point in points]
        self._send("metrics", metrics)

    def close(self, done: bool) -> None:
        self._client.set_terminated(self.id, "FINISHED" if done else "KILLED")

    def _send(self, kind: str, rows: Sequence[Any]) -> None:
        for start in range(0, len(rows), self._BATCH):
            self._client.log_batch(self.id, **{kind: rows[start : start + self._BATCH]})


class Wandb:
    """A run of the project `selfalign`; offline, in `DIR/wandb` for `wandb sync`, unless `WANDB_MODE` or `WANDB_API_KEY` is set.

    wandb would ask a person at the terminal to log in, which a run that goes on by itself must not.
    """

    def __init__(self, folder: Path, name: str, id: str, options: Mapping[str, str]) -> None:
        wandb: Any = import_module("wandb")
        self.id = id or secrets.token_hex(4)
        # Host, user, command line, git state and hardware are nobody's business.
        private = {"x_disable_meta": True, "x_disable_stats": True, "x_save_requirements": False, "disable_git": True}
        settings = wandb.Settings(**private, save_code=False, console="off", silent=True)
        mode = os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
        known = {"project": PROJECT, "id": self.id, "name": name, "resume": "allow", "config": dict(options)}
        self._run = wandb.init(**known, dir=str(folder), mode=mode, settings=settings)
        for axis in ("round", "step"):
            self._run.define_metric(axis, hidden=True)
        self._run.define_metric("*", step_metric="round")
        self._run.define_metric("training/loss", step_metric="step")

    def log(self, points: Sequence[Point]) -> None:
        for (axis, step), values in _by_step(points).items():
            self._run.log({axis: step, **values})

    def close(self, done: bool) -> None:
        self._run.finish(exit_code=0 if done else 1)


class Trackio:
    """A run of the project `selfalign` in trackio's local database: `trackio show` draws it."""

    def __init__(self, folder: Path, name: str, id: str, options: Mapping[str, str]) -> None:
        self.id = id or f"{name}-{secrets.token_hex(4)}"  # trackio knows a run by its name alone
        self._trackio: Any = import_module("trackio")
        known = {"project": PROJECT, "name": self.id, "resume": "allow", "config": dict(options)}
        self._run = self._trackio.init(**known, auto_log_gpu=False, auto_log_cpu=False)

    def log(self, points: Sequence[Point]) -> None:
        for (_, step), values in _by_step(points).items():
            self._run.log(values, step=step)

    def close(self, done: bool) -> None:
        self._trackio.finish()  # not the run's own: that would be finished again when the process ends


TRACKERS: Mapping[str, tuple[type[Tracker], tuple[str, ...]]] = {
    "tensorboard": (TensorBoard, ("tensorboard", "torch")),
    "trackio": (Trackio, ("trackio",)),
    "mlflow": (MLflow, ("mlflow",)),
    "wandb": (Wandb, ("wandb",)),
}
"""With the packages they need, by the name that these are imported and installed by."""


def check_trackers(names: str | None) -> tuple[str, ...]:
    """The trackers named, commas between; none for None or "".

    Raises:
        UserError: one that does not exist, or whose package is not installed; raised before a model loads.
    """
    chosen = tuple(dict.fromkeys(filter(None, (name.strip() for name in (names or "").split(",")))))
    for name in chosen:
        if name not in TRACKERS:
            raise UserError(f"--report_to {name}: no such tracker; there are {', '.join(TRACKERS)}")
        if missing := [package for package in TRACKERS[name][1] if find_spec(package) is None]:
            raise UserError(f"--report_to {name} needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    return chosen


def _by_step(points: Sequence[Point]) -> dict[tuple[str, int], dict[str, float]]:
    found: dict[tuple[str, int], dict[str, float]] = {}
    for point in points:
        found.setdefault((point.axis, point.step), {})[point.name] = point.value
    return found


def _plain_name(name: str) -> str:
    """Of the characters that mlflow takes in a name."""
    return "".join(char if char.isascii() and (char.isalnum() or char in "_-. /") else "-" for char in name)[:250]
