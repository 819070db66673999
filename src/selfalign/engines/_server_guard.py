"""Runs a shell command for as long as the process that started this one wants it: until that closes our standard input.

A process of its own, because a run that is killed outright can end nothing itself, and a server left behind would hold the
memory and answer the next run with old weights: `python -m selfalign.engines._server_guard COMMAND`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

GRACE = 15.0
"""Seconds between asking all processes of the command to end (SIGTERM) and ending them (SIGKILL)."""


def main(command: str) -> int:
    """The command's exit code, as a shell gives it."""
    running = subprocess.Popen(command, shell=True, stdin=subprocess.DEVNULL, start_new_session=True)
    ending = threading.Event()

    def end_with_parent() -> None:
        while os.read(0, 1):
            pass
        ending.set()
        _signal(running.pid, signal.SIGTERM)
        end = time.monotonic() + GRACE
        while _signal(running.pid, 0) and time.monotonic() < end:  # the shell is soon gone, its server may take its time
            time.sleep(0.05)
        _signal(running.pid, signal.SIGKILL)

    watcher = threading.Thread(target=end_with_parent, daemon=True)
    watcher.start()
    code = running.wait()
    if ending.is_set():
        watcher.join()
    return code if code >= 0 else 128 - code


def _signal(group: int, number: int) -> bool:
    """Whether there still is one of the group."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    os._exit(main(sys.argv[1]))  # not waiting for the watcher, who reads until the parent is done
