"""What texts were embedded as: parts ask for the same ones again and again, and an encoder is a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import numpy as np

from selfalign.encoders.checked import opened
from selfalign.protocols import Encode, Encoder, Flags, Session, declared
from selfalign.types import Example, FloatArray, Pool

Vectors = dict[str, FloatArray]


class RunVectors:
    """A run's encoder, which embeds the pool and the test's prompts once in the run, where it is `fixed`, else once in a round.

    A vector depends a little on the texts that it was computed with, by padding and rounding. What belongs together (the
    prompts of a part of the pool, its responses, the test's prompts) is therefore embedded whole, by itself, when the first of
    it is asked for, and not taken over from when a part of the pool was still a round's candidates: so a run that goes on has
    the very vectors of one that was never stopped. They take 1.5 KiB a text where they have 384 numbers.
    """

    def __init__(self, encoder: Encoder, asked: Sequence[Example] = ()) -> None:
        self._encoder = encoder
        self._asked = [example.full_prompt for example in asked]
        self._known: Vectors = {}

    @contextmanager
    def open(self, session: Session, pool: Pool) -> Iterator[Encode]:
        """As `Encoder.open`; all but the texts of the pool and of the test's prompts is embedded whenever it is asked for."""
        if not declared(self._encoder, Flags).fixed:
            self._known.clear()
        with opened(self._encoder, session) as encode:
            yield self._remembering(encode, pool)

    def _remembering(self, encode: Encode, pool: Pool) -> Encode:
        columns = (([example.prompt for example in part], [example.response for example in part]) for part in pool.parts)
        whole: dict[str, list[str]] = {}
        for texts in (self._asked, *chain.from_iterable(columns)):
            first = [text for text in dict.fromkeys(texts) if text not in whole]  # in no earlier one, whatever the pool grows to
            whole.update(dict.fromkeys(first, first))

        def remembered(texts: Sequence[str]) -> FloatArray:
            if not texts:
                return encode([])  # the encoder alone knows the width
            for text in texts:
                if text in whole and text not in self._known:
                    self._known.update(zip(whole[text], encode(whole[text]), strict=True))
            others = list(dict.fromkeys(text for text in texts if text not in whole))
            found = dict(zip(others, encode(others), strict=True)) if others else {}
            return np.stack([self._known[text] if text in whole else found[text] for text in texts])

        return remembered


def remember(encode: Encode) -> Encode:
    """The same texts are embedded once: filters, the retriever and the guards of a round look at the same candidates."""
    known: Vectors = {}

    def remembering(texts: Sequence[str]) -> FloatArray:
        new = list(dict.fromkeys(text for text in texts if text not in known))
        if new or not texts:
            vectors = encode(new)
            known.update(zip(new, vectors, strict=True))
            if not texts:
                return vectors
        return np.stack([known[text] for text in texts])

    return remembering
