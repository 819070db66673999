"""The trainer's method by the device's memory, the model's size and the longest row: settled, recorded and shown beforehand.

A trainer that can choose has `choice(base, longest, learned)` and `settled(choice)`, as `trainers.SFT` has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from selfalign.protocols import EngineLimits, declared
from selfalign.recipe import Recipe
from selfalign.types import Example, ModelRef

TEMPLATE = 32
"""Tokens that a chat template writes around a pair: our own, rather too many."""


def method_choice(recipe: Recipe, base: ModelRef, seeds: Sequence[Example], prompt: int, response: int) -> Any:
    """What the trainer makes of the memory at hand; None where it trains nothing, does not choose, or knows nothing of the model.

    Args:
        prompt: the most tokens of a new prompt, by the seeds.
        response: the same of an answer. Both count for recipes that generate nothing too, so that the arms of a study agree.

    Raises:
        UserError: no method fits.
    """
    choice = getattr(recipe.trainer, "choice", None)
    if choice is None or not recipe.rounds or not recipe.trains:
        return None
    count = declared(recipe.engine, EngineLimits).token_lengths
    given = recipe.given.prompts.examples if recipe.given else ()
    prompts = [prompt, *count(base, [each.full_prompt for each in given])]
    answer = max(response, recipe.sampling.max_tokens if recipe.per_round else 0)
    rows = count(base, ["\n".join((seed.system, seed.full_prompt, seed.response)) for seed in seeds])
    return choice(base, TEMPLATE + max(*rows, max(prompts) + answer), answer)


def with_method(recipe: Recipe, base: ModelRef, seeds: Sequence[Example], prompt: int, response: int) -> Recipe:
    """The recipe with its trainer settled (see `method_choice`), and checked as it now is: an engine may serve no adapters."""
    if (settle := getattr(recipe.trainer, "settled", None)) is None or not recipe.rounds or not recipe.trains:
        return recipe
    recipe = replace(recipe, trainer=settle(method_choice(recipe, base, seeds, prompt, response)))
    recipe.check()
    return recipe


def unknown_memory(recipe: Recipe, base: ModelRef) -> str:
    """Where `method_choice` knows nothing of a hub's model, as when a server runs it: that memory has not decided; else ""."""
    chooses = getattr(recipe.trainer, "choice", None) is not None and recipe.rounds and recipe.trains
    if not chooses or "@" not in base.base:
        return ""
    method = getattr(recipe.trainer, "method", "")
    return (
        f"the weights of {base.base} are not on this machine yet, so whether training them fits its memory is not known: it goes"
        f" by --trainer.method {method}; `huggingface-cli download` brings them, or name another method"
    )


def memory_warnings(found: Mapping[str, Any] | None) -> Iterator[str]:
    """Of `Choice.plain`: what is asked for does not fit, or not now."""
    if found is None:
        return
    chosen = next(each for each in found["methods"] if each["method"] == found["method"])
    if not found["fits"]:
        yield f"training takes more than fits {found['device']}: {found['text']}"
    elif chosen["in_all"] > found["free_now"]:
        free = f"{found['free_now'] / 1e9:.1f} GB of {found['device']}'s memory are free now"
        yield f"{free}, and training will take {chosen['in_all'] / 1e9:.1f}: end other programs first"


def memory_lines(found: Mapping[str, Any] | None) -> Iterator[str]:
    """The same as a table for `selfalign check`."""
    if found is None:
        return
    parts = ("weights", "gradients", "moments", "activations", "in_all")
    has = f"{found['device']} has {found['has'] / 1e9:.1f}, {found['free_now'] / 1e9:.1f} of them free now"
    yield f"memory to train, GB by formula ({has}):"
    yield "  method  " + "".join(f"{part.replace('_', ' '):>13}" for part in parts)
    for each in found["methods"]:
        marks = ("fits" if each["fits"] else "too much") + (", activations computed twice" if each["computed_twice"] else "")
        how = "deepspeed" if each["zero"] else "fsdp"
        marks += f", cut over {each['devices']} devices ({how})" if each["devices"] > 1 else ""
        marks += f", and {each['main_memory'] / 1e9:.1f} of main memory (offload)" if each["main_memory"] else ""
        yield f"  {each['method']:<8}" + "".join(f"{each[part] / 1e9:>13.1f}" for part in parts) + f"  {marks}"
    yield f"training: {found['text']}"
