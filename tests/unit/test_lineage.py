"""What is told of a run and of one sample."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from selfalign.cli.main import main
from selfalign.errors import UserError
from selfalign.protocols import TrainResult
from selfalign.record.checkpoints import read_manifest
from selfalign.record.lineage import lineage, lineage_text
from selfalign.record.status import status, warnings
from selfalign.record.store import Store
from selfalign.report.data import read_run
from selfalign.text import printable
from selfalign.types import Demonstration, Dropped, Example, Metric, ModelRef

IDENTITY = {"name": "isara", "seed": 7, "sampling": {"temperature": 0.7}, "proposer": {"sampling": {"temperature": 1.0}}}
SEEDS = [Example(f"s{i}", f"seed prompt {i}", f"seed response {i}", slot=i) for i in range(3)]
KEPT = Example(
    "r1-0",
    "a prompt",
    "a \x1b[31mred\u202e response",
    1,
    0,
    "care",
    prompt_demonstrations=(Demonstration("s1"),),
    response_demonstrations=(Demonstration("s2", 0.5), Demonstration("s1", 0.25)),
    scores={"length": 3.0},
)
DROPPED = Example("r1-1", "seed prompt 1!", "x", 1, 1)


def output(text: str, read: int, generated: int) -> dict[str, object]:
    return {"id": "r1-0", "text": "t", "prompt_text": text, "prompt_tokens": read, "generated_tokens": generated}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "run", IDENTITY) as store:
        store.add_seeds(SEEDS, ())
        store.add_model(0, ModelRef("base", hash="h0"))
        store.add_batch(1, "propose", 0, {5: output("<p>", 10, 4)}, 1.5)
        store.add_batch(1, "respond", 0, {0: output("<r>", 20, 5)}, 2.0)
        store.add_batch(1, "respond", 1, {1: {"id": "r1-1", "text": "", "finish": "context"}}, 0.5)
        assert store.seconds(1) == 4.0
        store.finish_round_samples(1, [KEPT], [Dropped(DROPPED, "novelty", "ROUGE-L 0.92 to s1: seed prompt 1")], 2, 0.25)
        assert store.seconds(1) == 0.0
        folder = store.round_folder(1) / "model"
        folder.mkdir()
        dropped = (Dropped(SEEDS[1], "no_label", "0 tokens"),)
        result = TrainResult(ModelRef(str(folder)), ("s0", "r1-0"), dropped, 4, 123, 0.5, (1.0,))
        store.add_model(1, ModelRef(str(folder), hash="h1"), read_manifest(folder), result, 8.0)
        store.add_batch(1, "validation", 0, {0: {"id": "s0", "total": -3.0, "tokens": 6}}, 0.5)
        store.finish_evaluation(1, [Metric("refusal", 0.5, 0.25, 0.75, 12)], 1.0)
        yield store


def test_status(store: Store) -> None:
    store.finish_run(1, "the one round is done")
    store.close()
    with Store.read(store.folder) as reader:
        found = status(reader)
    rounds = found.pop("rounds")
    assert found == {
        "state": "done",
        "stopped_because": "the one round is done",
        "recipe": "isara",
        "best_round": 1,
        "progress": None,
    }
    assert rounds[0] == {
        "round": 0,
        "candidates": 0,
        "kept": 0,
        "dropped": {},
        "metrics": {},
        "model": "base",
        "verify_weights": None,
        "seconds": {},
        "tokens": {"prompt": 0, "generated": 0, "trained": 0},
    }
    assert rounds[1] == {
        "round": 1,
        "candidates": 2,
        "kept": 1,
        "dropped": {"novelty": 1},
        "metrics": {"refusal": {"value": 0.5, "low": 0.25, "high": 0.75, "n": 12, "unit": "number", "better": "higher"}},
        "model": str(store.folder / "round-01" / "model"),
        "verify_weights": None,
        "seconds": {"propose": 1.5, "respond": 2.5, "filter": 0.25, "validation": 0.5, "train": 8.0, "evaluate": 1.0},
        "tokens": {"prompt": 36, "generated": 9, "trained": 123},
    }


def test_the_lineage_of_a_kept_sample(store: Store) -> None:
    found = lineage(store, "r1-0")
    assert found["verdict"] == "kept" and found["rule"] is None and found["scores"] == {"length": 3.0}
    assert [(d["id"], d["similarity"], d["prompt"]) for d in found["response_demonstrations"]] == [
        ("s2", 0.5, "seed prompt 2"),
        ("s1", 0.25, "seed prompt 1"),
    ]
    assert found["prompt_demonstrations"][0]["similarity"] is None
    assert found["written_by"] == {"round": 0, "base": "base", "adapter": None, "hash": "h0", "verify_weights": None}
    assert found["sampling"] == {"prompt": {"temperature": 1.0}, "response": {"temperature": 0.7}, "seed": 7}
    assert found["prompt_texts"] == {"propose": "<p>", "respond": "<r>"}
    assert [(m["round"], m["hash"], m["rule"]) for m in found["trained_into"]] == [(1, "h1", None)]


def test_the_lineage_of_a_dropped_sample_and_of_a_seed(store: Store) -> None:
    found = lineage(store, "r1-1")
    assert (found["verdict"], found["rule"]) == ("dropped", "novelty") and "seed prompt 1" in found["evidence"]
    assert found["trained_into"] == []
    found = lineage(store, "s1")
    assert found["verdict"] == "seed" and found["written_by"] is None and found["sampling"] is None
    assert found["shown_in"]["count"] == 2
    assert [(s["id"], s["part"], s["similarity"]) for s in found["shown_in"]["samples"]] == [
        ("r1-0", "prompt", None),
        ("r1-0", "response", 0.25),
    ]
    assert [(m["rule"], m["evidence"]) for m in found["trained_into"]] == [("no_label", "0 tokens")]


def bare_candidates(store: Store) -> list[Example]:
    """Of round 2, all without a text: an empty answer, one dropped before it was answered, one without room for an answer."""
    made = [Example(f"r2-{slot}", f"later prompt {slot}", "", 2, slot) for slot in range(2)]
    made.append(Example("r2-2", "later prompt 2", "", 2, 2, response_finish="context"))
    store.add_batch(2, "propose", 0, {slot: {"id": each.id, "text": each.prompt} for slot, each in enumerate(made)}, 1.0)
    answers = {0: {"id": "r2-0", "text": "", "finish": "stop"}, 2: {"id": "r2-2", "text": "", "finish": "context"}}
    store.add_batch(2, "respond", 0, answers, 1.0)
    store.finish_round_samples(2, [], [Dropped(each, "some_rule", "why") for each in made], 3)
    return made


def test_what_was_never_answered_is_told_apart_from_an_empty_answer(store: Store) -> None:
    empty, *others = bare_candidates(store)
    assert "response (ended by stop)\n  (empty)" in lineage_text(lineage(store, empty.id))
    for each in others:
        assert "response\n  (not answered)" in lineage_text(lineage(store, each.id))
    without = [sample["id"] for sample in read_run(store.folder)["samples"] if not sample["answered"]]
    assert without == [each.id for each in others]


def test_the_finding_about_a_servers_weights_is_told(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """The last finding of a round tells where it stands; what was written before a bad one was written behind a good one."""
    proof, stale = "the server serves round 1: on 6 seeds", "the server does not serve round 1 but still the base model"
    store.finish_round_samples(2, [Example("r2-0", "a later prompt", "a later response", 2, 0)], [], 1)
    store.event("verify_weights", {"round": 1, "verdict": "stale", "text": stale})
    store.event("verify_weights", {"round": 1, "verdict": "verified", "text": proof})

    def told(*arguments: str) -> str:
        assert main([arguments[0], str(store.folder), *arguments[1:]]) == 0
        return capsys.readouterr().out

    assert [row["verify_weights"] for row in json.loads(told("status", "--json"))["rounds"]] == [
        None,
        {"verdict": "verified", "text": proof},
        None,
    ]
    assert f"verify_weights: {proof}" in told("status") and warnings(store) == []
    assert json.loads(told("show", "r2-0", "--json"))["written_by"]["verify_weights"] == {"verdict": "verified", "text": proof}
    assert proof in told("show", "r2-0") and "verify_weights" not in told("show", "s1")
    assert lineage(store, "r1-0")["written_by"]["verify_weights"] is None
    assert any("weights of round 1 (verify_weights" in note for note in read_run(store.folder)["verdict"]["notes"])
    store.event("verify_weights", {"round": 1, "verdict": "stale", "text": stale})
    assert status(store)["rounds"][1]["verify_weights"]["verdict"] == "stale" and warnings(store) == [f"verify_weights: {stale}"]
    assert proof not in told("status") and " ".join(told("status").split()).count(stale) == 1
    assert proof in told("show", "r2-0")
    assert not any("verify_weights" in note for note in read_run(store.folder)["verdict"]["notes"])


def test_a_table_that_no_terminal_shows_is_as_wide_as_it_needs(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for round in range(6):
        store.add_metrics(round, [Metric("diversity_distinct_2_prompts", 0.55, 0.45, 0.65, 20)])

    def told() -> list[str]:
        assert main(["status", str(store.folder)]) == 0
        return capsys.readouterr().out.splitlines()

    def of_the_table(lines: list[str]) -> list[str]:
        return [line for line in lines if line[:1] in "│┃"]

    monkeypatch.delenv("COLUMNS", raising=False)
    row = next(line for line in told() if "diversity distinct 2 prompts" in line)
    assert row.count("0.55 [0.45, 0.65]") == 6
    monkeypatch.setenv("COLUMNS", "70")
    assert max(map(len, of_the_table(told()))) <= 70
    monkeypatch.delenv("COLUMNS")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")  # one without colours
    assert max(map(len, of_the_table(told()))) <= Console().width < len(row)


def test_no_such_sample(store: Store) -> None:
    with pytest.raises(UserError, match=r"no sample 'r9'.*called like s0 and r1-1"):
        lineage(store, "r9")


def test_a_lineage_on_a_terminal(store: Store) -> None:
    text = lineage_text(lineage(store, "r1-0"))
    assert "\x1b" not in text and "\u202e" not in text
    for wanted in ("a [31mred response", "s2 (round 0, similarity 0.500)", "drawn at random", "<r>", "h0", "kept"):
        assert wanted in text
    assert "novelty: ROUGE-L 0.92" in lineage_text(lineage(store, "r1-1"))
    assert "shown in 2 samples" in lineage_text(lineage(store, "s1"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\nc", "a\tb\nc"),
        ("\x1b]0;title\x07\x9b31m", "]0;title31m"),
        ("a\u202eb\u2066c\u200f", "abc"),
        ("\ud800x\x00\x7f", "x"),
        ("naïve 日本 🙂 العربية", "naïve 日本 🙂 العربية"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown
