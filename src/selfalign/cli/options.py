"""Parsing with one-line errors: what is wrong, and the nearest option there is."""

from __future__ import annotations

import json
import re
import warnings
from argparse import ArgumentError
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from typing import Any, get_args, get_origin

import yaml
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from selfalign.cli.config_file import check_regular, load_yaml, read_config
from selfalign.errors import UserError

ONCE = ("held_out", "prompts", "replay_prompts", "baselines")
"""Options of one value that may look as if they could be given several times, as `--expect` can."""


def out_of(command: str) -> str:
    """What the usage of a command on a recipe has of the folder that it writes."""
    return "" if command in ("check", "preview") else " --out DIR"


class Parser(ArgumentParser):
    """Its help is without the notation of Python's types, and names no default where there is none."""

    def format_help(self, formatter: Any = None) -> str:
        return str(_NOTE.sub(_note, super().format_help(formatter)))


_NOTE = re.compile(  # what jsonargparse puts behind the text of an option: (required, type: X, default: Y), broken over lines
    r"\s*\((?=required|type:|default:)(?P<required>required)?,?\s*(?:type:\s(?:[^()]|\([^()]*\))*?)?"
    r"(?:,?\s*default:\s(?P<default>(?:[^()]|\([^()]*\))*?))?(?:,\s*known\s+subclasses:\s[^()]*)?\)"
)


def _note(found: re.Match[str]) -> str:
    default = " ".join((found["default"] or "").split())
    said = default not in ("", "null", "None", "False") and "{" not in default  # what is no class with all of its options
    return " (required)" if found["required"] else f" (default: {default})" if said else ""


def new_parser(command: str, description: str) -> ArgumentParser:
    warnings.filterwarnings("ignore", module="jsonargparse")
    return Parser(prog=f"selfalign {command}", description=description, exit_on_error=False, allow_abbrev=False)


def parse(parser: ArgumentParser, arguments: Sequence[str], nested: Sequence[str] = ()) -> Namespace:
    """The options; those of a part are its class's own defaults but for what was said about this class.

    Args:
        nested: names of options the parser does not list itself, those of parts: trainer.learning_rate …

    Raises:
        UserError: an option that does not exist (with the nearest one), a value of the wrong type, something missing.
    """
    _check_once(arguments)
    typed = [_said(name, value) for _, name, value in _options(arguments) if name != "config"]
    allow_imports(part for said in typed for value in said.values() if (part := _class(value)).count("."))
    _check_files(parser, arguments)
    try:
        with _own_defaults(parser, gathered(parser, arguments)) as own:
            return parser.parse_args(_typed_last(own))
    except (ArgumentError, ValueError, TypeError, KeyError) as error:
        named = _first(r"^(selfalign \w+ RECIPE) ", parser.usage or "")  # its `--help` has the common options alone
        said = explain(str(error), [*option_names(parser), *nested], f"`{named} --help-all`" if named else "--help")
        if missing := _first(r"the following arguments are required: (.+)", said):
            said = f"{missing}: not given; `{parser.prog} --help` says what it takes"
        raise UserError(said) from None


def gathered(parser: ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """The arguments with what an option that takes several texts is given one by one put together as its list.

    A list in brackets takes the place of what stands before it. What takes one text or several keeps one that is given once.
    """
    arguments = _joined(parser, arguments)
    several = _of_several_texts(parser)
    found: dict[str, list[str]] = {}
    gone: set[int] = set()
    for place, name, value in _options(arguments):
        if name in several:
            gone |= {place} if arguments[place].startswith(f"--{name}=") else {place - 1, place}
            whole = _texts(value)
            found[name] = [*found.get(name, ()), value] if whole is None else whole
    kept = [argument for place, argument in enumerate(arguments) if place not in gone]
    for name, texts in found.items():
        alone = len(texts) == 1 and get_origin(several[name]) is not tuple and str in get_args(several[name])
        kept += [f"--{name}", texts[0] if alone else json.dumps(texts, ensure_ascii=False)]
    return kept


def _check_once(arguments: Sequence[str]) -> None:
    """Raises UserError: two values for an option that takes one and of which a user may think that they add up."""
    said: dict[str, str] = {}
    for _, name, value in _options(arguments):
        if name in ONCE and said.setdefault(name, value) != value:
            how = f"--{name} {said[name]},{value}" if name == "baselines" else "put their rows into one file"
            raise UserError(f"--{name} is given twice, {said[name]} and {value}, and takes one: {how}")


def _joined(parser: ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """The arguments with all values of an option that takes many (`--vary a=1 b=2`) in one place: of an option given twice the
    parser would keep the last values alone."""
    many = {f"--{action.dest}" for action in parser._actions if action.nargs == "+"}
    others, found = list[str](), dict[str, list[str]]()
    goes_to = others
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name not in many:
            goes_to = others if argument.startswith("--") else goes_to
            goes_to.append(argument)
        elif equals:
            found.setdefault(name, []).append(value)
            goes_to = others
        else:
            goes_to = found.setdefault(name, [])
    return [*others, *(part for name, values in found.items() for part in (name, *values))]


def by_itself(parser: ArgumentParser, option: str, value: str) -> str:
    """A value as it replaces what the option was given before."""
    return json.dumps([value], ensure_ascii=False) if option in _of_several_texts(parser) and _texts(value) is None else value


def _of_several_texts(parser: ArgumentParser) -> dict[str, Any]:
    """The options that take several texts, with their types."""
    hints = {action.dest: getattr(action, "_typehint", None) for action in parser._actions}
    return {
        name: hint
        for name, hint in hints.items()
        if any(get_origin(each) is tuple and get_args(each) == (str, ...) for each in (hint, *get_args(hint)))
    }


def _texts(value: str) -> list[str] | None:
    """The texts of a list in brackets; None where it is none."""
    try:
        found = yaml.safe_load(value) if value.lstrip().startswith("[") else None
    except yaml.YAMLError:
        return None
    return found if isinstance(found, list) and all(isinstance(each, str) for each in found) else None


def allow_imports(paths: Iterable[str]) -> None:
    """Lets options name what is under these modules, besides selfalign: nothing else is imported for the sake of an option.

    What is typed is the user's own choice, and so is a recipe's file; a file of options may come from anywhere.
    """
    set_parsing_settings(
        instantiate_subclass_spec_in_any=False,
        import_path_denylist=["*"],
        import_path_allowlist=["selfalign", *(path for path in paths if all(part.isidentifier() for part in path.split(".")))],
    )


def _check_files(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """Raises UserError: a file that the parser would read in place of an option's value would make it wait, or blow up."""
    files = {each.dest for each in parser._actions if getattr(each, "_enable_path", False) or "Config" in type(each).__name__}
    options = {action.dest for action in parser._actions}
    for _, name, value in _options(arguments):
        for option, text in (each for said in _said(name, value).items() for each in _files_in(*said)):
            # --truthfulness may name a file of its options; what --truthfulness.file names is for the part itself.
            if (option if option in options else option.partition(".")[0]) in files:
                check_regular(text, option)


def _files_in(option: str, value: Any) -> Iterator[tuple[str, str]]:
    """Every text in it that may name a file, with the option that it is given to."""
    if isinstance(value, str) and "\n" not in value:
        yield option, value
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from _files_in(f"{option}.{name}", each)
    elif isinstance(value, list):
        for each in value:
            yield from _files_in(option, each)


def _typed_last(arguments: list[str]) -> list[str]:
    """What is typed first without a name (recipe, seeds, model) moved behind the last file of `--config`: of two the parser takes
    the later one, and a file must not take the place of the seeds that were named."""
    files = [place for place, name, _ in _options(arguments) if name == "config"]
    lead = next((place for place, argument in enumerate(arguments) if argument.startswith("-")), 0)
    end = files[-1] + 1 if files else lead
    return [*arguments[lead:end], *arguments[:lead], *arguments[end:]]


@contextmanager
def _own_defaults(parser: ArgumentParser, arguments: list[str]) -> Iterator[list[str]]:
    """The arguments to parse in the block, in which every part that has a choice of classes begins with those of the one chosen.

    Where the class of a part is changed, jsonargparse hands what the former class was given (by the recipe's default, or in a
    YAML file) on to fields of the same name. So the former class is no default any more, and the file says nothing of it.
    """
    given = {action.dest: action.default for action in parser._actions}
    parts = {slot: part.as_dict() if isinstance(part, Namespace) else part for slot, part in given.items()}
    defaults = {slot: part for slot, part in parts.items() if isinstance(part, dict) and "class_path" in part}
    said = {place: _said(name, value) for place, name, value in _options(arguments)}
    chosen: dict[str, str] = {}
    for each in said.values():
        chosen |= {slot: part for slot in defaults if (part := _class(each.get(slot)))}
    kept = list(arguments)
    for place, name, _ in _options(arguments):
        later = {slot: part for at, each in said.items() if at > place for slot, value in each.items() if (part := _class(value))}
        own = {key: each for key, each in said[place].items() if not _differ(_class(each), chosen.get(key, ""))}
        own = {key: _unchanged(each, key, later) for key, each in own.items()}
        if name == "config" and own != said[place]:
            _put(kept, place, name, yaml.safe_dump(own, allow_unicode=True))
    changed = {slot: part for slot, part in chosen.items() if _differ(defaults[slot]["class_path"], part)}
    try:
        with suppress(ValueError, ImportError, AttributeError):  # no such class: the parser says so
            parser.set_defaults({slot: {"class_path": part} for slot, part in changed.items()})
        yield kept
    finally:
        parser.set_defaults({slot: defaults[slot] for slot in changed})


def _unchanged(said: Any, path: str, later: dict[str, str]) -> Any:
    """What a file says of a part, without the parts in it (a judge's engine, a trainer's loss) whose class is changed later."""
    if not isinstance(said, dict):
        return said
    paths = {key: path if key == "init_args" else f"{path}.{key}" for key in said}
    gone = [key for key, each in said.items() if isinstance(each, dict) and _differ(_class(each), later.get(paths[key], ""))]
    return {key: _unchanged(each, paths[key], later) for key, each in said.items() if key not in gone}


def given(arguments: Sequence[str], option: str) -> Any:
    """What an option is given last, by itself or in a file of `--config`; None where it is not."""
    found = [said[option] for _, name, value in _options(arguments) if option in (said := _said(name, value))]
    return found[-1] if found else None


def refilled(arguments: Sequence[str], option: str, old: Any, new: Any) -> list[str]:
    """The arguments with `new` wherever they give an option the value `old`; a file of `--config` that does is put in as text."""
    kept = list(arguments)
    for place, name, value in _options(arguments):
        said = _said(name, value)
        if option in said and said[option] == old:
            alone = new if isinstance(new, str) else json.dumps(new, ensure_ascii=False)
            _put(kept, place, name, yaml.safe_dump({**said, option: new}, allow_unicode=True) if name == "config" else alone)
    return kept


def _put(arguments: list[str], place: int, name: str, value: str) -> None:
    """Gives the option at a place (see `_options`) another value."""
    arguments[place] = f"--{name}={value}" if arguments[place].startswith(f"--{name}=") else value


def _options(arguments: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """(where its value stands, name, value) of each option, given as `--name value` or `--name=value`."""
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name.startswith("--") and (equals or place + 1 < len(arguments)):
            yield (place, name[2:], value) if equals else (place + 1, name[2:], arguments[place + 1])


def _said(name: str, value: str) -> dict[str, Any]:
    """What an option says, by name, or the file of `--config` (or its text, see `refilled`); nothing where an option is no YAML:
    the parser says why.

    Raises:
        UserError: a file that cannot be read; see `read_config`.
    """
    if name == "config":
        found = load_yaml(value, "--config") if "\n" in value else read_config(value)
        return found if isinstance(found, dict) else {}
    try:
        return {name.removesuffix(".class_path"): load_yaml(value, f"--{name}")}
    except UserError:
        return {}


def _class(part: Any) -> str:
    """The class that an option names, by itself or with options as {class_path, init_args}; "" for none."""
    named = part.get("class_path") if isinstance(part, dict) else part
    return named if isinstance(named, str) else ""


def _differ(one: str, other: str) -> bool:
    """Whether two classes, named with or without their modules, are not the same; not where one of them is not named."""
    return bool(one and other) and one.rpartition(".")[2] != other.rpartition(".")[2]


def option_names(parser: ArgumentParser) -> list[str]:
    """All options with their dots, without dashes: rounds, trainer, sampling.temperature …"""
    return [name.lstrip("-") for action in parser._actions for name in action.option_strings if name.startswith("--")]


def explain(message: str, known: Sequence[str], lists: str = "--help") -> str:
    """One line out of what the parser says: its messages for a slot with several parts name every part it tried."""
    # What follows repeats all options of the slot, a password in a URL among them.
    text = " ".join(re.split(r"\s*Given value", message, maxsplit=1)[0].split())
    slot = _first(r"""^Parser key "([\w.]+)":""", text)
    if len(nested := re.findall(r"""Parser key "([\w.]+)": Does not validate""", text)) > 1:  # a choice within a part's options
        slot = ".".join(nested)
    if denied := _first(r"Importing '([\w.]+)' is not allowed", text):
        what = f"{denied} is not imported, as nothing that only a file of options names is"
        return f"option --{slot}: {what}; name it on the command line (--{slot} {denied}), or in a recipe of your own"
    unknown = _first(r"unrecognized arguments: --([^\s=]+)", text)
    refused = _first(r"[Oo]ption '([\w.]+)' is not accepted", text) or _first(r"does not accept option '([\w.]+)'", text)
    if extra := _first(r"unrecognized arguments: ([^-].*)", text):
        return f"{extra}: too many arguments; --help shows the usage"
    if flag := _first(r"argument (--[\w.]+): ignored explicit argument", text):
        return f"option {flag} takes no value: give it by itself, or leave it out"
    if refused:
        group = slot or _first(r"Group '([\w.]+)'", text)
        unknown = f"{group}.{refused}" if group else refused
    if unknown:
        unknown = unknown.replace(".init_args", "")  # as a file of options writes it
        return f"there is no option --{unknown}{_nearest(unknown, known, lists)}"
    if text.startswith("Parser key") and (value := _first(r"Unable to load config '(.*?)' - Parser key", text)):
        one = next((name for name in known if name.startswith(f"{slot}.")), f"{slot}.…")
        return f"option --{slot}: {value} is no YAML file of its options; name one, or give them one by one: --{one} …"
    if part := _first(r"Expected a dot import path string: (\S+)", text):
        names = re.findall(r"<class '(?:\w+\.)*(\w+)'>", text.rpartition("Subtypes:")[2].partition("Errors:")[0])
        if "Engine" in names:  # the classes that there are stand in the options of the command, not in a choice within a choice
            return f"option --{slot}: to be given in a recipe of your own alone, such as Judge(engine={part}(…))"
        return f"option --{slot}: no part named {part}; there are {', '.join(names).replace('NoneType', 'null')}"
    if needed := re.search(r"'(?:\w+\.)*(\w+)': the following arguments are required: (\w+)", text):
        return f"option --{slot}: {needed.group(1)} cannot do without {needed.group(2)}; give --{slot}.{needed.group(2)}"
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
        text = next((each for each in tried if not each.startswith(("Import path", "Does not validate"))), text)
    return " ".join(text.split())


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found.group(1) if found else ""


def _nearest(name: str, known: Sequence[str], lists: str) -> str:
    if name in known:
        return " with this class; it is one of another"
    near = get_close_matches(name, known, 1, 0.6)
    if not near:  # the right name without its slot, or with another one
        tails = {each.rpartition(".")[2]: each for each in known}
        near = [tails[tail] for tail in get_close_matches(name.rpartition(".")[2], tails, 1, 0.75)]
    return f"; did you mean --{near[0]}?" if near else f"; {lists} lists them"
