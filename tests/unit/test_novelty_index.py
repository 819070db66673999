"""Many texts: an index of rare words gives the verdicts of comparing all pairs."""

from __future__ import annotations

import random

import pytest

from selfalign.filters import Novelty, novelty
from tests.parts import context
from tests.unit.test_filters import batch


@pytest.mark.parametrize("bound", [0.5, 0.7, 0.9])
def test_with_an_index_the_verdicts_and_what_they_name_are_the_same(bound: float, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(3)
    weights = [1 / (rank + 1) for rank in range(40)]
    words = [f"word{rank}" for rank in range(40)]
    texts = [" ".join(draw.choices(words, weights, k=draw.randint(0, 14))) for _ in range(700)]
    near = [f"{text.rpartition(' ')[0]} more" for text in texts[::4]]  # where chance gives none
    examples = batch(*(texts[100:] + near))
    part, pool = Novelty(max_overlap=bound, learn=False), (tuple(batch(*texts[:100])),)
    plain = part.apply(context(pool=pool), examples)
    monkeypatch.setattr(novelty, "INDEXED", 1)
    monkeypatch.setattr(novelty, "rouge_l_growing", None)
    indexed = part.apply(context(pool=pool), examples)
    assert indexed == plain and 100 < len(plain.dropped) < 750
