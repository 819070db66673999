"""A round's answers to the held-out prompts, for other people's judges: AlpacaEval's JSON format."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from selfalign.errors import UserError
from selfalign.record.disk import check_place, whole_file
from selfalign.record.exports import best_round
from selfalign.record.store import Store
from selfalign.types import transcript


def export_answers(store: Store, file: str | Path, round: int | None = None) -> int:
    """Writes one JSON list of {"instruction", "output", "generator", "dataset"}, a row for each held-out prompt, in their order.

    `alpaca_eval --model_outputs FILE` reads it. The file appears whole or not at all. `generator` names model, recipe
    and round; `dataset` is the stage of the record that holds the answers: `held_out`, decoded as the recipe decodes
    evaluations, whatever evaluators with a way of their own were answered besides; where all of them had one and the same,
    `held_out_` and its hash.

    Args:
        round: whose model's answers; without one the best round's.

    Returns:
        The number of answers written.

    Raises:
        UserError: the round is not evaluated, nothing was answered, evaluators decoded in several ways and none as the recipe
            does, or a file that cannot be.
    """
    target = Path(file)
    check_place(target)
    if target.suffix.lower() in (".jsonl", ".csv", ".tsv", ".parquet"):
        raise UserError(f"{file}: answers are written as one JSON list; name a .json file")
    with store.snapshot():
        chosen, options = best_round(store) if round is None else round, store.identity()
        stage, found = answered(store, chosen)
    about = {"generator": f"{Path(str(options['model'])).name}-{options['name']}-round-{chosen:02d}", "dataset": stage}
    asked = ((transcript(each.get("history", ()), each["prompt"]), each["text"]) for each in found)
    rows = [{"instruction": prompt, "output": text, **about} for prompt, text in asked]
    try:
        with whole_file(target) as temporary:
            temporary.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", "utf-8")
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from error
    return len(rows)


def answered(store: Store, round: int) -> tuple[str, list[dict[str, Any]]]:
    """The stage of the record that holds a round's answers to the held-out prompts, and its rows in the order of the prompts.

    Raises:
        UserError: as `export_answers`.
    """
    if store.stage(round, "evaluate") is None:
        raise UserError(f"{store.folder}: round {round} is not evaluated (yet); go on with the run, or name another round")
    with store.snapshot() as connection:
        found = connection.execute("SELECT DISTINCT stage FROM outputs WHERE round = ? ORDER BY stage", (round,))
        stages = [name for (name,) in found if re.fullmatch(r"held_out(_[0-9a-f]{6})?", name)]
    if not stages:
        raise UserError(f"{store.folder}: round {round} answered no held-out prompts; start a run with --held_out FILE")
    if len(stages) > 1 and stages[0] != "held_out":
        raise UserError(
            f"{store.folder}: evaluators decoded in {len(stages)} ways of their own ({', '.join(stages)}) and none as the recipe"
            " does: there is no one answer to a prompt"
        )
    return stages[0], list(store.done_batches(round, stages[0]).values())
