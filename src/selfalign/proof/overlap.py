"""Overlap of training rows with held-out prompts: a model that was trained on the test knows it by heart."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from selfalign.text import TENTH, normalise, words
from selfalign.types import Example, FloatArray

Kind = Literal["exact", "normalised", "ngram", "embedding"]

MAX_CONTAINMENT, MAX_SIMILARITY = 0.8, 0.92
"""At and above: an n-gram containment, and a cosine (that of the near-duplicate filter), that count as near (our own choice)."""
_LONGEST, _SHORTEST = 8, 3
_ROWS, _CELLS = 1024, 1 << 24  # rows and similarities held at once: 64 MiB as float32


@dataclass(frozen=True, slots=True)
class Hit:
    """A training row whose prompt is, or is nearly, a held-out prompt."""

    training: str
    held_out: str
    kind: Kind
    training_text: str
    held_out_text: str
    value: float
    """1 for exact and normalised, else the containment or the cosine."""

    @property
    def same(self) -> bool:
        """Whether a reader would call it the same prompt."""
        return self.kind in ("exact", "normalised")


def systems_decide(seeds: Sequence[Example]) -> bool:
    """Whether a prompt is no question without its system prompt, as "When is it due?" is none without the customer's record.

    So it is where more than a tenth of the seeds ask what others ask under another system prompt and are answered otherwise (our
    own choice). Fewer, or the same answers, are no reason to take a seed's prompt for another question: instructions in other
    words leave it the same.
    """
    groups: dict[str, list[Example]] = defaultdict(list)
    for seed in seeds:
        if seed.system:
            groups[normalise(seed.full_prompt)].append(seed)
    decided = (same for same in groups.values() if _several(e.system for e in same) and _several(e.response for e in same))
    return sum(map(len, decided)) > TENTH * len(seeds)


def _several(texts: Iterable[str]) -> bool:
    return len({normalise(text) for text in texts}) > 1


def same_system(one: Example, other: Example) -> bool:
    """Whether two examples may stand under one system prompt: one that has none may stand under any."""
    return not one.system or not other.system or normalise(one.system) == normalise(other.system)


def asked_by_both(prompts: Sequence[Example], others: Sequence[Example], *, apart: bool) -> list[tuple[Example, Example]]:
    """Those that ask the same, each with the last one of the others that asks it.

    Args:
        apart: whether the same prompt under another system prompt is another question (`systems_decide`).
    """
    known: dict[str, list[Example]] = defaultdict(list)
    for other in others:
        known[normalise(other.full_prompt)].append(other)
    alike = ((prompt, known.get(normalise(prompt.full_prompt), [])) for prompt in prompts)
    found = ((prompt, [each for each in same if not apart or same_system(prompt, each)]) for prompt, same in alike)
    return [(prompt, same[-1]) for prompt, same in found if same]


def overlap(
    training: Sequence[Example],
    held_out: Sequence[Example],
    vectors: tuple[FloatArray, FloatArray] | None = None,
    *,
    apart: bool = False,
) -> list[Hit]:
    """Every pair of a training row and a held-out example whose prompts overlap, once, by the strongest kind that holds.

    A prompt with earlier turns is compared with them: "Why?" is another question in another conversation.

    exact: the same text; normalised: the same after `normalise`; ngram: at least `MAX_CONTAINMENT` of the word n-grams of the
    shorter prompt stand in the longer one; embedding: cosine of at least `MAX_SIMILARITY`. Pairs that are the same come
    first, then by falling value.

    n follows the length of the shorter prompt (`ngram_size`): contamination checks of web text take n = 13, which no question
    of twelve words has.

    Args:
        vectors: embeddings of the prompts (`Example.full_prompt`), shapes (len(training), d) and (len(held_out), d), rows of unit
            length; None leaves the kind `embedding` out.
        apart: whether the same prompt under another system prompt is another question (`systems_decide`).
    """
    found: dict[tuple[int, int], tuple[Kind, float]] = {}
    if not training or not held_out:
        return []
    for i, j, cosine in _similar(*vectors) if vectors is not None else ():
        found[i, j] = ("embedding", cosine)
    ours, theirs = [row.full_prompt for row in training], [row.full_prompt for row in held_out]
    found.update({(i, j): ("ngram", share) for i, j, share in _contained(ours, theirs)})
    found.update(dict.fromkeys(_equal(ours, theirs, normalise), ("normalised", 1.0)))
    found.update(dict.fromkeys(_equal(ours, theirs, str), ("exact", 1.0)))
    kept = ((i, j) for i, j in found if not apart or same_system(training[i], held_out[j]))
    hits = [Hit(training[i].id, held_out[j].id, found[i, j][0], ours[i], theirs[j], found[i, j][1]) for i, j in kept]
    return sorted(hits, key=lambda hit: (not hit.same, -hit.value, hit.training, hit.held_out))


def ngram_size(count: int) -> int:
    """n for a prompt of `count` words: half of them, at least 3 and at most 8; all of them where there are fewer than 3."""
    return min(count, max(_SHORTEST, min(_LONGEST, count // 2)))


def _equal(ours: Sequence[str], theirs: Sequence[str], form: Callable[[str], str]) -> Iterator[tuple[int, int]]:
    places: dict[str, list[int]] = {}
    for i, text in enumerate(ours):
        places.setdefault(form(text), []).append(i)
    return ((i, j) for j, text in enumerate(theirs) for i in places.get(form(text), ()))


def _contained(ours: Sequence[str], theirs: Sequence[str]) -> Iterator[tuple[int, int, float]]:
    """Size by size, through an index of n-grams: pairs that share none are never looked at."""
    left, right = ([words(text, unicode=True) for text in texts] for texts in (ours, theirs))
    for size in range(1, _LONGEST + 1):
        fitting, longer = _index(left, size, exactly=True), _index(left, size, exactly=False)
        totals = [len(_grams(tokens, size)) for tokens in left]
        for j, tokens in enumerate(right):
            own = ngram_size(len(tokens))
            if own < size:
                continue
            # The shorter text decides the size, so one of the two must have it for its own.
            grams, indexes = _grams(tokens, size), (fitting, longer) if own == size else (fitting,)
            common = Counter(i for index in indexes for gram in grams for i in index.get(gram, ()))
            for i, count in common.items():
                _, shorter = min((len(left[i]), totals[i]), (len(tokens), len(grams)))
                if (share := count / shorter) >= MAX_CONTAINMENT:
                    yield i, j, share


def _index(texts: Sequence[Sequence[str]], size: int, *, exactly: bool) -> dict[tuple[str, ...], list[int]]:
    """N-gram to the texts it stands in, of those whose own size is `size`, or is greater."""
    index: dict[tuple[str, ...], list[int]] = {}
    for i, tokens in enumerate(texts):
        own = ngram_size(len(tokens))
        if own == size if exactly else own > size:
            for gram in _grams(tokens, size):
                index.setdefault(gram, []).append(i)
    return index


def _grams(tokens: Sequence[str], size: int) -> set[tuple[str, ...]]:
    return {tuple(tokens[start : start + size]) for start in range(len(tokens) - size + 1)}


def _similar(ours: FloatArray, theirs: FloatArray) -> Iterator[tuple[int, int, float]]:
    step = min(_ROWS, _CELLS // len(theirs) + 1)
    for start in range(0, len(ours), step):
        cosine = ours[start : start + step] @ theirs.T
        for i, j in np.argwhere(cosine >= MAX_SIMILARITY):
            yield start + int(i), int(j), min(float(cosine[i, j]), 1.0)
