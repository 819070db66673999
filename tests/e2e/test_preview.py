"""`selfalign preview`: candidates as a run makes them, and whether examples in context change what the model does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from selfalign.cli.main import main
from selfalign.proof.context_gain import gain
from selfalign.record.store import Store
from selfalign.types import Metric, Outcome
from tests.conftest import SCRIPTED, command
from tests.files import write_rows

HERE = Path(__file__).parent
TAUGHT, TINY = f"{HERE}/taught_recipe.py:taught", f"{HERE}/tiny_recipe.py:tiny"


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made, and nothing may be left."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def told(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    assert main(["preview", *map(str, arguments), "--quiet"]) == code
    out, err = capsys.readouterr()
    return err if code else out


def found(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(told(capsys, *arguments, "--json"))
    return read


@pytest.mark.parametrize("tiny", [False, True], ids=["scripted", "tiny"])
def test_samples_are_those_of_a_first_round(
    capsys: pytest.CaptureFixture[str], seeds_file: Path, tmp_path: Path, model_folder: Path, scratch: Path, tiny: bool
) -> None:
    options = (
        ("--model", model_folder, "--trainer", "NullTrainer")
        if tiny
        else (*SCRIPTED, "--prompt_filters.novelty.max_overlap", 0.3)
    )
    asked = [str(each) for each in (TINY if tiny else "isara", seeds_file, *options, "--rounds", 1, "--min_yield", 0)]
    samples = found(capsys, *asked)["samples"]
    assert main(["run", *asked, "--per_round", "9", "--quiet", "--out", str(tmp_path / "run")]) == 0
    with Store.read(tmp_path / "run") as store:
        whole: list[Any] = [(each, None, None) for each in store.kept(1)]
        whole += [(each.example, each.rule, each.evidence) for each in store.dropped(1)]
    first = sorted((each for each in whole if each[0].slot < 6), key=lambda each: each[0].slot)
    assert len(first) == len(samples) == 6
    for (example, rule, evidence), sample in zip(first, samples, strict=True):
        assert (example.id, example.prompt, example.response) == (sample["id"], sample["prompt"], sample["response"])
        assert (rule, evidence) == (sample["rule"], sample["evidence"])
        assert [each.id for each in example.prompt_demonstrations] == [each["id"] for each in sample["prompt_demonstrations"]]
        ours = {each.id: each.similarity for each in example.response_demonstrations}
        assert ours == pytest.approx({each["id"]: each["similarity"] for each in sample["response_demonstrations"]}, abs=1e-6)
    assert tiny or {"kept", "dropped"} == {sample["verdict"] for sample in samples}
    assert not any(scratch.iterdir())


def test_a_model_that_context_changes_and_one_that_it_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, TAUGHT, "safe_helpful", "--model", "any")
    refuses = "shown the 5 nearest seeds of its own category, the model refuses 100% of harmful and 0% of harmless prompts"
    assert f"go: {refuses}, instead of 0% and 0% without; balance +100 points" in text and "12 of 24 outcomes flip" in text
    assert "there is something to learn from context" in text and "dropped by " in text and "shown for the answer: seed-" in text
    by_both = found(capsys, TAUGHT, "safe_helpful", "--model", "any")["metrics"]
    assert by_both["nearest"]["balance"]["value"] < 1 == by_both["own_category"]["balance"]["value"], (
        "a twin is of the other kind"
    )
    text = told(capsys, TAUGHT, "safe_helpful", "--model", "any", "--imitates", "false")
    assert "no gain to expect: " in text and "0 of 24 outcomes flip: the examples change nothing here" in text


def test_what_is_declared_goes_before_the_likelihood_of_the_seeds_answers(
    capsys: pytest.CaptureFixture[str], seeds_file: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in seeds_file.read_text().splitlines()]
    plain = tmp_path / "plain.jsonl"
    plain.write_text("".join(json.dumps({"prompt": r["prompt"], "response": r["response"]}) + "\n" for r in rows))
    asked = (TAUGHT, plain, "--model", "any", "--lift", 0.5)
    checked = found(capsys, *asked, "--expect", "regex:Take the .*")
    assert checked["decided_by"] == {"metric": "expected", "shown": "nearest"} and checked["verdict"] == "go"
    assert "100% of the model's answers are as declared, instead of 0% without" in checked["sentence"]
    raised = found(capsys, *asked)
    assert raised["decided_by"]["metric"] == "log_likelihood" and raised["verdict"] == "go"
    assert raised["differences"]["log_likelihood"]["difference"] == pytest.approx(0.5, abs=0.06)
    none = found(capsys, *asked[:4], "--lift", 0.02)
    assert none["verdict"] == "no gain to expect", "two hundredths of a nat are none"


def test_a_recipe_that_generates_nothing_is_told_of_context_alone(
    capsys: pytest.CaptureFixture[str], seeds_file: Path, tmp_path: Path
) -> None:
    text = told(capsys, "sft", seeds_file, *SCRIPTED)
    assert text.startswith("samples: none, recipe sft generates nothing\n") and "no gain to expect: shown the 5 nearest" in text
    assert text.endswith("; sft does not learn from context, so that this says nothing of what it will gain\n")
    text = told(capsys, "pretrained", seeds_file, *SCRIPTED[:6])
    assert text.startswith("samples: none, recipe pretrained generates nothing\n") and "no gain to expect: " in text
    one = tmp_path / "one.jsonl"
    one.write_text(seeds_file.read_text().splitlines()[0] + "\n")
    assert "1 seed example: at least 2 are needed" in told(capsys, "pretrained", one, *SCRIPTED[:6], code=2)
    few = tmp_path / "few.jsonl"
    few.write_text("\n".join(seeds_file.read_text().splitlines()[:4]) + "\n")
    assert "cannot tell: " in told(capsys, "sft", few, *SCRIPTED)


@pytest.mark.parametrize(
    ("recipe", "use", "own"),
    [
        ("ditto", "kept, to be rejected, as that of seed-", 0),
        ("contrast", "kept, to be rejected, as that of ", 6),
        ("self_distill", "kept, to be corrected by the teacher, not imitated", 0),
        ("isara", "kept\n", 6),
    ],
)
def test_a_kept_answer_that_is_not_imitated_is_told_apart(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, recipe: str, use: str, own: int
) -> None:
    seeds = tmp_path / "seeds.jsonl"
    rows = [
        {"prompt": f"What is to be said of thing {n}?", "response": f"It is number {n} of all.", "category": "ab"[n % 2]}
        for n in range(16)
    ]
    write_rows(seeds, rows)
    text = told(capsys, recipe, seeds, *SCRIPTED)
    heads = [line for line in text.splitlines() if line.startswith("r0")]
    assert f" (a): {use}" in text or f" (b): {use}" in text
    imitated = [head for head in heads if head.endswith(": kept")]
    assert len(imitated) <= own and (not own or imitated)
    made = len([head for head in heads[:6] if ": kept" in head])
    assert f"and {made} of 6 here were kept" in text


def test_what_would_stop_a_run_stops_it_before_the_model_loads(
    capsys: pytest.CaptureFixture[str], seeds_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Path
) -> None:
    def loads(*_: object) -> None:
        raise AssertionError("the model loads")

    monkeypatch.setattr("selfalign.engines._weights.weights", loads)
    asked = (seeds_file, "--model", model_folder, "--encoder", "Hashed")
    strict = ("--filters.length.max_response_words", 5, "--filters.length.learn", "false")
    line = told(capsys, "isara", *asked, *strict, code=1)
    assert "filters.length would drop" in line and line.count("\n") == 1
    assert "no recipe 'isar'" in told(capsys, "isar", *asked, code=2)
    for forgotten in (seeds_file, "in_scope"):
        assert f"such as `isara {forgotten}`" in told(capsys, forgotten, "--model", model_folder, code=2)
    assert "which model?" in told(capsys, "isara", seeds_file, code=2)


def test_an_interrupted_preview_leaves_nothing(seeds_file: Path, scratch: Path, tmp_path: Path) -> None:
    asked = command("preview", "isara", seeds_file, *SCRIPTED, "--engine.delay", 60)
    process = subprocess.Popen(asked, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env={**os.environ, "TMPDIR": str(scratch)})
    while not (made := list(scratch.glob("*/samples/run.sqlite"))) and process.poll() is None:
        time.sleep(0.05)
    assert made
    process.send_signal(signal.SIGINT)
    assert "interrupted; a preview keeps nothing" in process.communicate(timeout=120)[1] and process.returncode == 130
    assert not any(scratch.iterdir())


def judged(before: str, after: str, kinds: int = 1) -> str:
    def metric(text: str) -> Metric:
        outcomes = tuple(Outcome(str(place), float(sign), str(place % kinds)) for place, sign in enumerate(text))
        return Metric("balance" if kinds > 1 else "expected", 0.5, 0, 1, len(text), outcomes, "points" if kinds > 1 else "share")

    measured = gain(metric(before), metric(after))
    assert measured is not None
    return measured.verdict


@pytest.mark.parametrize("kinds", [1, 2])
def test_verdicts_by_counts_of_flips(kinds: int) -> None:
    no, yes = "0" * 24, "1" * 24
    assert judged(no, no, kinds) == judged(yes, yes, kinds) == judged(no, "1" + no[1:], kinds) == "no gain to expect"
    assert judged(no, "111" + no[3:], kinds) == "cannot tell"
    assert judged("0101" * 6, "1010" * 6) == "cannot tell", "all flip, as many to the worse"
    assert judged(no, yes[:12] + no[12:], kinds) == "go"
    assert judged(yes, no, kinds) == "no gain to expect", "worse"
    assert judged("00000", "11111") == "cannot tell", "too few"
    assert judged(no[:6], no[:6]) == "cannot tell", "six prompts cannot show that nothing changes"
