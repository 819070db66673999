"""Running code that a model wrote: each program in a child process that can compute and nothing else.

What the kernel refuses the child (Linux 5.13, x86_64 and aarch64): the network, other processes (starting them, signals to them,
their memory), writing, changing, removing or making any file, and reading files outside of Python's own folders. It has limits
of processor time and memory, a time after which it is killed, an empty environment and an empty folder. That this holds on the
machine at hand is tried out before the first program runs (`confinement`).

What is not guaranteed: a fault of the kernel is a way out, as for every process; and a program shares its process with the
tests that judge it, so one written to cheat can.
"""

from __future__ import annotations

import json
import os
import signal
import site
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Literal

from selfalign.errors import RunFailed, UserError

Ending = Literal["passed", "failed", "stopped"]
"""passed: it ran to its end; failed: it raised, or left before its end; stopped: it ran out of time or memory."""

_CHILD = Path(__file__).with_name("_confined_child.py")
_TRIES = """
import os, socket, sys
def refused(call, *arguments):
    try:
        call(*arguments)
    except OSError:
        return
    raise AssertionError(call)
refused(socket.socket)
refused(os.fork)
refused(os.kill, os.getppid(), 0)
refused(open, "here", "w")
refused(open, sys.executable, "ab")
refused(os.mkdir, "here")
refused(open, "/proc/self/environ")
refused(os.chmod, ".", 0o700)
assert not set(os.environ) - {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LC_CTYPE"}, os.environ
"""


def run_all(programs: Sequence[str], seconds: int, megabytes: int) -> list[Ending]:
    """How each program ended, in order; as many run at once as there are processors, eight at most.

    Raises:
        UserError: this machine cannot confine a process.
        RunFailed: no child could be started.
    """
    if problem := confinement():
        raise UserError(problem)

    with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as several:
        return list(several.map(lambda program: run(program, seconds, megabytes), programs))


def run(program: str, seconds: int, megabytes: int) -> Ending:
    """One program in a child of its own; after four times its processor time in seconds it is killed. Raises RunFailed: the child
    did not come as far as the program."""
    asked = {"program": program, "seconds": seconds, "bytes": megabytes * 2**20, "readable": _readable()}
    environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(prefix="selfalign-code-", ignore_cleanup_errors=True) as folder:
        try:
            child = subprocess.Popen(
                [sys.executable, "-I", "-X", "utf8", str(_CHILD)],
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise RunFailed(f"no process for code to run in could be started ({error}); free memory or processes") from error
        return _ended(child, json.dumps(asked).encode(), 4 * seconds)


def _ended(child: subprocess.Popen[bytes], asked: bytes, seconds: float) -> Ending:
    assert child.stdin is not None and child.stdout is not None and child.stderr is not None
    with child:
        late = False
        try:
            with suppress(BrokenPipeError):  # said on standard error, below
                child.stdin.write(asked)
                child.stdin.close()
            try:
                child.wait(seconds)
            except subprocess.TimeoutExpired:
                late = True
        finally:  # whatever interrupts the wait, no program goes on
            child.kill()
        code = child.wait()
        # Little of it: the child's standard error is closed before the program runs, and a pipe holds 64 KiB.
        word, why = os.read(child.stdout.fileno(), 16), os.read(child.stderr.fileno(), 10_000)
    if why:
        said = why.decode("utf-8", "replace").strip().splitlines()[-1]
        raise RunFailed(f"the process that code is run in could not be prepared ({said})")
    if late or code in (-signal.SIGXCPU, -signal.SIGKILL) or word == b"memory":
        return "stopped"
    return "passed" if word == b"passed" and code == 0 else "failed"


@cache
def confinement() -> str:
    """Why this machine cannot confine a child, in a line; "" where all that `_TRIES` does is refused here."""
    needs = "code that a model wrote runs only where the kernel confines it: Linux 5.13 or newer on x86_64 or aarch64"
    if not sys.platform.startswith("linux"):
        return f"{needs}, and this is {sys.platform}; evaluate it on such a machine"
    try:
        ended = run(_TRIES, 20, 1024)
    except RunFailed as error:
        return f"{needs}; here {error}"
    return "" if ended == "passed" else f"{needs}; here a process that was to be confined was not"


def _readable() -> list[str]:
    """What a program may read: Python, its packages, and the system's libraries."""
    own = [*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix, *site.getsitepackages()]
    system = ["/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache", "/dev/null", "/dev/urandom"]
    found = {Path(path).resolve() for path in (*own, *system)}
    return sorted(str(path) for path in found - {Path("/"), *Path.home().parents, Path.home()} if path.exists())
