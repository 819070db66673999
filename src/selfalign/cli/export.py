"""`selfalign export DIR --data F [--card] | --dropped F | --answers F | --model D`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

from selfalign.cli.options import new_parser, parse
from selfalign.errors import UserError
from selfalign.export.answers import export_answers
from selfalign.export.cards import check_license
from selfalign.export.data import DataFormat, export_data, export_data_card, export_dropped
from selfalign.export.model import export_model
from selfalign.export.preferences import export_preferences
from selfalign.record import rows
from selfalign.record.store import Store
from selfalign.text import counted


def main(arguments: Sequence[str]) -> int:
    parser = new_parser("export", "Writes what a run made: its pairs, what it dropped and why, a round's model and answers.")
    parser.add_argument("folder", type=str, help="the run folder")
    parser.add_argument("--data", type=str, help="file for seeds and kept samples: JSONL, or Parquet by suffix")
    parser.add_argument(
        "--format",
        type=Literal[*get_args(DataFormat), "preference"],
        default="plain",
        help="form of the rows; plain is {id, round, category, validation, prompt, response}; where any row has a system text or"
        " earlier turns, plain and alpaca get fields for them, and prompt-completion lists of messages; preference has the pairs"
        " of a preferred and a rejected answer alone, as {prompt, chosen, rejected}",
    )
    parser.add_argument("--dropped", type=str, help="file for dropped samples with rule and evidence")
    parser.add_argument("--answers", type=str, help="file for answers to the held-out prompts, as AlpacaEval reads them (.json)")
    parser.add_argument("--model", type=str, help="folder to copy a model to")
    parser.add_argument("--round", type=int, help="whose model or answers; the best round's without it")
    parser.add_argument("--merge", action="store_true", help="make an adapter part of full weights, proven to write the same")
    parser.add_argument(
        "--card", action="store_true", help="write a dataset card next to the --data file: FILE's stem + .card.md"
    )
    parser.add_argument("--license", type=str, help="licence named in a card, as the hub spells it (apache-2.0 …)")
    parser.add_argument("--json", action="store_true", help="say what was written as JSON")
    options = parse(parser, arguments)
    if not (options.data or options.dropped or options.answers or options.model):
        raise UserError("nothing to export: give --data FILE, --dropped FILE, --answers FILE or --model FOLDER")
    if options.card and not options.data:
        raise UserError("--card goes with --data FILE; a model gets its card without it")
    for name, given, wants, there in (
        (
            "round",
            options.round is not None,
            "--model or --answers: the pairs of all rounds are written",
            [options.model, options.answers],
        ),
        ("merge", options.merge, "--model", [options.model]),
        ("license", options.license is not None, "--model or --card", [options.model, options.card]),
    ):
        if given and not any(there):
            raise UserError(f"--{name} changes nothing without {wants}; take it out, or add what it is for")
    if options.license is not None:
        check_license(options.license)
    with Store.read(options.folder) as store:
        found = dict(_exported(store, options))
    if options.json:
        sys.stdout.write(json.dumps({name: plain for name, (plain, _) in found.items()}, indent=1) + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for _, lines in found.values() for line in lines))
    return 0


def _exported(store: Store, options: Any) -> Iterator[tuple[str, tuple[Any, Sequence[str]]]]:
    """Writes what was asked for; by its name as plain data and in lines for a person."""
    if options.data:
        yield "data", _data(store, options.data, options.format)
    if options.card:
        card = str(export_data_card(store, options.data, options.format, options.license))
        yield "card", (card, [f"card in {card}"])
    if options.dropped:
        count = export_dropped(store, options.dropped)
        yield "dropped", ({"file": options.dropped, "rows": count}, [f"{counted(count, 'dropped sample')} in {options.dropped}"])
    if options.answers:
        answers = export_answers(store, options.answers, options.round)
        yield "answers", ({"file": options.answers, "rows": answers}, [f"{counted(answers, 'answer')} in {options.answers}"])
    if options.model:
        model = str(export_model(store, options.model, options.round, options.merge, options.license))
        yield "model", (model, [f"model in {model}"])


def _data(store: Store, file: str, format: Any) -> tuple[dict[str, Any], list[str]]:
    if format == "preference":
        pairs = export_preferences(store, file)
        return {"file": file, "rows": pairs}, [f"{counted(pairs, 'pair')} of a preferred and a rejected answer in {file}"]
    pairs = export_data(store, file, format)
    said = [f"{counted(pairs, 'pair')} in {file}"]
    with store.snapshot() as connection:
        rejected, taught = connection.execute(rows.LEFT_OUT).fetchone()
    if rejected:
        said += [
            f"left out: {counted(rejected, 'rejected answer')}, which --format preference writes with those preferred to them"
        ]
    if taught:
        said += [f"left out: {counted(taught, 'answer')} that a teacher corrected: not to be imitated"]
    return {"file": file, "rows": pairs, "left_out": {"rejected": rejected, "taught": taught}}, said
