"""`run --review` and `selfalign review`: a run waits for people, loses no decision, and trains on nothing they rejected."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from selfalign.cli.main import main
from selfalign.export.cards import data_card
from selfalign.loop import align
from selfalign.record.review import Decision, after_review, open_review, summary
from selfalign.record.status import status
from selfalign.record.store import Store
from selfalign.report.write import write_report
from selfalign.types import PREFERRED, ROLLOUT, Demonstration, Dropped, Example
from tests.conftest import SCRIPTED, Run, command
from tests.files import read_rows, write_rows

SMALL = ("--rounds", 1, "--per_round", 10, "--min_yield", 0, "--second_turns.share", 1.0, "--without", "novelty", "--quiet")
Serve = Callable[..., "subprocess.Popen[str]"]
EDITED = "Take a new one, and tell nobody."


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts `selfalign review …`; the address is its attribute `address`."""
    started: list[subprocess.Popen[str]] = []

    def start(folder: Path, *options: object, name: str = "review") -> subprocess.Popen[str]:
        given = command(name, folder, *(("--by", "Anna") if name == "review" else ()), *options)
        process = subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stderr is not None
        process.address = process.stderr.readline().split()[1]  # type: ignore[attr-defined]
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def waiting_run(folder: Path) -> Path:
    """A record that waits for its first review: five pairs, of them a second turn, an answer to be rejected, one to be taught."""
    pairs = [Example(f"p{slot}", f"Question {slot}?", f"Answer {slot}.", 1, slot, scores={"judge": slot}) for slot in range(5)]
    pairs[2] = Example(
        "p1.2", "And then?", "Nothing.", 1, 2,
        prompt_demonstrations=(Demonstration("p1"),), history=((pairs[1].prompt, pairs[1].response),),
    )  # fmt: skip
    pairs[3] = Example("p3", "Question 0?", "Bad.", 1, 3, metadata={PREFERRED: "p0"})
    pairs[4] = Example("p4", "Question 4?", "Poor.", 1, 4, metadata={ROLLOUT: "true"})
    with Store.open(folder, {"name": "test", "review": True, "seed": 3}) as store:
        store.add_seeds([Example("s0", "Why?", "So.")], ())
        store.finish_round_samples(1, pairs, [Dropped(Example("p5", "x", "y", 1, 5), "cut_off", "it was")], 6)
    return folder


def test_a_run_waits_and_trains_on_nothing_that_was_rejected(
    cli: Run, seeds_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    out, file = tmp_path / "run", tmp_path / "pairs.jsonl"
    run = ["run", "isara", *map(str, (seeds_file, *SCRIPTED, *SMALL)), "--out", str(out), "--review"]
    assert main(run) == 0
    assert "waiting: round 1 waits for its review: 0 of" in capsys.readouterr().out
    assert main(["review", str(out), "--review_out", str(file)]) == 0
    rows = read_rows(file)
    by_id = {row["id"]: row for row in rows}
    second, other = [row for row in rows if "history" in row][:2]
    first, edited = by_id[second["id"].removesuffix(".2")], by_id[other["id"].removesuffix(".2")]
    before = edited["response"]
    first |= {"decision": "reject", "reason": "wrong tone"}
    edited |= {"decision": "edit", "response": EDITED}
    # Killed before the decisions are committed none is there, and after it all are.
    for point, count in (("decide.before-commit", 0), ("decide.after-commit", 2)):
        again = ("review", out, "--review_in", write_rows(file, rows), "--by", "Anna")
        assert cli(*again, SELFALIGN_FAULT_AT=point).returncode == -signal.SIGKILL
        with Store.read(out) as store:
            assert summary(store, 1)["pairs"] - summary(store, 1)["left"] == count, point
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(align, "opened", None)
        assert main(run) == 0, "it still waits, and says so before a model loads"
    told = " ".join(capsys.readouterr().out.split())
    assert "none of them stands in kept.jsonl or an export before that is done" in told
    assert {path.name for path in (out / "round-01").glob("*.jsonl")} == {"dropped.jsonl"}
    assert main(["export", str(out), "--data", str(tmp_path / "data.jsonl")]) == 0
    assert {row["round"] for row in read_rows(tmp_path / "data.jsonl")} == {0}
    assert "left out: the pairs of round 1 wait for their review" in caplog.text
    assert main(["review", str(out), "--done", "--rest", "keep", "--by", "Ben"]) == 0
    assert cli(*run, SELFALIGN_FAULT_AT="review.before-commit").returncode == -signal.SIGKILL
    capsys.readouterr()
    assert main(run) == 0
    told = capsys.readouterr().out
    assert "0 kept, 1 rejected, 1 edited" in told and "(by Anna, Ben)" in told
    with Store.read(out) as store:
        gone = {drop.example.id: drop for drop in store.dropped(1) if drop.rule == "reviewed"}
        assert {id: drop.evidence for id, drop in gone.items()} == {
            first["id"]: "rejected: wrong tone",
            second["id"]: f"it follows on {first['id']}, which was rejected",
        }
        (kept,) = (example for example in store.kept(1) if example.id == edited["id"])
        assert kept.response == EDITED and kept.metadata["reviewed"] == "edited"
        assert [example.history[-1][1] for example in store.kept(1) if example.id == other["id"]] == [EDITED]
        where = status(store)
        (row,) = where["rounds"][1:]
        assert where["state"] == "done" and row["dropped"]["reviewed"] == 2
        assert row["kept"] + sum(row["dropped"].values()) == row["candidates"] and row["kept"] == len(rows) - 2
        with store.snapshot() as connection:
            trained = {id for (id,) in connection.execute("SELECT id FROM training JOIN samples ON number = sample")}
        assert kept.id in trained and not trained & gone.keys()
    assert {each["id"] for each in read_rows(out / "round-01" / "kept.jsonl")} == {row["id"] for row in rows} - gone.keys()
    assert main(["show", str(out), edited["id"]]) == 0
    shown = capsys.readouterr().out
    assert "edited by Anna" in shown and EDITED in shown and "it was: " in shown and before in shown
    with Store.read(out) as store:
        assert "people went through them (round 1 was reviewed: 0 kept, 1 rejected, 1 edited" in data_card(store)
    page = write_report(out).read_text(encoding="utf-8")
    assert "1 rejected, 1 edited" in page and '"before":' in page and "Anna" not in page


def test_rows_that_cannot_be_are_named_and_nothing_is_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, file = str(waiting_run(tmp_path / "run")), tmp_path / "pairs.jsonl"
    assert main(["review", folder, "--review_out", str(file), "--blind"]) == 0
    rows = sorted(read_rows(file), key=lambda row: str(row["id"]))
    assert not [row for row in rows if "scores" in row] and [row["id"] for row in read_rows(file)] != [row["id"] for row in rows]
    good = [{**rows[0], "decision": "keep"}, {**rows[1], "decision": " Reject "}]
    bad: list[tuple[dict[str, Any], str]] = [
        ({**rows[0], "prompt": "Another?"}, "prompts cannot"),
        ({**rows[1], "response": "Other."}, '"decision": "edit"'),
        ({**rows[2], "decision": "edit"}, "the one that the model wrote"),
        ({**rows[3], "decision": "edit", "response": "Good."}, "is to be rejected"),
        ({**rows[4], "decision": "edit", "response": "Good."}, "corrected by the teacher"),
        ({**rows[0], "id": "p9"}, "no pair"),
        ({**rows[2], "decision": "perhaps"}, "none of keep, reject, edit"),
        ({**rows[2], "decision": "edit", "response": " "}, "is empty"),
        ({**rows[2], "decision": "edit", "response": "\x9b0m"}, "U+009B"),
        ({**rows[2], "decision": "reject", "reason": "x" * 501}, "at most 500"),
        ({**rows[2], "decision": 1}, "'decision' is no text"),
        ({"id": "p1"}, "no text 'prompt'"),
        ({**rows[1], "decision": "reject"}, f"stands at {file}:2 too"),
    ]
    capsys.readouterr()
    assert main(["review", folder, "--review_in", str(write_rows(file, [*good, *(row for row, _ in bad)]))]) == 2
    told = capsys.readouterr().err.splitlines()
    assert f"{len(bad)} rows cannot be taken" in told[0]
    for number, (line, (_, what)) in enumerate(zip(told[1:], bad, strict=True), 3):
        assert line.startswith(f"{file}:{number}: ") and what in line
    with Store.read(folder) as store:
        assert summary(store, 1)["left"] == 5
    for code, *given in (
        (0, "--review_in", write_rows(file, good)),
        (2, "--review_out", file),  # it holds decisions
        (2, "--done"),  # three pairs are left
        (0, "--done", "--rest", "drop", "--json"),
    ):
        capsys.readouterr()
        assert main(["review", folder, *map(str, given), *(["--by", "A"] if code == 0 else [])]) == code, given
    said = json.loads(capsys.readouterr().out)
    assert {name: said[name] for name in ("kept", "rejected", "left", "done", "rest", "by")} == {
        "kept": 1, "rejected": 1, "left": 3, "done": True, "rest": "drop", "by": ["A"],
    }  # fmt: skip


def test_the_last_word_counts_and_all_of_them_are_kept(tmp_path: Path) -> None:
    with open_review(waiting_run(tmp_path / "run")) as review:
        review.decide([Decision("p0", "rejected"), Decision("p1", "kept")], "Anna")
        review.decide([Decision("p0", "edited", response=EDITED), Decision("p1", "undone")], "Ben")
        assert {id: (said.verdict, said.by) for id, said in review.decisions().items()} == {"p0": ("edited", "Ben")}
        with review.store.snapshot() as connection:
            assert connection.execute("SELECT count(*) FROM events WHERE kind = 'review'").fetchone() == (4,)
        said = {"p0": Decision("p0", "rejected"), "p1": Decision("p1", "edited", response=EDITED)}
        result = after_review(list(review.pairs.values()), said, None)
        assert {drop.example.id: drop.evidence for drop in result.dropped} == {
            "p0": "rejected",
            "p3": "it follows on p0, which was rejected",
        }
        assert [(pair.id, pair.history) for pair in result.kept] == [("p1", ()), ("p1.2", (("Question 1?", EDITED),)), ("p4", ())]
    with pytest.raises(ZeroDivisionError), open_review(tmp_path / "run"):
        raise ZeroDivisionError
    with Store.read(tmp_path / "run") as store:
        assert store.state() == {}, "an error of the review is none of the run"


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (("run", "sft", "seeds.jsonl", *SCRIPTED, "--out", "x", "--review"), "nothing is generated"),
        (("review", "plain"), "waits for nobody"),
        (("review", "done"), "no round that waits"),
        (("review", "done", "--rest", "keep"), "changes nothing without --done"),
        (("review", "done", "--review_in", "a.jsonl", "--review_out", "b.jsonl"), "two steps"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(
    seeds_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: Any, what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("plain", "done"):
        with Store.open(tmp_path / name, {"name": "test", **({"review": True} if name == "done" else {})}) as store:
            store.finish_run(0, "done")
    assert main([*map(str, given)]) == 2
    assert what in capsys.readouterr().err


def test_nobody_but_the_page_is_answered(serve: Serve, tmp_path: Path) -> None:
    address = serve(waiting_run(tmp_path / "run")).address  # type: ignore[attr-defined]
    host, _, path = address.removeprefix("http://").partition("/")
    own = {"Origin": f"http://{host}", "Content-Type": "application/json"}
    body = json.dumps({"id": "p0", "verdict": "kept"})

    def status_of(method: str, name: str, token: str = path, **headers: str) -> int:
        connection = HTTPConnection(host, timeout=60)
        connection.request(method, f"/{token}{name}", body if method == "POST" else None, headers)
        answer = connection.getresponse()
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy and "unsafe" not in policy
        assert "Access-Control-Allow-Origin" not in answer.headers
        return answer.status

    assert status_of("GET", "pairs") == 200 and status_of("GET", "") == 200
    assert status_of("GET", "pairs", "x" * len(path)) == 404 and status_of("GET", "../../pyproject.toml") == 404
    assert (
        status_of("GET", "pairs", Host="evil.example") == 403 and status_of("GET", "pairs", Origin="http://evil.example") == 403
    )
    assert status_of("POST", "decide") == 403, "no origin"
    assert status_of("POST", "decide", **{**own, "Origin": "http://evil.example"}) == 403
    assert status_of("POST", "decide", **{**own, "Origin": "null"}) == 403
    assert status_of("POST", "decide", **{**own, "Content-Type": "text/plain"}) == 403, "a form could send that"
    assert status_of("POST", "decide", "x/", **own) == 404
    with Store.read(tmp_path / "run") as store:
        assert summary(store, 1)["left"] == 5
    assert status_of("POST", "decide", **own) == 200 and status_of("POST", "else", **own) == 400
    with Store.read(tmp_path / "run") as store:
        assert summary(store, 1)["left"] == 4 and status(store)["state"] == "waiting"
