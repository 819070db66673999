"""Writing where a disk may fill up or a process may die: files that appear whole, and failures reported in one line."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from selfalign.errors import Interrupted, RunFailed, UserError, in_a_line
from selfalign.record.checkpoints import publish, sync
from selfalign.record.faults import fault_point

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BROKEN = (errno.EIO, errno.EROFS)
_SAID = ("no space left", "disk quota exceeded", "os error 28", "os error 122", "os error 27")


def disk_full(error: BaseException) -> bool:
    """Whether an exception, also one in which a library wraps it, says that the disk is full or a quota used up."""
    text = str(error).lower()
    return getattr(error, "errno", None) in _FULL or any(said in text for said in _SAID)


@contextmanager
def reporting(folder: Path) -> Iterator[None]:
    """Turns a disk that is full or fails, or a damaged record, met inside the block, into a RunFailed that says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        # The low byte is the primary code; an error raised by Python's own binding carries none.
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise RunFailed(f"the record of {folder} is damaged ({error}): start again with another --out") from error
        if code not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            raise
        raise RunFailed(_message(folder, str(error), code == sqlite3.SQLITE_FULL)) from error
    except (Interrupted, RunFailed, UserError):
        raise
    except Exception as error:  # libraries wrap it in exceptions of their own
        if not disk_full(error) and not (isinstance(error, OSError) and error.errno in _BROKEN):
            raise
        said = getattr(error, "strerror", None) or in_a_line(error)
        raise RunFailed(_message(folder, said, disk_full(error))) from error


@contextmanager
def usable_folder(folder: Path, ours: Sequence[str]) -> Iterator[None]:
    """Makes the folder for the block to work in, where its own files are those that begin with a name of `ours`.

    Raises:
        UserError: the file system refuses (no permission, a name too long …), or the folder is full of other things and
            holds no `ours[0]`: a run would write its files among them.
        RunFailed: the disk is full or failing.
    """
    try:
        with reporting(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            foreign = sorted(path.name for path in folder.iterdir() if not path.name.startswith((".", *ours)))
            if foreign and not (folder / ours[0]).exists():
                raise UserError(f"{folder} is no run folder and not empty (it holds {foreign[0]}): use another --out")
            yield
    except OSError as error:
        raise UserError(f"cannot use {str(folder)[:200]} as a run folder: {error.strerror}; use another --out") from error


def require_space(folder: Path, needed: int) -> None:
    """Raises RunFailed: fewer than `needed` bytes are free on the folder's file system."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RunFailed(
            f"{folder}: {needed:,} bytes are needed and {free:,} are free: free some space, then give the same command again"
        )


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary file to write; at the end of the block it takes the place of `path` in one step, on disk before that.

    After a crash `path` holds either the old content or all of the new. Something that is no regular file (a pipe, a
    terminal) is written directly.
    """
    with reporting(path.parent):
        if path.exists() and not path.is_file():
            yield path
            return
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            yield temporary
            fault_point("export.before-sync")
            sync(temporary)
            fault_point("export.before-rename")
            temporary.replace(path)
            fault_point("export.after-rename")
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def check_place(file: Path) -> None:
    """Raises UserError: no file can stand there."""
    if file.is_dir() or not file.parent.is_dir():
        raise UserError(f"{file}: {'is a folder' if file.is_dir() else 'its folder does not exist'}; name a file to write")


def free_folder(target: str | Path, remedy: str) -> Path:
    """Raises UserError: something is there already that is no empty folder; the message ends with the remedy."""
    target = Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists: {remedy}")
    return target


@contextmanager
def whole_folder(target: Path, remedy: str) -> Iterator[Path]:
    """A temporary folder to fill; at the end of the block it takes the place of `target`, a `free_folder`, in one step.

    Raises:
        UserError: it cannot be written; the message ends with the remedy.
    """
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        with reporting(target.parent):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            yield temporary
            if target.exists():
                target.rmdir()
            publish(temporary, target)
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror or error}): {remedy}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _message(folder: Path, reason: str, full: bool) -> str:
    if not full:
        return f"cannot write to {folder} ({reason}); nothing committed is lost, the same command goes on once it can be written"
    free = f"{shutil.disk_usage(folder).free:,} bytes are free" if folder.exists() else "no space is left"
    return f"the disk of {folder} is full ({reason}, {free}); nothing is lost: free some space, then give the same command again"
