"""A training by DeepSpeed's ZeRO: a process has one part of N of gradients and moments (stage 2), of the weights too (stage 3).

DeepSpeed is asked directly and not through accelerate, which leaves it out on a processor. Its engine computes the loss, averages
gradients, makes them shorter and makes the steps; the schedule, the order of the rows and the checkpoints' manifest stay ours.
Weights that are trained, their gradients and moments are float32, products in 16 bits are torch's autocast, as without it. With
offload the optimiser's steps are computed in main memory, by torch's AdamW: DeepSpeed's own would have to be compiled.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from selfalign.trainers._memory import BUCKET

FOLDER = "parts"
"""Of a checkpoint: what DeepSpeed or torch's distributed checkpoints write, a file or two for each process."""

_ENGINE = "_zero_engine"


def start(model: Any, args: Any, options: dict[str, Any], half: Any) -> None:
    """Hands a model over to DeepSpeed, in place: it is on its device, cut up, and has its optimiser.

    Args:
        args: the `TrainingArguments`, which say the optimiser and its rate.
        options: those of the spec.
        half: the 16-bit type of matrix products; None for 32 bits.
    """
    os.environ.setdefault("DS_ACCELERATOR", args.device.type)  # it is asked for when the package is imported
    os.environ.setdefault("LOCAL_RANK", "0")
    import deepspeed
    from transformers import Trainer

    if args.device.type == "cpu":
        # An exchange through shared memory that DeepSpeed would compile first, to wait for ever where such a build was killed.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    config = settings(options, args.device.type, half, model.config.get_text_config().hidden_size)
    if config["zero_optimization"]["stage"] == 3:  # weight by weight, where `initialize` would move all of them to the device
        deepspeed.zero.Init(module=model, config_dict_or_path=config)
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    decay_names: Any = Trainer.get_decay_parameter_names  # as without DeepSpeed; it asks nothing of a trainer
    decayed = set(decay_names(None, model))
    groups = [
        {"params": [weight for name, weight in named if (name in decayed) == decays], "weight_decay": args.weight_decay * decays}
        for decays in (True, False)
    ]
    kind, values = Trainer.get_optimizer_cls_and_kwargs(args, model)
    optimizer = kind([group for group in groups if group["params"]], **values)
    engine = deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)[0]
    vars(model)[_ENGINE] = engine  # not as an attribute, which would make it a part of the model
    model._is_accelerate_prepared = True  # else accelerate would put DDP around it


def settings(options: dict[str, Any], device: str, half: Any, hidden: int) -> dict[str, Any]:
    """DeepSpeed's configuration, made of the trainer's options."""
    stage, away = options.get("zero", 3), {"device": "cpu", "pin_memory": device == "cuda"}
    zero: dict[str, Any] = {"stage": stage, "reduce_bucket_size": BUCKET, "allgather_bucket_size": BUCKET}
    if stage == 3:
        zero |= {f"stage3_{name}": BUCKET for name in ("prefetch_bucket_size", "max_live_parameters", "max_reuse_distance")}
        zero["stage3_param_persistence_threshold"] = 10 * hidden  # norms and biases stay whole: not worth an exchange
    if options.get("offload"):
        zero |= {"offload_optimizer": away} | ({"offload_param": away} if stage == 3 else {})
    config = {
        "train_micro_batch_size_per_gpu": 1,  # batches are ours
        "gradient_accumulation_steps": 1,
        "gradient_clipping": options["max_grad_norm"],
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    if half is not None:  # no modules are named whose weights and gradients would be exchanged in 16 bits
        named = str(half).removeprefix("torch.")
        config["torch_autocast"] = {"enabled": True, "dtype": named, "lower_precision_safe_modules": []}
    return config


def engine_of(model: Any) -> Any:
    """DeepSpeed's engine of a model; None where it was not handed over."""
    return vars(model).get(_ENGINE)


def optimizer_of(engine: Any) -> Any:
    """What `transformers.Trainer` takes for the optimiser: a step of it is one of the engine, which shortens gradients too."""
    import torch

    class Through(torch.optim.Optimizer):
        _is_accelerate_prepared = True
        step_was_skipped = False

        defaults: dict[str, Any] = {}  # noqa: RUF012 (torch's)

        def __init__(self) -> None:
            """Nothing of its own."""

        @property
        def param_groups(self) -> Any:  # type: ignore[override, unused-ignore]
            """Where the schedule sets the rate: the engine's, which are others after a checkpoint was read."""
            return engine.optimizer.param_groups

        @property
        def state(self) -> Any:  # type: ignore[override, unused-ignore]
            return engine.optimizer.state

        def step(self, closure: Any = None) -> None:  # type: ignore[override, unused-ignore]
            engine.step()

        def zero_grad(self, set_to_none: bool = True) -> None:
            """The engine's step has done it."""

    return Through()


def last_norm(model: Any) -> float | None:
    """The length of the last step's gradient, before it was made shorter; NaN where it is not finite; None without DeepSpeed."""
    engine = engine_of(model)
    if engine is None:
        return None
    norm = float(engine.get_global_grad_norm())
    return norm if norm >= 0 else math.nan  # with offload it says -1


def whole(weight: Any) -> Any:
    import deepspeed

    with deepspeed.zero.GatheredParameters([weight]):
        return weight.detach().clone()


def write(engine: Any, folder: Path, schedule: Any) -> None:
    state = {"schedule": schedule.state_dict()}
    engine.save_checkpoint(str(folder), FOLDER, state, save_latest=False, exclude_frozen_parameters=True)


def read(engine: Any, folder: Path, schedule: Any) -> None:
    _, state = engine.load_checkpoint(str(folder), FOLDER, load_module_strict=False)
    schedule.load_state_dict(state["schedule"])
