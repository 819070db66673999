"""Options that any recipe has for prompts from a file: `--prompts` feeds what it generates, `--replay` what it trains on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from jsonargparse import ArgumentParser

from selfalign.errors import UserError
from selfalign.recipe import Recipe
from selfalign.seeds.read import read_prompts

PROMPT_OPTIONS = {
    "prompts": (
        str,
        None,
        "file or data set of prompts, in any form that seeds have, to be answered instead of new ones or beside them; responses"
        " in it are ignored",
    ),
    "prompts_share": (float, 1.0, "of a round's candidates, how many have a prompt of --prompts; the model writes the rest"),
    "replay": (int, 0, "general prompts whose answers by the base model are trained on too, in every round; against forgetting"),
    "replay_prompts": (str, None, "file of prompts for --replay, in place of the 157 that come with selfalign"),
}


def add_prompt_options(parser: ArgumentParser, skip: Collection[str]) -> None:
    for name, (kind, default, text) in PROMPT_OPTIONS.items():
        if name not in skip:
            parser.add_argument(f"--{name}", type=kind, default=default, help=text)


def with_prompt_options(recipe: Recipe, options: Mapping[str, Any]) -> Recipe:
    """
    Args:
        options: by name, those of them that the command has.

    Raises:
        UserError: an option that would change nothing, or a recipe that has no use for such prompts.
        SeedError: a file that cannot be read.
    """
    if (count := options.get("replay", 0)) or options.get("replay_prompts"):
        if not count:
            raise UserError("--replay_prompts changes nothing without --replay N: give that, or take it out")
        recipe = recipe.with_replay(count, *(read_prompts(own) if (own := options.get("replay_prompts")) else ()))
    prompts, share = options.get("prompts"), options.get("prompts_share", 1.0)
    if share != 1.0 and prompts is None:
        raise UserError("--prompts_share changes nothing without --prompts FILE: give that, or take it out")
    if prompts is None:
        return recipe
    recipe.with_prompts((), share)  # a recipe that takes none says so before the file is read
    examples, notes = read_prompts(prompts)
    return recipe.with_prompts(examples, share, notes)
