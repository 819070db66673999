"""Starting the training process, listening to it, and ending it with the parent whatever ends the parent."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfalign.errors import RunFailed, TimeUp
from selfalign.models.device import only_device
from selfalign.protocols import Progress
from selfalign.trainers._memory import LARGE

GRACE = 2.0
"""Seconds between asking the process to end (SIGTERM) and ending it (SIGKILL)."""

STOP, STEP = "stop", 600.0
"""The file that asks the process to end with a checkpoint after the step at hand, and the seconds that it is given for that."""

_REMEDIES = {
    "not_finite": "; a lower trainer.learning_rate or trainer.precision=fp32 may help",
    "memory": "; give the same command again with a lower --trainer.micro_batch or --trainer.gradient_checkpointing true, and the"
    " run goes on; --trainer.method lora or qlora takes less in a new one",
    "disk": "; free some space, then give the same command again",
    "other": "",
}


def surroundings(device: str, given: Mapping[str, str], four_bits: bool = False) -> dict[str, str]:
    """The environment of a training process.

    It imports nothing from the current folder: libraries take a folder named mlx or triton there for the package of that name.
    It sees no other CUDA device than it is given (`only_device`). Its threads spin for a while and sleep then, unless the user
    chose: beside other busy processes a thread that spins for long keeps the core from the one that it waits for, and one that
    sleeps at once is woken late on a quiet machine (figures: docs/memory.md, "On processors").

    A base of 4 bits is spread out layer by layer. On a processor activations that are kept come to lie in the gaps which those
    weights leave behind, so that the next ones find no room there: 360M took 3.0 GB instead of 2.2 in float32. By `LARGE` no
    gap is left.
    """
    no_gaps = {"MALLOC_MMAP_THRESHOLD_": str(LARGE)} if four_bits else {}
    chosen = any(name in given for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"))
    waits = {} if chosen else {"GOMP_SPINCOUNT": "10000"}
    return {**waits, **no_gaps, "PYTHONSAFEPATH": "1", **only_device(device, given)}


def run_child(spec: Path, stage: str, progress: Progress, device: str = "auto", four_bits: bool = False) -> None:
    """Runs the training of a spec file to its end, its steps reported to `progress`.

    The process reads standard input, a pipe only we hold, and dies at its end: also when we are killed and can do nothing.

    Raises:
        RunFailed: the training failed, or its process died; the message says why and what to do.
    """
    log = spec.parent / "training.log"
    if (say := getattr(progress, "say", None)) is not None:
        say(f"{stage}: the process writes to {log}")
    stop = spec.parent / STOP
    stop.unlink(missing_ok=True)
    command = [sys.executable, "-m", "selfalign.trainers._child", str(spec)]
    with log.open("wb") as errors:
        # A session of its own: Ctrl-C reaches us alone, and we end all its processes together.
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            env=surroundings(device, os.environ, four_bits),
        )
    try:
        failure = _listen(child, stage, progress)
        code = child.wait()
    except TimeUp:
        stop.touch()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(STEP)
        raise
    finally:
        _end(child)
    if failure is not None:
        raise RunFailed(f"{stage}: {failure['message']}{_REMEDIES[failure['error']]} (full report: {log})")
    if code != 0:
        raise RunFailed(f"{stage}: {_death(code, log)} (full report: {log})")


def _listen(child: subprocess.Popen[bytes], stage: str, progress: Progress) -> dict[str, Any] | None:
    """Hands steps on as they come, until the process closes its line; the first error it reports, if any."""
    failure = None
    started = False
    assert child.stdout is not None
    for line in child.stdout:
        message = _parse(line)
        if "total" in message:
            progress.start(stage, message["total"], message["done"])
            started = True
        elif "step" in message:
            progress.advance(1, f"loss {message['loss']:.3f}")
        elif "note" in message:
            logging.getLogger("selfalign").warning("%s: %s", stage, message["note"])
        elif "error" in message and failure is None:
            failure = message
    if started:
        progress.finish()
    return failure


def _parse(line: bytes) -> dict[str, Any]:
    """A message; nothing where the process died in the middle of a line, or something else wrote one."""
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


def _end(child: subprocess.Popen[bytes]) -> None:
    """Nothing to do where it ended by itself; else ends it and whatever it started."""
    try:
        if child.poll() is None:
            _signal(child, signal.SIGTERM)
            try:
                child.wait(GRACE)
            except subprocess.TimeoutExpired:
                _signal(child, signal.SIGKILL)
                child.wait()
    finally:
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()


def _signal(child: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)


def _death(code: int, log: Path) -> str:
    if code == -signal.SIGKILL:
        return "the training process was killed; most often the system does that when memory runs out" + _REMEDIES["memory"]
    how = f"died by signal {-code}" if code < 0 else f"ended with code {code}"
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["nothing"]
    return f"the training process {how}; it said last: {lines[-1]}"
