"""Weights brought to 16 bits without losing what a short training changed."""

from __future__ import annotations

from typing import Any

from selfalign.types import derive_seed

PIECE = 1 << 18
"""Weights that are rounded at once: few stay in the processor's cache (20 ns of a core for each weight, half of 2^24's)."""


def rounded(weight: Any, kind: Any, seed: int, name: str) -> Any:
    """The weight in type `kind` in main memory, each number rounded to one of its two neighbours there, by a draw: to the nearer
    one the more often the nearer it is, so that the mean over many draws is the number itself (stochastic rounding; Gupta et
    al., arXiv 1502.02551, section 4; for trainings in bfloat16 Zamirai et al., 2010.06192).

    A training of few steps moves most weights by less than half of the distance between two numbers of bfloat16. The nearest is
    then the old one: with 16 steps of SmolLM2-135M at 5e-5 four fifths of the weights fell back, and with them a fifth of what
    the likelihood had gained; of four rounds of four steps each, the later ones were lost. A number that `kind` has is kept.

    Args:
        weight: of any shape; float32 or narrower.
        kind: a type of torch; to float32 nothing is rounded.
        seed, name: what the draw follows from, so that the same weights give the same bytes; `name` is the weight's.
    """
    import torch

    if not weight.is_floating_point() or kind not in (torch.bfloat16, torch.float16):
        return weight.detach().to("cpu", kind if weight.is_floating_point() else weight.dtype)
    draw = torch.Generator().manual_seed(derive_seed(seed, "rounding", name))
    found: Any = torch.empty(weight.shape, dtype=kind)
    for whole, part in zip(weight.detach().reshape(-1).split(PIECE), found.view(-1).split(PIECE), strict=True):
        exact = whole.to("cpu", torch.float32)
        near = exact.to(kind)
        past = torch.where(exact.abs() > near.float().abs(), 1, -1).to(torch.int16)  # sign and size: + 1 is away from zero
        other = (near.view(torch.int16) + past).view(kind)
        share = (exact - near.float()).abs_().div_((other.float() - near.float()).abs_())
        drawn = torch.empty(exact.numel() // 2 + 1, dtype=torch.int32).random_(-(2**31), 2**31 - 1, generator=draw)
        even = drawn.view(torch.int16)[: exact.numel()]  # two of 16 bits from each draw
        part.copy_(torch.where(even < share.mul_(2**16).sub_(2**15), other, near))
    return found
