"""The most that a run can cost, before it costs: tokens and disk. How long it takes a probe says (`loop.probe`), or its progress
once its first batches are done."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from selfalign.evaluators import Refusal
from selfalign.loop.aim import SHARES
from selfalign.loop.as_seeds import asked_again
from selfalign.protocols import Flags, declared
from selfalign.recipe import Recipe
from selfalign.text import counted
from selfalign.types import Example, ModelRef, Pool

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_WORKING = 40
"""Bytes on the disk for each weight while all of them are trained, at most: the new model in float32, and three checkpoints (two
that are kept and one being written) of the weights and their two moments, as the training process asks for before it begins."""
_AVERAGE = 16
"""The same for a teacher that is their average: it comes to each of the four."""


def evaluations(recipe: Recipe) -> int:
    """How many models a run measures: the base model, and those of all rounds or the one to ship."""
    return 1 + (recipe.rounds if recipe.evaluate == "every" else min(recipe.rounds, 1)) * recipe.trains


def points(recipe: Recipe) -> int:
    """How many points `aim_over_refusal` may try, each with all validation seeds."""
    return len(SHARES) if recipe.aim_over_refusal is not None and recipe.trains and recipe.rounds else 0


def plan(recipe: Recipe, base: ModelRef, held_out: int, validation: int = 0, shown: Sequence[Example] = ()) -> dict[str, Any]:
    """What follows from the options of a recipe whose token budgets are filled in.

    Args:
        held_out: how many prompts the models are measured on.
        validation: how many seeds are held out to choose the round, and the point of `aim_over_refusal`.
        shown: those that are not. A proposer that opposes makes an answer to be rejected against each, and against what is kept.

    `disk_bytes` is None where it is not known: of a model that is no folder here. An adapter's few megabytes count as nothing.
    """
    candidates = sum(recipe.candidates(round) for round in range(1, recipe.rounds + 1))
    rejected = candidates + recipe.rounds * len(shown) if getattr(recipe.proposer, "oppose", None) else 0
    prompt = getattr(getattr(recipe.proposer, "sampling", None), "max_tokens", 0) or 0
    again = len(asked_again(recipe, Pool((tuple(shown),)))) if recipe.candidates(1) and recipe.rounds else 0
    measured, tried = evaluations(recipe) if held_out else 0, points(recipe) * validation
    judge = next((part.sampling for part in recipe.evaluators if isinstance(part, Refusal)), None) or recipe.eval_sampling
    model, weights = _size(base)
    averages = bool(getattr(recipe.trainer, "averages", False))  # as `trainers.SFT` has it; it stays in each round's model
    kept, working = model + 4 * averages * weights, (_WORKING + _AVERAGE * averages) * weights
    whole = recipe.rounds > 0 and recipe.trains and not declared(recipe.trainer, Flags).lora_rank
    return {
        "candidates": candidates,
        "rejected": rejected,
        "candidate_tokens": candidates * (prompt + recipe.sampling.max_tokens) + rejected * recipe.sampling.max_tokens,
        "asked_again": again,
        "asked_again_tokens": again * recipe.sampling.max_tokens,
        "evaluations": measured,
        "evaluation_tokens": measured * held_out * recipe.eval_sampling.max_tokens,
        "aim_points": points(recipe) if tried else 0,
        "aim_answers": tried,
        "aim_tokens": tried * judge.max_tokens,
        "disk_bytes": None if not model else recipe.rounds * kept + working if whole else 0,
    }


def plan_text(found: dict[str, Any]) -> str:
    """In a line, without what is next to nothing; "" for a recipe that costs nothing."""
    parts = []
    if found["candidates"]:
        rejected = f" and {counted(found['rejected'], 'answer')} to be rejected" if found["rejected"] else ""
        parts.append(f"{found['candidate_tokens']:,} tokens for {counted(found['candidates'], 'candidate')}{rejected}")
    if found["asked_again"]:
        parts.append(
            f"{found['asked_again_tokens']:,} tokens for the prompts of {counted(found['asked_again'], 'seed')} asked again"
        )
    if found["evaluations"]:
        times = counted(found["evaluations"], "evaluation")
        parts.append(f"{found['evaluation_tokens']:,} tokens for {times} of the held-out prompts")
    if found["aim_points"]:
        tried = f"{found['aim_points']} points of --aim_over_refusal on the validation seeds"
        parts.append(f"{found['aim_tokens']:,} tokens for {tried}")
    if (found["disk_bytes"] or 0) >= 5e7:
        parts.append(f"{found['disk_bytes'] / 1e9:.1f} GB on the disk, with the checkpoints of a training")
    return f"cost at most: {', '.join(parts)} (judges, second turns, replay and guards aside)" if parts else ""


def _size(base: ModelRef) -> tuple[int, int]:
    """Bytes of a model's weights, and how many weights that are; zeros where it is no folder on this machine."""
    folder, kind = Path(base.base), ""
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors")) if folder.is_dir() else 0
    with suppress(OSError, ValueError, AttributeError):
        config = json.loads((folder / "config.json").read_text("utf-8"))
        kind = str(config.get("dtype") or config.get("torch_dtype"))
    return size, size // _BYTES.get(kind, 4)
