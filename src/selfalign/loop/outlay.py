"""What a whole run will take, by the few batches of a preview: time of what is generated, and what the filters will leave.

`loop.probe` measures more, training too, and takes longer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selfalign.loop.plan import plan
from selfalign.loop.times import duration
from selfalign.proof.stats import wilson
from selfalign.recipe import Recipe
from selfalign.record.store import Store
from selfalign.text import counted
from selfalign.types import ModelRef


def probed(
    recipe: Recipe,
    base: ModelRef,
    asked: tuple[int, int],
    samples: Sequence[Mapping[str, Any]],
    written: int,
    rates: Mapping[str, float],
) -> dict[str, Any]:
    """Seconds for generation and evaluation of a run, and how many candidates its filters will keep.

    Times are of the preview's batches: they hold for this machine as busy as it is now, and larger batches are quicker. A run
    takes at most what its token budgets allow. Training is not tried here: it would take the memory and the minutes of one.

    Args:
        recipe: as it runs, its token budgets filled in and with all of its candidates.
        asked: how many prompts a model is evaluated on, and how many seeds are held out for validation.
        samples: the preview's candidates, with `verdict`.
        written: tokens that were generated for them, prompts and answers.
        rates: tokens a second of answers behind demonstrations (`shown`) and without (`bare`), and `answer`, the tokens of one
            without.

    Returns:
        {"candidates", "kept_of", "kept_low", "kept_high", "generation_seconds", "generation_seconds_at_most",
        "evaluation_seconds", "evaluation_seconds_at_most", "aim_seconds", "aim_seconds_at_most", "text"}; None for what is not
        known. Those of `aim_over_refusal` are of all the points that it may try.
    """
    held_out, validation = asked
    costs = plan(recipe, base, held_out, validation)
    candidates, made = costs["candidates"], len(samples)
    kept = sum(sample["verdict"] == "kept" for sample in samples)
    answers = costs["evaluations"] * held_out
    found: dict[str, Any] = {
        **kept_of(candidates, kept, made),
        "generation_seconds": _seconds(candidates * written / made if made else 0.0, rates["shown"]),
        "generation_seconds_at_most": _seconds(costs["candidate_tokens"] if made else 0.0, rates["shown"]),
        "evaluation_seconds": _seconds(answers * rates["answer"], rates["bare"]),
        "evaluation_seconds_at_most": _seconds(costs["evaluation_tokens"], rates["bare"]),
        "aim_seconds": _seconds(costs["aim_answers"] * rates["answer"], rates["bare"]),
        "aim_seconds_at_most": _seconds(costs["aim_tokens"], rates["bare"]),
    }
    return {**found, "text": _in_words(found, costs, recipe.rounds > 0 and recipe.trains)}


def kept_of(candidates: int, kept: int, made: int) -> dict[str, Any]:
    """How many of a run's candidates the filters will leave, by some that were made: Wilson's interval; None without any."""
    share = wilson(kept, made) if made else None
    return {
        "candidates": candidates,
        "kept_of": [kept, made] if share else None,
        "kept_low": share and round(candidates * share.low),
        "kept_high": share and round(candidates * share.high),
    }


def kept_text(found: Mapping[str, Any]) -> str:
    """Of `kept_of`, some of which were made."""
    kept, made = found["kept_of"]
    return f"{kept} of {made} here were kept, so {found['kept_low']} to {found['kept_high']} of them will be"


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


def _in_words(found: Mapping[str, Any], costs: Mapping[str, Any], trains: bool) -> str:
    parts = []
    if found["kept_of"] and found["generation_seconds"] is not None:
        time = _between(found["generation_seconds"], found["generation_seconds_at_most"])
        parts.append(f"{counted(found['candidates'], 'candidate')} take {time}, and {kept_text(found)}")
    if costs["evaluations"] and found["evaluation_seconds"]:
        time = _between(found["evaluation_seconds"], found["evaluation_seconds_at_most"])
        parts.append(f"{counted(costs['evaluations'], 'evaluation')} of the held-out prompts {time}")
    if costs["aim_points"] and found["aim_seconds"]:
        time = _between(found["aim_seconds"], found["aim_seconds_at_most"])
        parts.append(f"the validation seeds at {counted(costs['aim_points'], 'point')} of --aim_over_refusal {time}")
    if not parts:
        return ""
    rest = "; training comes on top, which `selfalign check … --probe` times too" if trains else ""
    return f"a run on this machine, by this preview: {'; '.join(parts)}{rest}"


def _between(seconds: float, most: float) -> str:
    return f"about {duration(seconds)} (at most {duration(max(seconds, most))})"
