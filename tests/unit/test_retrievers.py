from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from selfalign.retrievers import Knn, Uniform
from selfalign.types import Example, FloatArray
from tests.parts import context, generated, seeds


def on_a_circle(texts: Sequence[str]) -> FloatArray:
    """A text that is a number is an angle in degrees."""
    angles = np.radians([float(text) for text in texts])
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def examples(prefix: str, *angles: float, kind: str = "", round: int = 0) -> tuple[Example, ...]:
    return tuple(Example(f"{prefix}{i}", str(angle), "r", round, i, kind) for i, angle in enumerate(angles))


def draft(angle: float, kind: str = "") -> Example:
    return Example("draft", str(angle), "", 1, 0, kind)


def ids(shown: tuple[tuple[Example, float | None], ...]) -> list[str]:
    return [example.id for example, _ in shown]


def test_nearest_first_with_cosine() -> None:
    ctx = context(pool=(examples("s", 90, 10, 30, 170),), encode=on_a_circle)
    (shown,) = Knn(demonstrations=3).retrieve(ctx, [draft(0)])
    assert ids(shown) == ["s1", "s2", "s0"]
    assert [value for _, value in shown] == pytest.approx([np.cos(np.radians(angle)) for angle in (10, 30, 90)], abs=1e-6)
    (turned,) = Knn(demonstrations=3, nearest="last").retrieve(ctx, [draft(0)])
    assert turned == shown[::-1]


def test_each_part_gives_its_share() -> None:
    pool = (examples("s", 1, 2, 3, 4), examples("a", 50, 40, round=1), (), examples("b", 2.5, 0.5, round=3))
    (shown,) = Knn(demonstrations=4).retrieve(context(pool=pool, encode=on_a_circle), [draft(0)])
    assert ids(shown) == ["s0", "s1", "a1", "b1"], "the seeds first, nearest first, then the nearest of each round"
    (turned,) = Knn(demonstrations=4, nearest="last").retrieve(context(pool=pool, encode=on_a_circle), [draft(0)])
    assert turned == shown[::-1]


def test_equals_come_in_pool_order() -> None:
    ctx = context(pool=(examples("s", 20, 10, 10, 10, 20),), encode=on_a_circle)
    (shown,) = Knn(demonstrations=2).retrieve(ctx, [draft(10)])
    assert ids(shown) == ["s1", "s2"]


def test_equals_brute_force_and_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    vectors = {str(i): row / np.linalg.norm(row) for i, row in enumerate(random.normal(size=(300, 12)).astype(np.float32))}

    def encode(texts: Sequence[str]) -> FloatArray:
        return np.stack([vectors[text] for text in texts])

    pool = (tuple(Example(f"s{i}", str(i), "r") for i in range(250)),)
    drafts = [Example(f"d{i}", str(i), "") for i in range(250, 300)]
    found = Knn(demonstrations=7).retrieve(context(pool=pool, encode=encode), drafts)
    for each, shown in zip(drafts, found, strict=True):
        order = sorted(range(250), key=lambda i: -float(vectors[each.prompt] @ vectors[str(i)]))
        assert ids(shown) == [f"s{i}" for i in order[:7]]
    monkeypatch.setattr("selfalign.retrievers.knn._CELLS", 600)
    assert [ids(shown) for shown in Knn(demonstrations=7).retrieve(context(pool=pool, encode=encode), drafts)] == list(
        map(ids, found)
    )


def test_by_category() -> None:
    pool = (examples("a", 1, 2, 30, kind="a") + examples("b", 3, 4, kind="b"),)
    ctx = context(pool=pool, encode=on_a_circle)
    assert ids(Knn(demonstrations=3, by_category=True).retrieve(ctx, [draft(0, "b")])[0]) == ["b0", "b1"]
    assert ids(Knn(demonstrations=3, by_category=True).retrieve(ctx, [draft(0)])[0]) == ["a0", "a1", "b0"]
    assert ids(Knn(demonstrations=3).retrieve(ctx, [draft(0, "b")])[0]) == ["a0", "a1", "b0"]


@pytest.mark.parametrize("retriever", [Knn(demonstrations=6), Uniform(demonstrations=6)])
def test_never_itself_and_never_twice(retriever: Knn | Uniform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfalign.retrievers.knn._CELLS", 12)  # two drafts at a time
    found = retriever.retrieve(context(), seeds())
    for seed, shown in zip(seeds(), found, strict=True):
        assert sorted([seed.id, *ids(shown)]) == [other.id for other in seeds()]


@pytest.mark.parametrize("retriever", [Knn(), Uniform()])
def test_nothing_to_do_and_nothing_to_show(retriever: Knn | Uniform) -> None:
    assert retriever.retrieve(context(), []) == []
    assert retriever.retrieve(context(pool=((),)), [Example("d", "Why?", "")]) == [()]


def test_uniform_draws_by_slot_with_the_same_budget() -> None:
    drafts = [Example(f"d{slot}", "Why?", "", 1, slot) for slot in range(300)]
    ctx = context(pool=(seeds(), generated(1, 4)))
    found = Uniform(demonstrations=3).retrieve(ctx, drafts)
    assert all([example.round for example, _ in shown] == [0, 0, 1] for shown in found)
    assert all(value is None for shown in found for _, value in shown)
    assert {name for shown in found for name in ids(shown)} == {e.id for e in (*seeds(), *generated(1, 4))}
    assert Uniform(demonstrations=3).retrieve(ctx, drafts[100:]) == found[100:]
