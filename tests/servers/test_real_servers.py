"""Whole runs against servers that others wrote, with tiny random models: `make servers` runs all, CI that of transformers.

A test is skipped where its server is not installed: `transformers serve` needs `pip install 'transformers[serving]'`, vLLM an
environment of its own, whose Python the variable SELFALIGN_VLLM_PYTHON names, and llama.cpp its sources with `llama-server` built
in their folder `build`, which SELFALIGN_LLAMA_CPP names.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.request import ProxyHandler, Request, build_opener

import pytest

from selfalign.engines import HF, OpenAI
from selfalign.engines._server_weights import adapter_name
from selfalign.errors import RunFailed
from selfalign.models.names import resolve_ref
from selfalign.protocols import Served, Session
from selfalign.record.store import Store
from selfalign.seeds.read import read_seeds
from selfalign.types import ModelRef, Sampling
from selfalign.types import Request as Ask
from tests.conftest import Run
from tests.files import succeeded
from tests.tiny import tiny_model

RECIPE = f"{Path(__file__).parent / 'recipe.py'}:served"
SERVE = Path(sys.executable).parent / "transformers"
VLLM = os.environ.get("SELFALIGN_VLLM_PYTHON", "")
LLAMA_CPP = os.environ.get("SELFALIGN_LLAMA_CPP", "")
TRANSFORMERS = ("--engine.prompts", "text", "--engine.extras", "generation_config", "--engine.scores", "none")
STARTUP = 900
QUIET = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
CPU = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}

pytestmark = pytest.mark.timeout(3600)
serving = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("fastapi", "uvicorn", "openai")),
    reason="transformers serve is not installed: pip install 'transformers[serving]'",
)
vllm = pytest.mark.skipif(not VLLM, reason="SELFALIGN_VLLM_PYTHON names no Python that has vLLM")

llama_cpp = pytest.mark.skipif(
    not LLAMA_CPP, reason="SELFALIGN_LLAMA_CPP names no sources of llama.cpp with a built llama-server"
)


def vllm_line(model: str, port: int, *options: str) -> str:
    """Not `vllm serve`: that program of the build for processors (vllm-cpu 0.32) does not start."""
    settings = " ".join(f"{name}={value}" for name, value in (QUIET | CPU).items())
    line = f"-m vllm.entrypoints.openai.api_server --model {model} --host 127.0.0.1 --port {port} --enforce-eager"
    return f"env -u PYTHONPATH {settings} {shlex.quote(VLLM)} {line} --dtype float32 {' '.join(options)}"


def llama_cpp_line(model: str, file: Path, port: int, *options: str) -> str:
    """Converts and serves, in float32; four requests at once, each with the whole window."""
    settings = " ".join(f"{name}={value}" for name, value in QUIET.items())
    own = [sys.executable, str(Path(__file__).parent / "to_gguf.py"), LLAMA_CPP]
    convert = f"env {settings} {shlex.join(own)} {model} --outfile {file} --outtype f32"
    window = "--threads 1 --parallel 4 --ctx-size 8192"
    serve = f"{shlex.quote(LLAMA_CPP)}/build/bin/llama-server -m {file} --host 127.0.0.1 --port {port} {window}"
    return f"{convert} && {serve} {' '.join(options)}"


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def post(url: str, body: str) -> int:
    request = Request(url, body.encode(), {"Content-Type": "application/json"})
    return int(build_opener(ProxyHandler({})).open(request, timeout=300).status)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def serving_of(line: str, port: int, log: Path) -> Iterator[str]:
    """The server of a shell line, and its address; all its processes end with the block."""
    with log.open("wb") as output:
        server = subprocess.Popen(line, shell=True, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            end = time.monotonic() + STARTUP
            while not answers(port):
                assert server.poll() is None and time.monotonic() < end, log.read_text(errors="replace")[-3000:]
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(60)
            finally:
                if server.poll() is None:
                    os.killpg(server.pid, signal.SIGKILL)
                    server.wait()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide enough for vLLM, whose heads have 32 numbers at least."""
    return tiny_model(tmp_path_factory.mktemp("served") / "model", context=2048, hidden=128)


def verdicts(out: Path) -> list[tuple[int, str]]:
    with Store.read(out) as store:
        return [(data["round"], data["verdict"]) for _, kind, data in store.events() if kind == "verify_weights"]


def run(cli: Run, seeds: Path, model: Path, out: Path, *options: object) -> None:
    common = ("--model", model, "--out", out, "--quiet", "--engine", "OpenAI", "--guard.parts", "none")
    succeeded(cli("run", RECIPE, seeds, *common, *options, timeout=3000))


def distinct(session: Session, asked: Sequence[Ask], sampling: Sampling) -> int:
    return len({one.text for one in session.generate(asked, sampling)})


@serving
def test_transformers_serve_is_started_for_each_round(cli: Run, seeds_file: Path, model: Path, tmp_path: Path) -> None:
    port, cache = free_port(), tmp_path / "no-cache-here"
    line = f"env HF_HOME={cache} {shlex.quote(str(SERVE))} serve {{model}} --host 127.0.0.1 --port {port} --device cpu"
    url = ("--engine.url", f"http://127.0.0.1:{port}/v1")
    run(cli, seeds_file, model, tmp_path / "out", *TRANSFORMERS, *url, "--engine.reload", "command", "--engine.command", line)
    assert verdicts(tmp_path / "out") == [(1, "verified")] and not answers(port)


@serving
def test_one_transformers_serve_serves_a_single_round(cli: Run, seeds_file: Path, model: Path, tmp_path: Path) -> None:
    """Started by hand without a model: it lists none, and loads the folder that a request names."""
    port = free_port()
    settings = " ".join(f"{name}={value}" for name, value in QUIET.items())
    line = (
        f"env HF_HOME={tmp_path / 'none'} {settings} {shlex.quote(str(SERVE))} serve --host 127.0.0.1 --port {port} --device cpu"
    )
    with serving_of(line, port, tmp_path / "log") as url:
        named = ("--rounds", 1, "--engine.url", url, "--engine.names", f'{{"{model}": "{model}"}}')
        run(cli, seeds_file, model, tmp_path / "out", *TRANSFORMERS, *named)


@vllm
def test_vllm_is_started_for_each_round(cli: Run, seeds_file: Path, model: Path, tmp_path: Path) -> None:
    """Whole weights, proven by log-probabilities."""
    port = free_port()
    reload = ("--engine.reload", "command", "--engine.command", vllm_line("{model}", port))
    url = ("--engine.url", f"http://127.0.0.1:{port}/v1")
    run(cli, seeds_file, model, tmp_path / "out", *url, *reload)
    assert verdicts(tmp_path / "out") == [(1, "verified")] and not answers(port)


@vllm
def test_vllm_is_given_each_rounds_adapter_and_found_out_with_an_old_one(
    cli: Run, seeds_file: Path, model: Path, tmp_path: Path
) -> None:
    """By greedy answers: where adapters may be loaded, the build for processors (0.32) dies when asked for log-probabilities."""
    port, out = free_port(), tmp_path / "out"
    with serving_of(vllm_line(str(model), port, "--enable-lora", "--max-lora-rank 16"), port, tmp_path / "log") as url:
        lora = ("--lora_rank", 4, "--engine.reload", "lora", "--engine.scores", "none", "--keep_weights", "all")
        run(cli, seeds_file, model, out, "--engine.url", url, *lora)
        assert verdicts(out) == [(1, "verified")]
        # The last round's name, with the first one's weights behind it.
        first, last = (resolve_ref(ModelRef(str(model), str(out / f"round-0{round}" / "model"))) for round in (1, 2))
        name, path = adapter_name(last), str(Path(str(first.adapter)).resolve())
        assert post(f"{url}/load_lora_adapter", json.dumps({"lora_name": name, "lora_path": path})) == 200
        engine, seeds = OpenAI(url=url, reload="lora", scores="none"), read_seeds(seeds_file)
        with engine.open(last, "auto") as session, pytest.raises(RunFailed, match="does not serve round 2 but still round 1"):
            assert isinstance(session, Served)
            session.verify_weights("round 2", seeds, {"round 1": first}, lambda told: None)
            session.generate([Ask("r", prompt="What now?", seed=1)], Sampling(max_tokens=4))


@llama_cpp
def test_llama_cpp_is_started_for_each_round(cli: Run, seeds_file: Path, model: Path, tmp_path: Path) -> None:
    port, out = free_port(), tmp_path / "out"
    line = llama_cpp_line("{model}", tmp_path / "round.gguf", port)
    url = ("--engine.url", f"http://127.0.0.1:{port}/v1", "--engine.scores", "none")
    run(cli, seeds_file, model, out, *url, "--engine.reload", "command", "--engine.command", line)
    assert verdicts(out) == [(1, "verified")] and not answers(port)


@llama_cpp
def test_one_llama_cpp_writes_what_the_model_itself_would(cli: Run, seeds_file: Path, model: Path, tmp_path: Path) -> None:
    """Its file carries the penalty of the model's generation configuration, which no request of ours may get."""
    penalised, port = tmp_path / "penalised", free_port()
    shutil.copytree(model, penalised)
    (penalised / "generation_config.json").write_text('{"repetition_penalty": 9.0, "min_p": 0.2}')
    line = llama_cpp_line(str(penalised), tmp_path / "model.gguf", port, "--alias", str(penalised))
    # Behind these the model writes no <|endoftext|>, at which llama.cpp ends a text though it is not the model's end token.
    asked = [Ask(f"r{at}", prompt=None if at == 3 else f"What is number {at}? " * (1 + at), seed=at) for at in range(6)]
    greedy, many = Sampling(max_tokens=24, temperature=0.0), [Ask(f"m{seed}", prompt="Hi", seed=seed) for seed in range(200)]
    with HF(dtype="float32", device="cpu").open(ModelRef(str(model)), "auto") as session:
        expected = session.generate(asked, greedy)
        stop = next(letter for letter in expected[0].text[4:] if letter.isascii() and letter.isprintable() and letter != " ")
        stopped = session.generate(asked, replace(greedy, stop=(stop,)))
    assert "length" in {one.finish for one in expected} and "stop" in {one.finish for one in stopped}
    with serving_of(line, port, tmp_path / "log") as url:
        run(cli, seeds_file, penalised, tmp_path / "out", "--rounds", 1, "--engine.url", url, "--engine.scores", "none")
        with OpenAI(url=url).open(ModelRef(str(penalised)), "auto") as session:
            # Texts, finish reasons, and the tokens of prompt and answer.
            assert session.generate(asked, greedy) == expected
            assert session.generate(asked, replace(greedy, stop=(stop,))) == stopped
            # llama.cpp's own top_k leaves 40 tokens, and its top_p, taken before the temperature, 7 in place of 75.
            assert distinct(session, many, Sampling(max_tokens=1, temperature=4.0)) > 45
            assert distinct(session, many, Sampling(max_tokens=1, temperature=4.0, top_p=0.5)) > 15
            assert distinct(session, many, Sampling(max_tokens=1, temperature=4.0, top_k=3)) <= 3
            ended = [one for one in session.generate(many, Sampling(max_tokens=24, temperature=9.0)) if one.finish == "stop"]
            assert ended and len(ended) < len(many)  # by the end token, one of 260
            # It gives log-probabilities of what it writes alone, whichever way it is asked.
            with pytest.raises(RunFailed, match="gives no log-probabilities of the prompt"):
                session.likelihood(read_seeds(seeds_file))
        scoring = OpenAI(url=url, scores="prompt_logprobs").open(ModelRef(str(penalised)), "auto")
        with scoring as session, pytest.raises(RunFailed, match="gives no prompt_logprobs"):
            session.likelihood(read_seeds(seeds_file))
