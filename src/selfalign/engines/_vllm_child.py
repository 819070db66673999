"""The process that runs vLLM: `python _vllm_child.py`, started by `_vllm_process.Child` and by nobody else.

A script of its own, for an interpreter that may have vLLM and torch but not selfalign. It reads one JSON object a line on
standard input and answers each with one on what was its standard output: {"ok": …}, or {"error": kind, "message": text} with kind
`missing` (no vLLM, or one that is too old), `given` (vLLM refuses model or options), `memory` or `other`. When standard input
closes, it ends at once with all processes that vLLM has started, so that it cannot outlive its parent.
"""

from __future__ import annotations

import json
import math
import os
import queue
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

OLDEST = (0, 30)
"""Of vLLM: the first whose options are those that are given here."""

_NO_MEMORY = (
    *("out of memory", "no available memory", "memory for the cache", "kv cache memory", "kv cache is needed", "bad_alloc"),
    *("free memory on device", "available memory on node", "cannot allocate memory", "can't allocate memory"),
)
"""What vLLM, torch and the system say when memory is short."""
_OPENING, _FRAME = (
    re.compile(r"^\d+ validation errors? for \w+ (Value error, )?"),
    re.compile(r" Supported architectures:| \[type="),
)


class Model:
    """What the process has loaded."""

    def __init__(self) -> None:
        self.llm: Any = None
        self.adapter: Any = None

    def check(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Whether vLLM takes model and options: everything that it settles before it loads weights."""
        version = _version()
        from vllm.engine.arg_utils import EngineArgs
        from vllm.platforms import current_platform

        wanted, gpus = asked["arguments"]["tensor_parallel_size"], current_platform.is_cuda_alike()
        there = current_platform.device_count() if gpus else 0
        if not current_platform.device_type or (gpus and there < wanted):
            raise ValueError(
                f"this build of vLLM ({version}) needs {wanted} GPUs, and {there} may be used; on a processor take vLLM's build"
                " for those, or --engine OpenVINO or HF"
            )
        config = EngineArgs(**_arguments(asked)).create_engine_config()
        if asked["adapter"]:
            from vllm.lora.peft_helper import PEFTHelper

            most = config.model_config.max_model_len
            PEFTHelper.from_local_dir(asked["adapter"]["path"], most).validate_legal(config.lora_config)
        return {"version": version, "device": current_platform.device_type, "dtype": str(config.model_config.dtype)}

    def load(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        _version()
        from vllm import LLM

        self.llm = LLM(**_arguments(asked))
        if adapter := asked["adapter"]:
            from vllm.lora.request import LoRARequest

            self.adapter = LoRARequest(adapter["name"], adapter["id"], adapter["path"])
        if not asked["embeds"]:
            self._try()
        return {}

    def _try(self) -> None:
        """One token, whose log-probability says whether the logits are finite: sampling would not."""
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, temperature=0.0, logprobs=1, ignore_eos=True, detokenize=False)
        (found,) = self._run([[1]], [params])
        values = [one.logprob for one in found.outputs[0].logprobs[0].values()]
        if not all(math.isfinite(value) for value in values):
            raise ArithmeticError("the model's logits are not finite; its weights are broken, or the number type is too narrow")

    def generate(self, asked: Mapping[str, Any]) -> list[dict[str, Any]]:
        from vllm import SamplingParams

        # What earlier batches left in the cache must change no rounding: a batch that is made again is the same.
        self.llm.reset_prefix_cache()
        rows = asked["rows"]
        params = [SamplingParams(**asked["kinds"][row["kind"]], seed=row["seed"]) for row in rows]
        found = self._run([row["ids"] for row in rows], params)
        return [{"ids": list(one.outputs[0].token_ids), "reason": one.outputs[0].finish_reason} for one in found]

    def score(self, asked: Mapping[str, Any]) -> list[list[list[float]]]:
        """For each row [log-probability, the highest one there] of its ids from the place `start` on."""
        from vllm import SamplingParams

        self.llm.reset_prefix_cache()
        params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=1, detokenize=False)
        rows = asked["rows"]
        found = self._run([row["ids"] for row in rows], [params] * len(rows))
        return [_scores(one.prompt_logprobs, row["ids"], row["start"]) for one, row in zip(found, rows, strict=True)]

    def next(self, asked: Mapping[str, Any]) -> list[list[list[float]]]:
        """For each row [log-probability, whether it is the likeliest] of each of the `tokens` that may stand behind its ids."""
        from vllm import SamplingParams

        self.llm.reset_prefix_cache()
        rows = asked["rows"]
        common = {"max_tokens": 1, "temperature": 0.0, "ignore_eos": True, "detokenize": False}
        params = [SamplingParams(**common, logprob_token_ids=row["tokens"]) for row in rows]
        answers = []
        for one, row in zip(self._run([row["ids"] for row in rows], params), rows, strict=True):
            table, chosen = one.outputs[0].logprobs[0], one.outputs[0].token_ids[0]
            answers.append([[table[token].logprob, float(token == chosen)] for token in row["tokens"]])
        return answers

    def embed(self, asked: Mapping[str, Any]) -> list[list[float]]:
        prompts = [{"prompt_token_ids": ids} for ids in asked["rows"]]
        found = self.llm.embed(prompts, use_tqdm=False, lora_request=self.adapter)
        return [[float(value) for value in one.outputs.embedding] for one in found]

    def _run(self, rows: Sequence[Sequence[int]], params: Sequence[Any]) -> list[Any]:
        prompts = [{"prompt_token_ids": list(ids)} for ids in rows]
        found: list[Any] = self.llm.generate(prompts, params, use_tqdm=False, lora_request=self.adapter)
        return found


def _scores(table: Sequence[Any], ids: Sequence[int], start: int) -> list[list[float]]:
    places = range(start, len(ids))
    return [[table[place][ids[place]].logprob, max(one.logprob for one in table[place].values())] for place in places]


def _arguments(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What vLLM's `LLM` is given."""
    from vllm.platforms import current_platform

    found = dict(asked["arguments"])
    if asked["embeds"]:
        from vllm.config import PoolerConfig

        pooler = PoolerConfig(seq_pooling_type="MEAN", use_activation=True)
        found |= {"runner": "pooling", "convert": "embed", "pooler_config": pooler}
    elif current_platform.is_cpu():
        # Where a prompt with a seed is computed in two steps, vLLM sets the seed's stream back, which processors cannot.
        whole = {"enable_chunked_prefill": False, "max_num_batched_tokens": max(4096, found["max_model_len"])}
        found = {**whole, **found}
    return found


def _version() -> str:
    """vLLM's own; raises ImportError where it is not there, does not load or is too old. A build from sources passes."""
    import vllm

    version = str(vllm.__version__)
    first = version.split(".dev")[0].split(".")[:2]
    numbers = tuple(int(part) for part in first if part.isdigit())
    if len(numbers) == 2 and (0, 0) < numbers < OLDEST and "dev" not in version:
        raise ImportError(f"it is version {version}, and {'.'.join(map(str, OLDEST))} is the oldest that will do")
    return version


def _failure(error: Exception) -> dict[str, str]:
    # Without the frame that pydantic puts around it, and the list of all that vLLM knows: the log has the whole.
    text = _FRAME.split(_OPENING.sub("", " ".join(str(error).split())))[0]
    kind = "given" if isinstance(error, (ValueError, TypeError, KeyError, NotImplementedError)) else "other"
    kind = "missing" if isinstance(error, ImportError) else kind
    if (
        isinstance(error, MemoryError)
        or any(said in text.lower() for said in _NO_MEMORY)
        or "OutOfMemory" in type(error).__name__
    ):
        kind = "memory"
    return {"error": kind, "message": text[:600] or type(error).__name__, "type": type(error).__name__}


def _read(lines: queue.SimpleQueue[bytes]) -> None:
    with os.fdopen(0, "rb", closefd=False) as pipe:
        for line in pipe:
            lines.put(line)
    os.killpg(0, signal.SIGKILL)  # the parent is done with us, or dead: we and what vLLM has started are one group


def main() -> None:
    # Beside this file stand modules with the names of packages: `openai`, `vllm`.
    here = Path(__file__).resolve().parent
    sys.path[:] = [path for path in sys.path if not path or Path(path).resolve() != here]
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # whatever vLLM prints goes to the log
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    model = Model()
    calls: dict[str, Callable[[Mapping[str, Any]], Any]] = {
        each.__name__: each for each in (model.check, model.load, model.generate, model.score, model.next, model.embed)
    }
    while True:
        asked = json.loads(lines.get())
        try:
            answer = {"ok": calls[asked["do"]](asked)}
        except Exception as error:
            traceback.print_exc()
            answer = _failure(error)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
