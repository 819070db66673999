"""Files made from the record for eyes and other tools: JSON lines, Parquet, JSON, model folders.

Each appears whole or not at all, and the same record gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from selfalign.errors import UserError
from selfalign.record import model_rows
from selfalign.record.disk import whole_file
from selfalign.record.plain import json_line, metric_table
from selfalign.record.review import waiting
from selfalign.record.store import Store
from selfalign.text import finite
from selfalign.types import Example, Turns


def export_round(store: Store, round: int) -> None:
    """`round-01/kept.jsonl` and `dropped.jsonl`, with all that is known of each sample of a round that is filtered; without the
    first while the round waits for its review."""
    folder = store.round_folder(round)
    if waiting(store) == round:
        (folder / "kept.jsonl").unlink(missing_ok=True)
    else:
        write_lines(folder / "kept.jsonl", (everything(example) for example in store.kept(round)))
    dropped = ({**everything(drop.example), "rule": drop.rule, "evidence": drop.evidence} for drop in store.dropped(round))
    write_lines(folder / "dropped.jsonl", dropped)


def export_metrics(store: Store, round: int) -> None:
    """`round-01/metrics.json`: {name: {"value", "low", "high", "n", "unit", "better"}} of the round's model."""
    with whole_file(store.round_folder(round) / "metrics.json") as temporary:
        temporary.write_text(json.dumps(metric_table(store.metrics(round)), indent=2, ensure_ascii=False) + "\n", "utf-8")


def model_files(store: Store, round: int) -> Path:
    """The folder of a round's model, its files verified.

    Raises:
        UserError: no such model, a damaged one, or the base model, where it is one of the hub.
    """
    model = store.model(round)
    if problems := store.model_problems(round):
        raise UserError(f"the model of round {round} is damaged: {problems[0]}; the same run command trains it again")
    source = model_rows.place(model)
    if not source.is_dir():
        raise UserError(f"the model of round {round} is the base model, {model.base}: load it by that name")
    if not any(each.suffix in _WEIGHTS for each in source.rglob("*")):
        trainer = str((store.identity().get("trainer") or {}).get("part", "a trainer")).rpartition(".")[2]
        raise UserError(f"the model of round {round} has no weights, as {trainer} only pretends to train: a run's data is left")
    return source


_WEIGHTS = (".safetensors", ".bin", ".gguf")


def best_round(store: Store) -> int:
    """Raises UserError: the run is not done, so that nothing has chosen one."""
    found = store.state().get("best_round")
    if found is None:
        raise UserError(f"{store.folder}: the run is not done, its best round is not known yet; go on with it, or name a round")
    return int(found)


def everything(example: Example) -> dict[str, Any]:
    """An example as plain data; `history` only where it has earlier turns."""
    e = example
    return {
        **{name: getattr(e, name) for name in ("id", "round", "slot", "category")},
        **before_columns(e.system, e.history, bool(e.system), bool(e.history)),
        **{name: getattr(e, name) for name in ("prompt", "response", "prompt_finish", "response_finish")},
        "scores": {name: finite(value) for name, value in sorted(e.scores.items())},
        "prompt_demonstrations": [{"id": d.id, "similarity": d.similarity} for d in e.prompt_demonstrations],
        "response_demonstrations": [{"id": d.id, "similarity": d.similarity} for d in e.response_demonstrations],
        "metadata": dict(e.metadata),
    }


def before_columns(system: str, history: Turns, with_system: bool, with_history: bool) -> dict[str, Any]:
    """What stands before a pair, in columns of a table where any pair has it."""
    own = {"system": system} if with_system else {}
    return {**own, "history": [list(turn) for turn in history]} if with_history else own


def write_lines(file: Path, written: Iterable[Mapping[str, Any]]) -> int:
    count = 0
    with whole_file(file) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as out:
        for row in written:
            out.write(json_line(row))
            count += 1
    return count
