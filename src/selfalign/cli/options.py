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


def parse(parser: ArgumentParser, arguments: Sequence[str], nested: Sequence[str] = ()) -> Namespace:
    """
    Args:
        nested: names of options the parser does not list itself, those of parts: trainer.learning_rate …

    Raises:
        UserError: an option that does not exist (with the nearest one), a value of the wrong type, something missing.
    """
    try:
        return parser.parse_args(list(arguments))
    except (ArgumentError, ValueError, TypeError, KeyError) as error:
        raise UserError(explain(str(error), [*option_names(parser), *nested])) from None


def option_names(parser: ArgumentParser) -> list[str]:
    """All options with their dots, without dashes: rounds, trainer, sampling.temperature …"""
    return [name.lstrip("-") for action in parser._actions for name in action.option_strings if name.startswith("--")]


def explain(message: str, known: Sequence[str]) -> str:
    """One line out of what the parser says: its messages for a slot with several parts name every part it tried."""
    # What follows repeats all options of the slot, a password in a URL among them.
    text = " ".join(re.split(r"\s*Given value", message, maxsplit=1)[0].split())
    slot = _first(r"""^Parser key "([\w.]+)":""", text)
    unknown = _first(r"unrecognized arguments: --([^\s=]+)", text)
    refused = _first(r"[Oo]ption '([\w.]+)' is not accepted", text) or _first(r"does not accept option '([\w.]+)'", text)
    if refused:
        group = slot or _first(r"Group '([\w.]+)'", text)
        unknown = f"{group}.{refused}" if group else refused
    if unknown:
        return f"there is no option --{unknown}{_nearest(unknown, known)}"
    if part := _first(r"Expected a dot import path string: (\S+)", text):
        names = re.findall(r"<class '(?:\w+\.)*(\w+)'>", text.partition("Errors:")[0])
        return f"option --{slot}: no part named {part}; there are {', '.join(names)}"
    inner = re.search(r"""Parser key "([\w.]+)": (Expected .*? Got value: \S+)""", text)
    if inner:
        name = inner.group(1) if inner.group(1) == slot or not slot else f"{slot}.{inner.group(1)}"
        text = f"option --{name}: {inner.group(2)}"
    text = re.sub(r"""^Parser key "([\w.]+)":""", r"option --\1:", text)
    text = re.sub(r"Expected a typing\.Literal\[(.*?)\]\.", r"expected one of \1.", text)
    text = re.sub(r"Expected a <class '(\w+)'>\.", r"expected \1.", text)
    text = text.replace("expected tuple.", "expected a list in brackets, such as '[one,two]'.")
    return text.replace("Got value:", "Got:")


def explain_part(message: str) -> str:
    """What a part has against its options: of a slot with several parts, the words of the one that was chosen.

    The parser's message goes on with those of all other parts and with every option given, passwords included.
    """
    text = re.split(r"\s*Given value", message, maxsplit=1)[0]
    if "Union subtypes" in text:
        tried = [" ".join(each.split()) for each in re.split(r"(?m)^\s*- ", text)[1:]]
        text = next((each for each in tried if not each.startswith("Import path")), text)
    return " ".join(text.split())


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found.group(1) if found else ""


def _nearest(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, 1, 0.6)
    if not near:  # the right name without its slot, or with another one
        tails = {each.rpartition(".")[2]: each for each in known}
        near = [tails[tail] for tail in get_close_matches(name.rpartition(".")[2], tails, 1, 0.6)]
    return f"; did you mean --{near[0]}?" if near else "; --help lists them"
