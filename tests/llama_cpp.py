"""Stand-ins for llama.cpp's programs: scripts that start in no time, and a server in the test's own process behind them."""

from __future__ import annotations

import json
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CONVERTER = """
import json, sys
if "--help" in sys.argv: sys.exit(0)
file = sys.argv[sys.argv.index("--outfile") + 1]
json.dump({"model": sys.argv[1], "kind": sys.argv[sys.argv.index("--outtype") + 1]}, open(file, "w"))
"""
QUANTISER = """
import json, sys
made = json.load(open(sys.argv[1]))
json.dump({**made, "kind": sys.argv[3]}, open(sys.argv[2], "w"))
"""
SERVER = """
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError
from urllib.request import Request, urlopen
class Relay(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        headers = {"X-File": sys.argv[sys.argv.index("--model") + 1]}
        try:
            with urlopen(Request("BEHIND" + self.path, body, headers)) as answer: code, data = 200, answer.read()
        except HTTPError as error: code, data = error.code, error.read()
        self.send_response(code); self.end_headers(); self.wfile.write(data)
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"{}")
    def log_message(self, *a): pass
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Relay).serve_forever()
"""


def write_tools(folder: Path, behind: str) -> Path:
    """A folder as a build of llama.cpp leaves it, whose server hands everything on to the address `behind`."""
    (folder / "build" / "bin").mkdir(parents=True)
    (folder / "convert_hf_to_gguf.py").write_text(CONVERTER)
    for name, script in (("llama-quantize", QUANTISER), ("llama-server", SERVER.replace("BEHIND", behind))):
        path = folder / "build" / "bin" / name
        path.write_text(f"#!{sys.executable} -S\n{script}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return folder


class Answers:
    """What llama-server says of a model, by the model itself; with faults, if a test wants some."""

    def __init__(self) -> None:
        self.faults: dict[str, Any] = {}
        """`model`: a folder whose weights answer instead, for the `kinds`; `shift`: ids off by one; `begin`: ids in front."""
        self.kinds: list[str] = []
        self._loaded: dict[tuple[str, Any], Any] = {}

    def _load(self, kind: Any, folder: str) -> Any:
        if (folder, kind) not in self._loaded:
            self._loaded[folder, kind] = kind.from_pretrained(folder)
        return self._loaded[folder, kind]

    def say(self, path: str, body: dict[str, Any], file: dict[str, Any]) -> Any:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer = self._load(AutoTokenizer, file["model"])
        if path == "/tokenize":
            plain = not body["parse_special"]
            ids = tokenizer(body["content"], add_special_tokens=False, split_special_tokens=plain)["input_ids"]
            ids = [token + 1 for token in ids] if "shift" in self.faults else ids
            return {"tokens": [*(self.faults.get("begin", []) if body["add_special"] else []), *ids]}
        if path == "/apply-template":
            given = body["chat_template_kwargs"]
            return {
                "prompt": tokenizer.apply_chat_template(body["messages"], tokenize=False, add_generation_prompt=True, **given)
            }
        spoilt = self.faults.get("model") if file["kind"] in self.faults.get("kinds", ["f16"]) else None
        model = self._load(AutoModelForCausalLM, spoilt or file["model"])
        self.kinds.append(file["kind"])
        ids, found = list(body["prompt"]), list[Any]()
        with torch.inference_mode():
            while len(found) < body["n_predict"]:
                scores = model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
                token = body["logit_bias"][0][0] if "logit_bias" in body else int(scores.argmax())
                found.append({"id": token, "logprob": float(scores[token])})
                ids.append(token)
                if token == tokenizer.eos_token_id:
                    break
        # Of a token that ends within a character the real one tells the id alone.
        told = [each for at, each in enumerate(found) if "\ufffd" not in tokenizer.decode([one["id"] for one in found[: at + 1]])]
        return {"completion_probabilities": told, "tokens": [each["id"] for each in found]}


@contextmanager
def answering() -> Iterator[tuple[str, Answers]]:
    """The address of a server in this process, and what it answers with."""
    answers = Answers()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            said = json.dumps(answers.say(self.path, body, json.loads(Path(self.headers["X-File"]).read_text()))).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", answers
    finally:
        server.shutdown()
        server.server_close()
