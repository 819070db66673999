"""Many texts: vectors along a few directions give the verdicts of multiplying all pairs."""

from __future__ import annotations

import numpy as np
import pytest

from selfalign.filters import NearDuplicates, _near
from tests.parts import context
from tests.unit.test_filters import batch


def vectors(spread: float) -> np.ndarray:
    """700 texts: pairs at all distances, a third of them closer than a cosine of 0.9, some of them equal."""
    draw = np.random.default_rng(5)
    sizes = 1 / np.arange(1, 65) ** spread
    rows = draw.standard_normal((350, 64)) * sizes
    others = rows + draw.uniform(0, 1.5, (350, 1)) * draw.standard_normal((350, 64)) * sizes * (draw.random((350, 1)) > 0.1)
    found = np.concatenate([rows, others])[draw.permutation(700)].astype(np.float32)
    found[80:110] = found[0] + 0.1 * found[80:110]  # many near ones side by side: a block that is multiplied whole
    for start in (40, 400):  # and some that have two of them in the pool
        found[start : start + 20] = found[:20] + 0.2 * found[start : start + 20]
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.mark.parametrize(("bound", "spread", "shorter"), [(0.9, 0.5, True), (0.97, 0.0, True), (0.4, 0.0, False)])
def test_along_few_directions_the_verdicts_and_what_they_name_are_the_same(
    bound: float, spread: float, shorter: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = vectors(spread)
    encode = lambda texts: rows[[int(text) for text in texts]]  # noqa: E731
    part, pool = NearDuplicates(max_similarity=bound, learn=False), (tuple(batch(*map(str, range(100)))),)
    examples = batch(*map(str, range(100, 700)))
    plain = part.apply(context(pool=pool, encode=encode), examples)
    monkeypatch.setattr(_near, "SHORTENED", 1)
    monkeypatch.setattr(_near, "_COLUMNS", 64)
    assert (_near._directions(rows[100:], rows[:100], bound) is not None) == shorter
    assert part.apply(context(pool=pool, encode=encode), examples) == plain
    assert 50 < len(plain.dropped) < 500
