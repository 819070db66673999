"""Pairs of a preferred and a rejected answer as preference losses read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selfalign.export.data import Before, Said, messages, write_samples
from selfalign.record import rows
from selfalign.record.store import Store


def export_preferences(store: Store, file: str | Path) -> int:
    """Writes the kept answers that were rejected, each with the one preferred to it, oldest round first.

    JSON lines of {"id", "round", "category", "validation"} of the rejected answer, `metadata` where any row has some, and
    {"prompt", "chosen", "rejected"}; Parquet where the name ends in `.parquet`. Where any row has a system text or earlier turns,
    the three are lists of messages in all rows (TRL's conversational form). `read_seeds` reads both back.

    Returns:
        The number of pairs written.

    Raises:
        UserError: no such pairs, or a file that cannot be.
    """
    return write_samples(store, file, None, f"verdict = 'kept' AND {rows.REJECTED}", _shape, preferred=True)


def _shape(rejected: Said, preferred: str | None, before: Before) -> dict[str, Any]:
    if not any(before):
        return {"prompt": rejected.prompt, "chosen": preferred, "rejected": rejected.response}
    chosen, other = messages(rejected._replace(response=preferred or "")), messages(rejected)
    return {"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": other[-1:]}
