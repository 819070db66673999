"""Opens an encoder so that whatever is no vector is named with it, before a similarity is made of it.

A NaN is neither above nor below a bound: near-duplicates pass, and the nearest examples are any. The same goes, more quietly,
for vectors of zeros and for those whose length is not one, as every cosine here is a plain product.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from selfalign.errors import RunFailed, no_exit
from selfalign.protocols import Encode, Encoder, Session
from selfalign.types import FloatArray

_TOLERANCE = 1e-2
"""Of a length: rounding to bfloat16 stays far below, and it moves no similarity by more than a hundredth."""


@contextmanager
def opened(encoder: Encoder, session: Session) -> Iterator[Encode]:
    """`Encoder.open`, whose function gives float32 of shape (texts, dimension), finite, rows of unit length, always as wide.
    Raises RunFailed: in a call, where the encoder gives anything else."""
    name, width = f"encoder {type(encoder).__name__}", list[int]()
    with encoder.open(session) as encode:

        def checked(texts: Sequence[str]) -> FloatArray:
            with no_exit(name):
                given = encode(texts)
            rows = _rows(name, given, texts)
            if texts and width and rows.shape[1] != width[0]:
                raise RunFailed(f"{name}: gives vectors of {rows.shape[1]} numbers, and of {width[0]} before")
            if texts:
                width[:] = [rows.shape[1]]
            return rows

        yield checked


def _rows(name: str, given: object, texts: Sequence[str]) -> FloatArray:
    try:
        rows = np.asarray(given)
    except (ValueError, TypeError) as error:
        raise RunFailed(f"{name}: gives no table of numbers ({error})") from error
    if rows.dtype.kind not in "fiu":
        raise RunFailed(f"{name}: gives {rows.dtype} numbers; real ones are wanted (float32)")
    if rows.ndim != 2 or len(rows) != len(texts) or (len(texts) and not rows.shape[1]):
        raise RunFailed(f"{name}: gives an array of shape {rows.shape} for {len(texts)} texts; (texts, dimension) is wanted")
    found: FloatArray = rows.astype(np.float32, copy=False)
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(found.astype(np.float64), axis=1)
    wrong = np.flatnonzero(~(np.abs(lengths - 1.0) <= _TOLERANCE))
    if len(wrong):
        row, text = found[wrong[0]], texts[wrong[0]]
        what = "numbers that are not finite" if not np.isfinite(row).all() else f"a vector of length {lengths[wrong[0]]:.3g}"
        raise RunFailed(f"{name}: gives {what} for {text[:60]!r}; vectors of unit length are wanted")
    return found
