"""Cosines in an order that is the same on every processor."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from selfalign.types import FloatArray


def cosines(rows: FloatArray, known: FloatArray) -> NDArray[np.float64]:
    """(rows, known): of vectors of unit length, to six decimals.

    A product in float32 differs between processors in its last bits, and so would the order of what is equal on paper.
    """
    return np.asarray(np.round(rows.astype(np.float64) @ known.astype(np.float64).T, 6))
