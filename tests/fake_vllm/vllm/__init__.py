"""Stands for vLLM in the engine's process: the same names, and answers by rule, without a model and without torch.

What it is told goes to the file that FAKE_VLLM_TOLD names, a JSON object a line. FAKE_VLLM says what shall go wrong: `die` or
`fail` (when it is to write), `memory` (when it loads), `nan`, `sleep`, `no-gpu`; FAKE_VLLM_VERSION which version it says it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

__version__ = os.environ.get("FAKE_VLLM_VERSION", "0.32.0")

print("WARNING: what a library prints must not reach the line to the parent")
LETTERS = 90
"""Ids that are visible letters in the vocabulary of `tests/tiny.py`."""


def wrong() -> str:
    """What shall go wrong: once, where the file FAKE_VLLM_ONCE says so, which then goes."""
    once = Path(os.environ.get("FAKE_VLLM_ONCE", "/nowhere"))
    if once.is_file():
        told = once.read_text("utf-8")
        once.unlink()
        return told
    return os.environ.get("FAKE_VLLM", "")


def tell(**what: Any) -> None:
    if path := os.environ.get("FAKE_VLLM_TOLD"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps({**what, "pid": os.getpid()}, default=vars) + "\n")


def number(*what: Any) -> int:
    return int.from_bytes(hashlib.sha256(repr(what).encode()).digest()[:6], "big")


class SamplingParams:
    def __init__(self, **given: Any) -> None:
        self.given = given


class LLM:
    def __init__(self, **arguments: Any) -> None:
        tell(do="load", arguments=arguments)
        if os.environ.get("FAKE_VLLM") == "memory":
            raise ValueError("No available memory for the cache blocks. Try increasing `gpu_memory_utilization`")
        if arguments["tensor_parallel_size"] > 1:  # vLLM has a process for each GPU
            tell(do="worker", worker=subprocess.Popen(["sleep", "600"]).pid)
        config = json.loads((Path(arguments["model"]) / "config.json").read_text("utf-8"))
        self.width, self.weights = config["hidden_size"], (Path(arguments["model"]) / "model.safetensors").read_bytes()

    def reset_prefix_cache(self) -> None:
        tell(do="reset")

    def generate(self, prompts: Any, params: Any, *, use_tqdm: bool, lora_request: Any) -> list[Any]:
        tell(do="generate", params=params, lora=lora_request, rows=len(prompts))
        writes = params[0].given["max_tokens"] > 1
        fault = wrong() if writes else os.environ.get("FAKE_VLLM", "")
        if writes and fault == "die":
            print("the last words of a process", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        if writes and fault == "fail":
            raise RuntimeError("kernel launch failed")
        if fault == "sleep":
            time.sleep(600)
        self.model = number(self.weights, lora_request and Path(lora_request.lora_path, "adapter_model.safetensors").read_bytes())
        return [self._row(prompt["prompt_token_ids"], one.given, fault) for prompt, one in zip(prompts, params, strict=True)]

    def _row(self, ids: list[int], given: dict[str, Any], fault: str) -> Any:
        seed = None if given["temperature"] == 0 else given["seed"]
        count = given["max_tokens"] if given["max_tokens"] == 1 else 4 + number(self.model, ids, seed) % given["max_tokens"]
        reason = "length" if count > given["max_tokens"] else "stop"
        text = [number(self.model, ids, seed, place) % LETTERS for place in range(min(count, given["max_tokens"]))]
        if reason == "stop" and given.get("stop_token_ids"):
            text[-1] = given["stop_token_ids"][0]
        tables = None
        if "logprobs" in given or "logprob_token_ids" in given:
            some = given.get("logprob_token_ids") or text[:1]
            nan = float("nan")
            tables = [{token: SimpleNamespace(logprob=nan if fault == "nan" else self._score(ids, token)) for token in some}]
        scored = None
        if "prompt_logprobs" in given:
            scored = [None, *({ids[at]: SimpleNamespace(logprob=self._score(ids[:at], ids[at]))} for at in range(1, len(ids)))]
        output = SimpleNamespace(token_ids=text, finish_reason=reason, logprobs=tables)
        return SimpleNamespace(outputs=[output], prompt_logprobs=scored)

    def _score(self, ids: list[int], token: int) -> float:
        return -0.5 - number(self.model, ids, token) % 1000 / 1000

    def embed(self, prompts: Any, *, use_tqdm: bool, lora_request: Any) -> list[Any]:
        tell(do="embed", lora=lora_request)
        rows = [[number(one["prompt_token_ids"], at) % 100 - 50 for at in range(self.width)] for one in prompts]
        return [SimpleNamespace(outputs=SimpleNamespace(embedding=row)) for row in rows]
