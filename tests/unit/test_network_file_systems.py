"""Run folders on file systems that several machines share: another journal, locks that work there or a refusal."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from pathlib import Path

import pytest

from selfalign.errors import UserError
from selfalign.record import file_system, lock
from selfalign.record.file_system import network_file_system
from selfalign.record.store import Store

MOUNTED = """\
30 22 0:40 / {shared} rw,relatime shared:5 - nfs4 server:/export rw,vers=4.2
31 30 0:41 / {shared}/own rw - ext4 /dev/vdb rw
32 22 0:42 / {other}/with\\040space rw - fuse.sshfs me@there: rw
33 22 0:43 / {other}/box rw - fuse.gvfsd-fuse gvfs rw
22 1 254:1 / / rw,relatime - ext4 /dev/vda rw
"""


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is said to be on NFS."""
    (tmp_path / "mountinfo").write_text(MOUNTED.format(shared=tmp_path / "nfs", other=tmp_path / "other"))
    monkeypatch.setattr(file_system, "MOUNTS", tmp_path / "mountinfo")
    (tmp_path / "nfs").mkdir()
    return tmp_path / "nfs"


def test_by_the_mount_that_holds_it(shared: Path) -> None:
    other = shared.parent / "other"
    found = {place: network_file_system(place) for place in (shared, shared / "runs/first", shared / "own/first", shared.parent)}
    assert list(found.values()) == ["nfs4", "nfs4", "", ""]
    assert network_file_system(other / "with space/runs") == "fuse.sshfs" and network_file_system(other / "box") == ""
    assert network_file_system(shared.parent / "nfs2") == ""  # no part of nfs


def test_the_record_has_a_rollback_journal_there_and_a_log_elsewhere(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def journal(folder: Path) -> str:
        with sqlite3.connect(folder / "run.sqlite") as connection:
            return str(connection.execute("PRAGMA journal_mode").fetchone()[0])

    for folder, wanted in ((shared / "run", "delete"), (shared.parent / "run", "wal")):
        with Store.open(folder, {"name": "run"}) as store:
            store.add_batch(1, "respond", 0, {0: {"id": "r1"}}, 1.0)
            with Store.read(folder) as reader:  # beside the writer
                assert reader.done_batches(1, "respond") == {0: {"id": "r1"}}
        assert journal(folder) == wanted
    monkeypatch.setattr(file_system, "MOUNTS", shared / "no such list")
    with Store.open(shared / "run", {"name": "run"}):  # copied to a local disk
        pass
    assert journal(shared / "run") == "wal"


def test_locks_as_nfs_has_them_and_none_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.flock

    def as_nfs(descriptor: int, operation: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        real(descriptor, operation)

    monkeypatch.setattr(lock.fcntl, "flock", as_nfs)
    with lock.locked(tmp_path):
        assert lock.is_locked(tmp_path)
    assert not lock.is_locked(tmp_path)

    def none(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", none)
    assert not lock.is_locked(tmp_path)
    with pytest.raises(UserError, match=r"cannot be locked against a second process \(No locks available\): use a folder on"):
        lock.locked(tmp_path).__enter__()
