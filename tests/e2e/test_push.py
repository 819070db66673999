"""`selfalign push` through the front door, against a stand-in of the hub's HTTP interface on the loopback."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from random import Random
from subprocess import CompletedProcess

import pytest
from huggingface_hub import DatasetCard, ModelCard

from selfalign.protocols import TrainResult
from selfalign.record.checkpoints import read_manifest
from selfalign.record.store import Store
from selfalign.types import Example, ModelRef
from tests.conftest import Run, command
from tests.hub import CUT, TOKEN, XET_TOKEN, Hub, running, unpacked

WEIGHTS = {name: Random(name).randbytes(size) for name, size in (("model.safetensors", 250_000), ("deep/more.safetensors", 500))}
OIDS = {name: sha256(content).hexdigest() for name, content in WEIGHTS.items()}
LARGE = {name: {"algo": "sha256", "oid": OIDS[name], "size": len(content)} for name, content in WEIGHTS.items()}
LFS = {"HF_HUB_DISABLE_XET": "1"}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running() as known:
        yield known


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run that is done: two seeds, one long pair of its own, a model with weights in round 1."""
    seeds = [Example(f"s{i}", f"prompt {i}", "response", slot=i) for i in range(2)]
    made = Example("r01-00000", "a new prompt", "answer " * 3000, 1)
    with Store.open(tmp_path / "run", {"name": "isara"}) as store:
        store.add_seeds(seeds, ())
        store.add_model(0, ModelRef("some/base"))
        store.finish_round_samples(1, [made], [], 1)
        folder = store.round_folder(1) / "model"
        (folder / "deep").mkdir(parents=True)
        for name, content in {"config.json": b"{}", "deep/more.txt": b"more", **WEIGHTS}.items():
            (folder / name).write_bytes(content)
        model = ModelRef(str(folder))
        ids = ("s0", "s1", "r01-00000")
        store.add_model(1, model, read_manifest(folder), TrainResult(model, ids, (), 1, 3, 0.5, (1.0,)))
        store.finish_run(1, "the one round is done")
    return tmp_path / "run"


def surroundings(hub: Hub, token: str = TOKEN) -> dict[str, str]:
    kept = {"HF_HOME": "hub-cache", "HF_XET_CLIENT_RETRY_BASE_DELAY": "20ms"}
    return {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_TOKEN": token, "NO_PROXY": "127.0.0.1", **kept}


def push(cli: Run, hub: Hub, *arguments: object, token: str = TOKEN, **env: str) -> CompletedProcess[str]:
    done = cli("push", *arguments, **surroundings(hub, token), **env)
    assert TOKEN not in done.stdout + done.stderr
    return done


def test_a_model_arrives_with_its_card(cli: Run, hub: Hub, run_folder: Path) -> None:
    done = push(cli, hub, run_folder, "--repo", "user/name", "--private", "--license", "mit")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"model in {hub.endpoint}/user/name\n"
    assert (hub.created["name"], hub.created["organization"], hub.created["visibility"]) == ("name", "user", "private")
    files = hub.files()
    assert set(files) == {"README.md", "config.json", "deep/more.txt"} and files["config.json"] == b"{}"
    assert hub.large() == LARGE
    assert ModelCard(files["README.md"].decode()).data.to_dict()["license"] == "mit"
    assert f"Bearer {TOKEN}" in hub.authorized["hub"]


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
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("uploading ")]
    assert f"the hub answered {status}" in line and says in line


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
        ("is the base model", (run_folder, "--repo", "user/name", "--round", 0), TOKEN),
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
    assert "model.safetensors  250,000 bytes" in done.stdout and "README.md" in done.stdout and "nothing was sent" in done.stdout
    assert not hub.calls


def test_what_was_sent_is_told_as_json(cli: Run, hub: Hub, run_folder: Path) -> None:
    asked = (run_folder, "--repo", "user/name", "--data", "--json")
    done = push(cli, hub, *asked, "--dry_run", "--private", token="")
    told = json.loads(done.stdout)
    sizes = {each["file"]: each["bytes"] for each in told.pop("files")}
    assert told == {"kind": "dataset", "repo": "user/name", "sent": False, "address": None, "private": True} and not hub.calls
    told = json.loads(push(cli, hub, *asked).stdout)
    assert (told["sent"], told["address"], told["private"]) == (True, f"{hub.endpoint}/user/name", False)
    assert {name: len(content) for name, content in hub.files().items()} == sizes


def test_no_way_to_the_hub(cli: Run, hub: Hub, run_folder: Path) -> None:
    away = Hub(endpoint="http://127.0.0.1:9")
    done = push(cli, away, run_folder, "--repo", "user/name")
    assert done.returncode == 1 and "the upload to user/name failed" in done.stderr and len(done.stderr.splitlines()) == 1
    done = cli("push", run_folder, "--repo", "user/name", HF_ENDPOINT=hub.endpoint, HF_HUB_OFFLINE="1", HF_TOKEN=TOKEN)
    assert done.returncode == 2 and "HF_HUB_OFFLINE is set" in done.stderr


@pytest.mark.parametrize(("part", "puts", "once"), [(None, 3, {"PUT /lfs/": 500}), (100_000, 5, {"PUT /part/": CUT})])
def test_weights_go_by_lfs(cli: Run, hub: Hub, run_folder: Path, part: int | None, puts: int, once: dict[str, int]) -> None:
    """In one part and in three; what fails once is sent again; the storage sees no token."""
    hub.part, hub.once = part, once
    done = push(cli, hub, run_folder, "--repo", "user/name", **LFS)
    assert (done.returncode, done.stdout) == (0, f"model in {hub.endpoint}/user/name\n"), done.stderr
    assert hub.objects == {OIDS[name]: content for name, content in WEIGHTS.items()} and hub.verified == set(OIDS.values())
    assert hub.large() == LARGE and not hub.once and len(hub.sent("PUT ")) == puts
    assert hub.authorized["storage"] == {""} and f"Bearer {TOKEN}" in hub.authorized["hub"]
    assert done.stderr.startswith("uploading 5 files, 25")


def test_the_same_command_sends_what_is_missing(cli: Run, hub: Hub, run_folder: Path) -> None:
    # The second file: the first is on its way by then, so that what arrives does not hang on threads.
    hub.fails = {f"PUT /lfs/{OIDS['model.safetensors']}": 403}
    done = push(cli, hub, run_folder, "--repo", "user/name", **LFS)
    line = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and "the hub's storage answered 403 (AccessDenied Request has expired; " in line
    assert "'model.safetensors'" in line and "the same command again" in line and not hub.commit
    hub.fails, hub.calls = {}, []
    assert push(cli, hub, run_folder, "--repo", "user/name", **LFS).returncode == 0
    assert hub.sent("PUT ") == [f"/lfs/{OIDS['model.safetensors']}"] and hub.large() == LARGE
    hub.commit, hub.calls = [], []
    assert push(cli, hub, run_folder, "--repo", "user/name", **LFS).returncode == 0
    assert not hub.sent("PUT ") and not hub.commit  # nothing new, no empty commit


def test_weights_of_another_model_leave_with_the_commit_that_brings_new_ones(cli: Run, hub: Hub, run_folder: Path) -> None:
    kept = ("notes.md", "onnx/model.safetensors", ".gitattributes")
    old = ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "adapter_config.json", "adapter_model.safetensors")
    hub.tree = dict.fromkeys((*kept, *old), "0" * 40)
    assert push(cli, hub, run_folder, "--repo", "user/name", **LFS).returncode == 0
    assert set(hub.tree) == {*kept, *WEIGHTS, "README.md", "config.json", "deep/more.txt"}
    assert len(hub.sent("POST /api/models/user/name/commit")) == 1
    hub.tree = dict.fromkeys(old, "0" * 40)
    assert push(cli, hub, run_folder, "--repo", "user/name", "--data").returncode == 0
    assert {*old} < {*hub.tree}  # data take no model's place


def test_a_large_data_file_goes_by_lfs(cli: Run, hub: Hub, run_folder: Path) -> None:
    hub.limit = 15_000
    done = push(cli, hub, run_folder, "--repo", "user/name", "--data", **LFS)
    assert done.returncode == 0, done.stderr
    assert set(hub.files()) == {"README.md"} and set(hub.large()) == {"train.jsonl"}
    ((oid, content),) = hub.objects.items()
    assert oid == sha256(content).hexdigest() == hub.large()["train.jsonl"]["oid"]
    assert [json.loads(line)["id"] for line in content.splitlines()] == ["s0", "s1", "r01-00000"]


def test_weights_go_by_xet(cli: Run, hub: Hub, run_folder: Path) -> None:
    """The way the library takes where it can; a second push finds what has arrived, and the storage sees its own token only."""
    pytest.importorskip("hf_xet")
    hub.fails, hub.once = {"/commit/": 403}, {"POST /v1/xorbs/": CUT}
    assert push(cli, hub, run_folder, "--repo", "user/name").returncode == 2
    content = b"".join(unpacked(xorb) for xorb in hub.xorbs.values())
    assert len(content) == sum(map(len, WEIGHTS.values())) and all(weights in content for weights in WEIGHTS.values())
    assert len(hub.sent("POST /v1/xorbs/")) == 2 and hub.authorized["storage"] == {f"Bearer {XET_TOKEN}"}
    hub.fails, hub.calls = {}, []
    done = push(cli, hub, run_folder, "--repo", "user/name")
    assert done.returncode == 0, done.stderr
    assert hub.large() == LARGE and not hub.sent("POST /v1/xorbs/") and not hub.sent("/lfs/")


@pytest.mark.parametrize(
    ("part", "status", "env", "code", "says"),
    [
        ("/objects/batch", 403, LFS, 2, "the hub answered 403 (refused, you said … and more): HF_TOKEN may not write"),
        ("/verify", 403, LFS, 2, "HF_TOKEN may not write"),
        ("/xet-write-token/", 404, {}, 1, "HF_HUB_DISABLE_XET=1"),
        ("/v1/xorbs/", CUT, {}, 1, "the same command again sends what is missing"),
    ],
)
def test_a_refusal_of_weights_is_one_clear_line(
    cli: Run, hub: Hub, run_folder: Path, part: str, status: int, env: dict[str, str], code: int, says: str
) -> None:
    hub.fails = {part: status}
    done = push(cli, hub, run_folder, "--repo", "user/name", **env)
    assert (done.returncode, done.stdout) == (code, "")
    assert len(done.stderr.splitlines()) == 2 and says in done.stderr, done.stderr
    assert not hub.commit


def test_a_terminal_shows_progress_and_a_signal_ends_it(hub: Hub, run_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("hf_xet")
    hub.held = "/v1/xorbs/"
    ours, theirs = pty.openpty()
    env = {**os.environ, **surroundings(hub), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command("push", run_folder, "--repo", "user/name"), stderr=theirs, cwd=tmp_path, env=env) as pushing:
        os.close(theirs)
        shown = b""
        while b"Uploading" not in shown or not hub.sent("/v1/xorbs/"):
            shown += os.read(ours, 4096)
        assert list(tmp_path.glob("selfalign-push-*"))
        pushing.send_signal(signal.SIGTERM)
        with suppress(OSError):  # the other end is closed
            while chunk := os.read(ours, 4096):
                shown += chunk
    os.close(ours)
    assert pushing.returncode == 143
    assert b"interrupted; the same command goes on from here" in shown and not list(tmp_path.glob("selfalign-push-*"))
