"""Help that fits a screen or two: `--help` has a recipe's common options in groups, `--help-all` every option there is."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from inspect import signature
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from selfalign.cli.recipe_options import field_texts

HELP, HELP_ALL = ("-h", "--help"), "--help-all"
WIDTH = 100
GROUPS = {
    "Data and model": ("model", "out", "held_out", "prompts", "expect"),
    "Loop": ("rounds", "per_round", "start_from", "min_yield", "validation_share", "without"),
    "Parts, each with options of its own": ("engine", "encoder", "trainer", "sampling", "eval_sampling"),
    "Study": ("baselines", "repeats", "metric", "vary"),
    "Run": ("format", "seed", "report_to", "config"),
}
"""The common options, by group; a recipe's own method options stand in a group before the loop's."""


def print_help(parser: ArgumentParser, make: Callable[..., Any], arguments: Sequence[str]) -> bool:
    """Prints the help that the arguments ask for; False where they ask for none."""
    if HELP_ALL in arguments:
        sys.stdout.write(full_help(parser))
    elif any(argument in HELP for argument in arguments):
        sys.stdout.write(short_help(parser, tuple(signature(make).parameters)))
    else:
        return False
    return True


def full_help(parser: ArgumentParser) -> str:
    """All options as the parser lists them, without the notation of Python's types."""
    return re.sub(r"\s*\((?:required, )?type:\s(?:[^()]|\([^()]*\))*\)", "", parser.format_help())


def short_help(parser: ArgumentParser, method: tuple[str, ...]) -> str:
    """
    Args:
        method: the options of the recipe function itself.
    """
    actions = {action.dest: action for action in parser._actions if action.option_strings}
    # An option that is a group of options has its text in the group's title.
    texts = {group._group_actions[0].dest: group.title for group in parser._action_groups[2:] if group._group_actions}
    texts = {
        name: text for name, text in texts.items() if name in actions and type(actions[name]).__name__ == "_ActionConfigLoad"
    }
    texts |= field_texts()
    lines = [f"usage: {parser.usage}", "", *textwrap.wrap(parser.description or "", WIDTH)]
    for title, names in {"Method": method, **GROUPS}.items():
        if there := [actions[name] for name in names if name in actions]:
            lines += ["", f"{title}:"]
            for action in there:
                lines += _entry(action, texts.get(action.dest) or action.help or "")
    command = (parser.usage or "").partition("[options]")[0].rpartition(" RECIPE")[0]
    lines += ["", f"All {len(actions)} options, those of parts and filters among them: {command} RECIPE {HELP_ALL}"]
    return "\n".join(lines) + "\n"


def _entry(action: Any, text: str) -> Iterator[str]:
    default = _short(action.default)
    head = f"  --{action.dest}" + (f" {default}" if default else "")
    text = " ".join(re.sub(r"\s*\(type:.*\)$", "", text, flags=re.DOTALL).split()).split("; ")[0].rstrip(".")
    yield from textwrap.wrap(text, WIDTH, initial_indent=f"{head:<28}  ", subsequent_indent=" " * 30)[:4]


def _short(default: Any) -> str:
    """A default as a person writes it; of a part its class."""
    if isinstance(default, (Namespace, dict)) and "class_path" in default:
        return str(default["class_path"]).rpartition(".")[2]
    if default in (None, [], ()) or isinstance(default, (Namespace, dict)) or str(default).startswith("=="):
        return ""
    return str(default).lower() if isinstance(default, bool) else str(default)
