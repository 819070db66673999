"""One process at a time on a run folder: a kernel lock on `DIR/lock`, released by the death of its owner however it dies.

The file stays for ever and its text is only for the message; what counts is the lock on it. Its descriptor is
close-on-exec, so a child process (the trainer) never keeps a folder locked after its parent has died.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from selfalign.errors import UserError

try:
    import fcntl
except ImportError:  # Windows, where a run folder can be read all the same
    fcntl = None  # type: ignore[assignment]

_log = logging.getLogger(__name__)

NAME = "lock"
_TRIES, _WAIT_SECONDS = 10, 0.05


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder's lock while the block runs.

    Half a second of tries, because `is_locked` of another process holds the lock for an instant.

    Raises:
        UserError: another process works on the folder; the message names it. Or its file system has no locks.
    """
    if fcntl is None:
        raise UserError("Windows has no file locks of the kind that a run folder needs: run selfalign in WSL")
    descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        for attempt in range(_TRIES):
            try:
                if _try(descriptor):
                    break
            except OSError as error:
                remedy = "use a folder on a local disk, or have it mounted with locks (NFS: without nolock; Lustre: flock)"
                raise UserError(f"{folder} cannot be locked against a second process ({error.strerror}): {remedy}") from error
            if attempt + 1 < _TRIES:
                time.sleep(_WAIT_SECONDS)
        else:
            raise UserError(f"{folder} is in use by {owner(folder)}: wait for it or stop it, or use another --out")
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:3]])[:200] if sys.argv else "python"
        who = {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "command": command}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(who).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def is_locked(folder: Path) -> bool:
    """Whether a process (this one included) works on the folder now; where there are no such locks, none can."""
    if fcntl is None:
        return False
    try:
        descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CLOEXEC)  # over NFS only what can be written to can be locked
    except OSError:
        try:
            descriptor = os.open(folder / NAME, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
    try:
        return not _try(descriptor)
    except OSError:
        return False  # there are no such locks, and so nobody holds one
    finally:
        os.close(descriptor)


def wait_until_free(folder: Path, seconds: float) -> None:
    """Waits as long for another process to leave the folder: one that was told to end, or that of a lost machine, whose locks a
    file server keeps for a while. Whoever is still there then is met by `locked`."""
    end, said = time.monotonic() + seconds, False
    while is_locked(folder) and time.monotonic() < end:
        if not said:
            _log.warning("%s is still held by %s; waiting up to %.0f s for it to end", folder, owner(folder), seconds)
            said = True
        time.sleep(_WAIT_SECONDS)


def owner(folder: Path) -> str:
    """The owner as it described itself, in words; only of use while `is_locked`."""
    try:
        who = json.loads((folder / NAME).read_text("utf-8"))
        return f"process {who['pid']} on {who['host']} since {who['since']} ({who['command']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
