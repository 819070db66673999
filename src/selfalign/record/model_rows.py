"""The record's part about models: which one each round made, its files by size and hash, and what it was trained on."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from pathlib import Path
from typing import Any

from selfalign.errors import RunFailed, UserError
from selfalign.protocols import TrainResult
from selfalign.record import rows
from selfalign.record.checkpoints import Manifest, manifest_hash, read_manifest, sync, verify
from selfalign.record.faults import fault_point
from selfalign.record.plain import dumps
from selfalign.types import ModelRef

_INSIDE = "run:"
"""Before a path that lies in the run folder, so that the folder can be moved and copied."""


def insert(
    connection: sqlite3.Connection, folder: Path, round: int, model: ModelRef, manifest: Manifest, result: TrainResult | None
) -> None:
    """Inside the caller's transaction. Raises RunFailed: a row was trained on that is no sample of this run."""
    trained: dict[str, Any] = {}
    if result is not None:
        trained = {name: getattr(result, name) for name in ("steps", "tokens")}
        trained |= {"seed_weight": float(result.seed_weight), "losses": [float(loss) for loss in result.losses]}
    adapter = None if model.adapter is None else _inward(folder, model.adapter)
    values = (round, _inward(folder, model.base), adapter, model.hash, dumps(manifest), dumps(trained))
    connection.execute("INSERT INTO models (round, base, adapter, hash, manifest, training) VALUES (?, ?, ?, ?, ?, ?)", values)
    if result is not None:
        _insert_training(connection, round, result)


def read(connection: sqlite3.Connection, folder: Path, round: int) -> tuple[ModelRef, Manifest] | None:
    """The model of a round and the manifest of its folder (empty where the files are not ours)."""
    found = connection.execute("SELECT base, adapter, hash, manifest FROM models WHERE round = ?", (round,)).fetchone()
    if found is None:
        return None
    base, adapter, digest, manifest = found
    files = {name: (size, sha256) for name, (size, sha256) in json.loads(manifest).items()}
    return ModelRef(_outward(folder, base), None if adapter is None else _outward(folder, adapter), digest), files


def delete(connection: sqlite3.Connection, round: int) -> None:
    """The round counts as not trained; inside the caller's transaction."""
    connection.execute("DELETE FROM training WHERE round = ?", (round,))
    connection.execute("DELETE FROM models WHERE round = ?", (round,))
    connection.execute("DELETE FROM stages WHERE round = ? AND stage = 'train'", (round,))


def forget_files(connection: sqlite3.Connection, round: int) -> None:
    """From here on the model has no files that could be damaged; inside the caller's transaction."""
    connection.execute("UPDATE models SET manifest = '{}' WHERE round = ?", (round,))


def problems(run: Path, round: int, model: ModelRef, manifest: Manifest) -> list[str]:
    """What is wrong with the files of a round's model, one line per file.

    Raises:
        UserError: its weights were removed (`removed.remove_weights`).
    """
    files = place(model)
    if round and not manifest and files.is_relative_to(run) and not files.is_dir():
        raise UserError(
            f"the weights of round {round} of {run} were removed, as later rounds did not need them; name another round, or start"
            " a run with --keep_weights all"
        )
    return verify(files, manifest)


def figures(connection: sqlite3.Connection, round: int) -> dict[str, Any]:
    found = connection.execute("SELECT training FROM models WHERE round = ?", (round,)).fetchone()
    known: dict[str, Any] = {} if found is None else json.loads(found[0])
    return known


def place(model: ModelRef) -> Path:
    """The folder of the files that belong to this model alone: its adapter, or the whole model."""
    return Path(model.adapter or model.base)


def made_of(start: ModelRef, folder: Path, adapter: bool) -> ModelRef:
    """The model whose files a training of `start` has left in a folder: whole weights, or an adapter on the same base."""
    digest = manifest_hash(read_manifest(folder))
    if not adapter:
        return ModelRef(str(folder), hash=digest)
    return ModelRef(start.base, str(folder), hashlib.sha256(f"{start.hash}\n{digest}".encode()).hexdigest())


def set_aside(run: Path, folder: Path) -> str:
    """Moves a damaged model out of the way as `damaged-N`; "" where it is gone, or not in the run folder."""
    if not folder.is_dir() or not folder.resolve().is_relative_to(run.resolve()):
        return ""
    n = next(n for n in range(1, 10_000) if not (folder.parent / f"damaged-{n}").exists())
    aside = folder.parent / f"damaged-{n}"
    fault_point("damaged-model.before-rename")
    folder.rename(aside)
    fault_point("damaged-model.after-rename")
    sync(folder.parent)
    return str(aside)


def _insert_training(connection: sqlite3.Connection, round: int, result: TrainResult) -> None:
    used: dict[str, tuple[str | None, str | None]] = dict.fromkeys(result.trained, (None, None))
    used |= {drop.example.id: (drop.rule, drop.evidence) for drop in result.dropped}
    numbers = rows.numbers_of(connection, used)
    if unknown := [name for name in used if name not in numbers]:
        raise RunFailed(f"round {round}, training: {unknown[0]} was trained on but is no sample of this run")
    connection.executemany(
        "INSERT INTO training (round, sample, rule, evidence) VALUES (?, ?, ?, ?)",
        ((round, numbers[name], rule, evidence) for name, (rule, evidence) in used.items()),
    )


def _inward(folder: Path, path: str) -> str:
    absolute, root = Path(os.path.abspath(path)), Path(os.path.abspath(folder))  # noqa: PTH100 - links stay as they are
    if absolute.is_relative_to(root) and absolute.is_dir():
        return f"{_INSIDE}{absolute.relative_to(root).as_posix()}"
    return path


def _outward(folder: Path, path: str) -> str:
    return str(folder / path.removeprefix(_INSIDE)) if path.startswith(_INSIDE) else path
