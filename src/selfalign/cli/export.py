"""`selfalign export DIR --data F [--card] | --dropped F | --answers F | --model D | --gguf KIND [--ollama]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Literal, get_args

from selfalign.cli.options import new_parser, parse
from selfalign.cli.table import print_json
from selfalign.errors import UserError
from selfalign.export.answers import export_answers
from selfalign.export.cards import check_license
from selfalign.export.data import DataFormat, export_data, export_data_card, export_dropped, export_preferences
from selfalign.export.gguf import Kind, export_gguf
from selfalign.export.model import export_model
from selfalign.export.trainers import TrainerFormat, export_for_trainer
from selfalign.record import rows
from selfalign.record.store import Store
from selfalign.text import counted


def main(arguments: Sequence[str]) -> int:
    parser = new_parser("export", "Writes what a run made: its pairs, what it dropped and why, a round's model and answers.")
    parser.add_argument("folder", type=str, help="the run folder")
    text = "file for seeds and kept samples: JSONL, or Parquet by suffix; or a folder: see --format"
    parser.add_argument("--data", type=str, help=text)
    parser.add_argument(
        "--format",
        type=Literal[*get_args(DataFormat), "preference", *get_args(TrainerFormat)],
        default="plain",
        help="form of the rows; plain is {id, round, category, validation, prompt, response}; where any row has a system text or"
        " earlier turns, plain and alpaca get fields for them, and prompt-completion lists of messages; preference has the pairs"
        " of a preferred and a rejected answer alone, as {prompt, chosen, rejected}; llama-factory, axolotl and trl write a"
        " folder: what a round was trained on, and dataset_info.json, axolotl.yaml or train.py",
    )
    parser.add_argument("--dropped", type=str, help="file for dropped samples with rule and evidence")
    parser.add_argument("--answers", type=str, help="file for answers to the held-out prompts, as AlpacaEval reads them (.json)")
    parser.add_argument("--model", type=str, help="folder to copy a model to")
    text = "write a model as a GGUF file for llama.cpp, proven to be the model; needs a built llama.cpp"
    parser.add_argument("--gguf", type=Literal[*get_args(Kind)], help=text)
    parser.add_argument("--ollama", action="store_true", help="write a Modelfile next to the GGUF file, its template proven")
    parser.add_argument("--gguf_out", type=str, help="folder for the GGUF file (default: gguf-KIND in the round's folder)")
    text = "folder of llama.cpp (default: SELFALIGN_LLAMA_CPP, the PATH and the usual places)"
    parser.add_argument("--llama_cpp", type=str, help=text)
    parser.add_argument("--round", type=int, help="the round whose model or answers to write (default: the best one)")
    parser.add_argument("--merge", action="store_true", help="make an adapter part of full weights, proven to write the same")
    text = "write a dataset card next to the --data file: FILE's stem + .card.md"
    parser.add_argument("--card", action="store_true", help=text)
    parser.add_argument("--license", type=str, help="licence named in a card, as the hub spells it (apache-2.0 …)")
    parser.add_argument("--json", action="store_true", help="say what was written as JSON")
    options = parse(parser, arguments)
    if not (options.data or options.dropped or options.answers or options.model or options.gguf):
        raise UserError("nothing to export: give --data FILE, --dropped FILE, --answers FILE, --model FOLDER or --gguf KIND")
    whole = options.data if options.format in get_args(TrainerFormat) else None
    if options.card and (whole or not options.data):
        raise UserError("--card goes with --data FILE; a model gets its card without it, and a trainer's folder has none")
    _refuse_idle(options, whole)
    check_license(options.license)
    with Store.read(options.folder) as store:
        found = dict(_exported(store, options))
    if options.json:
        print_json({name: plain for name, (plain, _) in found.items()})
    else:
        sys.stdout.write("".join(f"{line}\n" for _, lines in found.values() for line in lines))
    return int(bool("gguf" in found and found["gguf"][0]["modelfile_refused"]))


def _refuse_idle(options: Any, whole: str | None) -> None:
    """Raises UserError for an option that changes nothing; `whole` is the folder for another trainer."""
    of_a_round = "--model, --gguf, --answers or --format trl (llama-factory, axolotl): other files have the pairs of all rounds"
    for name, given, wants, there in (
        ("round", options.round is not None, of_a_round, [options.model, options.gguf, options.answers, whole]),
        ("merge", options.merge, "--model", [options.model]),
        ("license", options.license is not None, "--model, --gguf or --card", [options.model, options.gguf, options.card]),
        *((name, bool(options[name]), "--gguf KIND", [options.gguf]) for name in ("ollama", "gguf_out", "llama_cpp")),
    ):
        if given and not any(there):
            raise UserError(f"--{name} changes nothing without {wants}; take it out, or add what it is for")


def _exported(store: Store, options: Any) -> Iterator[tuple[str, tuple[Any, Sequence[str]]]]:
    """Writes what was asked for; by its name as plain data and in lines for a person."""
    if options.data:
        yield "data", _data(store, options.data, options.format, options.round)
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
    if options.gguf:
        yield "gguf", _gguf(store, options)


def _gguf(store: Store, options: Any) -> tuple[dict[str, Any], list[str]]:
    def say(text: str) -> None:
        sys.stderr.write(f"{text} …\n")

    where = {"round": options.round, "license": options.license, "tools": options.llama_cpp}
    made = export_gguf(store, options.gguf, options.gguf_out, ollama=options.ollama, say=say, **where)
    size = made.file.stat().st_size
    said = [f"GGUF file in {made.file} ({size / 1e6:,.1f} MB), proven with llama-server:"]
    said += [f"  {line}" for line in made.proof.lines()]
    if made.modelfile is not None:
        said.append(f"Modelfile in {made.modelfile}: ollama create NAME -f {made.modelfile}")
    if made.refused:
        said.append(f"no Modelfile is written: {made.refused}; llama-server takes the file without one")
    plain = {"file": str(made.file), "bytes": size, "proof": made.proof.plain(), "notes": list(made.notes)}
    about = {"modelfile": None if made.modelfile is None else str(made.modelfile), "modelfile_refused": made.refused or None}
    return {**plain, **about}, [*said, *(f"note: {note}" for note in made.notes)]


def _data(store: Store, file: str, format: Any, round: int | None) -> tuple[dict[str, Any], list[str]]:
    if format in get_args(TrainerFormat):
        made = export_for_trainer(store, file, format, round)
        return {**asdict(made), "folder": str(made.folder)}, made.lines()
    if format == "preference":
        pairs = export_preferences(store, file)
        return {"file": file, "rows": pairs}, [f"{counted(pairs, 'pair')} of a preferred and a rejected answer in {file}"]
    pairs = export_data(store, file, format)
    said = [f"{counted(pairs, 'pair')} in {file}"]
    with store.snapshot() as connection:
        rejected, taught = connection.execute(rows.LEFT_OUT).fetchone()
    if rejected:
        instead = "which --format preference writes with those preferred to them"
        said += [f"left out: {counted(rejected, 'rejected answer')}, {instead}"]
    if taught:
        said += [f"left out: {counted(taught, 'answer')} that a teacher corrected: not to be imitated"]
    return {"file": file, "rows": pairs, "left_out": {"rejected": rejected, "taught": taught}}, said
