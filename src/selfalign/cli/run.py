"""`selfalign run RECIPE SEEDS --model M --out DIR`: the recipe function's keyword arguments are the options."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.resources import files
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from traceback import extract_tb
from typing import Any, get_args, get_type_hints

import yaml
from jsonargparse import ArgumentParser, set_parsing_settings

from selfalign.cli.engine import Planned, offer_auto, settle_engine
from selfalign.cli.options import explain_part, given, new_parser, option_names, parse
from selfalign.errors import RunFailed, UserError
from selfalign.recipe import Recipe, extended_by, shown_in
from selfalign.recipes.measured import measured_by
from selfalign.seeds.read import read_seeds
from selfalign.types import Example

FOR_ALL: tuple[Callable[..., Recipe], ...] = (shown_in, extended_by, measured_by)
"""What has options for every recipe, a user's own included, unless it has one of that name itself."""

USAGE = """usage: selfalign run RECIPE SEEDS --model M --out DIR [options]
       selfalign run --config DIR/run.yaml

RECIPE is one of {recipes}, or your own: ./mine.py:function
`selfalign run RECIPE --help` lists its options.
"""


def main(arguments: Sequence[str]) -> int:
    if any(a in ("-h", "--help") for a in arguments[:1]):
        sys.stdout.write(USAGE.format(recipes=", ".join(recipe_names())))
        return 0
    make = load_recipe(named_recipe(arguments, "run"))
    parser = make_parser(make, "run")
    options = parse(parser, with_engine(make, parser, arguments), part_options(make))
    recipe = build(make, parser, options)
    seeds, held_out = read_examples(options.seeds, options.held_out)
    if options.out is None:
        raise UserError("which folder shall the run live in? give --out DIR")
    if options.model is None:
        raise UserError("which model? give --model with a local folder, a hub name, or smollm2-135m for the bundled one")
    return _run(recipe, seeds, held_out, options, parser)


def _run(recipe: Recipe, seeds: Sequence[Example], held_out: Sequence[Example], options: Any, parser: ArgumentParser) -> int:
    from selfalign.cli.progress import Bars
    from selfalign.cli.table import print_status
    from selfalign.errors import handle_signals
    from selfalign.loop.align import align
    from selfalign.record.status import status, warnings
    from selfalign.record.store import Store
    from selfalign.tracking.figures import reporting
    from selfalign.tracking.trackers import check_trackers

    trackers = check_trackers(options.report_to)
    with (
        handle_signals(),
        nullcontext() if options.quiet else Bars() as bars,
        reporting(options.out, trackers, bars) as progress,
    ):
        yaml_text = resolved(parser, options)
        align(recipe, options.model, seeds, options.out, held_out=held_out, options=yaml_text, progress=progress)
    with Store.read(options.out) as store:
        result, told = status(store), warnings(store)
    if options.json:
        sys.stdout.write(json.dumps(result, indent=1) + "\n")
    else:
        print_status(result, warnings=told)
    return 0


def make_parser(make: Callable[..., Recipe], command: str) -> ArgumentParser:
    """Options are written once: in the signature and the docstring of the recipe function."""
    summary = (inspect.getdoc(make) or "").split("\n\n")[0]
    parser = new_parser(command, summary)
    # The parser's own would name 130 options before it says what the command does.
    parser.usage = f"selfalign {command} RECIPE SEEDS --model M{'' if command == 'check' else ' --out DIR'} [options]"
    parser.add_argument("recipe", type=str, help="name of a recipe, or ./file.py:function")
    parser.add_argument("seeds", type=str, help="JSONL, JSON, CSV or Parquet file of pairs, or safe_helpful (bundled)")
    parser.add_argument("--model", type=str, help="local folder, hub name, or smollm2-135m for the bundled model")
    parser.add_argument("--out", type=str, help="the run folder; the same command on it goes on where it stopped")
    parser.add_argument("--held_out", type=str, help="file of held-out pairs for the metrics; bundled seeds bring their own")
    parser.add_argument("--report_to", type=str, help="send metrics to tensorboard, trackio, mlflow, wandb (commas between)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.add_argument("--json", action="store_true", help="print the final status as JSON instead of tables")
    parser.add_argument("--config", action="config", help="YAML file of options; options on the command line win")
    # A slot with a choice of parts is told by class name; dataclasses alone would be told apart by their fields.
    set_parsing_settings(subclasses_enabled=[part for parts in choices(make).values() for part in parts])
    known = ("recipe", "seeds", *option_names(parser))
    if taken := [name for name in inspect.signature(make).parameters if name in known]:
        raise UserError(
            f"recipe {make.__name__}: its parameter {taken[0]} is an option of `selfalign {command}` itself; rename it"
        )
    parser.add_function_arguments(make, as_positional=False)
    for change in FOR_ALL:
        parser.add_function_arguments(change, as_positional=False, skip={"recipe", *inspect.signature(make).parameters})
    offer_auto(parser, choices(make).get("engine", ()))
    return parser


def with_engine(make: Callable[..., Recipe], parser: ArgumentParser, arguments: Sequence[str]) -> Sequence[str]:
    """The arguments of a single run with an engine by name in place of `--engine auto`."""

    def plan(plain: Sequence[str]) -> Planned:
        options = parse(parser, plain, part_options(make))
        return Planned([build(make, parser, options)], [options.model], Path(options.out) if options.out else None)

    return settle_engine(arguments, choices(make).get("engine", ()), plan)


def build(make: Callable[..., Recipe], parser: ArgumentParser, options: Any) -> Recipe:
    """The recipe with its options, extended and measured by what is asked for.

    Raises:
        UserError: an option of a part that is out of its range, or a function that gives no recipe.
    """
    own = recipe_values(make, parser, options)
    with _told():
        recipe = make(**own)
        if not isinstance(recipe, Recipe):
            raise UserError(f"{make.__name__} gives {type(recipe).__name__} and no Recipe; return one from it")
        for change in FOR_ALL:
            others = recipe_values(change, parser, options)
            recipe = change(recipe, **{name: value for name, value in others.items() if name not in {"recipe", *own}})
        return recipe


def recipe_values(make: Callable[..., Recipe], parser: ArgumentParser, options: Any) -> dict[str, Any]:
    """The arguments of a recipe function that are options, parts made.

    Raises:
        UserError: an option of a part that is out of its range.
    """
    with _told():
        made = parser.instantiate(options)
    return {name: made[name] for name in inspect.signature(make).parameters if name in made}


@contextmanager
def _told() -> Iterator[None]:
    """What the parts raise about their own options, also about those that a recipe gives them, as the user's error."""
    try:
        yield
    except ValueError as error:
        raise UserError(explain_part(str(error))) from error


def choices(make: Callable[..., Recipe]) -> dict[str, list[type]]:
    """The slots a user fills by naming a class, with the classes to choose from."""
    hints = {name: get_args(hint) for name, hint in get_type_hints(make).items()}
    found = {name: [part for part in parts if isinstance(part, type) and is_dataclass(part)] for name, parts in hints.items()}
    return {name: parts for name, parts in found.items() if parts}


def part_options(make: Callable[..., Recipe]) -> list[str]:
    return [f"{name}.{field.name}" for name, parts in choices(make).items() for part in parts for field in fields(part)]


def resolved(parser: ArgumentParser, options: Any) -> str:
    """Every option as YAML, in a form that `--config` reads back."""
    plain = {key: value for key, value in yaml.safe_load(parser.dump(options)).items() if key not in ("config", "quiet", "json")}
    text: str = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    return text


def recipe_names() -> list[str]:
    folder = files("selfalign") / "recipes"
    return sorted(f.name.removesuffix(".py") for f in folder.iterdir() if f.name.endswith(".py") and not f.name.startswith("_"))


def _function(name: str) -> str:
    """What a recipe's name stands for; the folder of a user's own file may be told from elsewhere, or have moved."""
    path, colon, function = name.partition(":")
    return f"{Path(path).name}:{function or Path(path).stem}" if colon or path.endswith(".py") else name


def load_recipe(name: str) -> Callable[..., Recipe]:
    """The function `name` in the file `recipes/name.py`, or a user's own as ./file.py:function."""
    path, colon, function = name.partition(":")
    if colon or path.endswith(".py"):
        return _load_file(Path(path), function)
    if name not in recipe_names():
        near = get_close_matches(name, recipe_names(), 1)
        hint = f"did you mean {near[0]}? There" if near else "there"
        raise UserError(f"no recipe {name!r}; {hint} are {', '.join(recipe_names())}, or your own as ./file.py:function")
    made: Callable[..., Recipe] = getattr(import_module(f"selfalign.recipes.{name}"), name)
    return made


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
        told = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"{path}, line {lines[-1] if lines else 1}: {told}; `python {path}` shows all of it") from error
    made = getattr(module, function or path.stem, None)
    if not callable(made):
        public = [key for key, value in vars(module).items() if inspect.isfunction(value) and value.__module__ == path.stem]
        raise UserError(f"{path} has no function {function or path.stem!r}; its functions: {', '.join(public) or 'none'}")
    return made  # type: ignore[no-any-return]


def read_examples(seeds: str, held_out: str | None) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Seeds and held-out pairs from files; the name of a bundled domain stands for its two files."""
    bundled = files("selfalign") / "data" / seeds
    if "/" not in seeds and not Path(seeds).exists() and (bundled / "seeds.jsonl").is_file():
        seeds, held_out = str(bundled / "seeds.jsonl"), held_out or str(bundled / "held_out.jsonl")
    return read_seeds(seeds), read_seeds(held_out, response_required=False) if held_out else ()


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
            path = Path(argument.partition("=")[2] or "".join(arguments[position + 1 : position + 2]))
            try:
                found = yaml.safe_load(path.read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
                raise UserError(f"cannot read the options file {path}: {' '.join(str(error).split())}") from None
            if not isinstance(found, dict) or not isinstance(found.get("recipe"), str):
                raise UserError(f"{path}: names no recipe; add a line such as `recipe: isara`")
            return str(found["recipe"])
    usage = f"selfalign {command} RECIPE SEEDS --model M --out DIR"
    raise UserError(f"which recipe? `{usage}`; there are {', '.join(recipe_names())}")
