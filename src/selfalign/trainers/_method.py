"""Which method a training takes on the device at hand, by the formula of `_memory`: worked out before anything is paid for."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from selfalign.errors import UserError
from selfalign.models.device import choose_device, device_count, device_memory, half_type
from selfalign.models.files import weights
from selfalign.models.names import located
from selfalign.models.sizes import Sizes, read_sizes
from selfalign.models.skeleton import skeleton
from selfalign.trainers._memory import HEAP, METHODS, USABLE, Load, Method, Need, fitting, need, needs
from selfalign.trainers._model import count_adapter
from selfalign.trainers._shard import layers
from selfalign.types import ModelRef

RANK = 16
"""Of an adapter where none is asked for."""
TUNED_AT = 576
"""Hidden size of SmolLM2-135M, on which the recipes' rates were tuned."""
NARROWER = 0.781
"""Best rates fall with the model's width to this power in Llama models, and to 0.078 in Qwen's, and those of an adapter are ten
times those of all weights (Schulman et al., "LoRA Without Regret", 2025, and their cookbook's `get_lr`). We take the more careful
power for all: at a hidden size of 4,096 `isara` comes to 1.1e-5 and 1.1e-4, as is usual there. Not measured on a wider model."""
NAMES: Mapping[str, str] = {"full": "all weights are", "lora": "a LoRA adapter is", "qlora": "a LoRA adapter on a 4-bit base is"}


@dataclass(frozen=True)
class Asked:
    """What the options of a trainer say of memory."""

    method: Method | None
    """None: by memory."""
    twice: bool | None
    """Whether activations are computed twice; None: by memory."""
    load: Load
    device: str
    """By name, or auto."""
    precision: str
    """As `SFT.precision`; with the device it says whether products run in 16 bits."""
    strategy: Literal["auto", "ddp", "fsdp", "deepspeed"] = "ddp"
    """As `SFT.strategy`; auto: over the GPUs of this machine where it fits only so."""
    cuts: bool = False
    """Whether this training can be cut over devices at all."""


@dataclass(frozen=True)
class Room:
    """The memory that a training is to fit, in bytes."""

    device: str
    total: int
    free: int
    main: int
    """Of main memory, for what a training with offload keeps there."""
    many: int
    """Devices that it may be cut over."""
    away: bool
    """Whether offload is open to it."""


@dataclass(frozen=True)
class Choice:
    """What was chosen, what all methods take, and the memory they are to fit."""

    need: Need
    all: tuple[Need, ...]
    room: Room
    width: int
    """Of the model: its hidden size."""
    rate: float = 0.0
    """The peak learning rate, which the trainer fills in."""
    hint: str = ""
    """What another strategy would make possible."""

    @property
    def fits(self) -> bool:
        return self.need.fits(self.room.total, self.room.main)

    def text(self) -> str:
        """In one line: what is trained, what that takes, and what would have taken too much."""
        place = "main memory" if self.room.device == "cpu" else f"{self.room.device}'s memory"
        others = [f"{each.method} would take {_gb(each.total)}" for each in self.all if each.method != self.need.method]
        kept = "computed twice" if self.need.twice else "kept"
        too_much = "" if self.fits else ", MORE THAN FITS"
        how = "deepspeed" if self.need.zero else "fsdp"
        cut = f" --trainer.strategy {how} over {self.need.devices} devices" if self.need.devices > 1 else ""
        cut += " --trainer.offload true" if self.need.main else ""
        rest = f" and {_gb(self.need.main)} of {_gb(self.room.main)} GB of main memory" if self.need.main else ""
        return (
            f"{NAMES[self.need.method]} trained (--trainer.method {self.need.method}{cut}), activations {kept}: "
            f"{_gb(self.need.total)} of {_gb(self.room.total)} GB of {place}{rest} by formula{too_much}, learning rate"
            f" {self.rate:.2g}; {', '.join(others)}{self.hint}"
        )

    def plain(self) -> dict[str, Any]:
        """For `check --json`: bytes."""
        own = ("method", "weights", "gradients", "moments", "activations", "devices", "zero")
        rows = [
            {
                **{name: getattr(each, name) for name in own},
                "computed_twice": each.twice,
                "in_all": each.total,
                "main_memory": each.main,
                "fits": each.fits(self.room.total, self.room.main),
            }
            for each in self.all
        ]
        place = {"device": self.room.device, "has": self.room.total, "free_now": self.room.free}
        return {**place, "method": self.need.method, "fits": self.fits, "methods": rows, "text": self.text()}


def times(method: Method, width: int) -> float:
    """What a rate tuned for all weights of the bundled model is multiplied by; a narrower model, or one of unknown width (0), has
    the same rate."""
    return (1.0 if method == "full" else 10.0) * min(1.0, math.pow(TUNED_AT / max(width, 1), NARROWER))


def choose(asked: Asked, model: ModelRef) -> Choice | None:
    """The method asked for, or the first of full, lora and qlora that fits; of each with its activations kept, where that fits,
    and with all of it on each device, where that fits.

    Returns:
        None where the model's weights are not on this machine, so that nothing is known of their sizes.

    Raises:
        UserError: nothing fits; the line says what would. Or the model is to be cut, and cannot be, or takes no adapter, or
            transformers does not load it whole (`skeleton`).
    """
    try:
        weights(folder := Path(located(model.base)))
    except UserError:
        return None
    sizes = read_sizes(folder)
    place, most = choose_device(asked.device), min(asked.load.tokens, sizes.window or asked.load.tokens)
    half = half_type(place, asked.precision)
    cuts = asked.cuts and str(half) != "torch.float16"
    (total, free), (main, _) = device_memory(place), device_memory(choose_device("cpu"))
    room = Room(str(place), total, free, main, device_count(place) if cuts else 1, cuts and place.type == "cuda")
    offload = asked.load.offload and room.away  # a processor's memory is main memory already
    given = os.environ.get("MALLOC_MMAP_THRESHOLD_", "")
    heap = (int(given) if given.isdigit() else HEAP) * (place.type == "cpu")
    learned = min(asked.load.learned, most)
    load = replace(asked.load, tokens=most, learned=learned, half=half is not None, offload=offload, heap=heap)
    devices = {"auto": tuple(sorted({1, room.many})), "ddp": (1,)}.get(asked.strategy, (room.many,))
    allowed = METHODS if asked.strategy in ("auto", "ddp") else tuple(each for each in METHODS if each != "qlora")
    methods = allowed if asked.method is None else (asked.method,)
    found = fitting(needs(sizes, load, methods, asked.twice, devices), total, main)
    if asked.method != "full" and (found is None or found.method != "full"):
        count = count_adapter(folder, load.rank, load.target)
        load = replace(load, adapter=count if sizes.shared else 0)
        found = fitting(needs(sizes, load, methods, asked.twice, devices), total, main)
    if found is None:
        if asked.method is None:
            every = needs(sizes, load, methods, asked.twice is not False, devices)
            raise UserError(_nothing_fits(every, sizes, load, asked.twice, room))
        found = need(asked.method, asked.twice is not False, sizes, load, devices[-1])
    if asked.strategy == "fsdp" or (found.devices > 1 and not found.zero):
        try:
            layers(skeleton(folder))
        except UserError:
            if asked.strategy == "fsdp":
                raise
            return choose(replace(asked, cuts=False), model)
    if found.method == "qlora" and find_spec("bitsandbytes") is None:
        raise UserError(
            "only a 4-bit base fits this device, or is asked for; install bitsandbytes: pip install 'selfalign[qlora]'"
        )
    ways = {each: needs(sizes, load, (each,), asked.twice, devices) for each in allowed}
    shown = tuple(found if each == found.method else fitting(open, total, main) or open[-1] for each, open in ways.items())
    short = found.method != "full" or not found.fits(total, main)
    hint = _hint(sizes, load, asked, room, devices == (1,)) if short else ""
    return Choice(found, shown, room, sizes.hidden, hint=hint)


def _hint(sizes: Sizes, load: Load, asked: Asked, room: Room, whole: bool) -> str:
    """What would have all weights trained: to cut the model over devices, where it is not, or else offload."""
    cut = fitting(needs(sizes, load, ("full",), asked.twice, (room.many,)), room.total) if whole and room.many > 1 else None
    if cut:
        return f"; full would fit with --trainer.strategy fsdp over {room.many} devices ({_gb(cut.total)})"
    other = _offloaded(sizes, load, ("full",), asked.twice, room)
    return f"; full would fit with {_with_offload(other, room)}" if other else ""


def _offloaded(sizes: Sizes, load: Load, methods: Sequence[Method], twice: bool | None, room: Room) -> Need | None:
    """The first of these methods that fits with offload, where that is open and not tried yet."""
    if load.offload or not room.away:
        return None
    return fitting(needs(sizes, replace(load, offload=True), methods, twice, (room.many,)), room.total, room.main)


def _with_offload(found: Need, room: Room) -> str:
    return f"--trainer.offload true ({_gb(found.total)} GB of {room.device}, {_gb(found.main)} GB of main memory)"


def _nothing_fits(found: Sequence[Need], sizes: Sizes, load: Load, twice: bool | None, room: Room) -> str:
    cut = [f" (over {one.devices} devices)" if one.devices > 1 else "" for one in found]
    away = [f" and {_gb(one.main)} of main memory" if one.main else "" for one in found]
    each = ", ".join(f"{one.method} {_gb(one.total)}{over}{rest}" for one, over, rest in zip(found, cut, away, strict=True))
    least = need("qlora", True, sizes, replace(load, rows=1, offload=False, zero=0))
    other = _offloaded(sizes, load, METHODS, twice, room)
    remedies = [f"{_with_offload(other, room)} with --trainer.method {other.method}"] if other else []
    if least.total <= USABLE * room.total:
        instead = " and --trainer.offload false" if load.offload else " and --trainer.strategy ddp"
        whole = "" if any(one.method == "qlora" for one in found) else instead
        remedies.append(f"--trainer.micro_batch 1 with --trainer.method qlora{whole} would fit ({_gb(least.total)} GB)")
    if not remedies:
        billions = sizes.weights * max(USABLE * room.total - (least.total - least.weights), 0) / max(least.weights, 1) / 1e9
        remedies = [f"a model of at most about {billions:.1f} billion weights would fit (this one has {sizes.weights / 1e9:.1f})"]
    has = f"{room.device}, which has {_gb(room.total)} GB" + (f" ({_gb(room.main)} of main memory)" if load.offload else "")
    return f"training does not fit {has}: {each} GB by formula; {' or '.join(remedies)}"


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f}"
