"""Which recipe a command is about, and which examples: names and files on the command line to functions and pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path

from selfalign import recipes
from selfalign.cli.config_file import read_config
from selfalign.cli.options import given, out_of
from selfalign.errors import UserError
from selfalign.expect.own_file import load_function
from selfalign.recipe import Recipe
from selfalign.seeds.notes import seed_notes
from selfalign.seeds.read import read_seeds, read_with_notes
from selfalign.types import Example


def named_recipe(arguments: Sequence[str], command: str) -> str:
    """The recipe decides which options there are, so it must be known before the options are parsed.

    Raises:
        UserError: none is named, or a file of options is of another one: what fits of them would mean something else.
    """
    if arguments and not arguments[0].startswith("-"):
        name, other = arguments[0], given(arguments, "recipe")
        if isinstance(other, str) and _function(other) != _function(name):
            raise UserError(f"the file of --config is of the recipe {other}, not {name}: give one of {name}, or run {other}")
        return name
    for position, argument in enumerate(arguments):
        if argument == "--config" or argument.startswith("--config="):
            path = argument.partition("=")[2] or "".join(arguments[position + 1 : position + 2])
            found = read_config(path)
            if not isinstance(found.get("recipe"), str):
                raise UserError(f"{path}: names no recipe; add a line such as `recipe: isara`")
            return str(found["recipe"])
    usage = f"selfalign {command} RECIPE SEEDS --model M{out_of(command)}"
    raise UserError(f"which recipe? `{usage}`; there are {', '.join(recipes.__all__)}")


def load_recipe(name: str) -> Callable[..., Recipe]:
    """The function of that name in `selfalign.recipes`, or a user's own as ./file.py:function."""
    path, colon, function = name.partition(":")
    if colon or path.endswith(".py"):
        return load_function(Path(path), function, "a recipe of your own is named ./file.py:function")
    if name not in recipes.__all__:
        if Path(name).is_file() or _bundled(name):
            raise UserError(f"{name!r} is no recipe but looks like seeds: name a recipe before them, such as `isara {name}`")
        near = get_close_matches(name, recipes.__all__, 1)
        hint = f"did you mean {near[0]}? There" if near else "there"
        raise UserError(f"no recipe {name!r}; {hint} are {', '.join(recipes.__all__)}, or your own as ./file.py:function")
    made: Callable[..., Recipe] = getattr(recipes, name)
    return made


def recipe_files(name: str) -> tuple[Path, ...]:
    """The file that a recipe of the user's own comes from."""
    path, colon, _ = name.partition(":")
    return (Path(path),) if colon or path.endswith(".py") else ()


def _function(name: str) -> str:
    """What a recipe's name stands for; the folder of a user's own file may be given from elsewhere, or have moved."""
    path, colon, function = name.partition(":")
    return f"{Path(path).name}:{function or Path(path).stem}" if colon or path.endswith(".py") else name


def read_examples(seeds: str, held_out: str | None) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Seeds and held-out pairs from files; the name of a bundled domain stands for its two files."""
    return examples_with_notes(seeds, held_out)[:2]


def examples_with_notes(seeds: str, held_out: str | None) -> tuple[tuple[Example, ...], tuple[Example, ...], tuple[str, ...]]:
    """As `read_examples`, and what reading did to the seeds and what stands out in them, a sentence each."""
    if bundled := _bundled(seeds):
        seeds, held_out = f"{bundled}/seeds.jsonl", held_out or seeds
    examples, notes = read_with_notes(seeds)
    prompts, more = read_with_notes(_held_out_file(held_out), response_required=False) if held_out else ((), ())
    return examples, prompts, (*notes, *(f"held out: {note}" for note in more), *seed_notes(examples))


def read_held_out(name: str) -> tuple[Example, ...]:
    """Prompts of a file, or those of a bundled domain."""
    return read_seeds(_held_out_file(name), response_required=False)


def _held_out_file(name: str) -> str:
    bundled = _bundled(name)
    return f"{bundled}/held_out.jsonl" if bundled else name


def _bundled(name: str) -> str:
    """The folder of a bundled domain; "" if no domain, or a file, has this name."""
    folder = files("selfalign") / "data" / name
    return str(folder) if "/" not in name and not Path(name).exists() and (folder / "seeds.jsonl").is_file() else ""
