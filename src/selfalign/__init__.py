"""selfalign: fewer than 100 examples in, a better-aligned language model out, with proof.

The public names load when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selfalign.loop.align import Run, align
    from selfalign.recipe import Recipe
    from selfalign.seeds.read import read_seeds
    from selfalign.types import Completion, Dropped, Example, FilterResult, Metric, ModelRef, Pool, Request, Sampling

_HOME = {
    **dict.fromkeys(("align", "Run"), "loop.align"),
    **dict.fromkeys(("Completion", "Dropped", "Example", "FilterResult", "Metric", "ModelRef", "Request", "Sampling"), "types"),
    "Pool": "types",
    "Recipe": "recipe",
    "read_seeds": "seeds.read",
}

__all__ = [
    "Completion",
    "Dropped",
    "Example",
    "FilterResult",
    "Metric",
    "ModelRef",
    "Pool",
    "Recipe",
    "Request",
    "Run",
    "Sampling",
    "align",
    "read_seeds",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'selfalign' has no attribute {name!r}")
    return getattr(import_module(f"selfalign.{_HOME[name]}"), name)
