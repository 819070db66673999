"""`selfalign rate NEW [BASE] --out F`: pairs of answers for people; `selfalign rate --in anna.csv … --key K`: their verdict."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from selfalign.cli.load import read_held_out
from selfalign.cli.options import new_parser, parse
from selfalign.cli.table import named, print_json, shown, stdout_console, tell, wide_table
from selfalign.errors import UserError
from selfalign.export.rated import figures, read_key, read_ratings
from selfalign.export.ratings import Rows, Sides, of_answers, of_rounds, write_pairs
from selfalign.proof.ratings import CHOICES
from selfalign.proof.stats import too_few
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
    what = "Writes pairs of answers for people to rate without knowing whose they are, and says what their ratings mean."
    reading = "selfalign rate --in anna.csv ben.csv --key pairs.key.json"
    parser = new_parser("rate", what)
    parser.usage = f"selfalign rate NEW [BASE] --out pairs.csv [options]\n       {reading}"
    parser.add_argument("new", type=str, nargs="?", help="a run folder (its best round), or answers that `export` wrote (.json)")
    parser.add_argument("base", type=str, nargs="?", help="what NEW is compared with (default for a run: its base model)")
    parser.add_argument("--out", type=str, help="file of pairs for raters: .csv for a spreadsheet, or .jsonl")
    text = "file that says which answer is whose; keep it from raters (default: FILE.key.json)"
    parser.add_argument("--key", type=str, help=text)
    parser.add_argument("--rows", type=int, help="how many prompts to draw, by category (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw, the order and which answer stands first")
    parser.add_argument("--round", type=int, help="of NEW: this round instead of the best one")
    parser.add_argument("--held_out", type=str, help="the prompts of the runs, for their categories and system texts")
    parser.add_argument("--in", type=str, nargs="+", help="files of ratings, one a person, named like them")
    parser.add_argument("--json", action="store_true", help="print what people say as JSON")
    return parser


def _write(options: Namespace) -> None:
    if options.new is None or options.out is None:
        called = "`selfalign rate RUN --out pairs.csv`"
        raise UserError(f"name what to rate and where to write it: {called}; or read ratings with --in")
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
    """Raises UserError: no two models, files or rounds to compare."""
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
        print_json(found)
    else:
        _print_ratings(found)


def _print_ratings(found: Mapping[str, Any]) -> None:
    console = stdout_console()
    tell(console, *(f"{side}: {found['sides'][side]}" for side in ("new", "base")))
    table = wide_table("preference for the new model", "category", "prompts", "preference")
    for name, figure in found["categories"].items() if len(found["categories"]) > 1 else ():
        table.add_row(shown(name or "(none)"), str(figure["n"]), _share(figure))
    table.add_row("all", str(found["preference"]["n"]), _share(found["preference"]))
    console.print(table)
    columns = ("preference", "rated", "unrated", *CHOICES, "A of A and B")
    table = wide_table("raters", "rater", *columns)
    for name, row in found["raters"].items():
        counts = (str(row[each]) for each in ("rated", "unrated", *CHOICES))
        table.add_row(shown(name), _share(row["preference"]), *counts, _share(row["chose_a"]))
    console.print(table)
    if found["metrics"]:
        table = wide_table("agreement with metrics", "metric", "n", "share")
        for name, figure in found["metrics"].items():
            table.add_row(named(name), str(figure["n"]), _share(figure))
        console.print(table)
    tell(console, *_lines(found))


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    agreement = found["agreement"]
    if agreement["alpha"] is not None:
        span = f"{agreement['alpha']:.2f} [{agreement['low']:.2f}, {agreement['high']:.2f}]"
        alike = f"two ratings of a pair are the same {agreement['same']:.0%} of the time"
        yield f"agreement: Krippendorff's alpha {span} on {counted(agreement['n'], 'pair')} rated twice or more; {alike}"
        if agreement["low"] <= 0:
            yield "raters may agree no more than chance would have it: the preference says little"
    else:
        why = "fewer than two pairs have two ratings" if agreement["n"] < 2 else "only one rating was ever given"
        yield f"agreement: not known, for {why}"
    if found["both_bad"]["value"]:
        yield f"neither answer will do: {_share(found['both_bad'])} of the ratings"
    if (place := found["chose_a"]) is not None:
        drawn = "" if place["low"] <= 0.5 <= place["high"] else ": its place matters, which draws the preference towards 50 %"
        yield f"the first answer was chosen {_share(place)} of the times that one was preferred{drawn}"
    if found["identical"]:
        yield f"{counted(found['identical'], 'prompt')} that both answer alike count as ties"
    if found["unrated"]:
        yield f"{found['unrated']} of {counted(found['pairs'], 'pair')} rated by nobody, and left out"
    yield _sentence(found)


def _sentence(found: Mapping[str, Any]) -> str:
    """The verdict: whether the interval leaves out one half."""
    figure, (new, base) = found["preference"], (found["sides"][side] for side in ("new", "base"))
    n = f"n = {counted(figure['n'], 'prompt')} × {counted(len(found['raters']), 'rater')}"
    few = too_few(figure["n"], "prompts")
    if few or figure["low"] <= 0.5 <= figure["high"]:
        return f"cannot tell which of the two people prefer: {_share(figure)} for {new}, {n}{f'; {few}' if few else ''}"
    if figure["value"] > 0.5:
        return f"people prefer {new} to {base}: {_share(figure)}, {n}"
    turned = {"value": 1 - figure["value"], "low": 1 - figure["high"], "high": 1 - figure["low"]}
    return f"people prefer {base} to {new}: {_share(turned)}, {n}"


def _share(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return "–"
    value, low, high = (f"{100 * figure[name]:.0f}" for name in ("value", "low", "high"))
    return f"{value}% [{low}, {high}]"
