"""What compares many texts with many does so in blocks of a bounded size; the blocks change nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from selfalign.filters import CategoryAgreement, NearDuplicates, Novelty, category, novelty
from selfalign.proof import diversity, overlap, retrieval
from selfalign.proposers import given
from selfalign.types import Example
from tests.parts import context

DRAW = np.random.default_rng(2)
ROWS = (lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True))(DRAW.integers(-3, 4, (90, 6)).astype(np.float32) + 0.5)
EXAMPLES = [
    Example(f"e{i}", f"{i} {' '.join(DRAW.choice(list('abcdefg'), 6))}", str(i), 1, i, "xy"[i % 2], metadata={"line": str(i)})
    for i in range(90)
]


def encode(texts: list[str]) -> Any:
    return ROWS[[int(text.split()[0]) for text in texts]].reshape(-1, 6)


SEEDS = context(pool=(tuple(EXAMPLES[:41]),), encode=encode)
BARE = [Example(each.id, each.prompt, "", 1, each.slot, metadata=each.metadata) for each in EXAMPLES[41:]]


@pytest.mark.parametrize(
    ("module", "size", "found"),
    [
        (category, "_CELLS", lambda: list(CategoryAgreement()._nearest(ROWS[:41], ROWS[:41], EXAMPLES[:41], among=True))),
        (category, "_CELLS", lambda: CategoryAgreement(neighbours=3, learn=False).apply(SEEDS, EXAMPLES[41:])),
        (given, "_CELLS", lambda: given._with_categories(SEEDS, BARE)),
        (novelty, "_AT_ONCE", lambda: NearDuplicates(max_similarity=0.5)._usual(SEEDS)),
        (novelty, "_AT_ONCE", lambda: Novelty()._usual([each.prompt for each in EXAMPLES[:41]])),
        (retrieval, "_CELLS", lambda: retrieval.nearest_other(ROWS)),
        (overlap, "_CELLS", lambda: overlap.overlap(EXAMPLES[:41], EXAMPLES[41:], (ROWS[:41], ROWS[41:]))),
        (diversity, "_ROWS", lambda: diversity.spread(ROWS)),
    ],
)
def test_in_small_blocks_the_same_is_found(
    module: Any, size: str, found: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = found()
    monkeypatch.setattr(module, size, 17 if size != "_CELLS" else 300)
    small = found()
    if isinstance(whole, float | tuple | list) and isinstance(np.ravel(whole)[0], float):
        assert small == pytest.approx(whole, abs=1e-6) and whole
    else:
        assert small == whole
