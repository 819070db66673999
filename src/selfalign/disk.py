"""Writing where a disk may fill up or a process may die: files that appear whole, and failures told in one line."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selfalign.checkpoints import sync_folder
from selfalign.errors import RunFailed
from selfalign.faults import fault_point

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BROKEN = (errno.EIO, errno.EROFS)


@contextmanager
def reporting(folder: Path) -> Iterator[None]:
    """Turns a full disk or a failing one, met inside the block, into a RunFailed that says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        # The low byte is the primary code; an error raised by Python's own binding carries none.
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            raise
        raise RunFailed(_message(folder, str(error), code == sqlite3.SQLITE_FULL)) from error
    except OSError as error:
        if error.errno not in (*_FULL, *_BROKEN):
            raise
        raise RunFailed(_message(folder, error.strerror or str(error), error.errno in _FULL)) from error


def require_space(folder: Path, needed: int) -> None:
    """
    Raises:
        RunFailed: fewer than `needed` bytes are free on the folder's file system.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RunFailed(
            f"{folder}: {needed:,} bytes are needed and {free:,} are free: free some space, then give the same command again"
        )


@contextmanager
def whole_file(path: Path, name: str) -> Iterator[Path]:
    """A temporary file to write; at the end of the block it takes the place of `path` in one step, on disk before that.

    After a crash `path` holds either the old content or all of the new. Something that is no regular file (a pipe, a
    terminal) is written directly. `name` is that of the fault points.
    """
    with reporting(path.parent):
        if path.exists() and not path.is_file():
            yield path
            return
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            yield temporary
            fault_point(f"{name}.before-sync")
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            fault_point(f"{name}.before-rename")
            temporary.replace(path)
            fault_point(f"{name}.after-rename")
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _message(folder: Path, reason: str, full: bool) -> str:
    if not full:
        return f"cannot write to {folder} ({reason}); nothing committed is lost, the same command goes on once it can be written"
    free = f"{shutil.disk_usage(folder).free:,} bytes are free" if folder.exists() else "no space is left"
    return f"the disk of {folder} is full ({reason}, {free}); nothing is lost: free some space, then give the same command again"
