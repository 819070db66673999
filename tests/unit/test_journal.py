"""The journal: what it answers belongs to what is asked, and what is asked is not asked twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfalign.encoders import Hashed
from selfalign.engines import Scripted
from selfalign.engines.scripted import ScriptedSession
from selfalign.errors import RunFailed
from selfalign.loop.align import align
from selfalign.loop.progress import Quiet
from selfalign.recipes import isara
from selfalign.record.journal import Journal
from selfalign.record.store import Store
from selfalign.scorers import Perplexity
from selfalign.trainers import NullTrainer
from selfalign.types import Example, Format, Likelihood, ModelRef, Request, Sampling
from tests.parts import generated, seeds


def test_the_journal_does_not_answer_another_question(tmp_path: Path) -> None:
    first, other = generated(1, 3), generated(2, 3)
    with Store.open(tmp_path, {"name": "journal"}) as store, Scripted().open(ModelRef("scripted"), "auto") as session:
        journal = Journal(store, 1, session, Quiet())
        assert journal.likelihood("validation", first) == journal.likelihood("validation", first)
        with pytest.raises(RunFailed, match="the journal holds r01-00000 where r02-00000 is asked for"):
            journal.likelihood("validation", other)
        journal.generate("respond", _asked(first), Sampling())
        with pytest.raises(RunFailed, match="the journal holds r01-00000 where r02-00000 is asked for"):
            journal.generate("respond", _asked(other), Sampling())


def _asked(examples: tuple[Example, ...]) -> list[Request]:
    return [Request(example.id, prompt=example.prompt) for example in examples]


def test_the_ten_texts_of_a_judge_stay_together(tmp_path: Path) -> None:
    sizes: list[int] = []

    class Counting(ScriptedSession):
        def likelihood(self, examples: Sequence[Example], shown: Sequence[Sequence[Example]] = ()) -> list[Likelihood]:
            sizes.append(len(examples))
            return super().likelihood(examples, shown)

    pairs = [Example(f"r{pair}/{score}", f"Rate answer {pair}.", str(score)) for pair in range(33) for score in range(1, 11)]
    with Store.open(tmp_path, {"name": "journal"}) as store:
        session = Counting(Scripted(), ModelRef("scripted"))
        found = Journal(store, 1, session, Quiet()).likelihood("judge", pairs)
    assert found == session.likelihood(pairs)
    assert sizes[0] >= 10 * 32 and not any(size % 10 for size in sizes)


def test_a_model_that_is_open_is_not_opened_again(tmp_path: Path) -> None:
    opened: list[str] = []

    class Counting(Scripted):
        @contextmanager
        def open(self, model: ModelRef, format: Format) -> Iterator[ScriptedSession]:
            opened.append(Path(model.base).parent.name)
            with super().open(model, format) as session:
                yield session

    recipe = replace(isara(demonstrations=3), per_round=6, engine=Counting(), encoder=Hashed(), trainer=NullTrainer())
    recipe = replace(recipe, scorers=(Perplexity(),), prompt_filters=(), filters=(), validation_share=0.0)
    align(recipe, "models/base", seeds(), tmp_path / "run")
    # First whether the longest seed fits; the base model asks and scores round 1; while round 1's asks in round 2, it scores.
    assert opened == ["models", "models", "round-01", "models", "round-02"]


def test_batches_that_end_in_another_order_are_committed_as_they_come_and_read_in_order(tmp_path: Path) -> None:
    committed: list[int] = []

    class Several(ScriptedSession):
        def spread(self, method: str, calls: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, list[Any]]]:
            for place in (2, 0, 1):
                committed.append(len(store.done_batches(1, stage)))
                yield place, getattr(self, method)(*calls[place])

    asked = [Request(f"r{row}", prompt=f"Where is place number {row}?", seed=row) for row in range(20)]
    texts = [Example(request.id, request.prompt or "", "So it is.") for request in asked] * 40  # three batches of 320
    work: dict[str, Callable[[Journal], Any]] = {
        "respond": lambda journal: journal.generate("respond", asked, Sampling(max_tokens=40)),
        "validation": lambda journal: journal.likelihood("validation", texts),
        "choices": lambda journal: journal.continuation("choices", [(each.prompt, each.response) for each in texts]),
    }
    model = ModelRef("scripted")
    for stage, ask in work.items():
        committed.clear()
        with Store.open(tmp_path / stage, {}) as store, Store.open(tmp_path / f"{stage}-plain", {}) as other:
            found = ask(Journal(store, 1, Several(Scripted(), model), Quiet()))
            assert found == ask(Journal(other, 1, ScriptedSession(Scripted(), model), Quiet()))
            assert store.done_batches(1, stage) == other.done_batches(1, stage)
        assert committed == [0, *((4, 12) if stage == "respond" else (160, 480))]
