"""`selfalign push` through the front door, against a stand-in of the hub's HTTP interface on the loopback."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from huggingface_hub import DatasetCard, ModelCard

from selfalign.checkpoints import read_manifest
from selfalign.protocols import TrainResult
from selfalign.store import Store
from selfalign.types import Example, ModelRef
from tests.conftest import Run

TOKEN = "hf_verysecrettokenthatnobodymaysee"


@dataclass
class Hub:
    """What a client sent, and what it shall be answered: `fails` maps a part of a path to a status."""

    endpoint: str = ""
    public: bool = False
    fails: dict[str, int] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    created: dict[str, Any] = field(default_factory=dict)
    commit: list[dict[str, Any]] = field(default_factory=list)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        for part, status in self.fails.items():
            if part in path:
                return status, {"error": f"refused, you said {TOKEN}\nand more", "url": f"{self.endpoint}/user/name"}
        if path == "/api/repos/create":
            self.created = json.loads(body)
            return 200, {"url": f"{self.endpoint}/user/name"}
        if path == "/api/validate-yaml":
            return 200, {"warnings": [], "errors": []}
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            return 200, {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
        if "/commit/" in path:
            self.commit = [json.loads(line) for line in body.splitlines()]
            return 200, {"commitUrl": f"{self.endpoint}/user/name/commit/1", "commitOid": "1" * 40}
        if method == "GET" and path.startswith(("/api/models/user/name", "/api/datasets/user/name")):
            return 200, {"id": "user/name", "private": not self.public, "siblings": [], "tags": []}
        return 404, {"error": "not found"}

    def files(self) -> dict[str, bytes]:
        rows = (row["value"] for row in self.commit if row["key"] == "file")
        return {row["path"]: base64.b64decode(row["content"]) for row in rows}


@pytest.fixture
def hub() -> Iterator[Hub]:
    known = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.handle_any("GET")

        def do_POST(self) -> None:
            self.handle_any("POST")

        def handle_any(self, method: str) -> None:
            path = self.path.partition("?")[0]
            known.calls.append((method, path))
            known.tokens.add(self.headers.get("authorization", ""))
            status, answer = known.answer(method, path, self.rfile.read(int(self.headers.get("content-length", 0))))
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    known.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield known
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run that is done: two seeds, one pair of its own, a model with weights in round 1."""
    seeds = [Example(f"s{i}", f"prompt {i}", "response", slot=i) for i in range(2)]
    made = Example("r01-00000", "a new prompt", "answer", 1)
    with Store.open(tmp_path / "run", {"name": "isara"}) as store:
        store.add_seeds(seeds, ())
        store.add_model(0, ModelRef("some/base"))
        store.finish_round_samples(1, [made], [], 1)
        folder = store.round_folder(1) / "model"
        (folder / "deep").mkdir(parents=True)
        for name, content in (("config.json", b"{}"), ("model.safetensors", b"weights"), ("deep/more.txt", b"more")):
            (folder / name).write_bytes(content)
        model = ModelRef(str(folder))
        ids = ("s0", "s1", "r01-00000")
        store.add_model(1, model, read_manifest(folder), TrainResult(model, ids, (), 1, 3, 0.5, (1.0,)))
        store.finish_run(1, "all 1 rounds done")
    return tmp_path / "run"


def push(cli: Run, hub: Hub, *arguments: object, token: str = TOKEN) -> CompletedProcess[str]:
    env = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_TOKEN": token, "NO_PROXY": "127.0.0.1"}
    done = cli("push", *arguments, **env)
    assert TOKEN not in done.stdout + done.stderr
    return done


def test_a_model_arrives_with_its_card(cli: Run, hub: Hub, run_folder: Path) -> None:
    done = push(cli, hub, run_folder, "--repo", "user/name", "--private", "--license", "mit")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"model in {hub.endpoint}/user/name\n"
    assert (hub.created["name"], hub.created["organization"], hub.created["visibility"]) == ("name", "user", "private")
    files = hub.files()
    assert set(files) == {"README.md", "config.json", "model.safetensors", "deep/more.txt"}
    assert files["model.safetensors"] == b"weights" and files["config.json"] == b"{}"
    assert ModelCard(files["README.md"].decode()).data.to_dict()["license"] == "mit"
    assert f"Bearer {TOKEN}" in hub.tokens


def test_data_arrives_with_its_card(cli: Run, hub: Hub, run_folder: Path) -> None:
    done = push(cli, hub, run_folder, "--repo", "user/name", "--data")
    assert done.returncode == 0, done.stderr
    assert hub.created["type"] == "dataset" and "visibility" not in hub.created
    files = hub.files()
    assert set(files) == {"README.md", "train.jsonl"}
    rows = [json.loads(line) for line in files["train.jsonl"].splitlines()]
    assert [row["id"] for row in rows] == ["s0", "s1", "r01-00000"]
    assert DatasetCard(files["README.md"].decode()).data.to_dict()["configs"][0]["data_files"][0]["path"] == "train.jsonl"


@pytest.mark.parametrize(
    ("part", "status", "code", "says"),
    [
        ("/api/repos/create", 401, 2, "HF_TOKEN is not valid there"),
        ("/commit/", 403, 2, "HF_TOKEN may not write to user/name"),
        ("/preupload/", 404, 2, "there is no user/name for this token"),
        ("/api/repos/create", 500, 1, "try the same command again later"),
    ],
)
def test_a_refusal_is_one_clear_line(cli: Run, hub: Hub, run_folder: Path, part: str, status: int, code: int, says: str) -> None:
    hub.fails = {part: status, **({"/api/models/": status} if status == 401 else {})}
    done = push(cli, hub, run_folder, "--repo", "user/name")
    assert (done.returncode, done.stdout) == (code, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert f"the hub answered {status}" in done.stderr and says in done.stderr


def test_private_is_never_put_where_everybody_reads(cli: Run, hub: Hub, run_folder: Path) -> None:
    hub.public, hub.fails = True, {"/api/repos/create": 409}
    done = push(cli, hub, run_folder, "--repo", "user/name", "--private")
    assert done.returncode == 2 and "is public: nothing was uploaded" in done.stderr
    assert not hub.commit
    assert push(cli, hub, run_folder, "--repo", "user/name").returncode == 0 and hub.files()


def test_what_is_wrong_is_told_before_anything_is_sent(cli: Run, hub: Hub, run_folder: Path, tmp_path: Path) -> None:
    with Store.open(tmp_path / "undone", {"name": "isara"}) as store:
        store.add_model(0, ModelRef("some/base"))
    for says, arguments, token in (
        ("set HF_TOKEN", (run_folder, "--repo", "user/name"), ""),
        ("HF_TOKEN holds blanks", (run_folder, "--repo", "user/name"), f"{TOKEN} {TOKEN}"),
        ("no name of a repository", (run_folder, "--repo", "name"), TOKEN),
        ("no name of a repository", (run_folder,), TOKEN),
        ("no name of a repository", (run_folder, "--repo", "user/../name"), TOKEN),
        ("the run is not done", (tmp_path / "undone", "--repo", "user/name"), TOKEN),
        ("the run is not done", (tmp_path / "undone", "--repo", "user/name", "--data"), TOKEN),
        ("the model as it came", (run_folder, "--repo", "user/name", "--round", 0), TOKEN),
        ("has no model", (run_folder, "--repo", "user/name", "--round", 7), TOKEN),
        ("does not go with --data", (run_folder, "--repo", "user/name", "--round", 1, "--data"), TOKEN),
        ("no identifier", (run_folder, "--repo", "user/name", "--license", "My Own"), TOKEN),
    ):
        done = push(cli, hub, *arguments, token=token)
        assert done.returncode == 2 and says in done.stderr and len(done.stderr.splitlines()) == 1, (says, done.stderr)
    assert not hub.calls


def test_a_dry_run_needs_no_token_and_sends_nothing(cli: Run, hub: Hub, run_folder: Path) -> None:
    done = push(cli, hub, run_folder, "--repo", "user/name", "--dry_run", token="")
    assert done.returncode == 0, done.stderr
    assert "model.safetensors  7 bytes" in done.stdout and "README.md" in done.stdout and "nothing was sent" in done.stdout
    assert not hub.calls


def test_no_way_to_the_hub(cli: Run, hub: Hub, run_folder: Path) -> None:
    away = Hub(endpoint="http://127.0.0.1:9")
    done = push(cli, away, run_folder, "--repo", "user/name")
    assert done.returncode == 1 and "the upload to user/name failed" in done.stderr and len(done.stderr.splitlines()) == 1
    done = cli("push", run_folder, "--repo", "user/name", HF_ENDPOINT=hub.endpoint, HF_HUB_OFFLINE="1", HF_TOKEN=TOKEN)
    assert done.returncode == 2 and "HF_HUB_OFFLINE is set" in done.stderr
