"""What the journal answers belongs to what is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfalign.engines.scripted import Scripted
from selfalign.errors import RunFailed
from selfalign.loop import Quiet
from selfalign.steps import journaled_generate, journaled_likelihood
from selfalign.store import Store
from selfalign.types import Example, ModelRef, Request, Sampling
from tests.parts import generated


def test_the_journal_does_not_answer_another_question(tmp_path: Path) -> None:
    first, other = generated(1, 3), generated(2, 3)
    with Store.open(tmp_path, {"name": "journal"}) as store, Scripted().open(ModelRef("scripted"), "auto") as session:
        likelihood = journaled_likelihood(store, 1, session, Quiet())
        assert likelihood("validation", first) == likelihood("validation", first)
        with pytest.raises(RunFailed, match="the journal holds r01-00000 where r02-00000 is asked for"):
            likelihood("validation", other)
        generate = journaled_generate(store, 1, session, Quiet())
        generate("respond", _asked(first), Sampling())
        with pytest.raises(RunFailed, match="the journal holds r01-00000 where r02-00000 is asked for"):
            generate("respond", _asked(other), Sampling())


def _asked(examples: tuple[Example, ...]) -> list[Request]:
    return [Request(example.id, prompt=example.prompt) for example in examples]
