"""vLLM in a process of its own: starting it, asking it, ending it, and what there is to say when it dies.

vLLM gives a GPU's memory back only with its process, and pins versions of torch and transformers that may not be ours.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from selfalign.errors import ProcessDied, RunFailed, UserError
from selfalign.models.device import only_device
from selfalign.text import printable

_GRACE = 10.0
"""Seconds from the end of a process's input to ending it by force; it ends by itself at once, unless something holds it."""
_TAIL = 3
"""Lines of the log that a message quotes."""

_QUIET = {
    "VLLM_NO_USAGE_STATS": "1",  # nothing is sent anywhere
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in one process what is computed together does not depend on who was faster
    "HF_HUB_OFFLINE": "1",  # all files are here
}
_RUNNING: list[Child] = []
"""Processes of this one that hold a model, in the order of their start."""

_log = logging.getLogger(__name__)


class Child:
    """One process that runs vLLM, with one model at most."""

    def __init__(self, python: str, device: str, share: float = 0.0) -> None:
        """
        Args:
            python: the interpreter; "" is the one that runs this.
            device: the only one that it sees, or auto.
            share: of the device's memory that it will take. Others with which that would be more than all of it end first.
        """
        self._python, self._device, self._share = python or sys.executable, device, share
        while share and (others := [one for one in _RUNNING if one._device == device]):
            if sum(one._share for one in others) + share <= 1.0:
                break
            others[0].close()
        descriptor, name = tempfile.mkstemp(prefix="selfalign-vllm-", suffix=".log")
        self.log = Path(name)
        with os.fdopen(descriptor, "wb") as errors:
            self._process = subprocess.Popen(
                [self._python, str(Path(__file__).with_name("_vllm_child.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # Ctrl-C reaches us alone; all its processes end together
                env=_surroundings(python, device),
            )
        self.open = True
        if share:
            _RUNNING.append(self)

    def ask(self, do: str, **asked: Any) -> Any:
        """
        Raises:
            UserError: what was asked cannot be done with this model or these options.
            RunFailed: memory ran out, or vLLM failed.
            ProcessDied: its process ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            try:
                self._process.stdin.write(json.dumps({"do": do, **asked}).encode() + b"\n")
                self._process.stdin.flush()
            except BrokenPipeError:
                pass  # it has died, as its end of the other pipe says
            line = self._process.stdout.readline()
            answer = json.loads(line) if line.endswith(b"\n") else None
            if answer is None:
                self._died()
            if "error" in answer:
                self._refused(answer)
        except BaseException as error:  # an answer may still be under way, which nobody waits for
            self.close(keep_log=isinstance(error, Exception))
            raise
        return answer["ok"]

    def close(self, keep_log: bool = False) -> None:
        """End it with all processes of its own, and wait until their memory is free."""
        if not self.open:
            return
        self.open = False
        try:
            with contextlib.suppress(BrokenPipeError):
                if self._process.stdin is not None:
                    self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE)
        finally:
            self._end()
            if self._process.stdout is not None:
                self._process.stdout.close()
            if self in _RUNNING:
                _RUNNING.remove(self)
            if not keep_log:
                self.log.unlink(missing_ok=True)

    def _end(self) -> None:
        """Kill what is left of the process and of those that it has started (one for each GPU), and wait for them."""
        end = time.monotonic() + _GRACE
        with contextlib.suppress(ProcessLookupError, PermissionError):  # the second one on macOS, of what is dead but not gone
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            while time.monotonic() < end:
                os.killpg(self._process.pid, 0)
                time.sleep(0.05)
        self._process.wait()

    def _refused(self, answer: Mapping[str, str]) -> NoReturn:
        kind, text = answer["error"], printable(answer["message"])
        if kind == "missing":
            raise UserError(
                f"{self._python} has no vLLM that can be used: {text}; pip install -U vllm there (its log: {self.log})"
            )
        if kind == "memory":
            raise RunFailed(
                f"vLLM has not enough memory: {text} (its log: {self.log}); see engine.memory, engine.context,"
                " engine.batch_size and engine.tensor_parallel"
            )
        if kind == "given":
            raise UserError(f"vLLM refuses this: {text} (its log: {self.log})")
        raise RunFailed(f"vLLM failed with {answer['type']}: {text} (its log: {self.log})")

    def _died(self) -> NoReturn:
        code = self._process.wait()
        how = f"died by signal {-code}" if code < 0 else f"ended with code {code}"
        if code == -signal.SIGKILL:
            how = "was killed; most often the system does that when memory runs out"
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["nothing"]
        said = " | ".join(printable(line)[:300] for line in lines[-_TAIL:])
        raise ProcessDied(f"the process that runs vLLM {how}; the same command goes on. Its log {self.log} ends: {said}")


def _surroundings(python: str, device: str) -> dict[str, str]:
    """The environment of the process: without our own paths where another interpreter has other packages."""
    found = {**_QUIET, **only_device(device, os.environ)}
    if python:
        for name in ("PYTHONPATH", "PYTHONHOME"):
            found.pop(name, None)
    return found


def installed() -> bool:
    """Whether this interpreter has vLLM; it is not imported."""
    return find_spec("vllm") is not None


@lru_cache(maxsize=32)
def check(python: str, device: str, asked: str) -> None:
    """Has vLLM itself say, before any weights load, whether it takes a model with these options; once for each.

    Args:
        python, device: as `Child` has them.
        asked: what `Child.ask` is given to load the model, as JSON.

    Raises:
        UserError: vLLM is not there or too old, there is no device for it, or it refuses model or options.
    """
    if not python and not installed():
        raise UserError(
            "engine VLLM needs vLLM, and this Python has none; pip install 'selfalign[vllm]', or name an interpreter that has it:"
            " --engine.python /opt/vllm/bin/python"
        )
    try:
        child = Child(python, device)
    except OSError as error:
        raise UserError(f"engine.python: {python} cannot be started: {error.strerror}") from None
    try:
        found = child.ask("check", **json.loads(asked))
    except RunFailed as error:  # it does not start: nothing was paid for yet
        raise UserError(str(error)) from None
    finally:
        child.close()
    _log.info("vLLM %s on %s, %s", found["version"], found["device"], found["dtype"])
