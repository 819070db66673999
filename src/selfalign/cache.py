"""The cache folder: what can be made again. Among it the hashes of large files, which are read once and not at every start."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

LARGE = 2**24
"""Bytes from which the hash of a file is kept: below, reading it costs less than remembering it."""
SHOWN = 2**30
"""Bytes from which the progress of reading is shown."""
_PIECE = 2**22
_SETTLED = 0.1
"""Seconds since the last change of a file whose hash is kept: a second change within a tick of the clock would not show."""


def cache_folder() -> Path:
    """`$SELFALIGN_CACHE`, else `$XDG_CACHE_HOME/selfalign`, else `~/.cache/selfalign`."""
    if chosen := os.environ.get("SELFALIGN_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "selfalign"


def known_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hex.

    That of a large file is remembered by its path, size, times of change and number on the disk: any writing to it, and any
    other file put in its place, changes one of them (the time of change of its entry cannot be set back by a program).
    """
    path = path.resolve()
    state = path.stat()
    if state.st_size < LARGE:
        return _read(path, state.st_size)
    mark = [str(path), state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
    note = cache_folder() / "hashes" / f"{hashlib.sha256(str(path).encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(note.read_text("utf-8"))
        if found["of"] == mark and len(found["sha256"]) == 64:
            return str(found["sha256"])
    settled = time.time() - max(state.st_mtime, state.st_ctime) > _SETTLED
    digest = _read(path, state.st_size)
    if settled:
        with contextlib.suppress(OSError):  # a cache that cannot be written to costs time alone
            note.parent.mkdir(parents=True, exist_ok=True)
            temporary = note.with_name(f".{note.name}.{os.getpid()}")
            temporary.write_text(json.dumps({"of": mark, "sha256": digest}), "utf-8")
            temporary.replace(note)
    return digest


def _read(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        pieces: Iterable[bytes] = iter(lambda: file.read(_PIECE), b"")
        for piece in _shown(pieces, path.name, size) if size >= SHOWN else pieces:
            digest.update(piece)
    return digest.hexdigest()


def _shown(pieces: Iterable[bytes], name: str, size: int) -> Iterator[bytes]:
    """One line on standard error: on a terminal with the share that is read."""
    what, done, last = f"reading {name} ({size / 1e9:.1f} GB) for its hash, once", 0, -1
    live = sys.stderr.isatty()
    sys.stderr.write(what + ("" if live else "\n"))
    for piece in pieces:
        yield piece
        done += len(piece)
        if live and (share := 100 * done // size) != last:
            last = share
            sys.stderr.write(f"\r{what}: {share} %")
    sys.stderr.write("\n" if live else "")
