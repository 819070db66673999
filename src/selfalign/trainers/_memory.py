"""What a training takes of a device's memory, by the formula of docs/memory.md, and the method that follows. No torch here.

Where its numbers are from: what is trained is float32, as small updates vanish in 16 bits; a frozen base has the type of the
products. NF4 takes 4 bits a weight and 0.13 for its scales (Dettmers et al., arXiv 2305.14314, with double quantisation). A
layer's bytes are counted by what autograd saves of a Llama layer; with an adapter the norms' weights are frozen, and nothing is
kept for their gradients. Activations are gone when the last gradients come, but what they had is not given back at once: both
count.

On a processor a linear layer with an adapter computes three blocks of tokens · outputs numbers (its own, the adapter's, that
times alpha / rank) which are gone when their sum is there, while that and the adapter's input are kept, before and behind them;
and glibc puts no aligned block into a gap of just its size, as it asks for some bytes more (2.36, `_int_memalign`). By a trace of
what Llama layers allocate 1.96 (float32) and 1.93 (bf16) times a block stay empty: 2 are counted. It is so for blocks of less
than HEAP bytes, or LARGE with `qlora`: larger ones the system gets back at once.

Cut over N devices (FSDP), the next layer is fetched while one computes, and full training has gradients before and while they are
averaged. With offload a layer's part is on its way too; main memory is locked in powers of two, matrix by matrix. DeepSpeed keeps
what is trained a second time, which counts as moments, and has two buckets of 4 · BUCKET bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from selfalign.models.sizes import Sizes

Method = Literal["full", "lora", "qlora"]
METHODS: tuple[Method, ...] = ("full", "lora", "qlora")

FIXED = 0.6e9
"""Bytes that a training process takes besides: its libraries and gaps (measured); on a GPU its context (not measured)."""
HEAP = 2**25
"""Bytes from which glibc takes a block from the system in any case (DEFAULT_MMAP_THRESHOLD_MAX)."""
LARGE = 1_000_000
"""The same where a base of 4 bits is trained: the process is started so (`_process.surroundings`)."""
BUCKET = 50_000_000
"""Numbers that DeepSpeed averages or gathers ahead at once (`_zero` asks for that)."""
USABLE = 0.9
"""Share of a device's memory that a training may take: the rest is for other processes and for gaps. Our own choice."""


@dataclass(frozen=True)
class Load:
    """What a training computes at once, and how."""

    rows: int
    """Computed at once."""
    tokens: int
    """Of the longest row."""
    learned: int
    """Of its tokens, those that are learned."""
    half: bool
    """Whether products run in 16 bits."""
    eight_bit: bool
    """Whether moments take 8 bits."""
    distils: bool
    rank: int
    target: str
    """As `SFT.lora_target`."""
    averages: bool = False
    """Whether the teacher of a distillation is the average of what is trained."""
    copies: bool = False
    """Whether an adapter's teacher is, in some round, more than the model without it: a model of its own in float32."""
    offload: bool = False
    """Whether weights, gradients and moments wait in main memory."""
    zero: int = 0
    """The stage of DeepSpeed's ZeRO, 2 or 3; 0 without it."""
    adapter: int = 0
    """Weights of the adapter, where they were counted; 0: rank times both sides of each linear layer."""
    heap: int = 0
    """On a processor: bytes of a block below which gaps stay; 0 on a GPU, whose memory is dealt out in sizes that fit again."""


@dataclass(frozen=True)
class Need:
    """Bytes that a method takes at the highest point of a step."""

    method: Method
    twice: bool
    """Whether activations are computed twice instead of kept."""
    weights: int
    gradients: int
    moments: int
    activations: int
    devices: int = 1
    """Over which weights, gradients and moments are cut (FSDP); 1: each device has all of them."""
    main: int = 0
    """Bytes of main memory, for all devices together, that a training with offload takes besides."""
    zero: int = 0
    """As `Load.zero`."""

    @property
    def total(self) -> int:
        return int(FIXED) + self.weights + self.gradients + self.moments + self.activations

    def fits(self, total: int, main: int) -> bool:
        """Whether a device has this in `total` bytes, and the machine the rest in `main`."""
        return self.total <= USABLE * total and self.main <= USABLE * main


def need(method: Method, twice: bool, sizes: Sizes, load: Load, devices: int = 1) -> Need:
    """What each of the devices takes, by the formula."""
    width = 2 if load.half else 4
    trained = sizes.weights if method == "full" else load.adapter or adapter_weights(sizes, load.rank, load.target)
    matrices = sum(one * other for one, other in sizes.matrices.values())
    frozen = {"full": 0.0, "lora": width * sizes.weights, "qlora": 0.53 * matrices + width * (sizes.weights - matrices)}[method]
    copied = load.copies or (load.distils and method == "full")
    teacher = 4 * (sizes.weights if copied else trained * load.averages)
    at_once = load.rows * load.tokens
    wide = (34 if load.half else 40) if method == "full" else (30 if load.half else 33)
    layer = at_once * (wide * sizes.hidden + (8 if load.half else 16) * sizes.inner)
    logits = (14 + 24 * load.distils) * load.rows * load.learned * sizes.vocabulary
    cuts = (devices > 1 or load.offload) and not load.zero
    stream = at_once * sizes.layers * sizes.hidden * (4 if method == "full" and not cuts else width)
    activations: float = stream + max(layer, logits) if twice else sizes.layers * layer + logits
    if method != "full":
        activations += _gaps(sizes, load, width, LARGE if method == "qlora" else HEAP) / (max(sizes.layers, 1) if twice else 1)
    if load.zero:
        return _by_zero(method, twice, sizes, load, devices, int(activations), int(frozen), trained)
    if cuts:
        outside, one = sizes.weights - matrices, matrices / sizes.layers
        activations += width * (outside + 2 * one) + ((width + 4) * (outside + one) if method == "full" else 0)
        activations += (width + 4) * one / devices * load.offload
    elif method == "full" and load.half:
        activations += 2 * sizes.weights
    moments = (2 if load.eight_bit else 8) * trained
    if load.offload:
        full = method == "full"  # an adapter's weights and gradients are small
        locked = _locked(sizes, 4, devices) * (2 * full + copied) + (0 if full else _locked(sizes, width, devices) + 8 * trained)
        return Need(method, twice, 0, 0, 0, int(activations), devices, int(FIXED) * devices + locked + moments)
    return Need(
        method=method,
        twice=twice,
        weights=(int(frozen) + 4 * trained + teacher) // devices,
        gradients=4 * trained // devices,
        moments=moments // devices,
        activations=int(activations),
        devices=devices,
    )


def _by_zero(
    method: Method, twice: bool, sizes: Sizes, load: Load, devices: int, activations: int, frozen: int, trained: int
) -> Need:
    """By DeepSpeed, from what a device computes and the bytes of frozen weights."""
    matrices, own, full = sum(one * other for one, other in sizes.matrices.values()), frozen + 4 * trained, method == "full"
    outside, one = sizes.weights - matrices, matrices // sizes.layers
    activations += 2 * 4 * BUCKET + 4 * (outside + one) * full
    if load.zero == 3:
        activations += (2 if load.half and not full else 4) * (outside + 2 * one)
    elif full and load.half:
        activations += 2 * sizes.weights
    held = own // devices if load.zero == 3 else own
    if not load.offload:
        return Need(method, twice, held, 4 * trained // devices, 12 * trained // devices, activations, devices, 0, load.zero)
    away = own if load.zero == 3 else 0
    main = int(FIXED) * devices + away + 16 * trained
    return Need(method, twice, held - away // devices, 0, 0, activations, devices, main, load.zero)


def _locked(sizes: Sizes, width: int, devices: int) -> int:
    """Bytes of main memory that all weights take, each device's part of a matrix rounded up to a power of two."""
    table = sizes.vocabulary * sizes.hidden
    matrices = [one * other for one, other in sizes.matrices.values()]
    tables = [table] * ((sizes.weights - sum(matrices)) // table if table else 0)
    return sum(devices * 2 ** ((width * count // devices - 1).bit_length()) for count in (*matrices, *tables))


def _gaps(sizes: Sizes, load: Load, width: int, most: int) -> int:
    """Bytes that stay empty between the activations of all layers with an adapter, by blocks of less than `most`."""
    blocks = [width * load.rows * load.tokens * outputs for outputs, _ in _adapted(sizes, load.target)]
    return sum(2 * block for block in blocks if block < min(load.heap, most))


def adapter_weights(sizes: Sizes, rank: int, target: str) -> int:
    """Rank times both sides of every linear layer that gets an adapter."""
    return rank * sum(one + other for one, other in _adapted(sizes, target))


def _adapted(sizes: Sizes, target: str) -> list[tuple[int, int]]:
    return [sides for name, sides in sizes.matrices.items() if target == "all-linear" or re.fullmatch(target, name)]


def needs(
    sizes: Sizes, load: Load, methods: Sequence[Method] = METHODS, twice: bool | None = None, devices: Sequence[int] = (1,)
) -> list[Need]:
    """What each of the methods takes, with activations kept and computed twice, or as `twice` says, over each number of devices;
    qlora over 1 alone, as a base of 4 bits cannot be cut."""
    ways = [(each, count) for count in devices for each in ((False, True) if twice is None else (twice,))]
    return [
        need(method, each, sizes, load, count) for method in methods for each, count in ways if method != "qlora" or count == 1
    ]


def fitting(found: Sequence[Need], total: int, main: int = 0) -> Need | None:
    """The first that fits a device of `total` bytes, with `main` bytes of main memory besides."""
    return next((each for each in found if each.fits(total, main)), None)
