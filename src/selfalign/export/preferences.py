"""Pairs of a preferred and a rejected answer as preference losses read them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfalign.errors import UserError
from selfalign.export.data import Said, chosen_rounds, messages, write_rows
from selfalign.record import rows
from selfalign.record.store import Store
from selfalign.types import PREFERRED


def export_preferences(store: Store, file: str | Path, rounds: Sequence[int] | None = None) -> int:
    """Writes the kept answers that were rejected, each with the one preferred to it, oldest round first.

    JSON lines of {"id", "round", "category", "validation"} of the rejected answer, `metadata` where any row has some, and
    {"prompt", "chosen", "rejected"}; Parquet where the name ends in `.parquet`. Where any row has a system text or earlier turns,
    the three are lists of messages in all rows (TRL's conversational form). `read_seeds` reads both back.

    Returns:
        The number of pairs written.

    Raises:
        UserError: no such pairs, or a round or file that cannot be.
    """
    with store.snapshot() as connection:
        chosen = chosen_rounds(store, rounds)
        where = f"verdict = 'kept' AND {rows.REJECTED} AND round IN ({', '.join('?' * len(chosen))})"
        if not connection.execute(f"SELECT 1 FROM samples WHERE {where} LIMIT 1", chosen).fetchone():
            raise UserError(f"{store.folder} has no pairs of a preferred and a rejected answer; recipes such as dpo make them")
        as_messages = rows.has_system(connection, where, chosen) or rows.has_later_turn(connection, where, chosen)
        keys = f"SELECT DISTINCT key FROM samples, json_each(samples.metadata) WHERE {where} AND key != ? ORDER BY key"
        names = [key for (key,) in connection.execute(keys, (*chosen, PREFERRED))]
        preferred = f"SELECT c.response FROM samples c WHERE c.id = json_extract(samples.metadata, '$.{PREFERRED}')"
        columns = f"id, round, category, metadata, history, prompt, ({preferred}), response"
        found = connection.execute(f"SELECT {columns} FROM samples WHERE {where} ORDER BY round, slot, number", chosen)

        def row(values: Sequence[Any]) -> dict[str, Any]:
            id, round, category, metadata, history, prompt, better, worse = values
            known = json.loads(metadata)
            extra = {"metadata": {name: known.get(name) for name in names}} if names else {}
            before = rows.said_before(history)
            answers = [messages(Said(*before, prompt, answer)) for answer in (better, worse)]
            texts: tuple[Any, ...] = (prompt, better, worse)
            if as_messages:
                texts = (answers[0][:-1], answers[0][-1:], answers[1][-1:])
            return {
                "id": id,
                "round": round,
                "category": category,
                "validation": False,
                **extra,
                **dict(zip(("prompt", "chosen", "rejected"), texts, strict=True)),
            }

        sample = row(("", 0, "", json.dumps(dict.fromkeys(names, "")), '[["", ""]]', "", "", ""))
        return write_rows(Path(file), map(row, found), sample)
