"""Token budgets from the seeds: a text may be as long as theirs and half as long again, in tokens of the model at hand.

A sampling whose `max_tokens` is 0 asks for that. A fixed number is wrong as soon as the seeds are others: at 96 tokens
answers of a paragraph are all cut, and for labels of one word they are paid for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from selfalign.encoders import HiddenState
from selfalign.encoders.blind import encoder_blind
from selfalign.errors import UserError
from selfalign.expect.suggest import opening
from selfalign.loop.method import with_method
from selfalign.models.names import located
from selfalign.models.rendering import folder_renderer
from selfalign.protocols import Engine, EngineLimits, declared
from selfalign.recipe import Recipe
from selfalign.text import counted
from selfalign.types import GREEDY, Example, ModelRef, Request, Sampling, with_template_args

FACTOR, EXTRA = 1.5, 16
"""A budget is FACTOR times the longest seed and EXTRA tokens: our own choice, so that a model that is wordier than the seeds is
still seen to end, and is not paid for page after page. Where the window has no room for that: the longest seed."""


@dataclass(frozen=True)
class Budgets:
    """In tokens: the longest prompt and response of the seeds, and what a new one may have."""

    longest_prompt: int
    longest_response: int
    slack: tuple[bool, bool] = (True, True)
    """Whether prompts, and responses, may be longer than the seeds': not where that leaves no room for a prompt in the window."""

    @property
    def prompt(self) -> int:
        return math.ceil(FACTOR * self.longest_prompt) + EXTRA if self.slack[0] else self.longest_prompt

    @property
    def response(self) -> int:
        most = math.ceil(FACTOR * self.longest_response) + EXTRA if self.slack[1] else self.longest_response
        return most if self.longest_response else GREEDY.max_tokens


def measure(engine: Engine, model: ModelRef, seeds: Sequence[Example]) -> Budgets:
    """The longest of the seeds in the model's tokens, as the engine counts them."""
    count = declared(engine, EngineLimits).token_lengths
    prompts, responses = (count(model, texts) for texts in ([e.prompt for e in seeds], [e.response for e in seeds]))
    return Budgets(max(prompts, default=0), max(responses, default=0))


def _fitting(recipe: Recipe, base: ModelRef, examples: Sequence[Example]) -> Budgets:
    """As `measure`, without slack where the longest prompt would then have no room in the window, and never be answered."""
    found = measure(recipe.engine, base, examples)
    if not examples:
        return found
    asked = max(examples, key=lambda each: len(each.full_prompt))
    request = Request(asked.id, prompt=asked.prompt, history=asked.history, system=asked.system)
    with recipe.engine.open(base, recipe.format) as session:
        prompt, response = (session.fit(request, tokens) is not None for tokens in (found.prompt, found.response))
    return replace(found, slack=(prompt, response))


def short_budgets(recipe: Recipe, model: ModelRef, seeds: Sequence[Example], held_out: Sequence[Example]) -> str:
    """Which texts have fewer tokens than those that are given take on average, as a number of the user's or of a paper may be; ""
    for none. What a teacher judges token by token may be cut off, but not all that it judges may be alike."""

    def usual(texts: Sequence[str]) -> float:
        return sum(count(model, texts)) / max(len(texts), 1)

    count, found = declared(recipe.engine, EngineLimits).token_lengths, list[tuple[str, float, Sampling, str]]()
    answers = [each.response for each in seeds if each.response.strip()]
    if recipe.rounds * recipe.per_round:
        listed, sampling = getattr(recipe.proposer, "per_request", 1), getattr(recipe.proposer, "sampling", None)
        new = f"a list of {listed} new prompts" if listed > 1 else "a new prompt"
        if sampling is not None:
            found.append((new, listed * usual([each.prompt for each in seeds]), sampling, "prompt_sampling"))
        if recipe.shown_to != "teacher":
            found.append(("an answer", usual(answers), recipe.sampling, "sampling"))
    references = [each.response for each in held_out if each.response.strip()]
    found.append(("a held-out answer", usual(references or answers), recipe.eval_sampling, "eval_sampling"))
    short = [
        f"{what} as long as yours are on average takes {needed:.0f} tokens and may have {sampling.max_tokens}, so that most are"
        f" cut off: give --{option}.max_tokens {math.ceil(FACTOR * needed)}"
        for what, needed, sampling, option in found
        if needed > sampling.max_tokens
    ]
    return "; ".join(filter(None, (*short, _alike(recipe, answers, lambda text: count(model, [text])[0] - 1))))


def too_long(recipe: Recipe, model: ModelRef, seeds: Sequence[Example]) -> str:
    """Which of the seeds to train on have more tokens than the trainer's `max_length`, so that it drops them; "" for none.

    Raises:
        UserError: all of them have, so that no seed would be learned.
    """
    most = getattr(recipe.trainer, "max_length", None)
    if most is None or not recipe.rounds or not recipe.trains or not recipe.train_seeds:
        return ""
    if not (folder := Path(located(model.base))).is_dir():  # a name for the scripted engine
        return ""
    renderer = folder_renderer(folder, recipe.format)
    sizes = [len(renderer.training_ids(each.prompt, each.response, each.history, each.system)[0]) for each in seeds]
    found = sorted(((size, seed.id) for seed, size in zip(seeds, sizes, strict=True) if size > most), key=lambda each: -each[0])
    if not found:
        return ""
    named = ", ".join(f"{name} ({size})" for size, name in found[:5]) + (" …" if len(found) > 5 else "")
    if len(found) == len(sizes):
        raise UserError(
            f"each of the {counted(len(seeds), 'seed')} to train on has more tokens than --trainer.max_length {most}, so that"
            f" none would be learned: {named}; give --trainer.max_length {found[0][0]}, or shorten them"
        )
    return (
        f"{len(found)} of {counted(len(seeds), 'seed')} to train on {'has' if len(found) == 1 else 'have'} more tokens than"
        f" --trainer.max_length {most}, and the training drops them as too_long: {named}; give --trainer.max_length"
        f" {found[0][0]}, or shorten them"
    )


def _alike(recipe: Recipe, answers: Sequence[str], tokens: Callable[[str], int]) -> str:
    """That the tokens which count most in a distillation are the same in all answers: a brace and a key, a greeting."""
    loss, first = getattr(recipe.trainer, "loss", None), opening([text.strip() for text in answers]) if answers else ""
    counts, skipped = getattr(loss, "first_tokens", 0), getattr(loss, "skip_tokens", 0)
    if recipe.shown_to != "teacher" or not counts or not first or (same := tokens(first)) - skipped < counts:
        return ""
    return (
        f"all seeds' answers begin with {first.rstrip()!r}, {same} tokens, and the first {counts} of an answer count 1, later"
        f" ones {getattr(loss, 'later_weight', 0.0):g}: what tells answers apart is hardly taught; give"
        f" --trainer.loss.first_tokens {same + counts}"
        + (f" --sampling.max_tokens {same + 32}" if same + counts > recipe.sampling.max_tokens else "")
    )


def settled(recipe: Recipe, model: str, seeds: Sequence[Example], held_out: Sequence[Example]) -> tuple[Recipe, ModelRef]:
    """The recipe as it runs on this model and these seeds, and the model resolved: token budgets filled in, the model's own
    hidden states in place of an encoder that cannot read the seeds, the trainer's method as memory allows, and what the chat
    template is given made part of the format, which goes wherever prompts are rendered.

    Raises:
        UserError: as `Engine.check`, also of the engines that parts have of their own; or no way to train fits the memory.
    """
    given = {**recipe.template_args, **({"keep_thinking": True} if recipe.keep_thinking else {})}
    recipe = replace(recipe, format=with_template_args(recipe.format, given), template_args={}, keep_thinking=False)
    if (recipe.rounds * recipe.per_round or recipe.eval_retriever is not None) and encoder_blind(recipe.encoder, seeds):
        recipe = replace(recipe, encoder=HiddenState())
    base = recipe.engine.check(ModelRef(model), (*seeds, *held_out), recipe.format)
    for _, engine, other, _ in recipe.own_engines():
        engine.check(base if other == "base" else ModelRef(other), (), recipe.format)
    references = [example for example in held_out if example.response.strip()]
    found = _fitting(recipe, base, seeds)
    recipe = with_method(recipe, base, seeds, found.prompt, found.response)
    return with_budgets(recipe, found, _fitting(recipe, base, references) if references else found), base


def with_budgets(recipe: Recipe, budgets: Budgets, evaluation: Budgets) -> Recipe:
    """The recipe with a number of tokens in every sampling that asks for one from the seeds: that of prompts in the proposer and
    the second turns, that of responses everywhere else.

    Args:
        evaluation: of the held-out references, where there are any: a model is given the same room by a run, by a study and by
            an evaluation without seeds.
    """
    named = {"proposer": budgets.prompt, "second_turns": budgets.prompt}
    named |= dict.fromkeys(("eval_sampling", "evaluators"), evaluation.response)
    slots = {slot.name: getattr(recipe, slot.name) for slot in fields(recipe)}
    return replace(recipe, **{name: _filled(part, named.get(name, budgets.response)) for name, part in slots.items()})


def _filled(part: Any, tokens: int) -> Any:
    if isinstance(part, Sampling):
        return part if part.max_tokens else replace(part, max_tokens=tokens)
    if isinstance(part, tuple):
        return tuple(_filled(each, tokens) for each in part)
    if is_dataclass(part) and not isinstance(part, type):
        inner = {each.name: _filled(getattr(part, each.name), tokens) for each in fields(part) if each.init and each.compare}
        changed = {name: value for name, value in inner.items() if value is not getattr(part, name)}
        return replace(part, **changed) if changed else part
    return part
