"""Files made from the record for eyes and other tools: JSON lines, Parquet, JSON, model folders.

Each appears whole or not at all, and the same record gives the same bytes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from selfalign import model_rows, rows
from selfalign.cards import data_card, model_card
from selfalign.checkpoints import publish
from selfalign.disk import reporting, require_space, whole_file
from selfalign.errors import UserError
from selfalign.merging import write_merged
from selfalign.plain import finite, json_line, metric_table
from selfalign.store import Store
from selfalign.types import Demonstration, Example, Turns

DataFormat = Literal["plain", "messages", "prompt-completion", "alpaca"]

Shape = Callable[[str, str, Turns], dict[str, Any]]
"""A row's own fields from its prompt, response and history."""


def _messages(prompt: str, response: str, history: Turns) -> list[dict[str, str]]:
    turns = (*history, (prompt, response))
    return [{"role": role, "content": text} for turn in turns for role, text in zip(("user", "assistant"), turn, strict=True)]


_SHAPES: Mapping[DataFormat, Shape] = {
    "plain": lambda prompt, response, _: {"prompt": prompt, "response": response},
    "messages": lambda *row: {"messages": _messages(*row)},
    "prompt-completion": lambda prompt, response, _: {"prompt": prompt, "completion": response},
    "alpaca": lambda prompt, response, _: {"instruction": prompt, "input": "", "output": response},
}
_CONVERSATIONS: Mapping[DataFormat, Shape] = {
    "plain": lambda *row: {**_SHAPES["plain"](*row), **_column(row[2], True)},
    "messages": _SHAPES["messages"],
    "prompt-completion": lambda *row: {"prompt": _messages(*row)[:-1], "completion": _messages(*row)[-1:]},
    "alpaca": lambda *row: {**_SHAPES["alpaca"](*row), **_column(row[2], True)},
}
"""Of every row where any has earlier turns. A trainer takes the first row's form for that of all (TRL does), so none differs."""
_ROWS_AT_ONCE = 10_000


def export_data(store: Store, file: str | Path, format: DataFormat = "plain", rounds: Sequence[int] | None = None) -> int:
    """Writes kept samples, and the seeds as round 0, oldest round first; `rounds` chooses some of them.

    JSON lines of {"id", "round"} and the format's own fields; Parquet where the name ends in `.parquet`. Earlier turns stand in
    the messages. Where any row has some, every row of the other formats has a place for them: in prompt-completion both fields
    are lists of messages (TRL's conversational form), plain and alpaca have a field `history`, a list of [prompt, response].

    Returns:
        The number of rows written.

    Raises:
        UserError: a format, round or file that cannot be.
    """
    if format not in _SHAPES:
        raise UserError(f"no data format {format!r}: use one of {', '.join(_SHAPES)}")
    with store.snapshot() as connection:
        chosen = _rounds(store, rounds)
        where = f"verdict != 'dropped' AND round IN ({', '.join('?' * len(chosen))})"
        shape = (_CONVERSATIONS if rows.has_later_turn(connection, where, chosen) else _SHAPES)[format]
        query = f"SELECT id, round, prompt, response, history FROM samples WHERE {where} ORDER BY round, slot, number"
        written = (
            {"id": id, "round": round, **shape(prompt, response, rows.turns(history))}
            for id, round, prompt, response, history in connection.execute(query, chosen)
        )
        return _write_rows(Path(file), written, {"id": "", "round": 0, **shape("", "", (("", ""),))})


def export_dropped(store: Store, file: str | Path) -> int:
    """Writes the dropped candidates with `rule` and `evidence`, as `export_data` does the kept ones."""
    with store.snapshot() as connection:
        names = ("id", "round", "prompt", "response", "rule", "evidence")
        where = "verdict = 'dropped'"
        later = rows.has_later_turn(connection, where)
        found = connection.execute(f"SELECT history, {', '.join(names)} FROM samples WHERE {where} ORDER BY round, slot, number")
        written = ({**dict(zip(names, row, strict=True)), **_column(rows.turns(history), later)} for history, *row in found)
        sample = {**{name: 0 if name == "round" else "" for name in names}, **_column((("", ""),), later)}
        return _write_rows(Path(file), written, sample)


def export_round(store: Store, round: int) -> None:
    """`round-01/kept.jsonl` and `dropped.jsonl`, with all that is known of each sample of a round that is filtered."""
    folder = store.round_folder(round)
    _write_lines(folder / "kept.jsonl", (_everything(example) for example in store.kept(round)))
    dropped = ({**_everything(drop.example), "rule": drop.rule, "evidence": drop.evidence} for drop in store.dropped(round))
    _write_lines(folder / "dropped.jsonl", dropped)


def export_metrics(store: Store, round: int) -> None:
    """`round-01/metrics.json`: {name: {"value", "low", "high", "n", "unit", "better"}} of the round's model."""
    with whole_file(store.round_folder(round) / "metrics.json", "export") as temporary:
        temporary.write_text(json.dumps(metric_table(store.metrics(round)), indent=2, ensure_ascii=False) + "\n", "utf-8")


def export_data_card(store: Store, file: str | Path, format: DataFormat = "plain", license: str | None = None) -> Path:
    """Writes the dataset card of `file` next to it: `kept.card.md` for `kept.jsonl`.

    Raises:
        UserError: as `data_card`, or the file is none that has a place (a pipe, a terminal).
    """
    data = Path(file)
    if data.exists() and not data.is_file():
        raise UserError(f"{file} is no regular file: a card is written next to one only")
    card = data.with_name(f"{data.stem}.card.md")
    text = data_card(store, license=license, file=data.name, format=format)
    with whole_file(card, "export") as temporary:
        temporary.write_text(text, "utf-8")
    return card


def export_model(
    store: Store, folder: str | Path, round: int | None = None, merge: bool = False, license: str | None = None
) -> Path:
    """Copies the model of a round (without one, of the best round) to a folder of its own, its files verified first, with
    its card as README.md.

    With `merge` an adapter becomes part of full weights, proven to say what the adapter says (`merging`).

    Raises:
        UserError: no such model, a damaged one, one of the hub as it came, the folder is taken or cannot be written, or as
            `model_card`.
        RunFailed: too little space, or a merged model that says something else than the adapter.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists: name a new folder for the model")
    chosen = best_round(store) if round is None else round
    model, source = store.model(chosen), model_files(store, chosen)
    card = model_card(store, chosen, license=license, merged=merge)
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        with reporting(target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(temporary, ignore_errors=True)
            if merge and model.adapter is not None:
                asked = (*store.validation_seeds(), *store.seeds())
                write_merged(model, temporary, asked, store.identity().get("format", "auto"))
            else:
                require_space(target.parent, sum(path.stat().st_size for path in source.rglob("*") if path.is_file()))
                shutil.copytree(source, temporary)
            (temporary / "README.md").unlink(missing_ok=True)  # a library's own, or a link to it
            (temporary / "README.md").write_text(card, "utf-8")
            if target.exists():
                target.rmdir()
            publish(temporary, target)
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror or error}): name another folder for the model") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def model_files(store: Store, round: int) -> Path:
    """The folder of a round's model, its files verified.

    Raises:
        UserError: no such model, a damaged one, or one of the hub as it came.
    """
    model = store.model(round)
    if problems := store.model_problems(round):
        raise UserError(f"the model of round {round} is damaged: {problems[0]}; the same run command trains it again")
    source = model_rows.place(model)
    if not source.is_dir():
        raise UserError(f"the model of round {round} is {model.base} as it came: load it by that name")
    return source


def best_round(store: Store) -> int:
    """
    Raises:
        UserError: the run is not done, so that nothing has chosen one.
    """
    found = store.state().get("best_round")
    if found is None:
        raise UserError(f"{store.folder}: the run is not done, its best round is not known yet; go on with it, or name a round")
    return int(found)


def _rounds(store: Store, rounds: Sequence[int] | None) -> list[int]:
    with store.snapshot() as connection:
        known = [found for (found,) in connection.execute("SELECT DISTINCT round FROM samples ORDER BY round")]
    for round in rounds or ():
        if round not in known:
            raise UserError(f"{store.folder} has no samples of round {round}: it has those of {', '.join(map(str, known))}")
    return known if rounds is None else sorted(set(rounds))


def _everything(example: Example) -> dict[str, Any]:
    e = example
    return {
        "id": e.id,
        "round": e.round,
        "slot": e.slot,
        "category": e.category,
        **_column(e.history, e.history),
        "prompt": e.prompt,
        "response": e.response,
        "prompt_finish": e.prompt_finish,
        "response_finish": e.response_finish,
        "scores": {name: finite(value) for name, value in sorted(e.scores.items())},
        "prompt_demonstrations": [_link(d) for d in e.prompt_demonstrations],
        "response_demonstrations": [_link(d) for d in e.response_demonstrations],
        "metadata": dict(e.metadata),
    }


def _column(history: Turns, wanted: object) -> dict[str, Any]:
    return {"history": [list(turn) for turn in history]} if wanted else {}


def _link(demonstration: Demonstration) -> dict[str, Any]:
    return {"id": demonstration.id, "similarity": demonstration.similarity}


def _write_rows(file: Path, written: Iterable[Mapping[str, Any]], sample: Mapping[str, Any]) -> int:
    if file.is_dir() or not file.parent.is_dir():
        raise UserError(f"{file}: {'is a folder' if file.is_dir() else 'its folder does not exist'}; name a file to write")
    if file.suffix.lower() in (".csv", ".tsv", ".xlsx", ".json"):
        raise UserError(f"{file}: data is written as JSON lines (.jsonl) or Parquet (.parquet)")
    try:
        return _write_parquet(file, written, sample) if file.suffix.lower() == ".parquet" else _write_lines(file, written)
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from error


def _write_lines(file: Path, written: Iterable[Mapping[str, Any]]) -> int:
    count = 0
    with whole_file(file, "export") as temporary, temporary.open("w", encoding="utf-8", newline="\n") as out:
        for row in written:
            out.write(json_line(row))
            count += 1
    return count


def _write_parquet(file: Path, written: Iterable[Mapping[str, Any]], sample: Mapping[str, Any]) -> int:
    """`sample` is a row of the right shape: the columns are there even where there are no rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, count = pa.Table.from_pylist([sample]).schema, 0
    with whole_file(file, "export") as temporary, pq.ParquetWriter(temporary, schema) as out:
        for some in _chunks(written):
            out.write_table(pa.Table.from_pylist(some, schema=schema))
            count += len(some)
    return count


def _chunks(written: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    rest = iter(written)
    while some := list(islice(rest, _ROWS_AT_ONCE)):
        yield some
