"""Vectors without any model: hashed words and character n-grams."""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from selfalign.errors import refuse
from selfalign.protocols import Encode, Session
from selfalign.text import words
from selfalign.types import FloatArray


@dataclass(frozen=True)
class Hashed:
    """Words, word pairs and character 3- to 5-grams hashed into `dimension` signed buckets, counts dampened by a square root.

    For tests and installations without models (our own choice): it sees shared words and spellings, not meaning. The hash is
    CRC-32, so the same text gives the same vector in every process and on every machine.
    """

    fixed: ClassVar[bool] = True
    dimension: int = 512
    """Numbers in a vector."""

    def __post_init__(self) -> None:
        refuse(self, "at least 1", dimension=self.dimension < 1)

    @contextmanager
    def open(self, session: Session) -> Iterator[Encode]:
        """The session is not used."""
        yield self._encode

    def _encode(self, texts: Sequence[str]) -> FloatArray:
        rows = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for feature, count in Counter(_features(text)).items():
                code = zlib.crc32(feature.encode("utf-8", "surrogatepass"))
                row[code % self.dimension] += math.copysign(math.sqrt(count), (code >> 31) - 0.5)
            length = float(np.linalg.norm(row.astype(np.float64)))  # in float32 the last bit is the processor's
            if length > 0:
                row /= length
            else:
                row[0] = 1.0  # every feature cancelled out: any fixed direction keeps the row of unit length
        return rows


def _features(text: str) -> Iterator[str]:
    tokens = words(text, unicode=True)
    yield f"text {text.strip()}" if not tokens else "words"
    yield from (f"1 {word}" for word in tokens)
    yield from (f"2 {one} {two}" for one, two in pairwise(tokens))
    for word in tokens:
        padded = f"<{word}>"
        for size in (3, 4, 5):
            yield from (f"c {padded[start : start + size]}" for start in range(len(padded) - size + 1))
