"""Folders of weights that survive a crash: a manifest of every file's size and SHA-256, written last and checked first.

A manifest in the folder itself (`manifest.json`) makes it a checkpoint; a manifest kept elsewhere (the run's record)
vouches for a finished model. No library besides Python's own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from selfalign.cache import known_sha256

Manifest = Mapping[str, tuple[int, str]]
"""Relative file name (with "/") to (size in bytes, SHA-256 in hex)."""

MANIFEST = "manifest.json"
AVERAGE = "teacher_average"
"""The folder in a round's model that holds what the next round's training needs and nobody else: a teacher that is an average."""
_CHECKPOINT = re.compile(r"checkpoint-(\d{1,18})", re.ASCII)
_LARGEST = 2**26
"""Bytes of a manifest that is read: a model of ten thousand files has 2 MB."""


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the files that stand in a folder now, its own `manifest.json` left out."""
    return {name: (path.stat().st_size, known_sha256(path)) for name, path in _files(folder)}


def manifest_hash(manifest: Manifest) -> str:
    """One SHA-256 for a folder's content: names, sizes and hashes of its files, not its place or its times."""
    text = json.dumps({name: list(manifest[name]) for name in sorted(manifest)}, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write_manifest(folder: Path, key: str = "") -> Manifest:
    """Forces every file of the folder to disk, then writes its `manifest.json` in one step: now the checkpoint exists.

    `key` names what the checkpoint belongs to (a hash of data, options and start model); see `newest_verified`. The folder's
    name, which says after which step it was written, is in it too: under another name it is no checkpoint of that step.
    """
    sync_tree(folder)
    manifest = read_manifest(folder)
    body = {"key": key, "name": folder.name, "files": {name: list(entry) for name, entry in manifest.items()}}
    write_synced(folder / MANIFEST, json.dumps(body, indent=1).encode())
    return manifest


def verify(folder: Path, manifest: Manifest, exact: bool = False) -> list[str]:
    """What is wrong with a folder, one line per file; empty where every file is as the manifest says.

    With `exact` a file the manifest does not name is a fault too, and every byte is read; without it a user may add a note of
    their own, and the hash of a large file that nobody has written to since is taken as known (`cache.known_sha256`).
    """
    hash_of = _sha256 if exact else known_sha256
    problems = [problem for name, entry in manifest.items() if (problem := _compare(folder / name, entry, hash_of))]
    if exact:
        problems += [f"{folder / name}: not in the manifest" for name, _ in _files(folder) if name not in manifest]
    return problems


def newest_verified(work: Path, key: str = "") -> tuple[Path | None, list[str]]:
    """The newest `checkpoint-N` of a folder that verifies and belongs to `key`, and a line for each one passed over.

    A damaged one is moved aside as `damaged-checkpoint-N`; one without a manifest (the process died while writing it)
    and one of another key are removed, so that no later save or clean-up meets their files.
    """
    notes: list[str] = []
    found: Path | None = None
    for folder in reversed(saved_checkpoints(work)):
        if (stored := _stored(folder)) is None:
            discard(folder)
            continue
        own, files, problem = stored
        if not problem and own != key:
            notes.append(f"{folder}: made with other data or options, removed")
            discard(folder)
        elif problem or found is None:
            if problems := [problem] if problem else verify(folder, files, exact=True):
                aside = folder.with_name(f"damaged-{folder.name}")
                shutil.rmtree(aside, ignore_errors=True)
                folder.rename(aside)
                sync(folder.parent)
                notes.append(f"damaged checkpoint moved to {aside.name}: {problems[0]}")
            else:
                found = folder
    return found, notes


def discard(folder: Path) -> None:
    """Removes a checkpoint; its manifest first, so that what a kill leaves behind is unfinished, not damaged."""
    if folder.is_symlink():
        folder.unlink()
        return
    if not (folder / MANIFEST).is_dir():
        (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder)


def publish(temporary: Path, final: Path) -> None:
    """Makes a finished folder appear under its name in one step, with all its files on disk before."""
    sync_tree(temporary)
    temporary.rename(final)
    sync(final.parent)


def write_synced(path: Path, content: bytes) -> None:
    """Writes a file so that after a crash it holds either the old content or all of the new."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync(path.parent)


def sync_tree(folder: Path) -> None:
    """Forces every file and folder below (and including) this one to disk."""
    for base, _, names in os.walk(folder):
        for name in names:
            sync(Path(base) / name)
        sync(Path(base))


def sync(path: Path) -> None:
    """Forces a file's content, or a folder's entries (creations, renames), to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in (MANIFEST, MANIFEST + ".tmp"):
            yield name, path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _compare(path: Path, entry: tuple[int, str], hash_of: Callable[[Path], str]) -> str:
    size, digest = entry
    try:
        if not path.is_file():
            return f"{path}: missing"
        if path.stat().st_size != size:
            return f"{path}: {path.stat().st_size} bytes instead of {size}"
        return "" if hash_of(path) == digest else f"{path}: content changed (SHA-256 differs)"
    except OSError as error:
        return f"{str(path)[:200]}: cannot be read ({error.strerror})"


def saved_checkpoints(work: Path) -> list[Path]:
    """The folders `checkpoint-N`, by N."""
    if not work.is_dir():
        return []
    found = [path for path in work.iterdir() if path.is_dir() and _CHECKPOINT.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def _stored(folder: Path) -> tuple[str, Manifest, str] | None:
    """What a checkpoint's manifest says: (key, files, why that cannot be believed). None without one: it was never finished."""
    path = folder / MANIFEST
    if not os.path.lexists(path):
        return None
    try:
        if not path.is_file():  # to open a pipe would wait for ever
            return "", {}, f"{path}: no regular file"
        if path.stat().st_size > _LARGEST:
            return "", {}, f"{path}: larger than any manifest"
        body: dict[str, Any] = json.loads(path.read_bytes())
        files = {str(name): (int(size), str(digest)) for name, (size, digest) in body["files"].items()}
        key, name = str(body["key"]), str(body["name"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return "", {}, f"{path}: cannot be read"
    if name != folder.name:
        return "", {}, f"{path}: it is of {name[:80]!r}, and the folder was renamed"
    if foreign := [each for each in files if Path(each).is_absolute() or ".." in Path(each).parts]:
        return "", {}, f"{path}: names {foreign[0][:80]!r}, which lies outside the checkpoint"
    return key, files, ""
