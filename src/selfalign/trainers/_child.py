"""The training process: `python -m selfalign.trainers._child SPEC.json`, started by `SFT` and by nobody else.

It reports to its parent by JSON lines on standard output, and dies when standard input closes: so it cannot outlive
a parent that was killed, and its memory is free when it ends. With several GPUs it starts itself again under `accelerate launch`,
one process for each, every one with the whole model (DDP), or under the command that the trainer's `launch` names.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from selfalign.errors import UserError, die_with_parent
from selfalign.models.decoding import save_model, set_apart
from selfalign.models.device import device_count, empty_cache, half_type, only_device, out_of_memory
from selfalign.models.rendering import make_renderer
from selfalign.models.rounding import rounded
from selfalign.models.sizes import window
from selfalign.record.checkpoints import AVERAGE, newest_verified, publish, write_synced
from selfalign.record.disk import disk_full
from selfalign.record.faults import fault_point
from selfalign.trainers._average import Average, average_of
from selfalign.trainers._batches import Lost, Step, Unit, Weights, plan, tokenise, weigh
from selfalign.trainers._guard import KEPT_CHECKPOINTS, Link, make_guard
from selfalign.trainers._launch import take_over
from selfalign.trainers._loss import make_loss
from selfalign.trainers._model import device_of, load_model, reference, second_copy
from selfalign.trainers._reference import with_reference
from selfalign.trainers._shard import WAIT, gathered, is_cut, join
from selfalign.trainers._teacher import taught_by, with_taught
from selfalign.trainers._weighted import LossScale, NotFinite, Steps, check_finite, make_trainer
from selfalign.trainers._zero import start

OPTIMIZERS = {"adamw": "adamw_torch_fused", "adamw_8bit": "adamw_bnb_8bit", "paged_adamw_8bit": "paged_adamw_8bit"}
_MPI = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
"""How many processes they are, as MPI's launchers and srun tell them."""
SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


class NoRows(Exception):
    """No row is left to train on."""


class NoRoom(Exception):
    """The disk cannot hold what the training has to write."""


def main(path: Path, *launched: str) -> int:
    die_with_parent()
    spec = json.loads(path.read_text(encoding="utf-8"))
    if not launched:
        _share_devices(path, spec["options"]["launch"])  # before the link takes standard output from what is started here
    link = Link()
    try:
        if launched:
            _check_alone(spec["options"]["device"])
        offload, device = bool(spec["options"].get("offload")), device_of(spec["options"])
        take_over(spec["options"], device.type, os.environ)
        _check_processes(device, spec["options"].get("strategy", "ddp"), offload)
        _join(device, offload)
        train(spec, link)
    except Exception as error:
        traceback.print_exc()
        link.tell(error=_kind(error, path.parent), message=_reason(error))
        return 1
    return 0


def train(spec: dict[str, Any], link: Link) -> None:
    """Everything from the spec to the published model and `result.json`."""
    import torch
    from transformers import AutoTokenizer, set_seed

    options, work, out = spec["options"], Path(spec["work"]), Path(spec["out"])
    tokenizer: Any = AutoTokenizer.from_pretrained(spec["base"], trust_remote_code=False)
    set_seed(spec["seed"] % 2**32)
    model, stored = load_model(spec)
    apart = set_apart(model)
    limit = min(options["max_length"] or 10**9, window(model.config, tokenizer))
    renderer, loss = make_renderer(tokenizer, spec["format"]), make_loss(options["loss"])
    units, lost = _units(spec, renderer, loss, limit)
    weights = weigh(units, spec["seed_weight"])
    devices, sizes = _processes(), (options["batch_size"], options["micro_batch"])
    steps = plan(units, spec["seed"], options["epochs"], options["max_steps"], *sizes, devices)
    found, notes = newest_verified(work, spec["key"]) if link.speaks else (None, [])
    for note in notes:
        link.tell(note=note)
    if found and (said := _other_number(found, options)):
        link.tell(note=said)
    found = _agree(found)
    twice = options.get("zero") == 2  # what DeepSpeed then writes has the weights a second time
    _check_room(model, work, len(steps) > options["save_every"], bool(spec.get("average")) or twice)
    args, pad = arguments(spec, model, len(steps), work), tokenizer.pad_token_id or 0
    half = half_type(args.device, options["precision"])
    if options.get("strategy") == "deepspeed":
        start(model, args, options, half)
    if loss.refers:
        units = with_reference(units, reference(spec, model), args.device, half, spec, pad, link.speaks)
        empty_cache()  # of what was loaded for that alone
    average = average_of(model, spec["average"], args.device, found) if spec.get("average") else None
    total = taught_by(loss.total, model, second_copy(spec), args.device, half, average) if loss.distils else loss.total
    guard = make_guard(link, spec["key"], work, options.get("stop_below", 0.0), 60 * options["save_minutes"], average)
    trainer = make_trainer(
        model,
        args,
        Steps(units, steps, weights, pad, devices, loss.collate),
        [guard],
        total,
        LossScale() if half is torch.float16 else None,
        half if is_cut(model) else None,
    )
    link.tell(total=len(steps), done=int(found.name.rpartition("-")[2]) if found else 0)
    trainer.train(resume_from_checkpoint=str(found) if found else None)
    if guard.asked:
        return
    check_finite(model, "after the last step")
    parts = gathered(model, stored, spec["seed"]) if is_cut(model) else None
    if link.speaks:
        finished = trainer.accelerator.unwrap_model(trainer.model)
        if parts is None and not hasattr(finished, "peft_config"):
            for name, weight in finished.named_parameters():
                weight.data = rounded(weight.data, stored, spec["seed"], name)
        steps = steps[: trainer.state.global_step]
        save(finished, tokenizer, stored, out, apart, average, parts)
        write_synced(work / "result.json", json.dumps(outcome(units, lost, steps, weights, trainer.state.log_history)).encode())
        fault_point("train.model.before-rename")
        publish(_partial(out), out)
        fault_point("train.model.after-rename")


def _units(spec: dict[str, Any], renderer: Any, loss: Any, limit: int) -> tuple[list[Unit], list[Lost]]:
    """What the loss learns from (rows, or pairs of them), and the rows that nothing can be learned from."""
    rows, lost = tokenise(spec["rows"], renderer.training_ids, limit, renderer.ending)
    if loss.distils:
        rows, untaught = with_taught(rows, spec["rows"], renderer, limit, renderer.ending)
        lost += untaught
    units, alone = loss.units(rows, spec["pairs"])
    lost += alone
    if not units:
        first = lost[0]
        raise NoRows(f"nothing to train on: all {len(lost)} rows dropped, the first one as {first.rule} ({first.evidence})")
    return units, lost


def arguments(spec: dict[str, Any], model: Any, steps: int, work: Path) -> Any:
    """The options as `TrainingArguments`.

    The warm-up is rounded down to whole steps, as ISARA's scripts have it: with nine steps and 3 %, rounding up would spend the
    first step at rate zero.
    """
    import torch
    from transformers import TrainingArguments

    options, device = spec["options"], device_of(spec["options"])
    extra: dict[str, Any] = {}
    if options["gradient_checkpointing"] and model.supports_gradient_checkpointing:
        fields = TrainingArguments.__dataclass_fields__
        extra["activation_checkpointing" if "activation_checkpointing" in fields else "gradient_checkpointing"] = True
    return TrainingArguments(
        output_dir=str(work),
        per_device_train_batch_size=1,
        max_steps=steps,
        learning_rate=options["learning_rate"] * spec["learning_rate_scale"],
        lr_scheduler_type=SCHEDULES[options["schedule"]],
        warmup_steps=int(options["warmup"] * steps + 1e-9),  # 0.29 * 100 is 28.999…
        **{name: options[name] for name in ("weight_decay", "max_grad_norm", "adam_beta1", "adam_beta2")},
        optim=OPTIMIZERS[options["optimizer"]],
        bf16=half_type(device, options["precision"]) is torch.bfloat16,
        use_cpu=device.type == "cpu",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=options["save_every"],
        seed=spec["seed"] % 2**32,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=device.type == "cuda",
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        **extra,
    )


def save(
    model: Any,
    tokenizer: Any,
    stored: Any,
    out: Path,
    apart: dict[str, Any],
    average: Average | None = None,
    parts: dict[str, Any] | None = None,
) -> None:
    """Model, tokenizer and average into the partial folder next to `out`; an adapter alone where one was trained.

    Args:
        apart: what was `set_apart` from the model.
        parts: the weights to save, where the model has but a part of them.
    """
    partial = _partial(out)
    shutil.rmtree(partial, ignore_errors=True)
    adapter = hasattr(model, "peft_config")
    if not adapter:
        model.config.use_cache = True
        model = model.to(stored) if parts is None else model
    save_model(model, partial, apart, **({} if parts is None else {"state_dict": parts}))
    if parts is not None and not adapter:
        model.config.dtype = stored  # not that of the weights in training
        model.config.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    if average:
        average.write(partial / AVERAGE)
    (partial / "README.md").unlink(missing_ok=True)  # the model card's empty form that PEFT writes
    for path in partial.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def outcome(
    units: Sequence[Unit], lost: Sequence[Lost], steps: Sequence[Step], weights: Weights, history: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """What `SFT` needs for its `TrainResult`; rows are named by their place among those handed in."""
    visits = [row for step in steps for batch in step for place in batch for row in units[place].rows]
    seen, every = ({row.place for row in rows} for rows in (visits, (row for unit in units for row in unit.rows)))
    unread = [Lost(place, "max_steps", f"not reached in {len(steps)} steps") for place in sorted(every - seen)]
    return {
        "trained": sorted(seen),
        "dropped": [asdict(row) for row in sorted((*lost, *unread), key=lambda row: row.place)],  # of several rules, in one order
        "steps": len(steps),
        "tokens": sum(row.learned for row in visits),
        "seed_weight": weights.share,
        "losses": [entry["loss"] for entry in history if "loss" in entry],
    }


def _partial(out: Path) -> Path:
    return out.with_name(f".{out.name}.partial")


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _join(device: Any, offload: bool) -> None:
    """One process of several meets the others, on its own device. Raises UserError: they cannot meet there."""
    if offload:
        join(device)
    if _processes() > 1:
        from accelerate import PartialState

        if PartialState(cpu=device.type == "cpu", timeout=WAIT).num_processes == 1:
            raise UserError(f"--trainer.launch started several processes, which cannot share {device}; leave it out")


def _agree(found: Path | None) -> Path | None:
    """The first process's choice of checkpoint, on every process."""
    import torch

    if _processes() == 1:
        return found
    choice = [found]
    torch.distributed.broadcast_object_list(choice)
    return choice[0]


def _other_number(found: Path, options: dict[str, Any]) -> str:
    """That a checkpoint was written by another number of processes than go on from it; "" where not. The steps are the same ones,
    their micro-batches and sums are others. Each process writes a file of random states, on several machines it may be to a disk
    of its own.

    Raises:
        UserError: DeepSpeed wrote it, which reads no other number of parts.
    """
    before, now = len([*found.glob("rng_state*.pth")]), _processes()
    if before in (0, now, int(os.environ.get("LOCAL_WORLD_SIZE", now))):
        return ""
    what = f"{found.name} was written by {before} process{'es' if before > 1 else ''}"
    again = f"start {before} again (--trainer.launch)"
    if options.get("strategy") == "deepspeed":
        raise UserError(
            f"{what}, and DeepSpeed goes on with as many alone: {again}, or remove {found.parent} and the training begins anew"
        )
    goes = "1 goes" if now == 1 else f"{now} go"
    return f"{what}, and {goes} on: the same steps, but not to the same bits; for those stop, and {again}"


def _check_room(model: Any, work: Path, checkpoints: bool, averaged: bool) -> None:
    """Refuses before the work begins what would fail after it: the weights, and per checkpoint those and two moments each; an
    average with all of them. Checkpoints that the clock asks for look for room themselves."""
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    needed = 4 * trained * (1 + averaged + (3 + averaged) * (KEPT_CHECKPOINTS + 1) * checkpoints)
    free = shutil.disk_usage(work).free
    if free < needed:
        raise NoRoom(f"needs {needed / 1e6:,.0f} MB on the disk of {work}, {free / 1e6:,.0f} MB are free")


def _share_devices(spec: Path, launch: str) -> None:
    """Becomes the command that starts several processes, the one asked for or, with several GPUs, accelerate's for them."""
    if "LOCAL_RANK" in os.environ:
        return
    words = shlex.split(launch)
    if not words:
        import torch

        if (devices := torch.cuda.device_count()) < 2:
            return
        # All that a configuration of the user's for other trainings would say otherwise.
        own = ("--multi_gpu", "--num_machines", "1", "--gpu_ids", "all", "--mixed_precision", "no", "--dynamo_backend", "no")
        words = [sys.executable, "-m", "accelerate.commands.launch", *own, "--num_processes", str(devices)]
    for name in _MPI:  # what is there behind it is this launcher's, not that of a batch job around us
        os.environ.pop(name, None)
    # The last word tells the processes that they have been started: of a single one accelerate sets no LOCAL_RANK.
    os.execvp(words[0], [*words, "--module", "selfalign.trainers._child", str(spec), "launched"])


def _check_alone(device: str) -> None:
    """A single process has a single device: of several `transformers.Trainer` would make a way of its own to share rows. Raises
    UserError: it is one of several and was not told so, so that each would write the others' model."""
    if "LOCAL_RANK" in os.environ:
        return
    if told := next((name for name in _MPI if int(os.environ.get(name, "1")) > 1), ""):
        raise UserError(
            f"--trainer.launch started {os.environ[told]} processes ({told}) that were told no RANK, WORLD_SIZE and LOCAL_RANK:"
            " let each machine's one process be torch's launcher ('srun --ntasks-per-node 1 torchrun …')"
        )
    if device in ("auto", "cuda"):
        os.environ |= only_device("cuda:0", os.environ)


def _check_processes(device: Any, strategy: str, offload: bool) -> None:
    """Raises UserError: a single one over which a model is to be cut, or more than GPUs, which exchange nothing on one."""
    if strategy in ("fsdp", "deepspeed") and not offload and _processes() == 1:
        raise UserError(f"--trainer.strategy {strategy} cuts a model over several processes, and --trainer.launch started one")
    here, seen = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), device_count(device)
    if device.type == "cuda" and here > seen:
        raise UserError(f"--trainer.launch started {here} processes on a machine that shows {seen} GPUs: let it start {seen}")


def _kind(error: Exception, work: Path) -> str:
    text = str(error).lower()
    if isinstance(error, NotFinite):
        return "not_finite"
    if isinstance(error, NoRoom) or disk_full(error) or shutil.disk_usage(work).free < 2**20:
        return "disk"
    if "pytorchstreamwriter failed" in text or "inline_container" in text:  # torch's writer, of any write that failed
        return "disk"
    return "memory" if out_of_memory(error) else "other"


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return lines[0] if isinstance(error, NotFinite | NoRoom | NoRows | UserError) else f"{type(error).__name__}: {lines[0]}"


if __name__ == "__main__":
    # DeepSpeed's launcher and torch's old one put a word of their own before the others.
    given = [word for word in sys.argv[1:] if not word.startswith("--local")]
    sys.exit(main(Path(given[0]), *given[1:]))
