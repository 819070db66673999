"""Help that fits a screen or two: `--help` has a recipe's common options in groups, `--help-all` every option there is."""

from __future__ import annotations

import re
import sys
import textwrap
from argparse import SUPPRESS
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, fields, is_dataclass
from inspect import getdoc, signature
from typing import Any, get_args, get_type_hints

from jsonargparse import ArgumentParser, Namespace

from selfalign import recipes
from selfalign.cli.options import given, out_of
from selfalign.cli.recipe_options import ENGINES, PROMPTS, choices, common, default_recipe, field_texts, writes_prompts
from selfalign.errors import UserError
from selfalign.protocols import Engine
from selfalign.recipe import Recipe
from selfalign.recipes.evaluations import measured_by
from selfalign.types import Sampling

HELP, HELP_ALL = ("-h", "--help"), "--help-all"
USAGE = """usage: selfalign {command} RECIPE SEEDS --model M{out} [options]
       selfalign {command} --config DIR/run.yaml

RECIPE is one of {recipes}, or your own: ./mine.py:function
`selfalign {command} RECIPE --help` lists its common options, `--help-all` all of them.
"""
WIDTH = 100
PARTS = "Parts, each with options of its own"
GROUPS = {
    "Data and model": ("model", "out", "held_out", "prompts", "expect"),
    "Loop": ("rounds", "per_round", "start_from", "min_yield", "validation_share", "without"),
    PARTS: ("engine", "encoder", "trainer", "sampling", "eval_sampling"),
    "Check": ("probe",),
    "Study": ("baselines", "repeats", "metric", "vary", "parallel", "address"),
    "Run": ("format", "seed", "report_to", "config"),
}
"""The common options, by group; a recipe's own method options stand in a group before the loop's."""


def print_usage(command: str, arguments: Sequence[str]) -> bool:
    """Prints how a command on a recipe is called, where it is asked for help before a recipe is named."""
    if not arguments or arguments[0] not in (*HELP, HELP_ALL):
        return False
    sys.stdout.write(USAGE.format(command=command, out=out_of(command), recipes=", ".join(recipes.__all__)))
    return True


def print_help(parser: ArgumentParser, make: Callable[..., Any], arguments: Sequence[str]) -> bool:
    """Prints the help that the arguments ask for; False where they ask for none."""
    if asked := [place for place, argument in enumerate(arguments) if re.fullmatch(r"--\w[\w.]*\.help(=.*)?", argument)]:
        named = arguments[asked[0] + 1 : asked[0] + 2]
        slot, _, kind = arguments[asked[0]][2:].partition("=")
        kind = kind or "".join(each for each in named if not each.startswith("-"))
        sys.stdout.write(part_help(make, slot.removesuffix(".help"), kind or given(arguments, slot.removesuffix(".help"))))
    elif HELP_ALL in arguments:
        sys.stdout.write(parser.format_help())
    elif any(argument in HELP for argument in arguments):
        sys.stdout.write(short_help(parser, tuple(signature(make).parameters)))
    else:
        return False
    return True


def part_help(make: Callable[..., Any], slot: str, kind: object) -> str:
    """What a part takes, with what its class says of it.

    Args:
        slot: its option: trainer, trainer.loss, sampling, prompt_filters.length …
        kind: the class asked about, by its name; None or "" for the recipe's own.

    Raises:
        UserError: there is no such part, or no such class for it.
    """
    part, classes = _part(make, slot)
    wanted = str(kind or "").rpartition(".")[2] or (next(iter(classes)) if part is None else type(part).__name__)
    if wanted not in classes:
        raise UserError(f"--{slot}.help: no part named {wanted}; there are {', '.join(classes)}")
    chosen, given = classes[wanted], part if type(part).__name__ == wanted else None
    texts, lines = field_texts(chosen), [wanted, *textwrap.wrap(" ".join((getdoc(chosen) or "").split()), WIDTH), ""]
    for field in fields(chosen):
        default = field.default if given is None else getattr(given, field.name)
        head = f"  --{slot}.{field.name}" + ("" if default in (MISSING, None) or is_dataclass(default) else f" {default}")
        text = texts.get(field.name, "")
        lines += textwrap.wrap(text, WIDTH, initial_indent=f"{head:<28}  ", subsequent_indent=" " * 30) or [head]
    if others := [each for each in classes if each != wanted]:
        lines += ["", f"Another class: --{slot}.help {' or '.join(others)}"]
    return "\n".join(lines) + "\n"


def _part(make: Callable[..., Any], slot: str) -> tuple[Any, dict[str, type]]:
    """The recipe's own part of that name (None: it has none), and the classes that there are for it."""
    recipe, there = default_recipe(make), choices(make)
    known = {name: each.default for part in (measured_by, make) for name, each in signature(part).parameters.items()}
    known |= {name: getattr(recipe, name) for name in (*there, *common(recipe)) if hasattr(recipe, name)}
    known |= dict(recipe.named_filters()) | (
        {PROMPTS: getattr(recipe.proposer, "sampling", None)} if writes_prompts(recipe) else {}
    )
    name, _, option = slot.partition(".")
    part, classes = known.get(slot), there.get(slot, [])
    if slot not in known and is_dataclass(known.get(name)):
        part, classes = getattr(known[name], option, None), _classes(type(known[name]), option)
        if part is None and Sampling in classes:  # nothing of its own
            part = recipe.eval_sampling
    if not is_dataclass(part) and not classes:
        parts = [each for each, value in known.items() if is_dataclass(value)]
        raise UserError(f"--{slot}.help: no part is called so; there are {', '.join(parts)}")
    part = part if is_dataclass(part) else None
    return part, {each.__name__: each for each in (*classes, *(() if part is None else (type(part),)))}


def _classes(part: type, option: str) -> list[type]:
    """Those that an option of a part may be; of one that may be any engine all that there are."""
    hint = get_type_hints(part).get(option)
    kinds = get_args(hint) or (hint,)
    return ENGINES if Engine in kinds else [each for each in kinds if isinstance(each, type) and is_dataclass(each)]


def short_help(parser: ArgumentParser, method: tuple[str, ...]) -> str:
    """`method` are the options of the recipe function itself."""
    actions = {action.dest: action for action in parser._actions if action.option_strings and action.help != SUPPRESS}
    # An option that is a group of options has its text in the group's title.
    titled = {group._group_actions[0].dest: group.title for group in parser._action_groups[2:] if group._group_actions}
    groups = {name for name, action in actions.items() if type(action).__name__ == "_ActionConfigLoad"}
    texts = {name: text or "" for name, text in titled.items() if name in groups} | field_texts(Recipe)
    lines = [f"usage: {parser.usage}", "", *textwrap.wrap(parser.description or "", WIDTH)]
    for title, names in {"Method": method, **GROUPS}.items():
        if there := [actions[name] for name in names if name in actions]:
            lines += ["", f"{title}:"]
            for action in there:
                lines += _entry(action, texts.get(action.dest) or action.help or "")
    command = (parser.usage or "").partition("[options]")[0].rpartition(" RECIPE")[0]
    lines += ["", f"All {len(actions)} options, those of parts and filters among them: {command} RECIPE {HELP_ALL}"]
    parts = [f"--{name}.help" for name in GROUPS[PARTS] if name in actions]
    lines += textwrap.wrap(f"What the options of a part mean: {command} RECIPE with {', '.join(parts)}", WIDTH)
    return "\n".join(lines) + "\n"


def _entry(action: Any, text: str) -> Iterator[str]:
    default = "" if action.nargs == 0 else _short(action.default)  # a flag takes no value
    head = f"  --{action.dest}" + (f" {default}" if default else "")
    text = " ".join(re.sub(r"\s*\(type:.*\)$", "", text, flags=re.DOTALL).split())
    text = re.split(r"; |\.(?: (?=[A-Z])|$)", text)[0]
    head = f"{head:<28}  "
    yield from textwrap.wrap(text, WIDTH, initial_indent=head, subsequent_indent=" " * 30, max_lines=4, placeholder=" …")


def _short(default: Any) -> str:
    """A default as a person writes it; of a part its class."""
    if isinstance(default, (Namespace, dict)) and "class_path" in default:
        return str(default["class_path"]).rpartition(".")[2]
    if default in (None, [], ()) or isinstance(default, (Namespace, dict)) or str(default).startswith("=="):
        return ""
    return str(default).lower() if isinstance(default, bool) else str(default)
