"""`selfalign check RECIPE SEEDS --model M`: everything that can be known before a model generates."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from selfalign.cli.load import examples_with_notes, load_recipe, named_recipe
from selfalign.cli.recipe_help import print_help
from selfalign.cli.run import make_parser, planned
from selfalign.errors import UserError
from selfalign.record.plain import escaped
from selfalign.text import printable


def main(arguments: Sequence[str]) -> int:
    from selfalign.loop.checkup import checkup, checkup_text
    from selfalign.tracking.trackers import check_trackers

    make = load_recipe(named_recipe(arguments, "check"))
    parser = make_parser(make, "check")
    if print_help(parser, make, arguments):
        return 0
    options, recipe = planned(make, parser, arguments)
    check_trackers(options.report_to)
    seeds, held_out, notes = examples_with_notes(options.seeds, options.held_out)
    if options.model is None:
        raise UserError("which model? give --model with a local folder, a hub name, or smollm2-135m for the bundled one")
    found = checkup(recipe, options.model, seeds, held_out)
    if options.json:
        sys.stdout.write(escaped(json.dumps({**found, "notes": notes}, indent=1, ensure_ascii=False)) + "\n")
    else:
        sys.stdout.write(printable(checkup_text(found, notes)))
    return 1 if found["stops"] else 0
