"""`selfalign rate NEW [BASE] --out F`: pairs of answers for people; `selfalign rate --in anna.csv … --key K`: their verdict."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from selfalign.cli.load import read_held_out
from selfalign.cli.options import new_parser, parse
from selfalign.errors import UserError
from selfalign.export.rated import figures, read_key, read_ratings
from selfalign.export.ratings import Rows, Sides, of_answers, of_rounds, write_pairs
from selfalign.record.exports import best_round
from selfalign.record.plain import escaped
from selfalign.record.schema import NAME as RECORD
from selfalign.record.store import Store
from selfalign.seeds.files import read_rows
from selfalign.seeds.rows import Problem
from selfalign.text import counted

_OF_WRITING = ("new", "base", "out", "rows", "seed", "round", "held_out")


def main(arguments: Sequence[str]) -> int:
    parser = _parser()
    options = parse(parser, arguments)
    reading = bool(options["in"])
    if idle := [name for name in (_OF_WRITING if reading else ("json",)) if options[name] != parser.get_default(name)]:
        name = idle[0] if idle[0] in ("new", "base") else f"--{idle[0]}"
        raise UserError(f"{name} changes nothing {'with' if reading else 'without'} --in; take it out")
    if reading:
        _say_what_people_say(options)
    else:
        _write(options)
    return 0


def _parser() -> ArgumentParser:
    parser = new_parser(
        "rate", "Writes pairs of answers for people to rate without knowing whose they are, and says what their ratings mean."
    )
    parser.usage = (
        "selfalign rate NEW [BASE] --out pairs.csv [options]\n       selfalign rate --in anna.csv ben.csv --key pairs.key.json"
    )
    parser.add_argument("new", type=str, nargs="?", help="a run folder (its best round), or answers that `export` wrote (.json)")
    parser.add_argument("base", type=str, nargs="?", help="what NEW is compared with (default for a run: its base model)")
    parser.add_argument("--out", type=str, help="file of pairs for raters: .csv for a spreadsheet, or .jsonl")
    parser.add_argument(
        "--key", type=str, help="file that says which answer is whose; keep it from raters (default: FILE.key.json)"
    )
    parser.add_argument("--rows", type=int, help="how many prompts to draw, by category (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw, the order and which answer stands first")
    parser.add_argument("--round", type=int, help="of NEW: this round instead of the best one")
    parser.add_argument("--held_out", type=str, help="the prompts of the runs, for their categories and system texts")
    parser.add_argument("--in", type=str, nargs="+", help="files of ratings, one a person, named like them")
    parser.add_argument("--json", action="store_true", help="print what people say as JSON")
    return parser


def _write(options: Namespace) -> None:
    if options.new is None or options.out is None:
        raise UserError(
            "name what to rate and where to write it: `selfalign rate RUN --out pairs.csv`; or read ratings with --in"
        )
    key = options.key or str(Path(options.out).with_suffix(".key.json"))
    sides = _sides(options)
    found = write_pairs(sides, options.out, key, options.rows, options.seed)
    lines = [
        f"{counted(found['pairs'], 'pair')} in {options.out}; their key in {key}, which raters must not see",
        f"new: {sides.new}; base: {sides.base}; random seed {options.seed}, and each stands first in half of the pairs",
    ]
    if found["drawn"] < found["prompts"]:
        lines.append(f"{found['drawn']} of {found['prompts']} prompts drawn, by category")
    if found["identical"]:
        lines.append(f"left out: {counted(found['identical'], 'prompt')} that both answer alike; they count as ties")
    sys.stdout.write(escaped("\n".join(lines)) + "\n")


def _sides(options: Namespace) -> Sides:
    """
    Raises:
        UserError: no two models, files or rounds to compare.
    """
    places = [Path(each).expanduser() for each in (options.new, options.base) if each is not None]
    runs = [(place / RECORD).is_file() for place in places]
    if not any(runs) and all(place.is_file() for place in places):
        if len(places) < 2:
            raise UserError(f"{options.new} holds the answers of one model: name those of the other one too")
        if options.round is not None or options.held_out is not None:
            raise UserError("--round and --held_out are about runs, not about files of answers; take them out")
        return of_answers(*((str(place), _rows(place)) for place in places))
    if odd := [place for place, run in zip(places, runs, strict=True) if not run and place.is_file()]:
        raise UserError(f"{odd[0]}: is a file: export the other one's answers too, or name two runs")
    with ExitStack() as stack:
        new, *others = (stack.enter_context(Store.read(place)) for place in places)
        rounds = [best_round(new) if options.round is None else options.round, *(best_round(each) for each in others), 0]
        if not others and not rounds[0]:
            raise UserError(f"{new.folder}: the best round is 0, the base model itself; --round K compares another one with it")
        held_out = () if options.held_out is None else read_held_out(options.held_out)
        return of_rounds(new, rounds[0], others[0] if others else new, rounds[1], held_out)


def _rows(path: str | Path) -> Rows:
    for item in read_rows(path):
        if isinstance(item, Problem):
            raise UserError(f"{item.where}: {item.what}")
        yield item.where, item.fields


def _say_what_people_say(options: Namespace) -> None:
    if options.key is None:
        raise UserError("--in needs --key FILE, the .key.json that was written with the pairs")
    key, raters = read_key(options.key), dict[str, Any]()
    for file in options["in"]:
        name = Path(file).stem
        if name in raters:
            raise UserError(f"{file}: another file is of {name!r} too; give each person one file of their name")
        raters[name] = read_ratings(key, _rows(file))
        if not raters[name]:
            raise UserError(f"{file}: no row has a rating; fill in the column 'rating', or leave the file out")
    found = figures(key, raters)
    if options.json:
        sys.stdout.write(escaped(json.dumps(found, indent=1, ensure_ascii=False)) + "\n")
        return
    from selfalign.cli.rate_table import print_ratings

    print_ratings(found)
