"""Parsing with one-line errors: what is wrong, and the nearest option there is."""

from __future__ import annotations

import re
import warnings
from argparse import ArgumentError
from collections.abc import Sequence
from difflib import get_close_matches

from jsonargparse import ArgumentParser, Namespace

from selfalign.errors import UserError


def new_parser(command: str, description: str) -> ArgumentParser:
    warnings.filterwarnings("ignore", module="jsonargparse")
    return ArgumentParser(prog=f"selfalign {command}", description=description, exit_on_error=False, allow_abbrev=False)


def parse(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """
    Raises:
        UserError: an option that does not exist (with the nearest one), a value of the wrong type, something missing.
    """
    try:
        return parser.parse_args(list(arguments))
    except (ArgumentError, ValueError, TypeError, KeyError) as error:
        raise UserError(explain(str(error), option_names(parser))) from None


def option_names(parser: ArgumentParser) -> list[str]:
    """All options with their dots, without dashes: rounds, trainer.learning_rate …"""
    return [name.lstrip("-") for action in parser._actions for name in action.option_strings if name.startswith("--")]


def explain(message: str, known: Sequence[str]) -> str:
    text = " ".join(message.split())
    unknown = re.search(r"unrecognized arguments: --(\S+?)(?:[=\s]|$)", text)
    group = re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", text)
    key = re.search(r"(?:Option|Key|key) '([\w.]+)' is not|does not accept (?:nested )?(?:key|option) '([\w.]+)'", text)
    name = ""
    if unknown:
        name = unknown.group(1)
    elif group:
        name = f"{group.group(1)}.{group.group(2)}"
    elif key:
        name = key.group(1) or key.group(2)
    if name:
        return f"there is no option --{name}{_nearest(name, known)}"
    text = re.sub(r'^Parser key "([\w.]+)": ', r"option --\1: ", text)
    text = re.sub(r"Expected a typing\.Literal\[(.*?)\]\.", r"expected one of \1.", text)
    text = re.sub(r"Expected a <class '(\w+)'>\.", r"expected \1.", text)
    return text.replace("Got value:", "Got:")


def _nearest(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, 1, 0.6)
    if not near:  # a short name of a nested option: --lr for --trainer.learning_rate is beyond us, --epochs is not
        tails = {each.rpartition(".")[2]: each for each in known}
        near = [tails[tail] for tail in get_close_matches(name.rpartition(".")[2], tails, 1, 0.6)]
    return f"; did you mean --{near[0]}?" if near else "; --help lists them"
