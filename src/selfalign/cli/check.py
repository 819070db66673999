"""`selfalign check RECIPE SEEDS --model M [--probe]`: everything that can be known before a model generates, and what a probe of
it tells of the time that a run takes."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
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
    from selfalign.loop.preflight import said_once
    from selfalign.loop.probe import probe_lines

    if (asked := read(arguments, "check")) is None:
        return 0
    options, recipe, seeds, held_out, notes = asked
    with said_once():
        found = checkup(recipe, options.model, seeds, held_out)
        if not options.json:
            sys.stdout.write(printable(checkup_text(found, notes)))
            sys.stdout.flush()
        probed = _probed(asked) if options.probe and not found["stops"] else None
    if options.json:
        print_json({**found, "notes": notes, **({"probe": probed} if options.probe else {})})
    elif probed:
        sys.stdout.write(printable("".join(f"{line}\n" for line in probe_lines(probed))))
    return 1 if found["stops"] else 0


def _probed(asked: Asked) -> dict[str, Any]:
    from selfalign.errors import handle_signals
    from selfalign.loop.probe import probe
    from selfalign.loop.progress import Quiet, on_screen

    with (
        handle_signals(),
        TemporaryDirectory(prefix="selfalign-probe-") as folder,
        nullcontext(Quiet()) if asked.options.quiet else on_screen() as progress,
    ):
        return probe(asked.recipe, asked.options.model, asked.seeds, asked.held_out, Path(folder), progress)


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
