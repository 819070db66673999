"""The options of a recipe: those of its function, those of every recipe, the fields of its filters, further evaluations.

Nothing is written twice: a function's options stand in its signature, those of every recipe in the fields of `Recipe`, those of a
filter in its own fields. Their defaults are those of the recipe that the function makes when it is given nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any, Union, get_args, get_type_hints

import docstring_parser
import yaml
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from selfalign import encoders, engines, trainers
from selfalign.cli.options import allow_imports, explain_part
from selfalign.errors import UserError
from selfalign.models.device import choose_device
from selfalign.protocols import Engine
from selfalign.recipe import FILTERS, Recipe
from selfalign.recipes.evaluations import measured_by
from selfalign.seeds.read import read_prompts
from selfalign.types import Sampling

ROOMS: Mapping[str, Any] = {"engine": engines, "encoder": encoders, "trainer": trainers}
"""Slots that are filled by naming a class, with the room of the classes to choose from."""
ANY = (
    *("engine", "encoder", "format", "template_args", "keep_thinking", "seed", "eval_sampling", "evaluate"),
    *("allow_overlap", "allow_other_versions"),
)
ENGINES = [part for part in (getattr(engines, name) for name in engines.__all__) if hasattr(part, "open")]
MAIN = {"engine": "open", "encoder": "open", "trainer": "train"}
"""What a class of the room has to have to fill the slot: rooms hold the parts of their parts too."""
TRAINING = (
    *("rounds", "trainer", "steps", "start_from"),
    *("learning_rate_decay", "validation_share", "roll_back", "aim_over_refusal"),
)
GENERATING = ("per_round", "sampling", "min_yield", "seed_weight", "train_on", "train_seeds", "alarms", "second_turns")
PROMPTS, DEVICE = "prompt_sampling", "device"
PASSING = ("config", "quiet", "json", "max_hours", "parallel", "only", "probe")
"""Options of a command that say nothing of the run itself."""
ANSWERING = ("refusal", "truthfulness", "harmfulness", "win_rate")
"""Evaluators of every recipe that a model answers, each with a sampling that may be its own."""
PROMPT_OPTIONS = {
    "prompts": (
        str,
        None,
        "file or data set of prompts, in any form that seeds have, to be answered instead of new ones or beside them; responses"
        " in it are ignored",
    ),
    "prompts_share": (float, 1.0, "of a round's candidates, how many have a prompt of --prompts; the model writes the rest"),
    "replay": (int, 0, "general prompts whose answers by the base model are trained on too, in every round; against forgetting"),
    "replay_prompts": (str, None, "file of prompts for --replay, in place of the 157 that come with selfalign"),
}
"""Of prompts from a file: (type, default, help) by name."""
Make = Callable[..., Recipe]


def common(recipe: Recipe) -> list[str]:
    """The fields of `Recipe` that are options of this one: what it neither trains nor generates needs none."""
    names = [*ANY]
    if generates := recipe.rounds * recipe.per_round > 0:
        names += GENERATING
        names += ["ignore_calibration"] if recipe.scorers else []
        names += ["ignore_seed_rules"] if any(True for _ in recipe.named_filters()) else []
    if recipe.rounds:
        names += TRAINING
    if generates or recipe.eval_retriever is not None:
        names.append("order")
    return names


def add_options(parser: ArgumentParser, make: Make, command: str, skip: Collection[str] = ()) -> None:
    """Adds all of them but `skip`, names of options that this command has in a way of its own, or does without.

    Raises:
        UserError: the function gives no recipe, or has a parameter that is an option of the command itself.
    """
    own, known = inspect.signature(make).parameters, [action.dest for action in parser._actions]
    if taken := [name for name in own if name in known and name not in skip]:
        raise UserError(f"recipe {make.__name__}: its parameter {taken[0]} is an option of `selfalign {command}`; rename it")
    recipe = default_recipe(make)
    # A slot with a choice of parts takes a class name; dataclasses alone would be chosen by their fields.
    parts = [part for parts in choices(make).values() for part in parts]
    inner = [*ENGINES, *(each for part in parts for some in nested_parts(part).values() for each in some)]
    set_parsing_settings(subclasses_enabled=[*parts, *inner])
    allow_imports([*(part.__module__ for part in (*parts, *inner)), make.__module__])
    parser.add_function_arguments(make, as_positional=False, skip={*skip})
    types, texts = get_type_hints(Recipe), field_texts(Recipe)
    for name in common(recipe):
        if name not in (*own, *skip):
            kind = Union[tuple(choices(make)[name])] if name in ROOMS else types[name]  # noqa: UP007  # made of a list
            parser.add_argument(f"--{name}", type=kind, default=getattr(recipe, name), help=texts[name])
    if writes_prompts(recipe) and PROMPTS not in own:
        sampling = getattr(recipe.proposer, "sampling")  # noqa: B009  # a proposer need not have one
        parser.add_argument(f"--{PROMPTS}", type=Sampling, default=sampling, help="how new prompts are decoded")
    if there := dict(recipe.named_filters()):
        text = "filters to leave out, by name: novelty, prompt_filters.length …"
        parser.add_argument("--without", type=str, nargs="+", default=[], help=text)
    for name, part in there.items():
        if fields(part):
            parser.add_argument(f"--{name}", type=type(part), default=part, help=_summary(part))
    if DEVICE not in (*own, *skip):
        text = "where models run and train: auto, cpu, cuda, cuda:1, mps; a part's own option (--engine.device) wins"
        parser.add_argument(f"--{DEVICE}", type=str, default="auto", help=text)
    for name, (kind, default, text) in PROMPT_OPTIONS.items():
        if name not in (*own, *skip):
            parser.add_argument(f"--{name}", type=kind, default=default, help=text)
    parser.add_function_arguments(measured_by, as_positional=False, skip={"recipe", *own, *skip})
    for action in parser._actions:  # a judge may have an engine of its own; the parts do not know which ones there are
        if getattr(action, "_typehint", None) == Engine | None:
            action._typehint = Union[(*ENGINES, None)]  # type: ignore[attr-defined]
    # An evaluator that is given one field of a sampling has the others from the recipe's: greedy answers stay greedy.
    parser.set_defaults({f"{name}.sampling": recipe.eval_sampling for name in ANSWERING if name not in (*own, *skip)})


def build(make: Make, parser: ArgumentParser, options: Namespace) -> Recipe:
    """The recipe with its options: the function's own, then those of every recipe and of its filters that differ from its own.

    Raises:
        UserError: an option of a part that is out of its range, a filter that is not there, or a function that gives no recipe.
    """
    plain, own = default_recipe(make), inspect.signature(make).parameters
    with reports():
        try:
            made = parser.instantiate(options)
        except (TypeError, AttributeError, KeyError) as error:  # of a value that passed for the options of a part
            raise UserError("a part is given something else than its options as {name: value}; see --help-all") from error
        recipe = checked(make, make(**{name: made[name] for name in own if name in made}))
        changed = {name: made[name] for name in common(plain) if name not in own and name in made}
        # Two engines that write the same, and trainers that teach the same, compare as equal, and may differ in where they do it,
        # which they show.
        changes = {
            name: new
            for name, new in changed.items()
            if new != (old := getattr(plain, name)) or (name in ("engine", "trainer") and repr(new) != repr(old))
        }
        if len(changes.get("steps", ())) and "rounds" not in changes:
            changes["rounds"] = len(changes["steps"])
        if writes_prompts(plain) and PROMPTS not in own and made[PROMPTS] != plain.proposer.sampling:  # type: ignore[attr-defined]
            changes["proposer"] = replace(recipe.proposer, sampling=made[PROMPTS])  # type: ignore[type-var]
        measures = inspect.signature(measured_by).parameters
        others = {name: made[name] for name in measures if name in made and name not in ("recipe", *own)}
        for name in ANSWERING:
            if name in others and others[name].sampling == plain.eval_sampling:  # nothing of its own: as the recipe decodes
                others[name] = replace(others[name], sampling=None)
        prompts = {name: made[name] for name in PROMPT_OPTIONS if name in made and name not in own}
        recipe = _with_prompts(_filtered(measured_by(replace(recipe, **changes), **others), plain, made), prompts)
    device = "auto" if DEVICE in own else made.get(DEVICE, "auto")
    return recipe if device == "auto" else _on_device(recipe, device)


def _on_device(recipe: Recipe, device: str) -> Recipe:
    """The recipe with every part that leaves the choice of its device to the machine on this one."""
    choose_device(device)
    slots = ("engine", "encoder", "trainer", "scorers", "evaluators")
    return replace(recipe, **{slot: _placed(getattr(recipe, slot), device) for slot in slots})


def _placed(part: Any, device: str) -> Any:
    if isinstance(part, tuple):
        return tuple(_placed(each, device) for each in part)
    if not is_dataclass(part) or isinstance(part, type):
        return part
    there = {each.name: getattr(part, each.name) for each in fields(part)}
    changes: dict[str, Any] = {"device": device} if there.get("device", device) in ("auto", None) else {}
    for slot in ("engine", "inner"):  # a judge's own engine, and that of an engine's workers
        if there.get(slot) is not None:
            changes[slot] = _placed(there[slot], device)
    return replace(part, **changes) if changes else part


def _with_prompts(recipe: Recipe, options: Mapping[str, Any]) -> Recipe:
    """The recipe with those of `PROMPT_OPTIONS` that the command has."""
    if (count := options.get("replay", 0)) or options.get("replay_prompts"):
        if not count:
            raise UserError("--replay_prompts changes nothing without --replay N: give that, or take it out")
        recipe = recipe.with_replay(count, *(read_prompts(own) if (own := options.get("replay_prompts")) else ()))
    prompts, share = options.get("prompts"), options.get("prompts_share", 1.0)
    if share != 1.0 and prompts is None:
        raise UserError("--prompts_share changes nothing without --prompts FILE: give that, or take it out")
    if prompts is None:
        return recipe
    recipe.with_prompts((), share)  # a recipe that takes none says so before the file is read
    examples, notes = read_prompts(prompts)
    return recipe.with_prompts(examples, share, notes)


def _filtered(recipe: Recipe, plain: Recipe, made: Namespace) -> Recipe:
    """The recipe with the fields of its filters that were changed, and without those that shall be left out."""
    there = dict(recipe.named_filters())
    for name, before in plain.named_filters():
        changed = changed_fields(before, made.get(name, before))
        if changed and name not in there:
            raise UserError(f"--{name}: with these options the recipe has no such filter; it has {', '.join(there) or 'none'}")
        if changed:
            there[name] = replace(there[name], **changed)
    for wanted in (each for text in made.get("without", ()) for each in text.split(",") if each):
        gone = [name for name in there if wanted in (name, name.partition(".")[2], name.partition(".")[2].rstrip("_0123456789"))]
        if not gone:
            raise UserError(f"--without {wanted}: the recipe has no such filter; it has {', '.join(there) or 'none'}")
        there = {name: part for name, part in there.items() if name not in gone}
    kept: dict[str, Any] = dict.fromkeys(FILTERS, ())
    for name, part in there.items():
        kept[name.partition(".")[0]] += (part,)
    return replace(recipe, **kept)


@cache
def default_recipe(make: Make) -> Recipe:
    """What a function makes when it is given nothing; of one that must be given something the defaults of every recipe.

    Raises:
        UserError: the function gives no recipe.
    """
    if any(each.default is inspect.Parameter.empty for each in inspect.signature(make).parameters.values()):
        return Recipe(name=make.__name__)
    with reports():
        return checked(make, make())


def checked(make: Make, recipe: object) -> Recipe:
    if not isinstance(recipe, Recipe):
        raise UserError(f"{make.__name__} gives {type(recipe).__name__} and no Recipe; return one from it")
    return recipe


@contextmanager
def reports() -> Iterator[None]:
    """What the parts raise about their own options, also about those that a recipe gives them, as the user's error."""
    try:
        yield
    except ValueError as error:
        raise UserError(explain_part(str(error))) from error


def choices(make: Make) -> dict[str, list[type]]:
    """The slots a user fills by naming a class, with the classes to choose from; the recipe's own class is always one of them."""
    hints = {name: get_args(hint) for name, hint in get_type_hints(make).items()}
    own = {name: [part for part in parts if isinstance(part, type) and is_dataclass(part)] for name, parts in hints.items()}
    recipe, found = default_recipe(make), {name: parts for name, parts in own.items() if parts}
    for name, room in ROOMS.items():
        if name in common(recipe) and name not in inspect.signature(make).parameters:
            there = [part for part in (getattr(room, each) for each in room.__all__) if hasattr(part, MAIN[name])]
            mine = type(getattr(recipe, name))
            found[name] = there if mine in there else [mine, *there]
    return found


def nested_parts(part: type) -> dict[str, list[type]]:
    """The options of a part that are parts too, with the classes there are to choose from: a trainer's loss."""
    hints = {name: get_args(hint) for name, hint in get_type_hints(part).items()}
    found = {name: [each for each in hint if isinstance(each, type) and is_dataclass(each)] for name, hint in hints.items()}
    return {name: parts for name, parts in found.items() if len(parts) > 1}


def part_options(make: Make) -> list[str]:
    parts = [(name, part) for name, some in choices(make).items() for part in some]
    inner = [(f"{name}.{option}", each) for name, part in parts for option, some in nested_parts(part).items() for each in some]
    return [f"{name}.{field.name}" for name, part in (*parts, *inner) for field in fields(part)]


def resolved(parser: ArgumentParser, options: Namespace) -> str:
    """Every option as YAML, in a form that `--config` reads back."""
    plain = {key: value for key, value in yaml.safe_load(parser.dump(options)).items() if key not in PASSING}
    text: str = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    return text


@cache
def field_texts(kind: type) -> dict[str, str]:
    """What the fields of a class say of themselves, by name, on one line each."""
    found = docstring_parser.parse_from_object(kind).params
    return {each.arg_name: " ".join((each.description or "").split()) for each in found}


def changed_fields(before: Any, after: Any) -> dict[str, Any]:
    """The fields of a part that another one of its class has otherwise."""
    return {each.name: new for each in fields(before) if (new := getattr(after, each.name)) != getattr(before, each.name)}


def writes_prompts(recipe: Recipe) -> bool:
    return recipe.rounds * recipe.per_round > 0 and isinstance(getattr(recipe.proposer, "sampling", None), Sampling)


def _summary(part: object) -> str:
    return " ".join((inspect.getdoc(type(part)) or "").split("\n\n")[0].split())
