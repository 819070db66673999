"""`selfalign check RECIPE SEEDS --model M [--probe]`: everything that can be known before a model generates, and what a probe of
it tells of the time that a run takes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from selfalign.cli.run import Asked, read
from selfalign.cli.table import print_json
from selfalign.text import printable


def main(arguments: Sequence[str]) -> int:
    from selfalign.loop.checkup import checkup, checkup_text
    from selfalign.loop.preflight import said_once
    from selfalign.loop.probe import probe, probe_lines

    if (asked := read(arguments, "check")) is None:
        return 0
    options, notes = asked.options, asked.notes
    with said_once():
        found = checkup(asked.recipe, options.model, asked.seeds, asked.held_out)
        if not options.json:
            sys.stdout.write(printable(checkup_text(found, notes)))
            sys.stdout.flush()
        probed = tried(asked, probe, "probe") if options.probe and not found["stops"] else None
    if options.json:
        print_json({**found, "notes": notes, **({"probe": probed} if options.probe else {})})
    elif probed:
        sys.stdout.write(printable("".join(f"{line}\n" for line in probe_lines(probed))))
    return 1 if found["stops"] else 0


def tried(asked: Asked, what: Callable[..., dict[str, Any]], name: str) -> dict[str, Any]:
    """What `what` (`probe`, `preview`) finds in a folder that is gone afterwards."""
    from selfalign.errors import handle_signals
    from selfalign.loop.progress import Quiet, on_screen

    with (
        handle_signals(),
        TemporaryDirectory(prefix=f"selfalign-{name}-") as folder,
        nullcontext(Quiet()) if asked.options.quiet else on_screen() as progress,
    ):
        return what(asked.recipe, asked.options.model, asked.seeds, asked.held_out, Path(folder), progress)
