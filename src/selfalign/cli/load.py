"""Which recipe a command is about, and which examples: names and files on the command line to functions and pairs."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib.resources import files
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from traceback import extract_tb

from selfalign import recipes
from selfalign.cli.config_file import read_config
from selfalign.cli.options import given
from selfalign.errors import RunFailed, UserError
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
    usage = f"selfalign {command} RECIPE SEEDS --model M --out DIR"
    raise UserError(f"which recipe? `{usage}`; there are {', '.join(recipes.__all__)}")


def load_recipe(name: str) -> Callable[..., Recipe]:
    """The function of that name in `selfalign.recipes`, or a user's own as ./file.py:function."""
    path, colon, function = name.partition(":")
    if colon or path.endswith(".py"):
        return _load_file(Path(path), function)
    if name not in recipes.__all__:
        near = get_close_matches(name, recipes.__all__, 1)
        hint = f"did you mean {near[0]}? There" if near else "there"
        raise UserError(f"no recipe {name!r}; {hint} are {', '.join(recipes.__all__)}, or your own as ./file.py:function")
    made: Callable[..., Recipe] = getattr(recipes, name)
    return made


def recipe_files(name: str) -> tuple[Path, ...]:
    """The file that a recipe of the user's own comes from."""
    path, colon, _ = name.partition(":")
    return (Path(path),) if colon or path.endswith(".py") else ()


def _load_file(path: Path, function: str) -> Callable[..., Recipe]:
    if not path.is_file():
        raise UserError(f"no file {path}; a recipe of your own is named ./file.py:function")
    spec = spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file")
    module = module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses in the file look their own module up
    try:
        spec.loader.exec_module(module)
    except (UserError, RunFailed):
        raise
    except SyntaxError as error:
        file = path if error.filename in (None, spec.origin) else error.filename  # it may be in what the file imports
        where = f"{file}, line {error.lineno}" if error.lineno else str(file)
        raise UserError(f"{where}: {error.msg}: {(error.text or '').strip()}") from error
    except Exception as error:
        lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == spec.origin]
        problem = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"{path}, line {lines[-1] if lines else 1}: {problem}; `python {path}` shows all of it") from error
    made = getattr(module, function or path.stem, None)
    if not callable(made):
        public = [key for key, value in vars(module).items() if inspect.isfunction(value) and value.__module__ == path.stem]
        raise UserError(f"{path} has no function {function or path.stem!r}; its functions: {', '.join(public) or 'none'}")
    return made  # type: ignore[no-any-return]


def _function(name: str) -> str:
    """What a recipe's name stands for; the folder of a user's own file may be given from elsewhere, or have moved."""
    path, colon, function = name.partition(":")
    return f"{Path(path).name}:{function or Path(path).stem}" if colon or path.endswith(".py") else name


def read_examples(seeds: str, held_out: str | None) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Seeds and held-out pairs from files; the name of a bundled domain stands for its two files."""
    return examples_with_notes(seeds, held_out)[:2]


def examples_with_notes(seeds: str, held_out: str | None) -> tuple[tuple[Example, ...], tuple[Example, ...], tuple[str, ...]]:
    """As `read_examples`, and what reading did to the seeds and what stands out in them, a sentence each."""
    bundled = files("selfalign") / "data" / seeds
    if "/" not in seeds and not Path(seeds).exists() and (bundled / "seeds.jsonl").is_file():
        seeds, held_out = str(bundled / "seeds.jsonl"), held_out or str(bundled / "held_out.jsonl")
    examples, notes = read_with_notes(seeds)
    prompts = read_seeds(held_out, response_required=False) if held_out else ()
    return examples, prompts, (*notes, *seed_notes(examples))
