"""`selfalign chat MODEL|DIR [--against OTHER]`: answers in the terminal, of one model or of two side by side."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from selfalign.cli.eval_sides import find_side
from selfalign.cli.list import is_study
from selfalign.cli.load import load_recipe, named_recipe
from selfalign.cli.recipe_help import HELP
from selfalign.cli.run import make_parser, planned
from selfalign.cli.table import shown, stdout_console
from selfalign.errors import Interrupted, UserError, handle_signals
from selfalign.protocols import Session
from selfalign.recipe import Recipe
from selfalign.record.model_rows import place
from selfalign.record.plain import json_line
from selfalign.record.schema import NAME as RECORD
from selfalign.record.store import Store
from selfalign.text import printable
from selfalign.types import ModelRef, Request, Turns, derive_seed, with_template_args

USAGE = """usage: selfalign chat MODEL|DIR [--against OTHER] [--round K] [--system TEXT] [--json] [options of the run]

Each line that you type is a prompt; the answers follow it. `/new` begins a new conversation, Ctrl-D (the end of the input) quits.
Lines may come from a file or a pipe.
MODEL is a folder, a hub name or smollm2-135m. DIR is a run folder: the model of its best round answers, on the run's engine and
decoded as in its evaluation. --engine, --eval_sampling.temperature and other options of `selfalign run` are taken too.
--against OTHER: a second model that answers too, or `base` for the run's base model. Both are loaded at once.
"""
TOKENS = 512
"""Of an answer at most, where --eval_sampling.max_tokens says nothing: our own choice."""
NEW = "/new"


@dataclass
class Speaker:
    """One of the models in a conversation, with what was said to it so far."""

    name: str
    session: Session
    turns: Turns = field(default=())

    def answer(self, recipe: Recipe, prompt: str, system: str) -> str:
        """Raises UserError: a text that the model cannot be given, or no room left in its window."""
        seed = derive_seed(recipe.seed, "chat", len(self.turns))
        request = Request(f"chat-{len(self.turns)}", prompt=prompt, seed=seed, history=self.turns, system=system)
        if (fitted := self.session.fit(request, recipe.eval_sampling.max_tokens)) is None:
            raise UserError(f"the conversation has no room left in the window of {self.name}; {NEW} begins another one")
        text = self.session.generate([fitted], recipe.eval_sampling)[0].text
        self.turns = (*self.turns, (prompt, text))
        return text


def main(arguments: Sequence[str]) -> int:
    if not arguments or any(a in HELP for a in arguments):
        sys.stdout.write(USAGE)
        return 0 if arguments else 2
    rest, own = _own(arguments)
    first, *more = rest
    if first.startswith("-"):
        raise UserError("which model? `selfalign chat MODEL|DIR` comes first, its options behind it")
    if is_study(Path(first)):
        raise UserError(f"{first} is a study; name one of its runs, as {first}/isara/seed-0/round-01/model")
    folder = Path(first) if (Path(first) / RECORD).is_file() else None
    recipe = _recipe(first, folder, more)
    names = [first, *([own["against"]] if own["against"] else [])]
    models = [_model(name, folder, own["round"] if place == 0 else None) for place, name in enumerate(names)]
    models = [recipe.engine.check(model, (), recipe.format) for model in models]
    if len(models) == 2 and models[0] == models[1]:
        raise UserError(f"--against {names[1]}: that is the same model; name another one")
    try:
        with handle_signals(), ExitStack() as stack:
            opened = [stack.enter_context(recipe.engine.open(model, recipe.format)) for model in models]
            _converse([Speaker(*each) for each in zip(names, opened, strict=True)], recipe, own["system"] or "", own["json"])
    except (Interrupted, KeyboardInterrupt) as stop:
        sys.stdout.write("\n")
        return 128 + stop.signal_number if isinstance(stop, Interrupted) else 130
    return 0


def _own(arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The arguments of the recipe, and those of the command itself."""
    found: dict[str, Any] = {"against": None, "round": None, "system": None, "json": False}
    rest, given = [], iter(arguments)
    for argument in given:
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or name not in found:
            rest.append(argument)
        elif name == "json":
            found["json"] = True
        else:
            found[name] = value if equals else next(given, None)
            if found[name] is None:
                raise UserError(f"--{name} needs a value behind it")
    if found["round"] is not None and not found["round"].isdigit():
        raise UserError(f"--round {found['round']}: must be the number of a round")
    return rest or ["-"], found


def _recipe(first: str, folder: Path | None, more: Sequence[str]) -> Recipe:
    """What the models are run with: the run's own options, or those of a plain evaluation."""
    given = ["pretrained", "none", "--model", first, *more]
    if folder is not None:
        if not (settings := folder / "run.yaml").is_file():
            raise UserError(f"{folder} has no run.yaml; name the model itself, as {folder}/round-01/model")
        given = ["--config", str(settings), *more]
    make = load_recipe(named_recipe(given, "run"))
    _, recipe = planned(make, make_parser(make, "run"), given)
    args = {**recipe.template_args, **({"keep_thinking": True} if recipe.keep_thinking else {})}
    sampling = replace(recipe.eval_sampling, max_tokens=recipe.eval_sampling.max_tokens or TOKENS)
    return replace(recipe, format=with_template_args(recipe.format, args), eval_sampling=sampling)


def _model(name: str, folder: Path | None, round: str | None) -> ModelRef:
    """Raises UserError: a run that has no trained model, or not yet, or a damaged one."""
    if name == "base" and folder is not None:
        with Store.read(folder) as store:
            return ModelRef(str(place(store.model(0))))
    side = find_side(name, None if round is None else int(round))
    if (Path(name) / RECORD).is_file() and round is None and not side.trained_on:
        with Store.read(name) as store:
            base = store.model(0).base
        raise UserError(f"{name} has no trained model: its best one is the base model; `selfalign chat {base}` talks to that")
    return ModelRef(side.model)


def _prompts() -> Iterator[str]:
    """Line by line, with a mark to write behind where a person sits there."""
    if sys.stdin.isatty():
        with suppress(ImportError):  # not on every system
            import readline  # noqa: F401  # the cursor keys of `input`
        sys.stdout.write(f"a line is a prompt, {NEW} begins a new conversation, Ctrl-D ends\n")
    while True:
        try:
            line = input("> ") if sys.stdin.isatty() else sys.stdin.readline()
        except EOFError:
            sys.stdout.write("\n")
            return
        if not line and not sys.stdin.isatty():
            return
        if line.strip():
            yield line.strip()


def _converse(speakers: Sequence[Speaker], recipe: Recipe, system: str, as_json: bool) -> None:
    for prompt in _prompts():
        if prompt == NEW:
            for speaker in speakers:
                speaker.turns = ()
            continue
        before = [speaker.turns for speaker in speakers]
        try:
            said = [(speaker.name, speaker.answer(recipe, prompt, system)) for speaker in speakers]
        except UserError as error:
            for speaker, turns in zip(speakers, before, strict=True):
                speaker.turns = turns
            sys.stderr.write(printable(f"selfalign: {error}") + "\n")
            continue
        if as_json:
            sys.stdout.write(json_line({"prompt": prompt, "answers": dict(said)}))
        else:
            _print(prompt, said)
        sys.stdout.flush()


def _print(prompt: str, said: Sequence[tuple[str, str]]) -> None:
    """Side by side on a terminal; below each other where the lines go elsewhere, each with its model's name."""
    if not sys.stdout.isatty():
        lines = [f"> {prompt}", *(f"{name}: {answer}" for name, answer in said)]
        sys.stdout.write(printable("\n".join(lines)) + "\n\n")
    elif len(said) == 1:
        sys.stdout.write(printable(said[0][1]) + "\n\n")
    else:
        table = Table(expand=True)
        for name, _ in said:
            table.add_column(shown(name), ratio=1, overflow="fold")
        table.add_row(*(shown(answer) for _, answer in said))
        stdout_console().print(table)
