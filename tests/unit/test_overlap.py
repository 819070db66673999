"""Training rows against held-out prompts."""

from __future__ import annotations

import random

import numpy as np
import pytest

from selfalign.proof.overlap import MAX_CONTAINMENT, ngram_size, overlap
from selfalign.types import Example


def rows(head: str, *prompts: str) -> list[Example]:
    return [Example(f"{head}{i}", prompt, "Yes.") for i, prompt in enumerate(prompts)]


HELD_OUT = rows("h", "How do I clean a wooden table?", "What keeps bread fresh for longer at home?", "Why?")


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("How do I clean a wooden table?", [("h0", "exact")]),
        ("how do I  CLEAN a wooden table?", [("h0", "normalised")]),
        ("How do I clean a wooden table, please?", [("h0", "ngram")]),
        ("Good day. Tell me: what keeps bread fresh for longer at home in July?", [("h1", "ngram")]),
        ("How do I clean a kettle?", []),
        ("Where can I sell a violin?", []),
        ("", []),
    ],
)
def test_kinds(prompt: str, found: list[tuple[str, str]]) -> None:
    hits = overlap(rows("t", prompt), HELD_OUT)
    assert [(hit.held_out, hit.kind) for hit in hits] == found
    for hit in hits:
        assert hit.training == "t0" and hit.training_text == prompt
        assert hit.held_out_text == next(e.prompt for e in HELD_OUT if e.id == hit.held_out)
        assert hit.same == (hit.kind in ("exact", "normalised")) and MAX_CONTAINMENT <= hit.value <= 1


def test_embeddings_find_what_shares_no_words() -> None:
    training = rows("t", "Ways to get a dining board spotless", "Where can I sell a violin?")
    near = np.array([1, 0.2, 0], dtype=np.float32) / np.sqrt(np.float32(1.04))
    ours, theirs = np.stack([near, np.array([0, 0, 1], dtype=np.float32)]), np.eye(3, dtype=np.float32)[[0, 1, 1]]
    (hit,) = overlap(training, HELD_OUT, (ours, theirs))
    assert (hit.training, hit.held_out, hit.kind) == ("t0", "h0", "embedding")
    assert hit.value == pytest.approx(1 / 1.04**0.5)
    assert overlap(training, HELD_OUT) == []


def test_every_pair_once_and_the_same_ones_first() -> None:
    training = rows("t", "How do I clean a wooden table, please?", "How do I clean a wooden table?", "WHY?", "Why?")
    hits = overlap(training, HELD_OUT, (np.ones((4, 1), np.float32), np.ones((3, 1), np.float32)))
    assert len({(hit.training, hit.held_out) for hit in hits}) == len(hits) == 12
    assert [hit.same for hit in hits] == sorted((hit.same for hit in hits), reverse=True)
    kinds = {(hit.training, hit.held_out): hit.kind for hit in hits}
    assert (kinds["t1", "h0"], kinds["t2", "h2"], kinds["t3", "h2"]) == ("exact", "normalised", "exact")
    assert (kinds["t0", "h0"], kinds["t0", "h1"]) == ("ngram", "embedding")


def test_ngrams_fit_the_shorter_text() -> None:
    assert [ngram_size(count) for count in (0, 1, 2, 3, 5, 6, 8, 12, 16, 40)] == [0, 1, 2, 3, 3, 3, 4, 6, 8, 8]


def test_the_index_finds_what_a_plain_loop_finds() -> None:
    draw = random.Random(0)
    texts = [" ".join(draw.choices("abcd", k=draw.randint(1, 14))) for _ in range(120)]
    training, held_out = rows("t", *texts[:60]), rows("h", *texts[60:])

    def share(one: str, two: str) -> float:
        first, second = one.split(), two.split()
        size = ngram_size(min(len(first), len(second)))
        a, b = ({tuple(w[i : i + size]) for i in range(len(w) - size + 1)} for w in (first, second))
        shorter = len(a) if len(first) < len(second) else len(b) if len(second) < len(first) else min(len(a), len(b))
        return len(a & b) / shorter

    wanted = {(a.id, b.id) for a in training for b in held_out if share(a.prompt, b.prompt) >= MAX_CONTAINMENT}
    found = {(hit.training, hit.held_out) for hit in overlap(training, held_out)}
    assert found == wanted and len(wanted) > 20


def test_nothing_to_compare() -> None:
    assert overlap([], HELD_OUT) == overlap(HELD_OUT, []) == []
