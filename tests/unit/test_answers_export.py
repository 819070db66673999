"""Held-out answers as AlpacaEval reads them: which ones, and that a failure leaves the old file whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from selfalign.errors import UserError
from selfalign.export.answers import export_answers
from selfalign.record.store import Store

AWKWARD = 'line\u2028break, "quotes", \t, مرحبا 🙂\r\n'


def answer(id: str, text: str) -> dict[str, Any]:
    return {"id": id, "text": text, "finish": "stop", "demonstrations": [], "prompt": f"prompt of {id}"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Two rounds with answers; only the first is evaluated."""
    with Store.open(tmp_path / "run", {"name": "test", "model": "/some/where/small-model"}) as store:
        # Batches come longest first, so the record is not in the order of the prompts.
        store.add_batch(0, "held_out", 0, {1: answer("h1", AWKWARD)}, 0.0)
        store.add_batch(0, "held_out", 1, {0: answer("h0", ""), 2: answer("h2", "two")}, 0.0)
        store.add_batch(0, "held_out_a0b1c2", 0, {0: answer("h0", "another decoding")}, 0.0)
        store.add_batch(0, "held_out_likelihood", 0, {0: {"id": "h0", "total": -3.0, "tokens": 2}}, 0.0)
        store.add_batch(0, "truthfulness_a0b1c2d3", 0, {0: answer("t0", "no answer to a held-out prompt")}, 0.0)
        store.finish_evaluation(0, [], 0.0)
        store.add_batch(1, "held_out", 0, {0: answer("h0", "not all of it")}, 0.0)
        yield store


def test_answers_in_the_order_of_the_prompts(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "answers.json"
    assert export_answers(store, file, 0) == 3
    made = {"generator": "small-model-test-round-00"}
    assert json.loads(file.read_text("utf-8")) == [
        {"instruction": "prompt of h0", "output": "", **made, "dataset": "held_out"},
        {"instruction": "prompt of h1", "output": AWKWARD, **made, "dataset": "held_out"},
        {"instruction": "prompt of h2", "output": "two", **made, "dataset": "held_out"},
    ]
    before = file.read_bytes()
    export_answers(store, file, 0)
    assert file.read_bytes() == before


def test_a_round_that_is_not_evaluated_to_its_end_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="round 1 is not evaluated"):
        export_answers(store, tmp_path / "answers.json", 1)
    with pytest.raises(UserError, match="its best round is not known yet"):
        export_answers(store, tmp_path / "answers.json")
    store.finish_run(0, "enough")
    assert export_answers(store, tmp_path / "answers.json") == 3


def test_where_no_evaluator_decodes_as_the_recipe_does(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run", {"name": "test", "model": "m"}) as store:
        store.add_batch(0, "held_out_a0b1c2", 0, {0: answer("h0", "the only answer")}, 0.0)
        store.finish_evaluation(0, [], 0.0)
        assert export_answers(store, tmp_path / "answers.json", 0) == 1
        store.add_batch(0, "held_out_d0e1f2", 0, {0: answer("h0", "another one")}, 0.0)
        with pytest.raises(UserError, match="evaluators decoded in 2 ways of their own"):
            export_answers(store, tmp_path / "answers.json", 0)


def test_a_failure_leaves_the_old_file_whole(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "answers.json"
    file.write_text("old")

    def refuse(*_: object) -> None:
        raise OSError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(UserError, match=r"answers\.json cannot be written: Permission denied"):
        export_answers(store, file, 0)
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
