"""An OpenAI-compatible server on loopback, with faults to order: real sockets, no model or the tiny one. It ends by itself."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Answer = Callable[[str, Mapping[str, Any]], Any]
"""Path and body to the reply's JSON; a (status, JSON) pair for another status than 200."""

Fault = Callable[[str, Mapping[str, Any], int], str]
"""Path, body and how often this body came before, to the name of a fault; "" for none."""

STATUSES = {"500": 500, "502": 502, "503": 503, "504": 504, "429": 429, "204": 204, "408": 408}
RETRY_AFTER = {"429 in 1 s": "1", "429 absurd": "1000000", "429 negative": "-5", "429 in words": "soon", "429 long ago": "date"}
BODIES = {
    "empty body": b"",
    "html": b"<html><body>Welcome</body></html>",
    "cut json": b'{"choices": [{"index": 0, "text": "half a',
    "array": b"[]",
    "no choices": b'{"choices": []}',
    "error object": b'{"error": {"message": "engine dead"}}',
    "deep": b"[" * 100_000,
    "nan": b'{"choices": [{"index": 0, "text": "bad", "finish_reason": "stop"}], "usage": {"prompt_tokens": NaN}}',
    "bad utf-8": b'{"choices": [{"index": 0, "text": "bad \xff\xfe", "finish_reason": "stop"}]}',
    "surrogate": b'{"choices": [{"index": 0, "text": "bad \\ud800", "finish_reason": "stop"}]}',
}
"""Bodies with status 200 that are no reply."""
CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "null text": lambda reply: reply["choices"][0].update(text=None),
    "list text": lambda reply: reply["choices"][0].update(text=["bad"]),
    "no finish": lambda reply: reply["choices"][0].update(finish_reason=None),
    "aborted": lambda reply: reply["choices"][0].update(finish_reason="abort", text="bad"),
    "two choices": lambda reply: reply.update(choices=reply["choices"] * 2),
    "other index": lambda reply: reply["choices"][0].update(index=3, text="bad"),
    "other prompt": lambda reply: (reply["choices"][0].update(text="bad"), reply["usage"].update(prompt_tokens=1)),
    "too many tokens": lambda reply: (reply["choices"][0].update(text="bad"), reply["usage"].update(completion_tokens=10**6)),
    "counts in words": lambda reply: (reply["choices"][0].update(text="bad"), reply["usage"].update(prompt_tokens="many")),
    "empty text": lambda reply: reply["choices"][0].update(text="", finish_reason="stop"),
}
"""What goes wrong with a good reply."""
WAYS = ("reset", "half body", "hang", "hang in body", "drip", "huge")
"""How a connection goes wrong."""


@dataclass
class Loopback:
    """A running server and what it was asked."""

    url: str
    seen: list[tuple[str, dict[str, Any], dict[str, str]]] = field(default_factory=list)
    """Path, body and headers of each request."""
    most: int = 0
    """The most requests for texts that it had at once."""
    served: Counter[str] = field(default_factory=Counter)
    """Faults by name."""
    stale: bool = False
    """Says yes to new weights and goes on with the old ones (`model_server`)."""

    def paths(self) -> Counter[str]:
        return Counter(path for path, _, _ in self.seen)


def listing(*names: str, **more: Any) -> dict[str, Any]:
    return {"object": "list", "data": [{"id": name, "object": "model", **more} for name in names]}


def completion(text: str, reason: str, prompt: int, generated: int, chat: bool = False) -> dict[str, Any]:
    shown = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    usage = {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}
    return {"id": "x", "choices": [{"index": 0, "finish_reason": reason, "logprobs": None, **shown}], "usage": usage}


@contextmanager
def loopback(answer: Answer, fault: Fault | None = None, *, seconds: float = 120, port: int = 0) -> Iterator[Loopback]:
    """Serve until the end of the block, or of `seconds`."""
    running, lock, over, came, inside = Loopback(""), threading.Lock(), threading.Event(), Counter[str](), [0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None: ...
        def do_GET(self) -> None:
            self.reply({})

        def do_POST(self) -> None:
            self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def reply(self, body: dict[str, Any]) -> None:
            path = self.path.removeprefix("/v1")
            key = path + json.dumps(body, sort_keys=True)
            with lock:
                running.seen.append((path, body, dict(self.headers)))
                before, came[key] = came[key], came[key] + 1
                inside[0] += path != "/models"
                running.most = max(running.most, inside[0])
            try:
                name = fault(path, body, before) if fault else ""
                with lock:
                    running.served[name] += 1
                spoilt(self, name, answer, path, body, over)
            except OSError:  # the client has gone
                self.close_connection = True
            finally:
                with lock:
                    inside[0] -= path != "/models"

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    running.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    timer = threading.Timer(seconds, server.shutdown)
    timer.daemon = True
    thread.start()
    timer.start()
    try:
        yield running
    finally:
        over.set()
        timer.cancel()
        server.shutdown()
        server.server_close()


def spoilt(
    handler: BaseHTTPRequestHandler, name: str, answer: Answer, path: str, body: Mapping[str, Any], over: threading.Event
) -> None:
    """Send the answer, or what the fault makes of it."""
    if name in WAYS:
        handler.close_connection = True
    if name == "reset":
        # Lingering for no time closes with a reset in place of an orderly end.
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()
    elif name == "hang":
        over.wait(30)
    elif name in STATUSES or name in RETRY_AFTER:
        asked = RETRY_AFTER.get(name, "")
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(0))
        headers = {"Retry-After": date if asked == "date" else asked} if asked else {}
        send(handler, STATUSES.get(name, 429), b'{"error": {"message": "not now"}}', headers)
    elif name in BODIES:
        send(handler, 200, BODIES[name])
    else:
        reply = answer(path, body)
        status, reply = reply if isinstance(reply, tuple) else (200, reply)
        if name in CHANGES:
            CHANGES[name](reply)
        content = json.dumps(reply).encode()
        if name == "huge":
            content = b'{"choices": "' + b"x" * (40 * 2**20)
        if name in ("half body", "hang in body", "drip"):
            send(handler, status, content[: len(content) // 2] if name != "drip" else b"", length=len(content))
            if name == "hang in body":
                over.wait(30)
            for byte in content if name == "drip" else b"":
                if over.wait(0.1):
                    break
                handler.wfile.write(bytes([byte]))
        else:
            send(handler, status, content)


def send(
    handler: BaseHTTPRequestHandler, status: int, content: bytes, headers: Mapping[str, str] = {}, length: int | None = None
) -> None:
    handler.send_response(status)
    for key, value in headers.items():
        handler.send_header(key, value)
    handler.send_header("Content-Type", "application/json")
    if status != 204:
        handler.send_header("Content-Length", str(len(content) if length is None else length))
    handler.end_headers()
    if status != 204:
        handler.wfile.write(content)
    handler.wfile.flush()


def alive(pid: int) -> bool:
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def model_server(
    folder: Path, *, seconds: float = 120, port: int = 0, dtype: str = "float32", started: bool = True
) -> Iterator[Loopback]:
    """The model of a folder, served: token ids in, its text, log-probabilities or embedding out, each row with its own seed.

    POST /load_lora_adapter adds an adapter, as vLLM's does. POST /start stands for a server program that begins to serve a
    model, until its process is dead (see `started_server`); without a model all is answered with 503.
    """
    from selfalign.engines import HF
    from selfalign.types import ModelRef

    engine, lock, sessions = HF(dtype=dtype, device="cpu"), threading.Lock(), dict[str, Any]()
    first, owner = list[Any](), list[int]()

    def add(name: str, model: ModelRef) -> None:
        sessions[name] = first[0] if running.stale else opened.enter_context(engine.open(model, "auto"))
        first.append(sessions[name])

    def answer(path: str, body: Mapping[str, Any]) -> Any:
        with lock:
            if path == "/start":
                sessions.clear()
                owner[:] = [body["pid"]]
                add(body["model"], ModelRef(body["model"]))
                return {}
            if not all(alive(pid) for pid in owner):
                sessions.clear()
            if not sessions:
                return 503, {"error": {"message": "loading"}}
            if path == "/models":
                return listing(*sessions)
            if path == "/load_lora_adapter":
                add(body["lora_name"], ModelRef(str(folder), body["lora_path"]))
                return {}
            if body["model"] not in sessions:
                return 404, {"error": {"message": f"no model {body['model']}"}}
            session = sessions[body["model"]]
            if path == "/embeddings":
                vector = session._pool([body["input"]])[0] * 3.0
                return {"data": [{"index": 0, "embedding": [float(value) for value in vector]}]}
            reply = _written(session, body)
            return _with_scores(session, body, reply) if "logprobs" in body or "prompt_logprobs" in body else reply

    with ExitStack() as opened, loopback(answer, seconds=seconds, port=port) as running:
        if started:
            add(str(folder), ModelRef(str(folder)))
        yield running


def _written(session: Any, body: Mapping[str, Any]) -> dict[str, Any]:
    from selfalign.engines import _decode
    from selfalign.types import Sampling

    ids, tokenizer, strings = body["prompt"], session._texts.tokenizer, body.get("stop", [])
    if isinstance(ids, str):
        ids = tokenizer(ids)["input_ids"]
    stopper = _decode.Stopper(tokenizer, frozenset({*body.get("stop_token_ids", []), tokenizer.eos_token_id}), strings)
    sampling = Sampling(
        max_tokens=body["max_tokens"],
        temperature=body["temperature"],
        top_p=body["top_p"],
        top_k=max(0, body.get("top_k", 0)),
    )
    args = (sampling, stopper, session._vocabulary(), session._pad())
    new, ended = _decode.sample(session._model, [ids], [body.get("seed", 0)], *args)[0]
    text = str(tokenizer.decode(new, skip_special_tokens=True))
    cut = min((at for string in strings if (at := text.find(string)) >= 0), default=len(text))
    return completion(text[:cut], "stop" if ended or cut < len(text) else "length", len(ids), len(new))


def _with_scores(session: Any, body: Mapping[str, Any], reply: dict[str, Any]) -> dict[str, Any]:
    import torch

    ids = body["prompt"]
    with torch.inference_mode():
        logits = session._model(input_ids=torch.tensor([ids])).logits[0, :-1].float()
    scores = logits.log_softmax(dim=-1)
    own = [float(row[token]) for row, token in zip(scores, ids[1:], strict=True)]
    best, chosen = [float(row.max()) for row in scores], [int(row.argmax()) for row in scores]
    if "prompt_logprobs" in body:
        rows = [
            {str(token): {"logprob": value}, str(top): {"logprob": high}}
            for token, value, top, high in zip(ids[1:], own, chosen, best, strict=True)
        ]
        reply["choices"][0]["prompt_logprobs"] = [None, *rows]
    else:
        reply["choices"][0]["logprobs"] = {
            "token_logprobs": [None, *own, -1.0],
            "top_logprobs": [None, *({"best": high} for high in best), {"x": -1.0}],
        }
    return reply
