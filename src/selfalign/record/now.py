"""`DIR/progress.json`: the stage that a run is at, for `selfalign status`. Beside the record and not in it: nothing is decided by
it, and a commit for each training step would cost more than some steps do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

NAME = "progress.json"


def write_now(folder: Path, now: Mapping[str, Any]) -> None:
    """In one step, and without forcing it to the disk: what a power cut loses here was over anyway."""
    temporary = folder / f".{NAME}.tmp"
    temporary.write_text(json.dumps(now, ensure_ascii=False) + "\n", "utf-8")
    temporary.replace(folder / NAME)


def read_now(folder: Path) -> dict[str, Any] | None:
    """As it was written last; None where no stage is open, or another program wrote it."""
    with suppress(OSError, ValueError):
        found = json.loads((folder / NAME).read_text("utf-8"))
        return found if isinstance(found, dict) and isinstance(found.get("stage"), str) else None
    return None


def forget_now(folder: Path) -> None:
    (folder / NAME).unlink(missing_ok=True)
