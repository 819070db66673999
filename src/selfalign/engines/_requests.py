"""Requests before a model is asked: into batches, into a window, and which decoding `HF` alone offers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from selfalign.types import Request, Sampling


def undecodable(sampling: Sampling) -> str:
    """The option of a decoding that no engine but `HF` offers in the way that `Sampling` means it; "" for none."""
    asked = {
        "beams": sampling.beams > 1,
        "repetition_penalty": sampling.repetition_penalty != 1.0,  # others count other tokens for it
        "no_repeat_ngram": sampling.no_repeat_ngram > 0,
        "length_decay": sampling.length_decay is not None,
        f"rules {sampling.rules}": sampling.rules != "today",
    }
    return next((name for name, wanted in asked.items() if wanted), "")


def in_order(requests: Sequence[Request], size: int) -> list[tuple[int, ...]]:
    """Batches of requests as they come, which keeps those with the same demonstrations together for a prefix cache."""
    return [tuple(range(at, min(at + size, len(requests)))) for at in range(0, len(requests), size)]


def fitted(request: Request, room: int, length: Callable[[Request], int]) -> Request | None:
    """The request with as many of its demonstrations, from the first one on, as leave it in the room; None for none."""
    for count in range(len(request.demonstrations), -1, -1):
        shorter = replace(request, demonstrations=request.demonstrations[:count])
        if length(shorter) <= room:
            return shorter
    return None
