"""What accelerate is configured to do, next to what a trainer is asked for: one of the two may leave a thing open, and where both
say something it must be the same. So nothing of a configuration is left out unsaid.

How processes are started is the launcher's (how many, where, threads, ports); how they train is ours. FSDP and DeepSpeed of a
configuration become `SFT.strategy`, `zero` and `offload`, its precision and device those of the trainer.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import shlex
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from selfalign.errors import UserError

_FSDP, _ZERO = "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"

_NAMES = {
    "ACCELERATE_USE_CPU": "use_cpu",
    "ACCELERATE_MIXED_PRECISION": "mixed_precision",
    "ACCELERATE_DYNAMO_BACKEND": "dynamo_backend",
    "ACCELERATE_USE_MEGATRON_LM": "use_megatron_lm",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "use_parallelism_config",
    _FSDP: "use_fsdp",
    **{f"FSDP_{name.upper()}": f"fsdp_{name}" for name in ("version", "sharding_strategy", "reshard_after_forward")},
    **{f"FSDP_{name.upper()}": f"fsdp_{name}" for name in ("offload_params", "activation_checkpointing")},
    _ZERO: "use_deepspeed",
    "ACCELERATE_DEEPSPEED_ZERO_STAGE": "zero_stage",
    "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "offload_optimizer_device",
    "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "offload_param_device",
    "ACCELERATE_DEEPSPEED_CONFIG_FILE": "deepspeed_config_file",
    "ACCELERATE_GRADIENT_CLIPPING": "gradient_clipping",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "gradient_accumulation_steps",
}
"""What accelerate's launcher tells the processes by their environment, of what concerns a training, by its own options' names."""

_ENGINE = ("zero_optimization", "bf16", "fp16", "gradient_clipping", "gradient_accumulation_steps")
_IDLE = ("steps_per_print", "wall_clock_breakdown", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer")
"""Of a DeepSpeed configuration: what has an option here, and what changes no training."""


def configured(launch: str, device: str) -> dict[str, Any]:
    """The options of `SFT` that the configuration of an `accelerate launch` stands for; {} for another launcher.

    Args:
        device: that of the trainer, which the configuration's GPUs must not gainsay.

    Raises:
        UserError: it asks for what a trainer has not, or accelerate itself would refuse it.
    """
    words = shlex.split(launch)
    place = next((place for place, word in enumerate(words) if Path(word).name in ("accelerate", "accelerate-launch")), None)
    if place is not None and words[place].endswith("accelerate"):
        place = place + 1 if words[place + 1 : place + 2] == ["launch"] else None
    if place is None and "accelerate.commands.launch" in words:
        place = words.index("accelerate.commands.launch")
    if place is None:
        return {}
    given = _parsed(words[place + 1 :])
    first = Path(words[0]).name
    if ":" in device and given.gpu_ids not in (None, "all"):
        raise UserError(
            f"accelerate's configuration says gpu_ids: {given.gpu_ids}, and the trainer device = {device}: leave one out"
        )
    _check_start(given, alone=first.startswith(("accelerate", "python")))
    own = {name: str(getattr(given, own)) for name, own in _NAMES.items() if getattr(given, own, None) is not None}
    found = wanted(own | {"ACCELERATE_USE_CPU": str(given.use_cpu or given.cpu)})
    if "strategy" in found and not found["offload"] and given.num_processes == 1:
        raise _refused(f"{found['strategy']} over one process", "say num_processes: 2 or more, or offload to cpu")
    return found


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    """The options and the configuration file of an `accelerate launch`, by accelerate itself."""
    from accelerate.commands import launch

    logging.getLogger(launch.__name__).setLevel(logging.ERROR)  # which defaults it takes, it says when it runs
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            given = launch.launch_command_parser().parse_args([*words, "--module", "selfalign"])
        parsed: argparse.Namespace = launch._validate_launch_command(given)[0]
    except SystemExit as error:
        raise UserError(f"trainer SFT: launch: {(said.getvalue().strip().splitlines() or ['unknown options'])[-1]}") from error
    except Exception as error:
        raise UserError(f"trainer SFT: launch: accelerate says: {str(error).splitlines()[0]}") from error
    parsed.use_cpu = str(getattr(parsed, "use_cpu", False)).lower() == "true"
    return parsed


def _check_start(given: argparse.Namespace, alone: bool) -> None:
    """Refuses what would start no training, or a part of it.

    Args:
        alone: nothing stands before accelerate that starts it on several machines.
    """
    several = given.multi_gpu or given.use_fsdp or given.use_deepspeed or given.use_megatron_lm
    if given.tpu:
        raise UserError("trainer SFT: launch: accelerate's configuration asks for TPUs; a training runs on GPUs or a processor")
    if not several and not given.mpirun_hostfile and (given.num_processes or 1) > 1:
        raise UserError(
            f"trainer SFT: launch: accelerate's configuration says num_processes: {given.num_processes} and starts one, as its"
            " distributed_type is no MULTI_GPU; on a processor name torch's launcher: --trainer.launch"
            f" 'torchrun --nproc_per_node {given.num_processes}'"
        )
    if (given.num_machines or 1) > 1 and alone and (given.deepspeed_multinode_launcher or "standard") == "standard":
        raise UserError(
            f"trainer SFT: launch: accelerate's configuration says num_machines: {given.num_machines}, and it starts this"
            " machine's processes alone: put before it what starts it on each ('srun --ntasks-per-node 1 …')"
        )


def wanted(said: Mapping[str, str]) -> dict[str, Any]:
    """The options of `SFT` that stand for what accelerate is told by these variables.

    Raises:
        UserError: there are none for it.
    """
    found: dict[str, Any] = {}
    if _is(said, "ACCELERATE_USE_CPU"):
        found["device"] = "cpu"
    if (precision := said.get("ACCELERATE_MIXED_PRECISION", "no").lower()) not in ("no", "bf16", "fp16"):
        raise _refused(f"mixed_precision: {precision}", "say bf16, fp16 or no")
    found |= {"precision": precision} if precision != "no" else {}
    for name, title in (("MEGATRON_LM", "Megatron-LM"), ("PARALLELISM_CONFIG", "a parallelism_config")):
        if _is(said, f"ACCELERATE_USE_{name}"):
            raise _refused(title, "take it out; --trainer.strategy fsdp or deepspeed cuts a model over devices")
    if said.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no":
        raise _refused("dynamo_backend (torch.compile)", "say dynamo_backend: 'no'; each step has a length of its own")
    if _is(said, _FSDP):
        found |= _by_fsdp(said)
    elif _is(said, _ZERO):
        found |= _by_zero(said)
    if said.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "auto") not in ("1", "auto"):
        raise _refused("gradient_accumulation_steps", "say 1; a step is --trainer.batch_size rows, --trainer.micro_batch at once")
    if (clipping := said.get("ACCELERATE_GRADIENT_CLIPPING", "auto")) not in ("auto", "none"):
        found["max_grad_norm"] = float(clipping)
    return found


def _by_fsdp(said: Mapping[str, str]) -> dict[str, Any]:
    name = "reshard_after_forward" if said.get("FSDP_VERSION", "1").startswith("2") else "sharding_strategy"
    how = said.get(f"FSDP_{name.upper()}", "true").lower()
    if how not in ("true", "full_shard", "1"):
        raise _refused(f"fsdp_{name}: {how.upper()}", "say FULL_SHARD (FSDP2: true), which --trainer.strategy fsdp is")
    again = {"gradient_checkpointing": True} if _is(said, "FSDP_ACTIVATION_CHECKPOINTING") else {}
    return {"strategy": "fsdp", "offload": _is(said, "FSDP_OFFLOAD_PARAMS"), **again}


def _by_zero(said: Mapping[str, str]) -> dict[str, Any]:
    """DeepSpeed's own configuration, where accelerate's names one, says all of it."""
    before, more = "ACCELERATE_DEEPSPEED_", dict[str, Any]()
    devices = [said.get(f"{before}OFFLOAD_{name}_DEVICE", "none").lower() for name in ("OPTIMIZER", "PARAM")]
    stage = said.get(f"{before}ZERO_STAGE", "2")
    if (file := said.get(f"{before}CONFIG_FILE", "none")) != "none":
        stage, devices, more = _by_file(Path(file))
    if stage not in ("2", "3"):
        raise _refused(f"DeepSpeed's ZeRO stage {stage}", "say 2 or 3; --trainer.strategy ddp leaves all on each device")
    if devices not in (["none", "none"], ["cpu", "cpu" if stage == "3" else "none"]):
        both = "and parameters (offload_param) " if stage == "3" else ""
        raise _refused(f"offload to {' and '.join(devices)}", f"say cpu for the optimiser {both}or none of it: --trainer.offload")
    return {"strategy": "deepspeed", "zero": int(stage), "offload": devices[0] == "cpu", **more}


def _by_file(file: Path) -> tuple[str, list[str], dict[str, Any]]:
    """Stage, devices of the optimiser and the weights, and other options, of a file of DeepSpeed's."""
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
        zero = given.get("zero_optimization", {})
        devices = [str((zero.get(f"offload_{name}") or {}).get("device", "none")).lower() for name in ("optimizer", "param")]
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"accelerate's deepspeed_config_file {file} is no configuration: {error}") from error
    known = (*_ENGINE, *_IDLE)
    if other := [name for name, value in given.items() if name not in known and value != "auto"]:
        raise _refused(
            f"{', '.join(other)} in {file}",
            'say "auto" or take it out: optimiser, schedule and batches are the trainer\'s options',
        )
    on = [half for half in ("bf16", "fp16") if (given.get(half) or {}).get("enabled") is True]
    clipping, steps = (given.get(name, "auto") for name in ("gradient_clipping", "gradient_accumulation_steps"))
    more = {"precision": on[0]} if on else {}
    more |= wanted({"ACCELERATE_GRADIENT_CLIPPING": str(clipping), "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": str(steps)})
    return str(zero.get("stage", 0)), devices, more


def agreed(own: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """What of `wanted` the trainer's `own` options leave open: auto or None, and with auto how the strategy goes about it.

    Raises:
        UserError: they say something else.
    """
    opened = own["strategy"] == "auto" and not own["offload"]
    mine = dict(own) if opened or own["strategy"] != "auto" else {**own, "strategy": "fsdp"}
    taken = {}
    for name, value in wanted.items():
        if mine[name] in ("auto", None) or (opened and name in ("zero", "offload")):
            taken[name] = value
        elif mine[name] != value:
            given, own_one = (str(each).lower() if isinstance(each, bool) else each for each in (value, mine[name]))
            raise UserError(
                f"accelerate's configuration says {name} = {given}, and the trainer {own_one}: give --trainer.{name} {given}, or"
                " change the configuration"
            )
    return taken


def take_over(options: Mapping[str, Any], device: str, environment: MutableMapping[str, str]) -> None:
    """For a training process: what accelerate's launcher has told it must be what its spec says, and is ours to do from here on.

    Raises:
        UserError: it is something else.
    """
    own = {"strategy": "ddp", "zero": 3, "offload": False, **options, "device": device}
    for name, value in agreed(own, wanted(environment)).items():
        raise UserError(
            f"accelerate's configuration says {name} = {value}: give --trainer.{name} {value}, or change the configuration"
        )
    environment.update({"ACCELERATE_MIXED_PRECISION": "no", _FSDP: "false", _ZERO: "false"})


def _is(said: Mapping[str, str], name: str) -> bool:
    return said.get(name, "").lower() in ("true", "1", "yes")


def _refused(what: str, instead: str) -> UserError:
    return UserError(f"accelerate's configuration asks for {what}, which is not supported: {instead}")
