"""Which method a training takes on the device at hand, by the formula of `_memory`: worked out before anything is paid for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from selfalign.errors import UserError
from selfalign.models.device import choose_device, device_count, device_memory, half_type
from selfalign.models.names import located
from selfalign.models.sizes import Sizes, read_sizes
from selfalign.trainers._memory import METHODS, USABLE, Load, Method, Need, fitting, need, needs
from selfalign.trainers._shard import check_layers
from selfalign.types import ModelRef

RANK = 16
"""Of an adapter where none is asked for."""
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
    strategy: Literal["auto", "ddp", "fsdp"] = "ddp"
    """As `SFT.strategy`; auto: over the GPUs of this machine where it fits only so."""
    cuts: bool = False
    """Whether this training can be cut over devices at all."""


@dataclass(frozen=True)
class Choice:
    """What was chosen, what all methods take, and the device they are to fit on, in bytes."""

    need: Need
    all: tuple[Need, ...]
    device: str
    total: int
    free: int
    hint: str = ""
    """What another strategy would make possible."""

    @property
    def fits(self) -> bool:
        return self.need.total <= USABLE * self.total

    def text(self) -> str:
        """In one line: what is trained, what that takes, and what would have taken too much."""
        place = "main memory" if self.device == "cpu" else f"{self.device}'s memory"
        others = [f"{each.method} would take {_gb(each.total)}" for each in self.all if each.method != self.need.method]
        kept = "computed twice" if self.need.twice else "kept"
        too_much = "" if self.fits else ", MORE THAN FITS"
        cut = f" --trainer.strategy fsdp over {self.need.devices} devices" if self.need.devices > 1 else ""
        return (
            f"{NAMES[self.need.method]} trained (--trainer.method {self.need.method}{cut}), activations {kept}: "
            f"{_gb(self.need.total)} of {_gb(self.total)} GB of {place} by formula{too_much}; {', '.join(others)}{self.hint}"
        )

    def plain(self) -> dict[str, Any]:
        """For `check --json`: bytes."""
        rows = [
            {
                "method": each.method,
                "weights": each.weights,
                "gradients": each.gradients,
                "moments": each.moments,
                "activations": each.activations,
                "computed_twice": each.twice,
                "devices": each.devices,
                "in_all": each.total,
                "fits": each.total <= USABLE * self.total,
            }
            for each in self.all
        ]
        place = {"device": self.device, "has": self.total, "free_now": self.free}
        return {**place, "method": self.need.method, "fits": self.fits, "methods": rows, "text": self.text()}


def choose(asked: Asked, model: ModelRef) -> Choice | None:
    """The method asked for, or the first of full, lora and qlora that fits; of each with its activations kept, where that fits,
    and with all of it on each device, where that fits.

    Returns:
        None where the model's weights are not on this machine, so that nothing is known of their sizes.

    Raises:
        UserError: nothing fits; the line says what would. Or the model is to be cut, and cannot be.
    """
    try:
        sizes = read_sizes(folder := Path(located(model.base)))
    except UserError:
        return None
    place, most = choose_device(asked.device), min(asked.load.tokens, sizes.window or asked.load.tokens)
    half = half_type(place, asked.precision)
    load = replace(asked.load, tokens=most, learned=min(asked.load.learned, most), half=half is not None)
    total, free = device_memory(place)
    many = device_count(place) if asked.cuts and str(half) != "torch.float16" else 1
    devices = {"auto": (1, many) if many > 1 else (1,), "ddp": (1,), "fsdp": (many,)}[asked.strategy]
    allowed = METHODS if asked.strategy != "fsdp" else tuple(each for each in METHODS if each != "qlora")
    methods = allowed if asked.method is None else (asked.method,)
    found = fitting(needs(sizes, load, methods, asked.twice, devices), total)
    if found is None:
        if asked.method is None:
            raise UserError(
                _nothing_fits(needs(sizes, load, methods, asked.twice is not False, devices), sizes, load, place, total)
            )
        found = need(asked.method, asked.twice is not False, sizes, load, devices[-1])
    if asked.strategy == "fsdp" or found.devices > 1:
        try:
            check_layers(folder)
        except UserError:
            if asked.strategy == "fsdp":
                raise
            return choose(replace(asked, cuts=False), model)
    if found.method == "qlora" and find_spec("bitsandbytes") is None:
        raise UserError(
            "only a 4-bit base fits this device, or is asked for; install bitsandbytes: pip install 'selfalign[qlora]'"
        )
    shown = (
        found if each == found.method else _best(needs(sizes, load, (each,), asked.twice, devices), total) for each in allowed
    )
    other = fitting(needs(sizes, load, ("full",), asked.twice, (many,)), total) if devices == (1,) and many > 1 else None
    hint = f"; full would fit with --trainer.strategy fsdp over {many} devices ({_gb(other.total)})" if other else ""
    return Choice(
        found, tuple(shown), str(place), total, free, hint if found.method != "full" or not found.total <= USABLE * total else ""
    )


def _best(found: Sequence[Need], total: int) -> Need:
    return fitting(found, total) or found[-1]


def _nothing_fits(found: Sequence[Need], sizes: Sizes, load: Load, place: Any, total: int) -> str:
    cut = [f" (over {one.devices} devices)" if one.devices > 1 else "" for one in found]
    each = ", ".join(f"{one.method} {_gb(one.total)}{over}" for one, over in zip(found, cut, strict=True))
    least = need("qlora", True, sizes, replace(load, rows=1))
    if least.total <= USABLE * total:
        whole = "" if any(one.method == "qlora" for one in found) else " and --trainer.strategy ddp"
        remedy = f"--trainer.micro_batch 1 with --trainer.method qlora{whole} would fit ({_gb(least.total)} GB)"
    else:
        billions = sizes.weights * max(USABLE * total - (least.total - least.weights), 0) / max(least.weights, 1) / 1e9
        remedy = f"a model of at most about {billions:.1f} billion weights would fit (this one has {sizes.weights / 1e9:.1f})"
    return f"training does not fit {place}, which has {_gb(total)} GB: {each} GB by formula; {remedy}"


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f}"
