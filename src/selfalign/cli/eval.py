"""`selfalign eval MODEL --held_out F`: a model, alone or with demonstrations, put to the test; and against another one.

A thin front over `align`: an evaluation is an ordinary run folder of a recipe that trains nothing (`pretrained`, `icl_knn`,
`icl_random`), so it is journaled, goes on where it stopped, and `selfalign report` shows its answers.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from selfalign.cli.config_file import read_config
from selfalign.cli.engine import Planned, offer_auto, settle_engine
from selfalign.cli.eval_sides import Side, check_alike, check_to_measure, find_sides
from selfalign.cli.eval_table import print_evaluation
from selfalign.cli.load import read_examples, read_held_out
from selfalign.cli.options import new_parser, parse
from selfalign.cli.recipe_options import add_options, build, choices, part_options, resolved
from selfalign.cli.table import print_json
from selfalign.errors import Interrupted, UserError
from selfalign.loop.preflight import unknown_metric
from selfalign.proof.verdicts import no_such_metric
from selfalign.recipe import Recipe
from selfalign.recipes import icl_knn, icl_random, pretrained
from selfalign.record.finished import Finished, paired_metrics, run_costs
from selfalign.record.plain import difference, metric_table
from selfalign.record.status import shortcuts
from selfalign.record.store import Store
from selfalign.text import counted
from selfalign.types import Example

SUMMARY = "Measures a model, alone or with demonstrations, on held-out prompts, and compares it with another one."
IN_CONTEXT = {"knn": icl_knn, "random": icl_random}
NOT_HERE = ("demonstrations", "allow_overlap", "evaluate", "prompts", "prompts_share", "replay", "replay_prompts")
"""Options of a recipe that an evaluation has in a way of its own, or that say nothing about a single model."""
OF_THE_RUN = ("format", "template_args", "keep_thinking", "eval_sampling")
"""Options of a run that its models are measured with, unless others are given."""
OF_THE_RECORD = ("model", "compare", "metric", "quiet", "json", "config")
"""Options that mean something where nothing is left to measure."""


def main(arguments: Sequence[str]) -> int:
    if any(a in ("-h", "--help") for a in arguments[:1]):
        sys.stdout.write(short_help())
        return 0
    parser = make_parser()
    engines = choices(icl_knn)["engine"]
    options = read_options(parser, settle_engine(arguments, engines, lambda plain: plan(parser, plain)))
    recipe = make_recipe(parser, options)
    sides = find_sides(options.model, options.round, options.compare)
    if options.demonstrations:
        shown = f" with {counted(options.demonstrations, 'demonstration')}"
        sides = [side if side.folder else replace(side, name=side.name + shown) for side in sides]
    seeds, held_out = read_prompts(options)
    known: dict[str, int] = {}
    if all(side.folder for side in sides):
        refuse_idle_options(parser, options)
    else:
        known = check_to_measure(sides, recipe, seeds, held_out)
        if options.metric and (wrong := unknown_metric(options.metric, recipe.evaluators, held_out)):
            raise UserError(f"--metric {options.metric}: {options.model} has {wrong}")
    check_alike(sides, recipe, held_out)
    try:
        result = _measure(sides, recipe, seeds, held_out, known, parser, options)
    except Interrupted as stop:
        if options.out is not None:
            raise
        sys.stderr.write("selfalign: interrupted; nothing is kept (with --out DIR the same command would go on from here)\n")
        return 128 + stop.signal_number
    if options.json:
        print_json(result)
    else:
        print_evaluation(result)
    return 0


def make_parser() -> ArgumentParser:
    """The options of an evaluation and those of the recipes behind it."""
    parser = own_options()
    add_options(parser, icl_knn, "eval", NOT_HERE)
    offer_auto(parser, choices(icl_knn)["engine"])
    return parser


def own_options() -> ArgumentParser:
    parser = new_parser("eval", SUMMARY)
    parser.usage = "selfalign eval MODEL --held_out FILE [options]"
    text = "folder, hub name, smollm2-135m (bundled), or a run folder: its best round, asked as it asks"
    parser.add_argument("model", type=str, help=text)
    for name, kind, default, text in (
        ("round", int, None, "of a run folder: this round's model instead of the best one"),
        ("held_out", str, None, "file of prompts, if possible with reference responses; bundled: safe_helpful, in_scope"),
        ("seeds", str, None, "file of example pairs; none of them may be among the prompts"),
        ("demonstrations", int, 0, "seeds shown before each prompt; 0 measures the model alone"),
        ("retriever", str, None, "which seeds are shown: knn (the nearest, the default) or random"),
        ("compare", str, None, "another model, run folder or finished evaluation: paired differences, model minus other"),
        ("metric", str, None, "metric of the verdict (default: the first of expected, balance and log_likelihood that there is)"),
        ("out", str, None, "folder of the evaluation, to go on with, compare and report; without --out nothing is kept"),
    ):
        parser.add_argument(f"--{name}", type=kind, default=default, help=text)
    parser.add_argument("--allow_overlap", action="store_true", help="measure on prompts that the model was trained on or shown")
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of tables")
    parser.add_argument("--config", action="config", help="YAML file of options; options on the command line win")
    return parser


def short_help() -> str:
    """The options of an evaluation, and the names of the others: of the latter there are dozens."""
    own, whole = own_options(), make_parser()
    known = {action.dest for action in own._actions}
    names = [f"--{action.dest}" for action in whole._actions if action.dest not in known and "." not in action.dest]
    own.epilog = f"And {', '.join(names)}, with options of their own: `selfalign eval MODEL --help` lists all of them."
    return own.format_help()


def plan(parser: ArgumentParser, arguments: Sequence[str]) -> Planned:
    options = read_options(parser, arguments)
    sides = find_sides(options.model, options.round, options.compare)
    models = [side.model for side in sides if side.folder is None]
    return Planned([make_recipe(parser, options)], models, Path(options.out) if options.out else None)


def read_options(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """The options; those of a run folder's own that say how its models answer are the defaults, for so they were trained."""
    options = parse(parser, arguments, part_options(icl_knn))
    file = Path(options.model).expanduser() / "run.yaml"
    try:
        given = read_config(str(file)) if file.is_file() else {}
    except OSError as error:
        raise UserError(f"{options.model[:80]}: {error.strerror}; name a model or a run folder") from error
    if kept := {name: given[name] for name in OF_THE_RUN if name in given}:
        parser.set_defaults(kept)
        options = parse(parser, arguments, part_options(icl_knn))
    return options


def make_recipe(parser: ArgumentParser, options: Namespace) -> Recipe:
    """Raises UserError: options that do not go together, or one that is out of its range."""
    if options.demonstrations < 0:
        raise UserError(f"--demonstrations {options.demonstrations}: must be at least 0")
    if options.retriever not in (None, *IN_CONTEXT):
        raise UserError(f"--retriever {options.retriever}: it is knn or random")
    if options.demonstrations and options.seeds is None:
        raise UserError(f"--demonstrations {options.demonstrations} shows seed examples: give --seeds FILE")
    if options.retriever and not options.demonstrations:
        raise UserError(f"--retriever {options.retriever} chooses demonstrations: say how many with --demonstrations C")
    if options.metric and not options.compare:
        raise UserError(f"--metric {options.metric} is what a comparison is about: give --compare OTHER, or take it out")
    make = IN_CONTEXT[options.retriever or "knn"] if options.demonstrations else pretrained
    return replace(build(make, parser, options), allow_overlap=options.allow_overlap)


def read_prompts(options: Namespace) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Seeds and held-out prompts; the name of a bundled domain stands for its files. Seeds give way where both have an id."""
    seeds, held_out = read_examples(options.seeds, None) if options.seeds else ((), ())
    if options.held_out is not None:
        held_out = read_held_out(options.held_out)
    return apart(seeds, held_out), held_out


def apart(seeds: Sequence[Example], held_out: Sequence[Example]) -> tuple[Example, ...]:
    """The seeds with ids that no held-out prompt has. `align` would rename the prompts; here they must be the same ones in
    every evaluation, whatever is shown before them."""
    if {seed.id for seed in seeds}.isdisjoint(example.id for example in held_out):
        return tuple(seeds)
    return tuple(replace(seed, id=f"seeds/{seed.id}") for seed in seeds)


def refuse_idle_options(parser: ArgumentParser, options: Namespace) -> None:
    """Raises UserError for an option that changes nothing, because all measuring is done."""
    both = (yaml.safe_load(parser.dump(each)) for each in (options, parser.parse_args([options.model])))
    given, untouched = ({key: value for key, value in each.items() if key not in OF_THE_RECORD} for each in both)
    if change := difference(untouched, given):
        name = change.split(" = ")[0].removesuffix(".class_path")
        raise UserError(f"--{name} changes nothing: {options.model} is an evaluation that is done; name a model to measure")


def _measure(
    sides: Sequence[Side],
    recipe: Recipe,
    seeds: Sequence[Example],
    held_out: Sequence[Example],
    known: Mapping[str, int],
    parser: ArgumentParser,
    options: Namespace,
) -> dict[str, Any]:
    """Measures what is not measured yet and reports it all as plain data; `known` is what `check_to_measure` found."""
    from selfalign.errors import handle_signals
    from selfalign.loop.align import align
    from selfalign.loop.progress import on_screen

    found: dict[str, dict[str, Any]] = {}
    runs: dict[str, Finished] = {}
    with handle_signals(), _place(options.out) as out, nullcontext() if options.quiet else on_screen() as progress:
        folder = out
        for side in sides:
            if side.folder is None:
                if progress is not None and len(sides) > 1:
                    progress.say(f"{side.name}:")
                text = _options_of(side, folder, parser, options)
                # One side's seeds for both: what answers are measured by is learned from them.
                shown = seeds or apart(next((each.seeds for each in sides if each.seeds), ()), held_out)
                align(recipe, side.model, shown, folder, held_out=held_out, options=text, progress=progress)
            found[side.name], runs[side.name] = _read(side, side.folder or folder, kept=bool(side.folder or options.out))
            if options.metric and (wrong := no_such_metric(options.metric, runs[side.name].metrics)):
                raise UserError(f"--metric {options.metric}: {side.name} has {wrong}")
            found[side.name]["nearly_trained_on"] = known.get(side.name, 0)
            if side.folder is None:
                folder = out / f"compared-{re.sub(r'[^A-Za-z0-9=.+-]+', '_', options.compare or '')[-80:]}"
    first, *others = found.values()
    return {
        "model": first,
        "other": others[0] if others else None,
        "comparison": paired(runs, options.metric, first["shortcuts"]),
    }


@contextmanager
def _place(out: str | None) -> Iterator[Path]:
    if out is not None:
        yield Path(out)
        return
    with TemporaryDirectory(prefix="selfalign-eval-") as folder:
        yield Path(folder) / "model"


def _options_of(side: Side, folder: Path, parser: ArgumentParser, options: Namespace) -> str:
    """The options that repeat this side's evaluation by itself."""
    alone = options.clone()
    for key, value in (("model", side.model), ("round", None), ("compare", None), ("metric", None), ("out", str(folder))):
        alone[key] = value
    return resolved(parser, alone)


def _read(side: Side, folder: Path, kept: bool) -> tuple[dict[str, Any], Finished]:
    with Store.read(folder) as store:
        metrics, identity, model = paired_metrics(store, 0), store.identity(), store.model(0)
        costs = run_costs(store, 0, {each.id for metric in metrics.values() for each in metric.outcomes})
        retriever = identity.get("eval_retriever") or {}
        measured = {
            "name": side.name,
            **asdict(model),
            "folder": str(folder) if kept else None,
            "retriever": str(retriever.get("part", "")).rpartition(".")[2] or None,
            "demonstrations": retriever.get("demonstrations", 0),
            "metrics": metric_table(store.metrics(0)),
            "shortcuts": shortcuts(store),
            "prompt_tokens_per_answer": costs.prompt_tokens_per_answer,
            "seconds": costs.seconds,
        }
    return measured, Finished(int(identity["seed"]), str(folder), 0, "", (), costs, metrics)


def paired(runs: Mapping[str, Finished], metric: str | None, rules: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The paired differences, model minus other, as a study with one run an arm has them."""
    from selfalign.proof.kept import on_common_questions
    from selfalign.proof.verdicts import conclude

    if len(runs) < 2:
        return None
    _, other = runs
    found = on_common_questions({name: [run] for name, run in runs.items()})
    study = conclude(found, metric, held_out=0, random_seeds=(), shortcuts=rules)
    columns = ("difference", "low", "high", "p_value", "minimum_detectable", "prompts", "test")
    return {
        **{key: study["verdicts"][0][key] for key in ("metric", "verdict", "sentence")},
        "differences": {
            name: {**{key: row[other][key] for key in columns}, **study["metrics"][name]}
            for name, row in study["comparisons"].items()
        },
        "left_out": study["left_out"],
    }
