"""Baseline: everything the loop generates in one round, without what a second round learns from the first."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any, get_type_hints

from selfalign.recipe import Recipe
from selfalign.recipes.isara import isara


def one_shot(*, per_round: int = 256, **options: Any) -> Recipe:
    """ISARA in a single round of K·N candidates: as much generated, nothing of it by a trained model.

    Its options are those of `isara` but for the rounds, which are one.
    """
    return replace(isara(rounds=1, per_round=per_round, **options), name="one_shot")


def _like_isara() -> None:
    """Gives `one_shot` the signature and the option texts of `isara`, so that both are written once."""
    signature = inspect.signature(isara)
    taken = {name: each for name, each in signature.parameters.items() if name != "rounds"}
    taken["per_round"] = taken["per_round"].replace(default=256)
    types = get_type_hints(isara)
    kept = [each.replace(annotation=types[name]) for name, each in taken.items()]
    one_shot.__signature__ = signature.replace(parameters=kept, return_annotation=Recipe)  # type: ignore[attr-defined]
    one_shot.__annotations__ = {name: types[name] for name in (*taken, "return")}
    texts = (inspect.getdoc(isara) or "").partition("Args:")[2].splitlines()
    one_shot.__doc__ = f"{inspect.getdoc(one_shot)}\n\nArgs:" + "\n".join(
        line for line in texts if not line.startswith("    rounds:")
    )


_like_isara()
