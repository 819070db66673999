"""llama.cpp's programs: found, or named with how to get them; run; and the server asked."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from selfalign.errors import RunFailed, UserError
from selfalign.text import printable

CONVERTER, QUANTISER, SERVER = "convert_hf_to_gguf.py", "llama-quantize", "llama-server"
VARIABLE = "SELFALIGN_LLAMA_CPP"
PLACES = ("~/llama.cpp", "llama.cpp", "/opt/llama.cpp", "/usr/local/llama.cpp", "/app")
"""Where a clone or a container has it."""
LOADING = 900.0
"""Seconds that a server may take to load a model."""
PACKAGES = ("sentencepiece",)
"""What the converter imports beyond ours when it comes to a tokenizer, whichever kind that is."""
_INSIDE = ("", "bin", "build/bin", "build/bin/Release")
_HOW = (
    "clone https://github.com/ggml-org/llama.cpp, build it in that folder (cmake -B build && cmake --build build --target"
    f" {SERVER} {QUANTISER}), and name it: --llama_cpp FOLDER, or {VARIABLE}=FOLDER"
)


@dataclass(frozen=True)
class Tools:
    """Where the programs are; the quantiser's place is None where none is needed."""

    converter: Path
    quantiser: Path | None
    server: Path


def find_tools(folder: str | None, quantises: bool) -> Tools:
    """The programs in a folder that is named (by the option, or the environment), else on the PATH or in the usual places.

    Raises:
        UserError: one is missing, or the converter does not start with this Python.
    """
    named = folder or os.environ.get(VARIABLE)
    if named and not Path(named).expanduser().is_dir():
        raise UserError(f"{'--llama_cpp' if folder else VARIABLE} {named}: there is no such folder; {_HOW}")
    wanted = (CONVERTER, *((QUANTISER,) if quantises else ()), SERVER)
    found = {name: _find(name, named) for name in wanted}
    if missing := [name for name, path in found.items() if path is None]:
        where = f"in {named}" if named else "on the PATH or in the usual places"
        raise UserError(f"llama.cpp's {' and '.join(missing)} cannot be found {where}: {_HOW}")
    converter, server = found[CONVERTER], found[SERVER]
    assert converter is not None and server is not None
    _check_converter(converter)
    return Tools(converter, found.get(QUANTISER), server)


def _find(name: str, named: str | None) -> Path | None:
    roots = [Path(place).expanduser() for place in ((named,) if named else PLACES)]
    on_path = None if named else shutil.which(name)
    places = [*([Path(on_path)] if on_path else []), *(root / inside / name for root in roots for inside in _INSIDE)]
    found = (place for place in places if place.is_file() and (name == CONVERTER or os.access(place, os.X_OK)))
    return next((place.absolute() for place in found), None)


def _check_converter(converter: Path) -> None:
    done = _done([sys.executable, str(converter), "--help"])
    if done.returncode:
        package = "; pip install gguf" if "No module named" in done.stderr else ""
        raise UserError(f"{converter} does not start with {sys.executable}: {_last_line(done.stderr)}{package}")
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(f"llama.cpp's converter needs the package {missing[0]}; install it with: pip install {missing[0]}")


def convert(tools: Tools, model: Path, file: Path) -> None:
    """A model's folder to one file in float16. Raises RunFailed: llama.cpp does not know the model, or its tokenizer."""
    _run([sys.executable, str(tools.converter), str(model), "--outfile", str(file), "--outtype", "f16"], file, "converter")


def quantise(tools: Tools, source: Path, file: Path, kind: str) -> None:
    """Raises RunFailed: llama.cpp cannot."""
    _run([str(tools.quantiser), str(source), str(file), kind], file, "quantiser")


def _run(command: Sequence[str], file: Path, name: str) -> None:
    done = _done(command)
    if done.returncode or not file.is_file():
        raise RunFailed(f"llama.cpp's {name} failed (exit code {done.returncode}): {_last_line(done.stderr or done.stdout)}")


def _done(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, check=False)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return printable(lines[-1][:300]) if lines else "it says nothing"


@dataclass(frozen=True)
class Served:
    """A running llama-server."""

    address: str
    process: subprocess.Popen[bytes]
    log: Path

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Raises RunFailed: the server refuses, has died or gives no answer."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.address}{path}", data, {"Content-Type": "application/json"})
        try:
            with build_opener(ProxyHandler({})).open(request, timeout=LOADING) as answer:
                return json.load(answer)
        except HTTPError as error:
            raise RunFailed(f"llama-server refuses {path}: {_last_line(error.read().decode(errors='replace'))}") from error
        except (OSError, ValueError) as error:
            said = _last_line(self.log.read_text("utf-8", "replace")) if self.process.poll() is not None else str(error)
            raise RunFailed(f"llama-server gives no answer to {path}: {said}") from error

    def tokens(self, text: str, *, begin: bool, special: bool = True) -> list[int]:
        """Token ids of a text; `begin` puts in front what the file asks for, `special` reads names of special tokens as such."""
        return list(self.ask("/tokenize", {"content": text, "add_special": begin, "parse_special": special})["tokens"])


@contextmanager
def serving(tools: Tools, file: Path, window: int, log: Path) -> Iterator[Served]:
    """A server of the file on this machine alone, with one place of `window` tokens; it ends with the block.

    Raises:
        RunFailed: it does not start.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ("--host", "127.0.0.1", "--port", str(port), "--ctx-size", str(window), "--parallel", "1")
    with log.open("wb") as output:
        line = shlex.join([str(tools.server), "--model", str(file), *options])
        # Behind a process that ends it with us, also where we are killed outright.
        guard = [sys.executable, "-m", "selfalign.engines._server_guard", line]
        process = subprocess.Popen(guard, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    server = Served(f"http://127.0.0.1:{port}", process, log)
    try:
        _wait(server)
        yield server
    finally:
        process.communicate()  # closes its input, which ends the server


def _wait(server: Served) -> None:
    end = time.monotonic() + LOADING
    while server.process.poll() is None and time.monotonic() < end:
        try:
            server.ask("/health")
            return
        except RunFailed:  # it refuses while it loads
            time.sleep(0.2)
    said = _last_line(server.log.read_text("utf-8", "replace"))
    raise RunFailed(f"llama-server does not start with the file: {said}")
