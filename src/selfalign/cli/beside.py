"""The options of `selfalign study` that have its runs go side by side, and what does it."""

from __future__ import annotations

from argparse import SUPPRESS
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from selfalign.errors import UserError
from selfalign.recipe import Recipe

if TYPE_CHECKING:
    from selfalign.study.side_by_side import SideBySide

_TAKES: dict[str, Any] = {"num_cpus": 1.0, "num_gpus": None, "resources": {}}
"""What a run takes on a cluster, each with its default."""
BESIDE = ("parallel", "address", *_TAKES, "only", "settled")


def add_beside(parser: ArgumentParser) -> None:
    text = "so many runs at a time, each in a process: with a share of this machine's processors and GPUs, or on a cluster"
    parser.add_argument("--parallel", type=int, default=1, help=text)
    text = "run them on a Ray cluster: auto for the one that this machine belongs to, or the head's HOST:PORT"
    parser.add_argument("--address", type=str, help=text)
    text = "processor cores of one run on the cluster, which are its threads too"
    parser.add_argument("--num_cpus", type=float, default=1.0, help=text)
    text = "GPUs of one run on the cluster; null: one where it has any and the runs can use one"
    parser.add_argument("--num_gpus", type=float | None, help=text)
    text = "resources of your own that one run takes on the cluster, by the names of `ray start --resources`: {big: 1}"
    parser.add_argument("--resources", type=dict[str, float], default={}, help=text)
    # What the processes are started with: a run's folder, and what is settled of its trainer.
    parser.add_argument("--only", type=str, help=SUPPRESS)
    parser.add_argument("--settled", type=str, help=SUPPRESS)


def check_beside(options: Namespace) -> None:
    """Raises UserError: numbers that cannot work, or options of a cluster without one."""
    if options.parallel < 1:
        raise UserError(f"--parallel {options.parallel}: give a number of runs at a time, 1 or more")
    given = [name for name, default in _TAKES.items() if options[name] != default]
    if given and options.address is None:
        raise UserError(f"--{given[0]} is about runs on a cluster: give --address too, or take it out")


def make_beside(options: Namespace, arms: Sequence[Any], arguments: Sequence[str]) -> SideBySide | None:
    """None where the runs go one after the other, in this process.

    Raises:
        UserError: fewer GPUs than runs at a time; no cluster, or none with room for a run.
    """
    from selfalign.study.on_ray import Asked, OnRay
    from selfalign.study.processes import Here
    from selfalign.study.side_by_side import Places, SideBySide

    if options.parallel == 1 and options.address is None:
        return None
    out, number = Path(options.out), options.parallel
    uses = max(_gpus(arm.recipe) for arm in arms)
    if options.address is not None:
        takes = {name: options[name] for name in _TAKES}
        places: Places = OnRay(out, number, Asked(options.address, **takes, uses=uses), [arm.model for arm in arms])
    else:
        places = Here(number, uses)
    return SideBySide(out, arguments, number, places, options.max_hours)


def _gpus(recipe: Recipe) -> int:
    """How many GPUs a run can use, one beside the other, for what it does itself."""
    parts = (recipe.engine, *([recipe.trainer] if recipe.rounds else []))
    return max(getattr(part, "tensor_parallel", 1) if getattr(part, "device", "cpu") != "cpu" else 0 for part in parts)
