"""`selfalign study RECIPE SEEDS --model M --out DIR --baselines …`: a recipe against baselines, with intervals and a verdict."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from selfalign import recipes
from selfalign.cli.arms import make_arms, notes
from selfalign.cli.beside import add_beside, check_beside, make_beside
from selfalign.cli.engine import Planned, settle_engine
from selfalign.cli.load import load_recipe, named_recipe, read_examples, recipe_files
from selfalign.cli.options import parse
from selfalign.cli.recipe_help import HELP, print_help
from selfalign.cli.recipe_options import choices, part_options, resolved
from selfalign.cli.run import make_parser
from selfalign.cli.table import print_json
from selfalign.errors import UserError
from selfalign.recipe import Recipe
from selfalign.text import printable

if TYPE_CHECKING:
    from selfalign.study.ready import Study

USAGE = """usage: selfalign study RECIPE SEEDS --model M --out DIR [--baselines pretrained,icl_knn,sft] [--repeats 3] [options]
       selfalign study --config DIR/study.yaml

RECIPE and the baselines are of {recipes}, or your own: ./mine.py:function
`selfalign study RECIPE --help` lists the common options of a study and of the recipe, `--help-all` all of them.
"""


def main(arguments: Sequence[str]) -> int:
    from selfalign.study.ready import Study
    from selfalign.tracking.trackers import check_trackers

    if any(a in HELP for a in arguments[:1]):
        sys.stdout.write(USAGE.format(recipes=", ".join(recipes.__all__)))
        return 0
    make = load_recipe(named_recipe(arguments, "study"))
    parser = study_parser(make)
    if print_help(parser, make, arguments):
        return 0
    arguments = settle_engine(arguments, choices(make).get("engine", ()), lambda plain: _plan(make, parser, plain))
    options = parse(parser, arguments, part_options(make))
    seeds, held_out = read_examples(options.seeds, options.held_out)
    for name, what in (("out", "a folder for the study"), ("model", "a local folder, a hub name, or smollm2-135m")):
        if options[name] is None:
            raise UserError(f"--{name} is missing: give {what}")
    if options.review:
        raise UserError("--review: a study runs without people; take it out, or give it to `selfalign run`")
    check_beside(options)
    _check_folder(Path(options.out))
    arms = make_arms(make, parser, options, arguments, seeds)
    study = Study(
        arms,
        held_out,
        Path(options.out),
        options.repeats,
        trackers=check_trackers(options.report_to),
        files=recipe_files(options.recipe),
        keep=options.keep_weights,
    )
    if options.only is not None:
        return _one(study, options)
    return _study(study, options, (resolved(parser, options), notes(make, parser, options, arms)), arguments)


def _check_folder(out: Path) -> None:
    """Raises UserError: it could not be made or written to. Nothing is made here: the study's other options may be wrong."""
    there = next(each for each in (out, *out.absolute().parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "cannot be written to" if there.is_dir() else "is no folder"
        raise UserError(f"--out {out}: {there} {why}; give the study another one")


def _plan(make: Callable[..., Recipe], parser: ArgumentParser, arguments: Sequence[str]) -> Planned:
    """All arms share the engine that the first run of the study was begun with."""
    options = parse(parser, arguments, part_options(make))
    arms = make_arms(make, parser, options, arguments, read_examples(options.seeds, None)[0])
    first = Path(options.out) / arms[0].folder / f"seed-{arms[0].recipe.seed}" if options.out else None
    return Planned([arm.recipe for arm in arms], [arm.model for arm in arms], first)


def study_parser(make: Callable[..., Recipe]) -> ArgumentParser:
    """The options of `selfalign run` and those of a study."""
    parser = make_parser(make, "study")
    text = "recipes to compare it with, with commas between; own ones as ./file.py:function"
    parser.add_argument("--baselines", type=str, default="pretrained,icl_knn,sft", help=text)
    parser.add_argument("--repeats", type=int, default=3, help="random seeds for each arm, from --seed on")
    text = "metric of the verdict (default: the first of expected, balance and log_likelihood that there is)"
    parser.add_argument("--metric", type=str, help=text)
    add_beside(parser)
    text = "option=v1,v2 …: one more arm for each value; seeds=8,16,32 draws so many of the seeds"
    parser.add_argument("--vary", type=str, nargs="+", default=[], help=text)
    return parser


def _one(study: Study, options: Namespace) -> int:
    """One run of a study, for the process that has the others run too; its progress in lines."""
    from selfalign.errors import handle_signals
    from selfalign.loop.progress import Lines, limited
    from selfalign.study.processes import end_with_parent
    from selfalign.study.run import run_one

    with handle_signals(), nullcontext() if options.quiet else Lines() as lines:
        end_with_parent()
        study = replace(study, progress=limited(options.max_hours, lines))
        run_one(study, options.only, json.loads(options.settled or "{}"))
    return 0


def _study(study: Study, options: Namespace, about: tuple[str, Sequence[str]], arguments: Sequence[str]) -> int:
    """
    Args:
        about: the options as YAML, and what is to be said of them.
    """
    from selfalign.cli.study_table import print_study
    from selfalign.errors import handle_signals
    from selfalign.loop.progress import limited, on_screen
    from selfalign.proof.unfinished import unfinished
    from selfalign.study.run import run_study

    with handle_signals(), ExitStack() as stack:
        beside = make_beside(options, study.arms, arguments)
        bars = None if options.quiet else stack.enter_context(on_screen() if beside is None else nullcontext())
        study = replace(study, progress=limited(options.max_hours, bars))
        elsewhere = None if beside is None else stack.enter_context(beside)
        result = run_study(study, metric=options.metric, options=about[0], notes=about[1], beside=elsewhere)
    if options.json:
        print_json(result)
    else:
        print_study(result)
    if not (lines := unfinished(result)):
        return 0
    sys.stderr.write(f"selfalign: {printable(lines[0])}\n")  # each with its reason stands above, and in the JSON
    return 1
