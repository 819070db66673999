"""Processes that begin warm: copies (fork) of one that has imported everything, instead of interpreters that import it anew.

A start of the command line costs one second of imports, that of a training five, and the tests make hundreds of both. A copy is
a process in all else: with a folder, an environment, signals and an exit code of its own, and the child of who asked for it. On
Linux, as it takes a subreaper, and without a GPU; elsewhere, and where a variable could change what is imported, the tests start
interpreters.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

HARMLESS = {
    *("COLUMNS", "SELFALIGN_FAULT_AT", "SELFALIGN_FAULT_LOG", "PYTEST_CURRENT_TEST"),
    *("TORCHINDUCTOR_CACHE_DIR", "HF_XET_HIGH_PERFORMANCE", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK"),  # libraries set them
    "PYTORCH_NVML_BASED_CUDA_CHECK",  # and DeepSpeed, where it is there
    *("GOMP_SPINCOUNT", "CUDA_VISIBLE_DEVICES", "PYTHONSAFEPATH"),  # a training's, which the tests give no CUDA device
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "ACCELERATE_USE_CPU"),
}
"""Variables that may be another than when the imports were made."""
HUB = {
    *("HF_ENDPOINT", "HF_HOME", "HF_HUB_DISABLE_XET", "HF_HUB_OFFLINE", "HF_TOKEN", "HF_XET_CLIENT_RETRY_BASE_DELAY"),
    "NO_PROXY",
}
"""And these where huggingface_hub, which reads them, is not imported yet."""
ENVIRONMENT: dict[str, str] = {}
"""That of the imports; conftest.py fills it."""
LIGHT = ("scipy.stats", "scipy.optimize", "pyarrow.parquet", "py3langid", "rapidfuzz", "jsonschema", "jinja2", "rich.console")
HEAVY = ("torch", "torch._dynamo", "accelerate", "peft", "transformers.trainer", "transformers.models.llama.modeling_llama")
CHILD = "selfalign.trainers._child"
SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of <linux/prctl.h>: orphans below this process become its children."""


class Child:
    """What the product and the tests use of `subprocess.Popen`, for a process that is our child though we did not fork it."""

    def __init__(self, pid: int, stdin: Any = None, stdout: Any = None) -> None:
        self.pid, self.stdin, self.stdout = pid, stdin, stdout
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._reap(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int:
        end = None if timeout is None else time.monotonic() + timeout
        while (code := self._reap(0 if end is None else os.WNOHANG)) is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            time.sleep(0.005)
        return code

    def _reap(self, how: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, how)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode


class Source:
    """The other end of a process that copies itself."""

    def __init__(self, line: socket.socket, environment: Mapping[str, str], process: object = None) -> None:
        self.line, self.environment, self.process = line, dict(environment), process

    def fits(self, environment: Mapping[str, str], heavy: bool = True) -> bool:
        changed = {name for name, _ in set(environment.items()) ^ set(self.environment.items())}
        return changed <= (HARMLESS if heavy else HARMLESS | HUB)

    def start(self, module: str, arguments: Sequence[str], files: Sequence[int], session: bool = False, **more: Any) -> int:
        """The process id of a copy that runs a module with these as its first three files."""
        body = json.dumps({"module": module, "arguments": list(arguments), "session": session, **more}).encode()
        _adopt(True)
        try:
            socket.send_fds(self.line, [len(body).to_bytes(4, "big")], files)
            self.line.sendall(body)
            return int.from_bytes(_read(self.line, 5)[:4], "big")
        finally:
            _adopt(False)

    def begin(self, module: str, arguments: Sequence[str], files: Sequence[int], environment: Mapping[str, str]) -> Child:
        """The same as a child, in a session of its own and this folder."""
        more = {"folder": str(Path.cwd()), "environment": dict(environment)}
        return Child(self.start(module, arguments, files, session=True, **more))


@lru_cache
def source(heavy: bool) -> Source | None:
    """One for each process of the tests, started when it is first asked for."""
    if sys.platform != "linux" or any(Path("/dev").glob("nvidia[0-9]*")):  # libraries ask CUDA for its devices: then no copy may
        return None
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, __file__, str(theirs.fileno()), *LIGHT, *(HEAVY if heavy else ())]
        quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True, env=ENVIRONMENT, **quiet)
    return Source(ours, ENVIRONMENT, process)


def run(
    words: Sequence[str], folder: Path, environment: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str] | None:
    """`selfalign WORDS` in a folder; None where only an interpreter of its own will do."""
    model = words[words.index("--model") + 1] if "--model" in words[:-1] else "scripted"
    heavy = model != "scripted"
    found = source(heavy)
    if found is None or not found.fits(environment, heavy):
        return None
    with contextlib.ExitStack() as stack:
        out, err = (os.memfd_create(name) for name in ("stdout", "stderr"))
        for each in (out, err):
            stack.callback(os.close, each)
        pid = found.start("selfalign", words, [0, out, err], folder=str(folder), environment=dict(environment))
        child = Child(pid)
        try:
            code = child.wait(timeout)
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            child.wait()
            raise
        said = [Path(f"/proc/self/fd/{each}").read_text("utf-8") for each in (out, err)]
    return subprocess.CompletedProcess(["selfalign", *words], code, *said)


def train_warm(patch: Any, found: Source | None = None) -> None:
    """This process's trainings become copies, of the process given or of the one that all tests share; `patch` sets attributes.

    It is a `pytest.MonkeyPatch`, or has its `setattr`.
    """
    from selfalign.trainers import _process

    def begin(command: Sequence[str], **options: Any) -> Any:
        given = found or source(True)
        environment = options["env"]
        if given is None or list(command[1:3]) != ["-m", CHILD] or not given.fits(environment):
            return subprocess.Popen(command, **options)
        (theirs, ours), (heard, told) = os.pipe(), os.pipe()
        child = given.begin(CHILD, command[3:], [theirs, told, options["stderr"].fileno()], environment)
        os.close(theirs)
        os.close(told)
        child.stdin, child.stdout = os.fdopen(ours, "wb", 0), os.fdopen(heard, "rb")
        return child

    patch.setattr(_process, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": begin}))


def _serve(line: socket.socket, heavy: bool) -> NoReturn:
    """Copies itself as often as it is asked to, until whoever asks is gone."""
    while True:
        head, files, _, _ = socket.recv_fds(line, 4, 3)
        if not head:
            os._exit(0)
        asked = json.loads(_read(line, int.from_bytes(head, "big")))
        between = os.fork()  # its end makes the copy an orphan, and so the child of who asked
        if between == 0:
            copy = os.fork()
            if copy == 0:
                _become(asked, files, heavy)
            line.sendall(copy.to_bytes(4, "big"))
            os._exit(0)
        os.waitpid(between, 0)
        for each in files:
            os.close(each)
        line.sendall(b".")


def _become(asked: dict[str, Any], files: Sequence[int], heavy: bool) -> NoReturn:
    if asked["session"]:
        os.setsid()
    for place, each in enumerate(files):
        os.dup2(each, place)
    os.closerange(3, 1024)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv, sys.path[0] = ["", *asked["arguments"]], asked["folder"]
    if heavy and asked["module"] != CHILD:
        train_warm(SimpleNamespace(setattr=setattr), _spare(asked["environment"]))
    code: object = 1
    try:
        sys.modules.pop(asked["module"] if asked["module"] == CHILD else "selfalign.__main__", None)
        runpy.run_module(asked["module"], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as stop:
        code = stop.code
        if code is not None and not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    with contextlib.suppress(Exception):
        threading._shutdown()
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(int(code or 0) & 0xFF)  # type: ignore[call-overload]


def _spare(environment: Mapping[str, str]) -> Source:
    """A copy of this process as it is before it does anything, for its own trainings: by then it is too late to fork it."""
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        nothing = os.open(os.devnull, os.O_RDWR)
        for place in range(3):
            os.dup2(nothing, place)
        os.setsid()
        _serve(theirs, heavy=False)
    theirs.close()
    return Source(ours, environment)


def _adopt(whether: bool) -> None:
    ctypes.CDLL(None).prctl(SUBREAPER, int(whether), 0, 0, 0)


def _read(line: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        more = line.recv(count - len(found))
        if not more:
            raise RuntimeError("the process that copies itself has ended; `python tests/warm.py 0 torch` says why")
        found += more
    return found


if __name__ == "__main__":
    import selfalign

    for _, name, _ in pkgutil.walk_packages(selfalign.__path__, "selfalign."):
        if not name.endswith("__main__"):
            import_module(name)
    for name in sys.argv[2:]:
        import_module(name)
    import_module("selfalign.text").language_identifier()  # 0.4 s to unpack
    gc.freeze()  # else the first collection of a copy touches, and so copies, all memory
    _serve(socket.socket(fileno=int(sys.argv[1])), heavy="torch" in sys.argv)
