"""`selfalign extend DIR MORE [--rounds N]`: more seeds for the coming rounds of a run."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from selfalign.cli.list import is_study
from selfalign.cli.load import recipe_files
from selfalign.cli.recipe_help import HELP
from selfalign.cli.run import execute, read
from selfalign.cli.table import print_json
from selfalign.errors import UserError
from selfalign.record.store import Store
from selfalign.seeds.notes import seed_notes
from selfalign.seeds.read import read_with_notes
from selfalign.text import counted, printable

USAGE = """usage: selfalign extend DIR MORE [--rounds N] [--json] [options of the run]

Adds the pairs in the file MORE to the seeds of the run in DIR, from its next round on. What the run has made stays, and so do its
validation seeds. With --rounds the run goes on at once, up to round N; else `selfalign run --config DIR/run.yaml` goes on.
The options come from DIR/run.yaml. Give one only if it has changed, such as --held_out FILE if that file has moved.
"""


def main(arguments: Sequence[str]) -> int:
    if any(a in HELP for a in arguments):
        sys.stdout.write(USAGE)
        return 0
    folder, more = [*arguments, "", ""][:2]
    rest = arguments[2:]
    if any(not each or each.startswith("-") for each in (folder, more)):
        raise UserError("which run, and which file of new pairs? `selfalign extend DIR more.jsonl --rounds 4`")
    from selfalign.loop.extend import extend

    settings = settings_of(Path(folder), "whose arms must have the same seeds; start another study with more")
    if (asked := read(["--config", str(settings), "--out", folder, *rest], "run")) is None:
        return 0
    options, seeds = asked.options, asked.seeds
    new, notes = read_with_notes(more)
    found = extend(asked.recipe, options.model, seeds, asked.held_out, folder, new, recipe_files(options.recipe))
    before = {*seed_notes(seeds)}
    notes = (*notes, *found.notes, *(note for note in seed_notes((*seeds, *new)) if note not in before))
    goes_on = not found.waits and any(each.partition("=")[0] == "--rounds" for each in rest)
    if options.json and not goes_on:
        about = {"validation": found.validation, "notes": list(notes)}
        print_json({"round": found.round, "ids": list(found.ids), "shown": found.shown, **about})
        return 0
    then = f"{found.shown} are shown and trained on then, {found.validation} validate as before"
    lines = [f"{counted(len(found.ids), 'seed')} joined {folder} for round {found.round} on: {then}"]
    lines += [f"note: {note}" for note in notes]
    (sys.stderr if options.json else sys.stdout).write(printable("\n".join(lines)) + "\n")
    if goes_on:
        return execute(asked)
    wanted = f" --rounds {found.round}" if found.waits else ""
    there = f"--config {shlex.quote(str(settings))} --out {shlex.quote(folder)}"
    sys.stdout.write(printable(f"go on with: selfalign run {there}{wanted}") + "\n")
    return 0


def settings_of(folder: Path, study: str) -> Path:
    """The run's options; `study` is what to say of a study's folder.

    Raises:
        UserError: there is no run, or one that was not started from the command line.
    """
    if is_study(folder):
        raise UserError(f"{folder} is the folder of a study, {study}")
    Store.read(folder).close()
    if not (settings := folder / "run.yaml").is_file():
        raise UserError(f"{folder} has no run.yaml: it was not started by `selfalign run`")
    return settings
