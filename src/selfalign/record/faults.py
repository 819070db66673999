"""Named points at which a test can kill the process: how the promise "killed anywhere, nothing lost" is shown.

A testing aid, inert unless the environment asks for it:

- `SELFALIGN_FAULT_AT=name` kills (SIGKILL, so nothing is cleaned up) at the first hit of that point, `name:k` at its
  k-th hit, `#k` at the k-th hit of any point in this process; k counts from 1.
- `SELFALIGN_FAULT_LOG=file` appends the name of every point passed, one a line, so that a test can list them.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

AT = "SELFALIGN_FAULT_AT"
LOG = "SELFALIGN_FAULT_LOG"

_hits: Counter[str] = Counter()


def fault_point(name: str) -> None:
    """Passes by at once, unless the environment names this point: then the process dies here, as by a power cut."""
    at, log = os.environ.get(AT), os.environ.get(LOG)
    if not at and not log:
        return
    _hits[name] += 1
    if log:
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(name + "\n")
    if at in (name, f"{name}:{_hits[name]}", f"#{_hits.total()}"):
        os.kill(os.getpid(), signal.SIGKILL)
