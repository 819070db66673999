"""`selfalign check RECIPE SEEDS --model M`: everything that can be known before a model generates."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from selfalign.cli.load import load_recipe, named_recipe, read_examples
from selfalign.cli.recipe_help import print_help
from selfalign.cli.run import make_parser, planned
from selfalign.errors import UserError
from selfalign.text import counted
from selfalign.types import ModelRef


def main(arguments: Sequence[str]) -> int:
    from selfalign.loop.preflight import check_brought, check_examples, fewer_than_asked, seeds_needed, split_seeds
    from selfalign.proof.stats import too_few
    from selfalign.tracking.trackers import check_trackers

    make = load_recipe(named_recipe(arguments, "check"))
    parser = make_parser(make, "check")
    if print_help(parser, make, arguments):
        return 0
    options, recipe = planned(make, parser, arguments)
    recipe.check()
    recipe.identity()  # evaluators with a file or a model of their own tell here what is wrong with it
    check_trackers(options.report_to)
    seeds, held_out = read_examples(options.seeds, options.held_out)
    check_examples(seeds, held_out, recipe.allow_overlap, seeds_needed(recipe))
    shown, validation = split_seeds(seeds, recipe.validation_share, recipe.seed)
    check_brought(recipe, shown)
    if options.model is None:
        raise UserError("which model? give --model with a local folder, a hub name, or smollm2-135m for the bundled one")
    model = recipe.engine.check(ModelRef(options.model), (*seeds, *held_out), recipe.format)
    few = too_few(len(validation), "validation seeds") if validation else ""
    extended = recipe.second_turns.share
    warning = f"warning: {fewer}\n" if (fewer := fewer_than_asked(recipe, shown)) else ""
    untrained = "" if recipe.trains or not recipe.rounds else "trained: nothing, each round goes on with the model as it came\n"
    categories = sorted({seed.category for seed in seeds if seed.category})
    sys.stdout.write(
        f"seeds: {len(seeds)} ({len(shown)} to show and train on, {len(validation)} for validation{few and f': {few}'})"
        f"{', categories: ' + ', '.join(categories) if categories else ''}\n"
        f"held out: {len(held_out)}\n"
        f"model: {model.base}{' with adapter ' + model.adapter if model.adapter else ''}\n"
        f"generated at most: {counted(recipe.rounds, 'round')} of {counted(recipe.per_round, 'candidate')}"
        f"{f', and second turns of {extended:.0%} of those kept' if extended else ''}\n"
        f"{untrained}"
        f"{warning}"
        "preflight passed: everything that can be known before a model runs is in order\n"
    )
    return 0
