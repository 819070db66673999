"""Everything that can be known of a recipe, seeds and a model before the model generates, as plain data and as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

from selfalign import evaluators, filters
from selfalign.encoders.blind import encoder_blind, of_many_languages
from selfalign.encoders.checked import opened
from selfalign.expect.spec import parse_all
from selfalign.expect.suggest import suggested
from selfalign.loop.budgets import Budgets, measure
from selfalign.loop.caveats import caveats
from selfalign.loop.fluency import spelled_out
from selfalign.loop.method import memory_lines, memory_warnings, method_choice, unknown_memory
from selfalign.loop.parts import tried
from selfalign.loop.plan import plan, plan_text
from selfalign.loop.preflight import fewer_than_asked, prepared
from selfalign.loop.prompts import prompt_facts, prompt_texts, prompt_warnings
from selfalign.loop.seed_warnings import seed_warnings
from selfalign.loop.shortcuts import audited, shortcut_warning
from selfalign.proof.seed_rules import harmful, void_on_seeds
from selfalign.proof.stats import too_few
from selfalign.protocols import Flags, declared
from selfalign.recipe import Recipe
from selfalign.text import counted
from selfalign.types import Example, ModelRef

RULE = ("filter", "rule", "dropped", "of", "example", "evidence", "option")


def checkup(recipe: Recipe, model: str, seeds: Sequence[Example], held_out: Sequence[Example]) -> dict[str, Any]:
    """What `selfalign check` shows; `stops` has what would end a run, and is empty where it could begin.

    Opens no model, and the recipe's encoder only where that needs none.

    Raises:
        UserError: options, seeds or a model that cannot work.
    """
    chosen = recipe.encoder
    recipe, base, shown, validation, held_out, asked = prepared(recipe, model, seeds, held_out)
    recipe.identity()  # evaluators with a file or a model of their own say here what is wrong with it
    fed = prompt_facts(recipe, shown, asked)
    generates = recipe.rounds * recipe.per_round > 0
    named = list(recipe.named_filters()) if generates else []
    fixed = declared(recipe.encoder, Flags).fixed
    with opened(recipe.encoder, None) if named and fixed else nullcontext(None) as encode:  # type: ignore[arg-type]  # it asks no model
        rules = tried(named, encode, shown)
        blind = encoder_blind(chosen, seeds) or (encoder_blind(recipe.encoder, shown, encode) if encode is not None else "")
        shortcuts = audited(recipe, seeds, held_out, encode)
    budgets = measure(recipe.engine, base, seeds)
    choice = method_choice(recipe, base, seeds, budgets.prompt, budgets.response)
    memory, expected = choice.plain() if choice else None, expectations(recipe)
    warnings = [
        f"{blind}; the model's own hidden states are used instead" if recipe.encoder != chosen else blind,
        spelled_out(recipe.engine, base, seeds) if generates else "",
        fewer_than_asked(recipe, shown),
        *seed_warnings(recipe, base, shown, validation, held_out),
        too_few(len(validation), "validation seeds") if recipe.rounds and recipe.trains else "",
        shortcut_warning(recipe, seeds, held_out, shortcuts),
        "" if choice else unknown_memory(recipe, base),
        "" if recipe.trains or not recipe.rounds else "nothing is trained: each round goes on with the base model",
        *prompt_warnings(recipe, fed, shown),
        *memory_warnings(memory),
        *((each.text for each in harmful(rules)) if recipe.ignore_seed_rules else ()),
        *void_on_seeds([("proposer", recipe.proposer), *named], shown),
        *caveats(recipe, seeds, held_out),
    ]
    suggestions = [
        "" if expected else suggested(seeds),
        of_many_languages(chosen, seeds) if generates or recipe.eval_retriever is not None else "",
        *(part.suggestion(seeds) for part in recipe.evaluators if isinstance(part, evaluators.Refusal)),
    ]
    return {
        **_counts(recipe, base, seeds, shown),
        "validation": len(validation),
        "held_out": len(held_out),
        **fed,
        **_tokens(recipe, budgets, generates),
        "plan": plan(recipe, base, len(held_out), len(validation), shown),
        "encoder": type(recipe.encoder).__name__,
        "memory": memory,
        "expected": expected,
        "suggestions": [*filter(None, suggestions)],
        "shortcuts": shortcuts,
        "rules_on_seeds": [{name: getattr(each, name) for name in RULE} for each in rules],
        "stops": [] if recipe.ignore_seed_rules else [each.text for each in harmful(rules)],
        "warnings": [*filter(None, warnings)],
    }


def _counts(recipe: Recipe, base: ModelRef, seeds: Sequence[Example], shown: Sequence[Example]) -> dict[str, Any]:
    return {
        "recipe": recipe.name,
        "model": base.base,
        "adapter": base.adapter,
        "seeds": len(seeds),
        "to_train_on": len(shown),
        "categories": dict(Counter(seed.category for seed in seeds if seed.category)),
        "without_category": sum(not seed.category for seed in seeds),
        "rounds": recipe.rounds,
        "per_round": recipe.per_round,
        "generating": sum(recipe.candidates(round) > 0 for round in range(1, recipe.rounds + 1)),
        "second_turns": recipe.second_turns.share,
    }


def expectations(recipe: Recipe) -> dict[str, list[str]]:
    """What is declared to be expected, by name: {check: what it is used for}."""
    measured, filtered = (
        [spec for part in parts if isinstance(part, kind) for spec in parse_all(part.checks)]
        for parts, kind in (
            (recipe.evaluators, evaluators.Expected),
            ([part for _, part in recipe.named_filters()], filters.Expected),
        )
    )
    uses = (("filter", filtered), ("metric", measured))
    return {spec.name: [use for use, specs in uses if spec in specs] for spec in dict.fromkeys((*filtered, *measured))}


def _tokens(recipe: Recipe, budgets: Budgets, generates: bool) -> dict[str, Any]:
    prompt = getattr(getattr(recipe.proposer, "sampling", None), "max_tokens", None)
    new = {"prompt": prompt, "response": recipe.sampling.max_tokens} if generates else {}
    return {
        "longest_tokens": {"prompt": budgets.longest_prompt, "response": budgets.longest_response},
        "max_tokens": {**new, "evaluation": recipe.eval_sampling.max_tokens},
    }


def checkup_text(found: dict[str, Any], notes: Sequence[str]) -> str:
    """The same on one screen; `notes` are those of the seed file."""
    noted, hints = (f"note: {note}" for note in notes), (f"suggestion: {text}" for text in found["suggestions"])
    return "\n".join([*_facts(found), *_rules(found), *noted, *hints, *_verdict(found)]) + "\n"


def _facts(found: dict[str, Any]) -> Iterator[str]:
    yield (
        f"seeds: {found['seeds']} ({found['to_train_on']} to show and train on, {found['validation']} for validation), "
        f"held out: {found['held_out']}"
    )
    if kinds := found["categories"]:
        most = sorted(kinds.items(), key=lambda kind: -kind[1])
        more = f" and {len(most) - 12} more" if len(most) > 12 else ""
        unnamed = f"; {found['without_category']} without one, which no prompt aims at" if found["without_category"] else ""
        yield f"categories: {', '.join(f'{name} {count}' for name, count in most[:12])}{more}{unnamed}"
    yield f"model: {found['model']}" + (f" with adapter {found['adapter']}" if found["adapter"] else "")
    turns = f", and second turns of {found['second_turns']:.0%} of those kept" if found["second_turns"] else ""
    yield f"generated at most: {counted(found['generating'], 'round')} of {counted(found['per_round'], 'candidate')}{turns}"
    yield from prompt_texts(found)
    longest, most_tokens = found["longest_tokens"], found["max_tokens"]
    limits = ", ".join(f"{name} {count}" for name, count in most_tokens.items() if count)
    yield f"tokens: longest seed prompt {longest['prompt']}, response {longest['response']}; at most {limits}"
    if costs := plan_text(found["plan"]):
        yield costs
    if found["rounds"] * found["per_round"]:
        yield f"encoder: {found['encoder']}"
    if found["expected"]:
        used = [f"{name} ({' and '.join(uses)})" for name, uses in found["expected"].items()]
        yield f"expected: {', '.join(used)}"
    yield from memory_lines(found["memory"])


def _rules(found: dict[str, Any]) -> Iterator[str]:
    if found["rounds"] * found["per_round"]:
        rules = [f"{each['filter']} {each['rule']} {each['dropped']}" for each in found["rules_on_seeds"]]
        yield f"filters tried on the seeds: {', '.join(rules) if rules else 'none of them drops any'}"


def _verdict(found: dict[str, Any]) -> Iterator[str]:
    yield from (f"warning: {text}" for text in found["warnings"])
    yield from (f"stop: {text}" for text in found["stops"])
    if found["stops"]:
        yield "preflight failed: a run would stop before it generates; --ignore_seed_rules true goes on all the same"
    else:
        yield "preflight passed: everything that can be known before a model runs is in order"
