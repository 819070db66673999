"""What a run would do, before it costs anything: a few candidates of its first round, and whether context teaches the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfalign.evaluators import Expected, HeldOut, Refusal
from selfalign.loop import parts
from selfalign.loop.as_seeds import PROMPTS, Nearest, by_category, some_of, wrong_as_shown
from selfalign.loop.context import Setup, opened
from selfalign.loop.glimpse import use
from selfalign.loop.guards import try_rules
from selfalign.loop.outlay import probed, rate, written
from selfalign.loop.preflight import fewer_than_asked, prepared
from selfalign.loop.progress import Renamed
from selfalign.loop.steps import make_round
from selfalign.loop.vectors import RunVectors
from selfalign.proof.context_gain import gain, sentence
from selfalign.proof.verdicts import PREFERRED
from selfalign.protocols import Context, Evaluator, Preflight, Progress, SeedUse, declared
from selfalign.recipe import Recipe
from selfalign.record.journal import Journal
from selfalign.record.plain import metric_table
from selfalign.record.store import Store
from selfalign.text import counted, finite
from selfalign.types import Demonstration, Example, Metric, Pool, in_pool_order

SAMPLES = 6
"""Candidates that are shown; with 24 seeds, asked with and without others, it is a minute or two of a 135M model on two cores."""
SHOWN = 5
"""Seeds that are shown before a prompt, where the recipe does not say how many: as many as `isara` shows."""
ALONE, NEAREST, OWN = "alone", "nearest", "own_category"
WAYS = {ALONE: "without examples", NEAREST: "nearest examples", OWN: "nearest of its category"}
"""What is shown before a prompt, in words."""


def preview(
    recipe: Recipe, model: str, seeds: Sequence[Example], held_out: Sequence[Example], folder: Path, progress: Progress
) -> dict[str, Any]:
    """What `selfalign preview` shows, as plain data.

    Args:
        folder: for what is journaled meanwhile; nobody reads it afterwards.

    Raises:
        UserError: options, seeds or a model that cannot work; before the model loads.
        RunFailed: a rule that would drop the seeds themselves, as in a run.
    """
    generates = recipe.rounds * recipe.per_round > 0
    count = declared(recipe.retriever, SeedUse).shown(seeds, {""})[0] if generates else 0
    nearest = Nearest(count or SHOWN, own_category=not count or by_category(recipe, seeds))
    first = next((round for round in range(1, recipe.rounds + 1) if recipe.candidates(round)), 0)
    short = replace(recipe, per_round=min(SAMPLES, recipe.per_round), eval_retriever=nearest)
    per_round = recipe.per_round
    recipe, base, shown, validation, held_out, asked = prepared(short, model, seeds, held_out)
    recipe.identity()  # evaluators with a file or a model of their own say here what is wrong with it
    with Store.open(folder / "samples", {}) as store:
        store.add_model(0, base)
        run = Setup(recipe, store, base, shown, validation, held_out, asked, RunVectors(recipe.encoder), progress)
        pool = Pool((shown,))
        with opened(run, base, pool) as context:
            try_rules(run, context(0))
            samples = _samples(recipe, context(first), pool) if first else []
            tokens = written(store, first)
            outlook = _outlook(run, context(0), nearest, folder)
            wrong = wrong_as_shown(recipe, context(first)) if first == 1 else ""
    few, counts = fewer_than_asked(recipe, shown), (len(held_out), len(validation))
    made = samples[: recipe.candidates(first)] if first else []  # behind them come second turns, and answers against them
    if not count and recipe.rounds:
        outlook["sentence"] += f"; {recipe.name} does not learn from context, so that this says nothing of what it will gain"
    later = f"in a run the model that the seeds have trained writes the candidates, from round {first} on" if first > 1 else ""
    tokens = int(tokens * min(1.0, 2 * len(made) / max(len(samples), 1)))  # at most one such answer for each
    return {
        "recipe": recipe.name,
        "model": base.base,
        "adapter": base.adapter,
        "seeds": len(seeds),
        "samples": samples,
        **outlook,
        "costs": probed(replace(recipe, per_round=per_round), base, counts, made, tokens, _rates(folder)),
        "warnings": [*filter(None, (few, wrong, later, *outlook["warnings"]))],
    }


def _samples(recipe: Recipe, context: Context, pool: Pool) -> list[dict[str, Any]]:
    result = make_round(recipe, context, pool)
    drops = {drop.example.id: drop for drop in result.dropped}
    made = sorted((*result.kept, *(drop.example for drop in result.dropped)), key=lambda example: example.slot)
    return [
        {
            "id": example.id,
            "category": example.category,
            "history": [list(turn) for turn in example.history],
            "prompt": example.prompt,
            "prompt_demonstrations": _plain(example.prompt_demonstrations),
            "response": example.response,
            "response_demonstrations": _plain(example.response_demonstrations),
            "scores": dict(example.scores),
            "verdict": "dropped" if example.id in drops else "kept",
            "use": use(example),
            "rule": drops[example.id].rule if example.id in drops else None,
            "evidence": drops[example.id].evidence if example.id in drops else None,
        }
        for example in made
    ]


def _plain(shown: Sequence[Demonstration]) -> list[dict[str, Any]]:
    return [{"id": each.id, "similarity": each.similarity} for each in shown]


def _outlook(run: Setup, context: Context, nearest: Nearest, folder: Path) -> dict[str, Any]:
    """The model on some of the seeds, each answered without examples and with others of the seeds, and what follows from it.

    Args:
        nearest: as the recipe itself shows seeds, which decides.
    """
    recipe, whole = run.recipe, Pool(((*run.shown, *run.validation),)).single_turns()
    context = replace(context, pool=whole)
    prompts = some_of(whole.seeds, PROMPTS, recipe.seed)
    kinds = list(dict.fromkeys(prompt.category for prompt in prompts if prompt.category))
    ways: dict[str, Nearest | None] = {ALONE: None, NEAREST: replace(nearest, own_category=False)}
    if len(kinds) > 1:
        ways[OWN] = replace(nearest, own_category=True)
    # The prompts are seeds: among the openings by which a decision is measured could be that of their own answer.
    refusals = [replace(part, decision=False) for part in recipe.evaluators if isinstance(part, Refusal)]
    measured: list[Evaluator] = [*refusals, *(part for part in recipe.evaluators if isinstance(part, Expected)), HeldOut()]
    found = {way: _measured(run, context, way, retriever, measured, prompts, folder) for way, retriever in ways.items()}
    by = OWN if OWN in ways and nearest.own_category else NEAREST
    gains = {name: gain(found[ALONE][name], metric) for name, metric in found[by].items() if name in found[ALONE]}
    name = next(each for each in PREFERRED if gains.get(each))
    ours = gains[name]
    assert ours is not None
    kin = Counter(seed.category if by == OWN else "" for seed in whole.seeds)
    most = min(nearest.count, max(kin.values()) - 1)
    how = f"shown the {counted(most, 'nearest seed')}{' of its own category' if by == OWN else ''}"
    return {
        "prompts": len(prompts),
        "demonstrations": nearest.count,
        "metrics": {way: metric_table(metrics.values()) for way, metrics in found.items()},
        "by_category": {kind: _of(kind, prompts, found) for kind in kinds} if len(kinds) > 1 else {},
        "differences": {
            each: {key: finite(value) if isinstance(value, float) else value for key, value in one._asdict().items()}
            for each, one in gains.items()
            if one
        },
        "decided_by": {"metric": name, "shown": by},
        "verdict": ours.verdict,
        "sentence": sentence(how, found[ALONE][name], found[by][name], ours),
        "warnings": [text for part in measured if (text := declared(part, Preflight).preflight(context.all_seeds, prompts))],
    }


def _measured(
    run: Setup,
    context: Context,
    way: str,
    retriever: Nearest | None,
    evaluators: Sequence[Evaluator],
    prompts: Sequence[Example],
    folder: Path,
) -> dict[str, Metric]:
    """The metrics by name; each way has a journal of its own, as the same prompts are asked under the same stage."""
    arrange = in_pool_order if run.recipe.order == "shared" else tuple
    held = parts.HeldRetriever(retriever) if retriever else None
    with Store.open(folder / way, {}) as store:
        # Under the name of what is measured, and not of a round.
        hears = Renamed(run.progress, lambda s: f"{WAYS[way]}: {'likelihood' if s.endswith('likelihood') else 'answers'}")
        journal = Journal(store, 0, context.session, hears, arrange)
        asking = replace(context, journal=journal, eval_retriever=held)
        return {metric.name: metric for part in evaluators for metric in parts.evaluate(asking, part, prompts)}


def _rates(folder: Path) -> dict[str, float]:
    with Store.read(folder / ALONE) as bare, Store.read(folder / NEAREST) as shown:
        speed, tokens = rate(bare, "held_out")
        return {"bare": speed, "answer": tokens, "shown": rate(shown, "held_out")[0]}


def _of(category: str, prompts: Sequence[Example], found: Mapping[str, Mapping[str, Metric]]) -> dict[str, dict[str, float]]:
    """{way: {metric: mean over the prompts of a category}}, of what is measured on the prompts of every category."""
    ids = {prompt.id for prompt in prompts if prompt.category == category}
    means: dict[str, dict[str, float]] = {way: {} for way in found}
    for way, metrics in found.items():
        for name in ("expected", "log_likelihood"):
            if values := [each.value for each in (metrics[name].outcomes if name in metrics else ()) if each.id in ids]:
                means[way][name] = sum(values) / len(values)
    return means
