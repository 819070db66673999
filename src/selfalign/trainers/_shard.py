"""A training cut over several devices (FSDP2, torch's `fully_shard`): each has one part of N of weights, gradients and moments.

A layer's weights are gathered when it computes and let go of after it; its gradients are averaged over the devices and cut up as
soon as they are there. So a device holds one part of everything, and the whole of two layers and of what is in no layer. In
checkpoints every process writes and reads its own part, so that they take no memory; the finished model is put together in rank
0's main memory, one weight after the other. With offload a device's part waits in main memory, where the optimiser's steps are
computed too, and the device has a layer or two: also a single one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

from selfalign.errors import UserError
from selfalign.models.device import own_gpu
from selfalign.models.files import ADAPTER
from selfalign.models.rounding import rounded
from selfalign.trainers import _zero

WAIT = timedelta(hours=2)
"""For which processes wait for one another, as the first one hashes and writes checkpoints of tens of GB meanwhile: torch's own
10 minutes may not do for that. One that has died is noticed by what started it."""


def join(device: Any) -> None:
    """This process meets the others, or is by itself, for a training with offload.

    What is in main memory is exchanged by gloo (the gradient's norm, the finished weights), what is on GPUs by nccl. All cores
    take part in the optimiser's steps: a launcher of several processes leaves each of them one.
    """
    import torch
    from torch.distributed import HashStore  # type: ignore[attr-defined, unused-ignore]

    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    alone: dict[str, Any] = {} if several else {"store": HashStore(), "rank": 0, "world_size": 1}
    if device.type == "cuda":
        torch.cuda.set_device(own_gpu())
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=WAIT, **alone)


def cut(model: Any, device: Any, half: Any, offload: bool = False) -> Any:
    """The model with its weights cut over all processes, in place; what is trained becomes float32, layer by layer.

    The layers are gathered in `half`, where products are in 16 bits, and gradients are averaged in float32.

    Args:
        offload: weights, gradients and moments are in main memory; a layer's weights are on the device while it computes.
    """
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

    policy: Any = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32, cast_forward_inputs=False)
    # Memory that is locked is copied while the device computes.
    place = CPUOffloadPolicy(pin_memory=device.type == "cuda") if offload else OffloadPolicy()
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for part in (*layers(model), model):
        for weight in part.parameters():
            if weight.requires_grad and weight.dtype != torch.float32:
                weight.data = weight.data.float()
        fully_shard(part, mesh=mesh, mp_policy=policy, offload_policy=place)
    model._is_accelerate_prepared = True  # else accelerate would put DDP around it
    return model


def layers(model: Any) -> list[Any]:
    """The parts of a model that are gathered one after the other.

    Raises:
        UserError: it has no list of layers, so that all of it would be gathered at once.
    """
    import torch

    count = model.config.get_text_config().num_hidden_layers
    lists = [each for each in model.modules() if isinstance(each, torch.nn.ModuleList) and len(each) == count]
    inside = {id(each) for found in lists for layer in found for each in layer.modules()}
    lists = [each for each in lists if id(each) not in inside]  # as many experts as layers are no layers
    if not lists:
        raise UserError(
            f"{type(model).__name__} has no list of its {count} layers, so that --trainer.strategy fsdp cannot cut it;"
            " use --trainer.strategy ddp"
        )
    return [layer for found in lists for layer in found]


def is_cut(model: Any) -> bool:
    """Whether a model is cut up, here or by DeepSpeed."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule) or _zero.engine_of(model) is not None


def placed(model: Any, device: Any) -> Any:
    """The model on its device. What is cut is where it belongs: with offload it must not be moved."""
    return model if is_cut(model) else model.to(device)


@contextmanager
def lent(model: Any, adapter: Path) -> Iterator[None]:
    """Another adapter's weights, of the same layers and rank, in place of those in training: no second base for that."""
    import torch
    from safetensors.torch import load_file

    stored, rank, count = load_file(adapter / ADAPTER), torch.distributed.get_rank(), torch.distributed.get_world_size()
    trained = [(name, local(weight.detach())) for name, weight in model.named_parameters() if weight.requires_grad]
    own = [part.clone() for _, part in trained]
    for name, part in trained:
        for other in stored[name.replace(".default.", ".")].chunk(count)[rank : rank + 1]:  # as `fully_shard` cuts: by rows
            part.copy_(other)
    yield
    model.reshard()
    for (_, part), kept in zip(trained, own, strict=True):
        part.copy_(kept)


def local(weight: Any) -> Any:
    """This process's part of a weight, or the weight where it is not cut."""
    return weight.to_local() if hasattr(weight, "to_local") else getattr(weight, "ds_tensor", weight)


def whole(weight: Any) -> Any:
    """All of a weight or number on every process; all processes must ask."""
    if hasattr(weight, "ds_tensor"):
        return _zero.whole(weight)
    return weight.full_tensor() if hasattr(weight, "full_tensor") else weight


@contextmanager
def in_step(model: Any, last: bool) -> Iterator[None]:
    """For one of a step's micro-batches: processes exchange gradients after the `last` alone, where that takes no memory.

    Whole gradients of a model that is cut are what a device has no room for: there each micro-batch's are averaged and cut up at
    once, but for an adapter's, which are small.
    """
    if (engine := _zero.engine_of(model)) is not None:
        engine.set_gradient_accumulation_boundary(last)
        yield
    elif is_cut(model):
        model.set_requires_gradient_sync(last or not hasattr(model, "peft_config"))
        yield
    else:
        with nullcontext() if last or not hasattr(model, "no_sync") else model.no_sync():
            yield


def gathered(model: Any, stored: Any, seed: int) -> dict[str, Any] | None:
    """The finished weights by name in main memory, brought to type `stored` (`rounded`), or where an adapter is trained its own,
    as they are. All processes must ask, and all but the first get None; a device has one whole weight at a time."""
    import torch

    first, adapter = torch.distributed.get_rank() == 0, hasattr(model, "peft_config")
    found: dict[str, Any] = {}
    seen: dict[int, Any] = {}  # weights of two names (tied ones) stay one
    for name, weight in model.state_dict(keep_vars=True).items():
        if adapter and not weight.requires_grad:
            continue
        if id(weight) not in seen:
            full = whole(weight).detach()
            kept = rounded(full, full.dtype if adapter else stored, seed, name) if first else None
            seen[id(weight)] = kept
        found[name] = seen[id(weight)]
    return found if first else None


def write(folder: Path, model: Any, optimizer: Any, schedule: Any) -> None:
    """This process's part of a checkpoint: what is trained, its moments, and where the schedule is. All processes must write."""
    from torch.distributed import checkpoint as checkpoints

    if (engine := _zero.engine_of(model)) is not None:
        _zero.write(engine, folder, schedule)
        return
    state = {**_state(model, optimizer), "schedule": schedule.state_dict()}
    checkpoints.save(state, checkpoint_id=folder / _zero.FOLDER)  # type: ignore[attr-defined, unused-ignore]


def read(folder: Path, model: Any, optimizer: Any, schedule: Any) -> None:
    """Puts a checkpoint back. All processes must read."""
    from torch.distributed import checkpoint as checkpoints
    from torch.distributed.checkpoint.state_dict import set_state_dict

    if (engine := _zero.engine_of(model)) is not None:
        _zero.read(engine, folder, schedule)
        return
    state = {**_state(model, optimizer), "schedule": schedule.state_dict()}
    checkpoints.load(state, checkpoint_id=folder / _zero.FOLDER)  # type: ignore[attr-defined, unused-ignore]
    own = {"model_state_dict": state["model"], "optim_state_dict": state["optimizer"]}
    set_state_dict(model, getattr(optimizer, "optimizer", optimizer), **own, options=_options())
    schedule.load_state_dict(state["schedule"])


def _state(model: Any, optimizer: Any) -> dict[str, Any]:
    from torch.distributed.checkpoint.state_dict import get_state_dict

    weights, moments = get_state_dict(model, getattr(optimizer, "optimizer", optimizer), options=_options())
    return {"model": weights, "optimizer": moments}


def _options() -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(ignore_frozen_params=True, strict=False)
