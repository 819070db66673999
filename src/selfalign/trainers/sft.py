"""Fine-tuning on `transformers.Trainer`, all weights or a LoRA adapter, in a process of its own."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.util import find_spec
from typing import Any, Literal

from selfalign.errors import RunFailed, UserError
from selfalign.models.device import choose_device, device_count, half_type
from selfalign.models.names import located
from selfalign.protocols import Progress, TrainJob, TrainResult
from selfalign.record.checkpoints import write_synced
from selfalign.record.model_rows import made_of
from selfalign.trainers._cross_entropy import CrossEntropy
from selfalign.trainers._distill import Distill
from selfalign.trainers._ditto import Ditto, rejects
from selfalign.trainers._dpo import DPO
from selfalign.trainers._launch import agreed, configured
from selfalign.trainers._memory import METHODS, Load, Method
from selfalign.trainers._method import RANK, Asked, Choice, choose, times
from selfalign.trainers._process import run_child
from selfalign.types import LATER, Dropped, Example, ModelRef, preferences

PLAIN = (("strategy", "ddp"), ("offload", False), ("zero", 3))
"""Options that a training's key has not where they are so: it is that of a training begun before there were any."""


@dataclass(frozen=True)
class SFT:
    """Fine-tuning on the responses, end token included; the prompt is never learned, and nothing is ever cut.

    What is minimised is a part of its own, `loss`: token cross-entropy, as the name says, or a preference loss.

    The defaults are those of ISARA's released training code (rate 2e-5, cosine, warm-up 3 %, betas 0.9/0.95, no weight decay,
    gradient norm 1) but for two: it makes one epoch of steps of 32, which for 64 seeds is two steps; ours are smaller and more.

    A killed training goes on from its newest checkpoint whose files verify, to the same bits on a CPU.
    """

    method: Literal["auto", "full", "lora", "qlora"] = "auto"
    """What is trained: all weights (full), a LoRA adapter (lora), a LoRA adapter on a base of 4 bits (qlora: bitsandbytes' NF4).
    auto takes the first of these that fits the device's memory, by the formula that `selfalign check` prints."""
    learning_rate: float | None = None
    """Peak rate; null: it follows from full_rate, the method and the model's width."""
    full_rate: float = 2e-5
    """The rate that suits all weights of a model as wide as the bundled one (a hidden size of 576). A wider one gets less, and an
    adapter ten times as much (`_method.times`)."""
    epochs: int = 2
    """Passes over the examples."""
    batch_size: int = 8
    """The most examples of one optimiser step, over all devices; an epoch is cut into steps of equal size."""
    micro_batch: int = 8
    """The most examples computed at once on one device: memory against speed, no effect on the result but rounding."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the rate falls after the warm-up: to 0 along a cosine or a line, or not at all."""
    warmup: float = 0.03
    """Share of the steps over which the rate rises to its peak, rounded down to whole steps."""
    weight_decay: float = 0.0
    """How much weights shrink at each step, times the rate (AdamW)."""
    max_grad_norm: float = 1.0
    """Gradients longer than this are scaled down to it; 0 leaves them as they are."""
    adam_beta1: float = 0.9
    """How slowly Adam's mean gradient forgets."""
    adam_beta2: float = 0.95
    """How slowly Adam's mean squared gradient forgets."""
    lora_rank: int | None = None
    """Rank of a LoRA adapter; null: 16 where the method is one with an adapter. With method auto a rank asks for LoRA, and 0 for
    all weights. An adapter of an earlier round is trained further, keeping its rank."""
    lora_alpha: float = 32.0
    """The adapter is scaled by lora_alpha / lora_rank."""
    lora_dropout: float = 0.0
    """Share of an adapter's inputs left out at random while it is trained."""
    lora_target: str = "all-linear"
    """Which layers get an adapter: all linear ones but the output layer, or a regular expression over layer names."""
    device: str = "auto"
    """cpu, cuda (all that are visible), cuda:1 (that one alone), mps, or auto: CUDA, Apple's, the processor."""
    launch: str = field(default="", metadata=LATER)
    """What starts the training's processes, as you would type it before `--module`: 'accelerate launch --config_file my.yaml' or
    'torchrun --nproc_per_node 2', each process with the whole model unless strategy says otherwise. What accelerate's
    configuration says of FSDP, DeepSpeed, precision and device becomes the trainer's option where that is left open, and is
    refused where it is another. Without it accelerate starts one process for each GPU there is."""
    strategy: Literal["auto", "ddp", "fsdp", "deepspeed"] = field(default="auto", compare=False)
    """How several processes share the work: each with the whole model (ddp), or with its part of weights, gradients and moments
    (fsdp, or DeepSpeed's ZeRO). auto takes fsdp where all weights, or an adapter with its base, fit the GPUs of this machine only
    so."""
    zero: int = field(default=3, compare=False)
    """What ZeRO cuts where strategy is deepspeed: gradients and moments (2), or weights too (3)."""
    offload: bool = field(default=False, compare=False)
    """Keep weights, gradients and moments in main memory, where AdamW then runs too, and on the GPU the layer or two at work: for
    a model that fits no other way, on one GPU or (fsdp) several. Slower, the more so the fewer tokens a step has."""
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"
    """AdamW with moments in fp32, or in 8 bits (bitsandbytes): a quarter of their memory; paged ones move to main memory where a
    GPU has no room for them."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Weights that are trained and their moments are fp32 always: small updates vanish in bf16 weights; a frozen base has the
    type of the products. bf16 runs the matrix products in bf16 (autocast); auto does so where the hardware has instructions for
    it. On a processor that is 1.5 times as fast and, at these small rates, learns a little less: after 12 steps at 2e-5 the loss
    had fallen by 0.61 instead of 0.64 nats a token. fp16, its loss scaled, is what auto takes on CUDA devices before Ampere."""
    gradient_checkpointing: bool | None = None
    """Compute activations twice instead of keeping them, where the architecture can: a sixth slower, far less memory the
    longer the examples (for 135M parameters and examples of 90 tokens 2.9 GiB instead of 3.6). null: where memory is short."""
    save_every: int = 50
    """Steps between checkpoints: what a kill can cost."""
    save_minutes: float = field(default=1.0, metadata=LATER)
    """A checkpoint too after so many minutes without one, where the disk has room and writing them takes no more than a twentieth
    of the time; 0: by steps alone, as several processes have it anyway."""
    max_length: int | None = None
    """Rows of more tokens are dropped by the rule too_long; None takes the model's window."""
    max_steps: int = 0
    """Where > 0 the number of optimiser steps, whatever `epochs` says: for comparisons at equal cost."""
    loss: CrossEntropy | DPO | Distill | Ditto = field(default_factory=CrossEntropy)
    """CrossEntropy imitates the answers, all tokens alike or the first ones balanced by category. DPO prefers them to rejected
    ones, so it wants a recipe that makes such pairs; in a batch a pair is one example, with the memory of two. Ditto is DPO over
    the samples of all rounds, behind a first round that imitates the seeds. Distill follows a teacher that is shown
    demonstrations."""

    def __post_init__(self) -> None:
        for name, wrong in (
            ("method", self.method not in ("auto", *METHODS)),
            ("learning_rate", self.learning_rate is not None and not self.learning_rate > 0.0),
            ("full_rate", not self.full_rate > 0.0),
            ("epochs", self.epochs < 1),
            ("batch_size", self.batch_size < 1),
            ("micro_batch", self.micro_batch < 1),
            ("schedule", self.schedule not in ("cosine", "linear", "constant")),
            ("warmup", not 0.0 <= self.warmup < 1.0),
            ("weight_decay", not self.weight_decay >= 0.0),
            ("max_grad_norm", not self.max_grad_norm >= 0.0),
            ("adam_beta1", not 0.0 <= self.adam_beta1 < 1.0),
            ("adam_beta2", not 0.0 <= self.adam_beta2 < 1.0),
            ("lora_rank", self.lora_rank is not None and self.lora_rank < 0),
            ("lora_alpha", not self.lora_alpha > 0.0),
            ("lora_dropout", not 0.0 <= self.lora_dropout < 1.0),
            ("strategy", self.strategy not in ("auto", "ddp", "fsdp", "deepspeed")),
            ("zero", self.zero not in (2, 3)),
            ("optimizer", self.optimizer not in ("adamw", "adamw_8bit", "paged_adamw_8bit")),
            ("precision", self.precision not in ("auto", "fp32", "bf16", "fp16")),
            ("save_every", self.save_every < 1),
            ("save_minutes", not self.save_minutes >= 0.0),
            ("max_length", self.max_length is not None and self.max_length < 2),
            ("max_steps", self.max_steps < 0),
        ):
            if wrong:
                raise UserError(f"trainer SFT: {name} = {getattr(self, name)} is out of range")
        if (self.method == "full" and self.lora_rank) or (self.method in ("lora", "qlora") and self.lora_rank == 0):
            raise UserError(f"trainer SFT: method = {self.method} contradicts lora_rank = {self.lora_rank}; leave one out")
        if self.zero != 3 and self.strategy != "deepspeed":
            raise UserError(f"trainer SFT: zero = {self.zero} changes nothing without strategy = deepspeed")
        if self.offload and self.strategy == "ddp":
            raise UserError("trainer SFT: offload = true goes part by part, as strategy = ddp does not; leave one out")

    @property
    def preferences(self) -> bool:
        return self.loss.preferences

    @property
    def distils(self) -> bool:
        return self.loss.distils

    @property
    def averages(self) -> bool:
        return self._average_rate > 0

    @property
    def warms_up(self) -> bool:
        return isinstance(self.loss, Ditto)

    def check(self) -> str:
        """
        Raises:
            UserError: a package that the training process imports is missing: it would say so after a round was generated.
        """
        if (words := shlex.split(self.launch)) and shutil.which(words[0]) is None:
            raise UserError(f"trainer SFT: launch: there is no program {words[0]}; give its whole path")
        if (launched := self._as_launched()) is not self:
            return launched.check()
        packages = {"torch": "hf", "transformers": "hf", "accelerate": "hf"}
        packages |= {"peft": "hf"} if self._asked in ("lora", "qlora") else {}
        packages |= {"deepspeed": "deepspeed"} if self.strategy == "deepspeed" else {}
        packages |= {"bitsandbytes": "qlora"} if self._asked == "qlora" or self.optimizer != "adamw" else {}
        for package, extra in packages.items():
            if find_spec(package) is None:
                raise UserError(f"training needs the package {package}; install it with: pip install 'selfalign[{extra}]'")
        paged = self.optimizer == "paged_adamw_8bit"
        if (paged or self.device != "auto") and (device := choose_device(self.device)).type != "cuda" and paged:
            what = f"optimizer = {self.optimizer} needs a CUDA device, and this one is {device}"
            raise UserError(f"trainer SFT: {what}; use adamw_8bit")
        if self.strategy in ("fsdp", "deepspeed") or self.offload:
            self._check_cut()
        return ""

    def _as_launched(self) -> SFT:
        """With what a configuration of accelerate asks for, where the options leave that open; itself where it asks for no more.

        Raises:
            UserError: the options say something else, or there are none for it.
        """
        taken = agreed(vars(self), configured(self.launch, self.device)) if self.launch else {}
        return replace(self, **taken) if taken else self

    def _check_cut(self) -> None:
        instead = "--trainer.offload false" if self.offload else "--trainer.strategy ddp"
        why = self._whole and f"{self._whole}, or {instead}"
        if not why and str(half_type(device := choose_device(self.device), self.precision)) == "torch.float16":
            why = "products in fp16 are scaled by each process for itself; use --trainer.precision bf16 or fp32"
        if not why and self.offload and device.type == "mps":
            why = "not on Apple's GPUs, whose memory is main memory"
        if not why and not self.launch and not self.offload and (count := device_count(device)) < 2:
            seen = f"this training sees {count} device ({device})"
            why = f"{seen}; name what starts several processes, --trainer.launch 'torchrun --nproc_per_node 2'"
        if why:
            cuts = f"strategy = {self.strategy} cuts a model over several devices"
            given = "offload = true moves a model" if self.offload and self.strategy != "deepspeed" else cuts
            raise UserError(f"trainer SFT: {given}: {why}")

    @property
    def _whole(self) -> str:
        """Why this training's model cannot be cut over several devices; "" where it can."""
        if self.method == "qlora":
            return "not a base of 4 bits; use --trainer.method lora or full"
        if self.optimizer != "adamw":
            return f"not the moments of {self.optimizer}; use --trainer.optimizer adamw"
        if self.strategy == "deepspeed" and isinstance(self.loss, Distill | Ditto):
            return f"not the loss {type(self.loss).__name__}, which asks a second model; use --trainer.strategy fsdp"
        if self.averages:
            return "not the average that the teacher of Distill is; use --trainer.loss.teacher start or round"
        return ""

    @property
    def _asked(self) -> Method | None:
        """The method as the options name it; None where memory is to decide."""
        if self.method != "auto":
            return self.method
        return None if self.lora_rank is None else "lora" if self.lora_rank else "full"

    def choice(self, base: ModelRef, longest: int, learned: int) -> Choice | None:
        """What memory decides, or what is known of the memory that was asked for; None where the model's files are not here.

        Args:
            longest: tokens of the longest row, and `learned` of the longest answer.

        Raises:
            UserError: no method fits the device.
        """
        if (launched := self._as_launched()) is not self:
            return launched.choice(base, longest, learned)
        most = self.max_length or longest
        teacher = self.loss.teacher if isinstance(self.loss, Distill) else ""
        load = Load(
            rows=self.micro_batch * (1 + self.preferences),
            tokens=min(longest, most),
            learned=min(learned, most),
            half=False,  # the device says
            eight_bit=self.optimizer != "adamw",
            distils=self.distils,
            rank=self.lora_rank or RANK,
            target=self.lora_target,
            averages=self.averages,
            copies=teacher == "round" or (teacher == "start" and base.adapter is not None),
            offload=self.offload,
            zero=self.zero if self.strategy == "deepspeed" else 0,
        )
        # How many processes a launcher starts is not known here.
        strategy: Any = "ddp" if self.strategy == "auto" and self.launch else self.strategy
        strategy = "fsdp" if self.offload and strategy != "deepspeed" else strategy
        asked = Asked(self._asked, self.gradient_checkpointing, load, self.device, self.precision, strategy, not self._whole)
        found = choose(asked, base)
        return found and replace(found, rate=self._rate(found.need.method, found.width))

    def _rate(self, method: Method, width: int) -> float:
        return self.learning_rate or self.full_rate * times(method, width)

    def settled(self, choice: Choice | None) -> SFT:
        """The trainer with its method, rank, rate and strategy as they follow from a choice; None: all weights, unless an adapter
        is asked for, on each device."""
        if (launched := self._as_launched()) is not self:
            return launched.settled(choice)
        method = choice.need.method if choice else self._asked or "full"
        adapter = method != "full"
        rate = choice.rate if choice else self._rate(method, 0)
        twice = choice.need.twice if choice else self.gradient_checkpointing is not False
        rank = (self.lora_rank or RANK) if adapter else 0
        cuts = self.offload or (choice is not None and choice.need.devices > 1)
        how = self.strategy if self.strategy != "auto" else "fsdp" if cuts else "ddp"
        return replace(self, method=method, lora_rank=rank, learning_rate=rate, gradient_checkpointing=twice, strategy=how)

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
        run_child(spec, f"round {job.round}: train", progress, self.device, self.settled(None).method == "qlora")
        result = json.loads((job.work / "result.json").read_text(encoding="utf-8"))
        return _result(job, made_of(job.start, job.out, self.settled(None).method != "full"), result)

    def spec(self, job: TrainJob) -> dict[str, Any]:
        """What the training process reads; `key` names data, options and start, so no checkpoint of another job is taken."""
        # Options that are unset and younger than checkpoints are no other job.
        options = [each for each in fields(self.loss) if each.metadata != LATER or getattr(self.loss, each.name) != each.default]
        loss = {"name": type(self.loss).__name__, **{each.name: getattr(self.loss, each.name) for each in options}}
        settled = self.settled(None)
        own = {name: value for name, value in asdict(settled).items() if (name, value) not in PLAIN}
        rows = (*job.seeds, *job.generated)
        place = {example.id: number for number, example in enumerate(rows)}
        shown = {example.id: example for example in job.shown}
        ditto = self.loss if isinstance(self.loss, Ditto) else None
        begins = ditto.begin(settled.learning_rate or self.full_rate) if ditto and not rejects(job.generated) else {}
        pairs = ditto.compared(rows, job.seed) if ditto else preferences(rows)
        content = {
            "options": {**own, "loss": loss, **begins, **({"max_steps": job.steps} if job.steps else {})},
            "rows": [
                {
                    "prompt": example.prompt,
                    "response": example.response,
                    "history": example.history,
                    "system": example.system,
                    "seed": number < len(job.seeds),
                    # No loss may say that a text which was cut off should end there, or should not.
                    "unfinished": (self.preferences or self.distils) and example.response_finish != "stop",
                    **(_taught(example, shown, number < len(job.seeds)) if self.distils else {}),
                    **({"category": example.category} if "first_tokens" in loss else {}),
                    **({"category": f"{example.round}/"} if ditto else {}),  # pairs of all ages in every step
                }
                for number, example in enumerate(rows)
            ],
            "pairs": [(place[pair.chosen.id], place[pair.rejected.id]) for pair in pairs],
            "start": job.start.hash or asdict(job.start),
            "format": job.format,
            "seed": job.seed,
            "seed_weight": job.seed_weight,
            "learning_rate_scale": job.learning_rate_scale,
        }
        # Of content alone: a run folder that was moved still finds its checkpoints.
        others = {"teacher": self._teacher(job), "reference": job.first if ditto else None}
        content |= {name: other.hash or asdict(other) for name, other in others.items() if other}
        rate, goes_on = self._average_rate, job.base not in (None, job.start)
        content |= {"average": (rate, goes_on)} if rate else {}
        key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        adapter = job.start.adapter and located(job.start.adapter)
        start: dict[str, Any] = {"base": located(job.start.base), "base_name": job.start.base, "adapter": adapter}
        places = {**start, "work": str(job.work), "out": str(job.out)}
        for name, other in ((name, other) for name, other in others.items() if other):
            places[f"{name}_at"] = {"base": located(other.base), "adapter": other.adapter and located(other.adapter)}
        if rate:
            places["average"] = {"rate": rate, "goes_on": (adapter or start["base"]) if goes_on else None}
        return {**content, **places, "key": key}

    @property
    def _average_rate(self) -> float:
        """Of a teacher that is an average of its student; 0 without one."""
        return self.loss.ema_rate if isinstance(self.loss, Distill) and self.loss.teacher == "ema" else 0.0

    def _teacher(self, job: TrainJob) -> ModelRef | None:
        """The model that is shown the demonstrations; None for a loss without one, or with an average of its student."""
        if not isinstance(self.loss, Distill) or self._average_rate:
            return None
        return job.base if job.base and self.loss.teacher == "start" else job.start


def _taught(example: Example, shown: Mapping[str, Example], seed: bool) -> dict[str, Any]:
    """What a teacher is shown before a row, and the row's category; replay rows (of round 0) are one, taught without any."""
    if not seed and example.round == 0:
        return {"category": "replay/", "shown": [], "bare": True}
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
