"""The model's own hidden states as vectors: no model besides the one that is aligned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from selfalign.protocols import Encode, Session
from selfalign.types import FloatArray


@dataclass(frozen=True)
class HiddenState:
    """Mean-pooled last hidden states of the session's model (our own choice, for runs that shall need no external model).

    Weaker than a sentence encoder: cosines of unrelated texts lie close together, so thresholds must be set anew.
    """

    @contextmanager
    def open(self, session: Session) -> Iterator[Encode]:
        """Every call is the session's `embed`; the engine decides when weights load."""

        def encode(texts: Sequence[str]) -> FloatArray:
            # An engine need not know its width without running: ask for one row and hand back none.
            return session.embed(list(texts) or [" "])[: len(texts)]

        yield encode
