"""Texts whose ROUGE-L with an earlier one is above a bound, without comparing all pairs: exact, for pools of a hundred thousand.

A longest common subsequence is at most as long as what two texts share as bags of words. So an F1 above t asks for more than
t (|x| + |y|) / 2 shared words, and for more than t |x| / (2 - t) of x alone, as y is no shorter than what it shares. Of all words
of x but the last that many less SHARED, put in one order for all texts, at least SHARED are then among as many of y: the prefix
filter of set similarity joins (Chaudhuri et al., ICDE 2006; with several words Wang et al., SIGMOD 2012). Rare words come first,
and few texts have three of them in common.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import chain
from math import floor

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import process
from rapidfuzz.distance import LCSseq

from selfalign.text import Overlap, words

IntArray = NDArray[np.int64]

SHARED = 3
"""Rare words that two texts must share to be compared. More makes more words count as rare."""
_SLACK = 1e-9
"""Taken off before a bound is rounded, so that an error of rounding only makes more pairs be compared."""


def nearest_above(texts: Sequence[str], references: Sequence[str], bound: float, *, unicode: bool) -> list[Overlap]:
    """`text.rouge_l_growing` where its score is above `bound`; (0, -1) elsewhere.

    Args:
        bound: in (0, 1]; the nearer to 1, the fewer pairs are compared.
    """
    rows = _by_rank([words(text, unicode=unicode) for text in (*references, *texts)])
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    longest = int(lengths.max(initial=0)) + 1
    index: defaultdict[int, array[int]] = defaultdict(lambda: array("q"))
    found = []
    for place, row in enumerate(rows):
        shared = max(floor(bound * len(row) / (2.0 - bound) - _SLACK) + 1, 1)
        keys = _rarest(row, len(row) - shared + SHARED, longest)
        best = Overlap(0.0, -1)
        if place >= len(references):
            near = _sharing([index[key] for key in keys if key in index], min(shared, SHARED))
            best = _best(row, near, rows, lengths)
            best = best if best.score > bound else Overlap(0.0, -1)
            found.append(best)
        if best.position < 0:
            for key in keys:
                index[key].append(place)
    return found


def _by_rank(texts: Sequence[Sequence[str]]) -> list[list[int]]:
    """Words as their place among all, the rarest first."""
    counts = Counter(chain.from_iterable(texts))
    rank = {word: place for place, word in enumerate(sorted(counts, key=lambda word: (counts[word], word)))}
    return [[rank[word] for word in text] for text in texts]


def _rarest(row: Sequence[int], count: int, longest: int) -> list[int]:
    """The rarest words of a text; the second time that it has a word, that is another one."""
    keys, before, times = list[int](), -1, 0
    for word in sorted(row)[:count]:
        times = times + 1 if word == before else 0
        keys.append(word * longest + times)
        before = word
    return keys


def _sharing(postings: Sequence[array[int]], least: int) -> IntArray:
    """The places that are in at least so many of the lists, in order."""
    if len(postings) < least:
        return np.empty(0, dtype=np.int64)
    places = np.concatenate([np.frombuffer(each, dtype=np.int64) for each in postings])
    places.sort()
    return np.unique(places[least - 1 :][places[least - 1 :] == places[: len(places) - least + 1]])


def _best(row: list[int], near: IntArray, rows: Sequence[list[int]], lengths: IntArray) -> Overlap:
    """The nearest of the texts at `near`, the first among equals; (0, -1) without any."""
    if not near.size:
        return Overlap(0.0, -1)
    common = process.cdist([row], [rows[place] for place in near], scorer=LCSseq.similarity, dtype=np.int32)[0]
    scores = 2.0 * common.astype(np.float64) / (len(row) + lengths[near])
    first = int(scores.argmax())
    return Overlap(float(scores[first]), int(near[first]))
