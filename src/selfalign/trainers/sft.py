"""Fine-tuning on `transformers.Trainer`, all weights or a LoRA adapter, in a process of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.util import find_spec
from typing import Any, Literal

from selfalign.errors import RunFailed, UserError
from selfalign.models.names import located
from selfalign.protocols import Progress, TrainJob, TrainResult
from selfalign.record.checkpoints import manifest_hash, read_manifest, write_synced
from selfalign.trainers._cross_entropy import CrossEntropy
from selfalign.trainers._distill import Distill
from selfalign.trainers._dpo import DPO
from selfalign.trainers._process import run_child
from selfalign.types import LATER, Dropped, Example, ModelRef, preferences


@dataclass(frozen=True)
class SFT:
    """Fine-tuning on the responses, end token included; the prompt is never learned, and nothing is ever cut.

    What is minimised is a part of its own, `loss`: token cross-entropy, as the name says, or a preference loss.

    The defaults are those of ISARA's released training code (rate 2e-5, cosine, warm-up 3 %, betas 0.9/0.95, no weight decay,
    gradient norm 1) but for two: it makes one epoch of steps of 32, which for 64 seeds is two steps; ours are smaller and more.

    A killed training goes on from its newest checkpoint whose files verify, to the same bits on a CPU.
    """

    learning_rate: float = 2e-5
    """Peak rate; LoRA wants about ten times as much."""
    epochs: int = 2
    batch_size: int = 8
    """The most examples of one optimiser step, over all devices; an epoch is cut into steps of equal size."""
    micro_batch: int = 8
    """The most examples computed at once on one device: memory against speed, no effect on the result but rounding."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the rate falls after the warm-up: to 0 along a cosine or a line, or not at all."""
    warmup: float = 0.03
    """Share of the steps over which the rate rises to its peak, rounded down to whole steps."""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    """Gradients longer than this are scaled down to it; 0 leaves them as they are."""
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    lora_rank: int = 0
    """Rank of a LoRA adapter; 0 trains all weights. An adapter of an earlier round is trained further, keeping its rank."""
    lora_alpha: float = 32.0
    """The adapter is scaled by lora_alpha / lora_rank."""
    lora_dropout: float = 0.0
    lora_target: str = "all-linear"
    """Which layers get an adapter: all linear ones but the output layer, or a regular expression over layer names."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Weights and their moments are fp32 always: small updates vanish in bf16 weights. bf16 runs the matrix products in bf16
    (autocast); auto does so where the hardware has instructions for it. On a processor that is 1.5 times as fast and, at these
    small rates, learns a little less: after 12 steps at 2e-5 the loss had fallen by 0.61 instead of 0.64 nats a token."""
    gradient_checkpointing: bool = True
    """Compute activations twice instead of keeping them, where the architecture can: a sixth slower, far less memory the
    longer the examples (for 135M parameters and examples of 90 tokens 2.9 GiB instead of 3.6)."""
    save_every: int = 50
    """Steps between checkpoints: what a kill can cost."""
    max_length: int | None = None
    """Rows of more tokens are dropped by the rule too_long; None takes the model's window."""
    max_steps: int = 0
    """Where > 0 the number of optimiser steps, whatever `epochs` says: for comparisons at equal cost."""
    loss: CrossEntropy | DPO | Distill = field(default_factory=CrossEntropy)
    """CrossEntropy imitates the answers, all tokens alike or the first ones balanced by category. DPO prefers them to rejected
    ones, so it wants a recipe that makes such pairs; in a batch a pair is one example, with the memory of two. Distill follows a
    teacher that is shown demonstrations."""

    def __post_init__(self) -> None:
        for name, wrong in (
            ("learning_rate", not self.learning_rate > 0.0),
            ("epochs", self.epochs < 1),
            ("batch_size", self.batch_size < 1),
            ("micro_batch", self.micro_batch < 1),
            ("schedule", self.schedule not in ("cosine", "linear", "constant")),
            ("warmup", not 0.0 <= self.warmup < 1.0),
            ("weight_decay", not self.weight_decay >= 0.0),
            ("max_grad_norm", not self.max_grad_norm >= 0.0),
            ("adam_beta1", not 0.0 <= self.adam_beta1 < 1.0),
            ("adam_beta2", not 0.0 <= self.adam_beta2 < 1.0),
            ("lora_rank", self.lora_rank < 0),
            ("lora_alpha", not self.lora_alpha > 0.0),
            ("lora_dropout", not 0.0 <= self.lora_dropout < 1.0),
            ("precision", self.precision not in ("auto", "fp32", "bf16")),
            ("save_every", self.save_every < 1),
            ("max_length", self.max_length is not None and self.max_length < 2),
            ("max_steps", self.max_steps < 0),
        ):
            if wrong:
                raise UserError(f"trainer SFT: {name} = {getattr(self, name)} is out of range")

    @property
    def preferences(self) -> bool:
        return self.loss.preferences

    @property
    def distils(self) -> bool:
        return self.loss.distils

    def check(self) -> str:
        """
        Raises:
            UserError: a package that the training process imports is missing: it would say so after a round was generated.
        """
        for package in ("torch", "transformers", "accelerate", *(("peft",) if self.lora_rank else ())):
            if find_spec(package) is None:
                raise UserError(f"training needs the package {package}; install it with: pip install 'selfalign[hf]'")
        return ""

    def train(self, job: TrainJob, progress: Progress) -> TrainResult:
        """Trains in a child process and publishes the model in one step.

        Raises:
            RunFailed: loss, gradient or a weight not finite, out of memory or disk, no row left to train on, the process died.
        """
        if job.out.exists():
            raise RunFailed(f"{job.out} exists already; a model is never written over")
        job.work.mkdir(parents=True, exist_ok=True)
        job.out.parent.mkdir(parents=True, exist_ok=True)
        spec = job.work / "spec.json"
        write_synced(spec, json.dumps(self.spec(job)).encode())
        run_child(spec, f"round {job.round}: train", progress)
        result = json.loads((job.work / "result.json").read_text(encoding="utf-8"))
        return _result(job, self._model(job), result)

    def spec(self, job: TrainJob) -> dict[str, Any]:
        """What the training process reads; `key` names data, options and start, so no checkpoint of another job is taken."""
        # Options that are unset and younger than checkpoints are no other job.
        options = [each for each in fields(self.loss) if each.metadata != LATER or getattr(self.loss, each.name) != each.default]
        loss = {"name": type(self.loss).__name__, **{each.name: getattr(self.loss, each.name) for each in options}}
        rows = (*job.seeds, *job.generated)
        place = {example.id: number for number, example in enumerate(rows)}
        shown = {example.id: example for example in job.shown}
        content = {
            "options": {**asdict(self), **({"max_steps": job.steps} if job.steps else {}), "loss": loss},
            "rows": [
                {
                    "prompt": example.prompt,
                    "response": example.response,
                    "history": example.history,
                    "system": example.system,
                    "seed": number < len(job.seeds),
                    # No loss may say that a text which was cut off should end there, or should not.
                    "unfinished": (self.preferences or self.distils) and example.response_finish != "stop",
                    **(_taught(example, shown) if self.distils else {}),
                    **({"category": example.category} if "first_tokens" in loss else {}),
                }
                for number, example in enumerate(rows)
            ],
            "pairs": [(place[pair.chosen.id], place[pair.rejected.id]) for pair in preferences(rows)],
            "start": job.start.hash or asdict(job.start),
            "format": job.format,
            "seed": job.seed,
            "seed_weight": job.seed_weight,
            "learning_rate_scale": job.learning_rate_scale,
        }
        # Of content alone: a run folder that was moved still finds its checkpoints.
        if teacher := self._teacher(job):
            content["teacher"] = teacher.hash or asdict(teacher)
        key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        adapter = job.start.adapter and located(job.start.adapter)
        start: dict[str, Any] = {"base": located(job.start.base), "base_name": job.start.base, "adapter": adapter}
        places = {**start, "work": str(job.work), "out": str(job.out)}
        if teacher:
            places["teacher_at"] = {"base": located(teacher.base), "adapter": teacher.adapter and located(teacher.adapter)}
        return {**content, **places, "key": key}

    def _teacher(self, job: TrainJob) -> ModelRef | None:
        """The model that is shown the demonstrations; None for a loss without one."""
        if not isinstance(self.loss, Distill):
            return None
        return job.base if job.base and self.loss.teacher == "start" else job.start

    def _model(self, job: TrainJob) -> ModelRef:
        digest = manifest_hash(read_manifest(job.out))
        if not self.lora_rank:
            return ModelRef(str(job.out), hash=digest)
        both = hashlib.sha256(f"{job.start.hash}\n{digest}".encode()).hexdigest()
        return ModelRef(job.start.base, str(job.out), both)


def _taught(example: Example, shown: Mapping[str, Example]) -> dict[str, Any]:
    """What a teacher is shown before a row, and the row's category."""
    before = [shown[demonstration.id] for demonstration in example.response_demonstrations]
    return {"category": example.category, "shown": [(each.prompt, each.response, each.system) for each in before]}


def _result(job: TrainJob, model: ModelRef, result: dict[str, Any]) -> TrainResult:
    rows = (*job.seeds, *job.generated)
    dropped = tuple(Dropped(rows[row["place"]], row["rule"], row["evidence"]) for row in result["dropped"])
    places = sorted([*result["trained"], *(row["place"] for row in result["dropped"])])
    if places != list(range(len(rows))):
        raise RunFailed(f"training: {len(rows)} rows in, {len(result['trained'])} trained + {len(dropped)} dropped out")
    return TrainResult(
        model=model,
        trained=tuple(rows[place].id for place in result["trained"]),
        dropped=dropped,
        steps=result["steps"],
        tokens=result["tokens"],
        seed_weight=result["seed_weight"],
        losses=tuple(result["losses"]),
    )
