"""The nearest earlier text by cosine, where it is nearer than a bound: exact, in blocks, without most of the multiplications.

A product of two vectors is at most that of their parts along a few directions plus the product of the lengths of their rests
(Cauchy-Schwarz). Where that is not above the bound, the pair needs no more: so exact search for large inner products leaves out
the rest of a vector (Teflioudi et al., SIGMOD 2015). The directions are those that a sample of the texts has most of.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from selfalign.types import FloatArray

SHORTENED = 10_000
"""From so many texts on most of the pairs are compared along a few directions."""
_ROWS, _COLUMNS = 256, 2048  # rows and known rows compared at once, so that many of either cost no large matrix
_DIRECTIONS, _SAMPLE = (16, 32, 64, 128), 512
_SLACK = 1e-5
"""Added to a bound on a product, and to a squared length: more than rounding takes off, so that no pair is missed."""
_ALONE = 64
"""What a pair costs that is multiplied by itself, in pairs of a block."""

Found = tuple[FloatArray, NDArray[np.intp]]


def nearest_above(rows: FloatArray, pool: FloatArray, bound: float) -> list[tuple[float, int]]:
    """Cosine and position of each row's nearest among the pool and the earlier rows that passed, where that is above `bound`;
    (-inf, -1) for a row that passes.

    The first among equals; a position at or past len(pool) is that of an earlier row. Rows go in blocks: one by one, each would
    read all that passed before it from memory (10,000 rows of 384: 16 s instead of 0.7).
    """
    axes = _directions(rows, pool, bound)
    short, pool_short = _shortened(rows, axes), _shortened(pool, axes)
    passed_rows, passed_short, passed = np.empty_like(rows), np.empty_like(short), list[int]()
    result: list[tuple[float, int]] = []
    for start in range(0, len(rows), _ROWS):
        block, block_short, count = rows[start : start + _ROWS], short[start : start + _ROWS], len(passed)
        best, where = _nearest(block, block_short, pool, pool_short, bound)
        earlier, place = _nearest(block, block_short, passed_rows[:count], passed_short[:count], bound)
        inside = block @ block.T
        new: list[int] = []
        for i in range(len(block)):
            score, position = float(best[i]), int(where[i])
            if earlier[i] > score:
                score, position = float(earlier[i]), len(pool) + passed[place[i]]
            if new and (highest := float(inside[i, new].max())) > max(score, bound):
                score, position = highest, len(pool) + start + new[int(inside[i, new].argmax())]
            if position < 0:
                new.append(i)
            result.append((score, position))
        passed_rows[count : count + len(new)], passed_short[count : count + len(new)] = block[new], block_short[new]
        passed += [start + i for i in new]
    return result


def _nearest(rows: FloatArray, short: FloatArray, known: FloatArray, known_short: FloatArray, bound: float) -> Found:
    """Cosine and position of each row's nearest known row above the bound, the first among equals; (-inf, -1) without one."""
    best, where = np.full(len(rows), -np.inf, dtype=np.float32), np.full(len(rows), -1, dtype=np.intp)
    whole = short.shape[1] == rows.shape[1]
    for start in range(0, len(known), _COLUMNS):
        chunk = known[start : start + _COLUMNS]
        scores = short @ known_short[start : start + _COLUMNS].T
        if not whole:
            above = scores > bound - _SLACK
            count = int(np.count_nonzero(above))
            if count * _ALONE < above.size:
                some, columns = np.nonzero(above)
                exact = np.einsum("ij,ij->i", rows[some], chunk[columns])
                for i, column, score in zip(some, columns, exact, strict=True):
                    if score > bound and score > best[i]:
                        best[i], where[i] = score, start + column
                continue
            scores = rows @ chunk.T
        position = scores.argmax(axis=1)
        score = scores[np.arange(len(rows)), position]
        better = (score > best) & (score > bound)
        best[better], where[better] = score[better], position[better] + start
    return best, where


def _directions(rows: FloatArray, pool: FloatArray, bound: float) -> FloatArray | None:
    """Orthonormal directions in columns, as many as make a sample of the pairs cheapest; None where whole vectors are."""
    if len(rows) + len(pool) < SHORTENED:
        return None
    some = np.concatenate([each[:: -(-len(each) // _SAMPLE) or 1] for each in (pool, rows)])
    axes = np.linalg.svd(some.astype(np.float64), full_matrices=False)[2].T
    size, best = rows.shape[1], float(rows.shape[1])
    chosen: FloatArray | None = None
    for count in (each for each in _DIRECTIONS if each < min(axes.shape[1], size - 1)):
        first = axes[:, :count].astype(np.float32)
        short = _shortened(some, first)
        left = float((short @ short.T > bound - _SLACK).mean()) - 1 / len(some)  # each is near itself
        cost = count + 1 + min(_ALONE * left, 1.0) * size
        if cost < best:
            best, chosen = cost, first
    return chosen


def _shortened(rows: FloatArray, axes: FloatArray | None) -> FloatArray:
    """A row's part along the directions and, behind it, the length of the rest; products of two such rows are at least those of
    the whole ones."""
    if axes is None:
        return rows
    short = np.empty((len(rows), axes.shape[1] + 1), dtype=np.float32)
    for start in range(0, len(rows), _COLUMNS):
        block = rows[start : start + _COLUMNS]
        part = block @ axes
        rest = (block.astype(np.float64) ** 2).sum(axis=1) - (part.astype(np.float64) ** 2).sum(axis=1)
        short[start : start + _COLUMNS, :-1] = part
        short[start : start + _COLUMNS, -1] = np.sqrt(np.maximum(rest, 0.0) + _SLACK)
    return short
