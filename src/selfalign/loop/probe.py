"""What a whole run will take, by the few batches of a preview: time of what is generated, and what the filters will leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selfalign.loop.plan import plan
from selfalign.proof.stats import wilson
from selfalign.recipe import Recipe
from selfalign.record.store import Store
from selfalign.text import counted
from selfalign.types import ModelRef


def probed(
    recipe: Recipe, base: ModelRef, held_out: int, samples: Sequence[Mapping[str, Any]], written: int, rates: Mapping[str, float]
) -> dict[str, Any]:
    """Seconds for generation and evaluation of a run, and how many candidates its filters will keep.

    Times are of the preview's batches: they hold for this machine as busy as it is now, and larger batches are quicker. A run
    takes at most what its token budgets allow. Training is not tried here: it would take the memory and the minutes of one.

    Args:
        recipe: as it runs, its token budgets filled in and with all of its candidates.
        held_out: how many prompts a model is evaluated on.
        samples: the preview's candidates, with `verdict`.
        written: tokens that were generated for them, prompts and answers.
        rates: tokens a second of answers behind demonstrations (`shown`) and without (`bare`), and `answer`, the tokens of one
            without.

    Returns:
        {"candidates", "kept_of", "kept_low", "kept_high", "generation_seconds", "generation_seconds_at_most",
        "evaluation_seconds", "evaluation_seconds_at_most", "text"}; None for what is not known.
    """
    costs = plan(recipe, base, held_out)
    candidates, made = costs["candidates"], len(samples)
    kept = sum(sample["verdict"] == "kept" for sample in samples)
    share = wilson(kept, made) if made else None
    answers = costs["evaluations"] * held_out
    found: dict[str, Any] = {
        "candidates": candidates,
        "kept_of": [kept, made] if share else None,
        "kept_low": share and round(candidates * share.low),
        "kept_high": share and round(candidates * share.high),
        "generation_seconds": _seconds(candidates * written / made if made else 0.0, rates["shown"]),
        "generation_seconds_at_most": _seconds(costs["candidate_tokens"] if made else 0.0, rates["shown"]),
        "evaluation_seconds": _seconds(answers * rates["answer"], rates["bare"]),
        "evaluation_seconds_at_most": _seconds(costs["evaluation_tokens"], rates["bare"]),
    }
    return {**found, "text": _in_words(found, costs["evaluations"], recipe.rounds > 0 and recipe.trains)}


def written(store: Store, round: int) -> int:
    """Tokens that were generated in a round."""
    with store.snapshot() as connection:
        found = connection.execute("SELECT sum(generated_tokens) FROM batches WHERE round = ?", (round,)).fetchone()
    return int(found[0] or 0)


def rate(store: Store, stage: str) -> tuple[float, float]:
    """(tokens a second, tokens an output) of a stage of round 0; zeros where nothing was generated."""
    query = "SELECT sum(generated_tokens), sum(seconds), (SELECT count(*) FROM outputs o WHERE o.stage = b.stage) FROM batches b"
    with store.snapshot() as connection:
        tokens, seconds, outputs = connection.execute(f"{query} WHERE stage = ? AND round = 0", (stage,)).fetchone()
    return (tokens / seconds, tokens / outputs) if tokens and seconds and outputs else (0.0, 0.0)


def _seconds(tokens: float, rate: float) -> float | None:
    return tokens / rate if rate else None


def _in_words(found: Mapping[str, Any], evaluations: int, trains: bool) -> str:
    parts = []
    if found["kept_of"] and found["generation_seconds"] is not None:
        time = _between(found["generation_seconds"], found["generation_seconds_at_most"])
        kept, made = found["kept_of"]
        share = f"{kept} of {made} here were kept, so {found['kept_low']} to {found['kept_high']} of them will be"
        parts.append(f"{counted(found['candidates'], 'candidate')} take {time}, and {share}")
    if evaluations and found["evaluation_seconds"]:
        time = _between(found["evaluation_seconds"], found["evaluation_seconds_at_most"])
        parts.append(f"{counted(evaluations, 'evaluation')} of the held-out prompts {time}")
    if not parts:
        return ""
    rest = "; training comes on top, and is timed by the run's own first steps" if trains else ""
    return f"a run on this machine, by this preview: {'; '.join(parts)}{rest}"


def _between(seconds: float, most: float) -> str:
    return f"about {_duration(seconds)} (at most {_duration(max(seconds, most))})"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
