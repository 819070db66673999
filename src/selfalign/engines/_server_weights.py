"""How a server comes to serve a model: vLLM's call that loads an adapter while it runs, or a command that starts a server."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from selfalign.engines._server_bodies import Listed
from selfalign.engines._server_client import Call
from selfalign.engines._server_requests import as_in_command
from selfalign.errors import RunFailed, UserError
from selfalign.models.names import resolve_ref
from selfalign.protocols import Trained
from selfalign.text import printable
from selfalign.types import ModelRef

MODEL = "{model}"
"""Where the model's folder or hub name goes in a command."""
_POLL = 0.5
_IN_USE: set[str] = set()
"""Addresses whose server runs for a session of this process."""


def adapter_name(model: ModelRef) -> str:
    """A name that no other weights have: servers keep what they cached under a name when its adapter is replaced."""
    return f"selfalign-{(model.hash or resolve_ref(model).hash)[:16]}"


def load_adapter(model: ModelRef, listed: Sequence[Listed]) -> list[Call[None]]:
    """The call that loads a model's adapter; none where the server lists it already (a run that goes on)."""
    name = adapter_name(model)
    if any(one.name == name for one in listed):
        return []
    body = {"lora_name": name, "lora_path": str(Path(str(model.adapter)).resolve())}
    return [Call("/load_lora_adapter", body, lambda _: None)]


def check_models(reload: str, trained: Trained | None, others: Sequence[str]) -> None:
    """See `protocols.EngineLimits`: whether this way of reloading can serve what a run trains and asks.

    Raises:
        UserError: it cannot.
    """
    if reload == "command" and trained == "adapter":
        raise UserError(
            "engine.reload=command starts a server of whole weights, and this trainer trains adapters; use engine.reload=lora,"
            " or train all weights (trainer.lora_rank=0)"
        )
    if reload == "lora" and trained == "weights":
        raise UserError(
            "engine.reload=lora loads adapters, and this trainer trains all weights; train an adapter (trainer.lora_rank=16),"
            " or use engine.reload=command"
        )
    if reload == "command" and others:
        raise UserError(
            f"engine.reload=command serves one model at a time, and a part of the recipe asks {others[0]} besides the round's;"
            " use engine.reload=lora, let the judge be the round's own model (current), or leave it out"
        )


def refuse_adapter(model: ModelRef) -> None:
    """Raises UserError: the model is an adapter, of which a command starts no server."""
    if model.adapter is not None:
        raise UserError(
            f"engine.reload=command starts a server of whole weights, and {model.adapter} is an adapter;"
            " use engine.reload=lora, or train all weights (trainer.lora_rank=0)"
        )


class Started:
    """A server that a command starts for one model, or an existing one that it starts anew.

    A command that goes on running is the server and ends, with its process group, at `close` or with this process; one that
    returns 0 has left the server to something else, and so do we.
    """

    def __init__(self, command: str, model: ModelRef, url: str) -> None:
        """Raises UserError: the model is an adapter, or the address serves another session's model."""
        refuse_adapter(model)
        if url in _IN_USE:
            raise UserError(
                f"the server at {url} serves one model at a time (engine.reload=command), not {model.base} as well;"
                " use engine.reload=lora, or leave out the judge or teacher that needs it"
            )
        _IN_USE.add(url)
        self._url = url
        line = command.replace(MODEL, shlex.quote(as_in_command(model)))
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close
        self._process = subprocess.Popen(
            [sys.executable, "-m", "selfalign.engines._server_guard", line],
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches us alone, who then end it in order
        )

    def wait(self, answers: Callable[[], bool], occupied: bool, seconds: float) -> None:
        """Until the server answers.

        Args:
            answers: whether it does.
            occupied: whether one answered before the command was run: then only a command that returns has replaced it.

        Raises:
            RunFailed: the command failed, or nothing answers in time.
        """
        end = time.monotonic() + seconds
        while True:
            code = self._process.poll()
            if code:
                raise RunFailed(f"engine.command ended with code {code}; it said last: {self._last_words()}")
            if (code == 0 or not occupied) and answers():
                return
            if time.monotonic() > end:
                why = "what answered there before still does" if occupied and code is None else "nothing answers"
                raise RunFailed(
                    f"engine.command has started no server at {self._url} in {seconds:g} s: {why}; end what is left there, or"
                    f" raise engine.startup; the command said last: {self._last_words()}"
                )
            time.sleep(_POLL)

    def close(self) -> None:
        """End what still runs, and wait until its memory is free."""
        try:
            if self._process.stdin is not None:
                self._process.stdin.close()
            self._process.wait()
        finally:
            self._output.close()
            _IN_USE.discard(self._url)

    def _last_words(self) -> str:
        size = self._output.seek(0, 2)
        self._output.seek(max(0, size - 4096))
        lines = self._output.read().decode("utf-8", "replace").strip().splitlines() or ["nothing"]
        return printable(lines[-1])[:300]
