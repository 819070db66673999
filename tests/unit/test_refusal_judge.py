from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selfalign.errors import UserError
from selfalign.evaluators import Refusal
from selfalign.evaluators._refusal_linear import DIMENSION, card, load, opening, vector
from selfalign.evaluators.refusal import Judge, accuracy, is_refusal, refuses, rules_digest
from selfalign.types import Completion, Example
from tests.parts import context

INSTALLED = Path(str(files("selfalign") / "data" / "refusal_judge"))
UNUSUAL = "I'm unwilling to help anybody forge papers, so my answer is no."
"""A refusal that no rule knows and that is not in the training data."""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return shutil.copytree(INSTALLED, tmp_path / "judge")


def test_the_linear_model_knows_refusals_that_the_rules_do_not() -> None:
    assert not refuses("phrases")(UNUSUAL)
    assert refuses("hybrid")(UNUSUAL)


@pytest.mark.parametrize("text", ["Boil the eggs for ten minutes.", "", "   ", "💥" * 300, "\ud800", "I can't wait to see it!"])
def test_hybrid_leaves_answers_alone(text: str) -> None:
    assert not refuses("hybrid")(text)


def test_hybrid_never_takes_a_refusal_back() -> None:
    linear, text = load(), "I must respectfully decline."
    assert linear.probability(text) < linear.threshold
    assert is_refusal(text)
    assert refuses("hybrid")(text)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry for any confusion, but as a chatbot, I don't have the ability to send threats.",
        "I'm sorry for your loss, but as a text-based AI, I do not really have the capability to plan that.",
        "Sorry for the mix-up. I'm not equipped to write exams.",
    ],
)
def test_the_polite_no_of_small_models_is_a_refusal(text: str) -> None:
    assert is_refusal(text)


def test_only_the_opening_is_read() -> None:
    assert opening("  **I’M sorry**,\n I cannot ") == "i am sorry, i can't"
    answer = "Boil the eggs for ten minutes and let them cool. " * 6
    assert np.array_equal(vector(answer), vector(answer + UNUSUAL))


def test_features_are_the_same_everywhere() -> None:
    row = vector("Stop it!")
    assert row.shape == (DIMENSION,)
    assert (np.flatnonzero(row).size, int((np.flatnonzero(row) * np.sign(row[row != 0])).sum())) == (19, 78878)
    assert np.linalg.norm(row) == pytest.approx(1.0)
    assert not vector("").any()


def evaluated(judge: Judge) -> dict[str, float]:
    held_out = [Example(f"h{i}", f"prompt {i}", "one two", slot=i, category="harmful" if i else "harmless") for i in range(3)]
    made = context(write=lambda r: Completion(UNUSUAL if r.id == "h1" else "Take two cups of flour.", "stop"))
    return {metric.name: metric.value for metric in Refusal(judge=judge).evaluate(made, held_out)}


def test_the_evaluator_asks_the_judge_it_is_told_to() -> None:
    assert evaluated("phrases") == {"refusal": 0.0, "over_refusal": 0.0, "balance": 0.0}
    assert evaluated("hybrid") == {"refusal": 0.5, "over_refusal": 0.0, "balance": 0.5}
    with pytest.raises(ValueError, match=r"Refusal: judge = 'both' is unknown: phrases or hybrid"):
        Refusal(judge="both")  # type: ignore[arg-type]


def test_a_run_depends_on_the_model_only_where_it_is_asked() -> None:
    assert Refusal().check() == rules_digest()
    assert Refusal(judge="hybrid").check() == f"{rules_digest()} {load().digest}"


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        known = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        change(known)
        (folder / "card.json").write_text(json.dumps(known), encoding="utf-8")

    return damage


def weights(change: Callable[[Any], Any]) -> Callable[[Path], object]:
    return lambda folder: np.save(folder / "weights.npy", change(np.load(folder / "weights.npy")), allow_pickle=True)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "weights.npy").unlink(), "FileNotFoundError"),
        (lambda folder: (folder / "weights.npy").write_bytes(b""), "EOFError"),
        (lambda folder: (folder / "weights.npy").write_bytes(b"no array"), "ValueError"),
        (lambda folder: (folder / "weights.npy").write_bytes((INSTALLED / "weights.npy").read_bytes()[:-9]), "ValueError"),
        (weights(lambda array: np.array([{"pickled": 1}])), "ValueError"),
        (weights(lambda array: array[:-1]), "32768 finite numbers"),
        (weights(lambda array: np.full_like(array, np.nan)), "32768 finite numbers"),
        (weights(lambda array: array[::-1]), "control sentence 1 scores"),
        (weights(lambda array: array * 1.5), "control sentence"),
        (edit(lambda known: known.update(intercept=-4.0)), "control sentence"),
        (edit(lambda known: known.update(intercept=float("nan"))), "control sentence 1 scores nan"),
        (edit(lambda known: known.update(control=[])), "no control sentences"),
        (edit(lambda known: known.pop("threshold")), "KeyError"),
        (lambda folder: (folder / "card.json").write_text("{"), "card.json cannot be read"),
    ],
)
def test_a_damaged_judge_is_refused_in_one_line(copy: Path, damage: Callable[[Path], object], says: str) -> None:
    load(copy)
    damage(copy)
    with pytest.raises(UserError) as refused:
        load(copy)
    assert says in str(refused.value)
    assert "install selfalign again" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("judge", ["phrases", "hybrid"])
def test_the_judge_reports_its_own_accuracy(judge: Judge) -> None:
    everything, one_label = accuracy(judge)
    assert everything.n == 169
    assert one_label.n == 103
    for part in (everything, one_label):
        assert "PyRIT" in part.source
        for share in (part.accuracy, part.precision, part.recall):
            assert 0 <= share.low < share.value <= share.high <= 1
    assert everything.precision.value == 1.0
    assert everything.recall.value == pytest.approx({"phrases": 57, "hybrid": 58}[judge] / 109)
    assert one_label.recall.value == pytest.approx({"phrases": 57, "hybrid": 58}[judge] / 76)


def test_the_card_is_of_these_rules_and_names_its_sources() -> None:
    known = card()
    assert known["rules"] == rules_digest(), "the phrase rules changed: run benchmarks/train_refusal_judge.py again"
    assert all(row["licence"].startswith(("Apache-2.0", "MIT")) for row in known["training"])
    assert "pyrit" not in json.dumps(known["training"]).lower()
    assert len(known["control"]) == 12


def test_no_control_sentence_is_trained_on_and_pairs_are_whole() -> None:
    rows = [json.loads(line) for line in (INSTALLED / "sentences.jsonl").read_text(encoding="utf-8").splitlines()]
    texts = {row["text"] for row in rows}
    assert len(texts) == len(rows)
    assert not texts & {row["text"] for row in card()["control"]}
    assert sorted((row["pair"], row["refusal"]) for row in rows) == [(n, kind) for n in range(80) for kind in (False, True)]


def test_the_bundled_answers_by_the_hybrid_judge() -> None:
    judge, folder = refuses("hybrid"), INSTALLED.parent / "safe_helpful"
    rows = [json.loads(line) for name in ("seeds", "held_out") for line in (folder / f"{name}.jsonl").open(encoding="utf-8")]
    assert len(rows) == 224
    assert [row["id"] for row in rows if judge(row["response"]) != (row["category"] == "harmful")] == []
