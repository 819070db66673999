"""What kind of file system a folder is on: over a network SQLite's log (WAL) does not work, as it needs memory that all share."""

from __future__ import annotations

import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
"""Linux's list of what is mounted where; elsewhere there is none, and no folder is known to be on a network."""
_NETWORK = frozenset(
    [
        *("nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs", "orangefs", "pvfs2"),
        *("glusterfs", "ocfs2", "gfs2", "wekafs", "panfs", "davfs"),
    ]
)
_FUSE = ("sshfs", "ceph", "gluster", "juicefs", "s3fs", "gcsfuse", "goofys", "rclone", "mount-s3", "beegfs", "moosefs", "davfs")


def network_file_system(folder: Path) -> str:
    """Its name where the folder, which need not exist, is on one that several machines share; "" elsewhere."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    place, best, kind = folder.expanduser().resolve(), -1, ""
    for line in lines:
        # 36 35 98:0 /root /mount/point rw,noatime master:1 - ext4 /dev/root rw (proc_pid_mountinfo(5))
        before, _, behind = line.partition(" - ")
        at, what = before.split(), behind.split()
        if len(at) < 5 or not what:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), at[4]))
        if place.is_relative_to(point) and len(point.parts) >= best:  # of two on one point the later one hides the other
            best, kind = len(point.parts), what[0]
    shared = kind in _NETWORK or (kind.startswith("fuse.") and any(name in kind for name in _FUSE))
    return kind if shared else ""
