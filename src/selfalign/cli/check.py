"""`selfalign check RECIPE SEEDS --model M`: everything that can be known before a model generates."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from selfalign.cli.load import examples_with_notes, load_recipe, named_recipe
from selfalign.cli.recipe_help import print_help, print_usage
from selfalign.cli.run import make_parser, planned
from selfalign.errors import UserError
from selfalign.recipe import Recipe
from selfalign.record.plain import escaped
from selfalign.text import printable
from selfalign.types import Example


class Asked(NamedTuple):
    """What a command that writes no run folder is asked about."""

    options: Any
    recipe: Recipe
    seeds: tuple[Example, ...]
    held_out: tuple[Example, ...]
    notes: tuple[str, ...]


def main(arguments: Sequence[str]) -> int:
    from selfalign.loop.checkup import checkup, checkup_text

    if (asked := read(arguments, "check")) is None:
        return 0
    options, recipe, seeds, held_out, notes = asked
    found = checkup(recipe, options.model, seeds, held_out)
    if options.json:
        print_json({**found, "notes": notes})
    else:
        sys.stdout.write(printable(checkup_text(found, notes)))
    return 1 if found["stops"] else 0


def read(arguments: Sequence[str], command: str) -> Asked | None:
    """Recipe and examples as a run takes them; None where help was asked for, and is printed.

    Raises:
        UserError: as a run raises it for wrong options and files.
    """
    from selfalign.tracking.trackers import check_trackers

    if print_usage(command, arguments):
        return None
    make = load_recipe(named_recipe(arguments, command))
    parser = make_parser(make, command)
    if print_help(parser, make, arguments):
        return None
    options, recipe = planned(make, parser, arguments)
    check_trackers(options.report_to)
    seeds, held_out, notes = examples_with_notes(options.seeds, options.held_out)
    if options.model is None:
        raise UserError("which model? give --model with a local folder, a hub name, or smollm2-135m for the bundled one")
    return Asked(options, recipe, seeds, held_out, notes)


def print_json(found: dict[str, Any]) -> None:
    sys.stdout.write(escaped(json.dumps(found, indent=1, ensure_ascii=False)) + "\n")
