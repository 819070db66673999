"""Which model a scorer asks, and what its stages are called."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from selfalign.protocols import Context


@contextmanager
def asked(context: Context, model: str) -> Iterator[Context]:
    """The context of the model to ask: `current` is the one being aligned, anything else see `Context.open_model`."""
    if model == "current":
        yield context
    else:
        with context.open_model(model) as other:
            yield other


def stage(name: str, *content: object) -> str:
    """A stage's name with the hash of all that its outputs depend on: the journal knows work by that name alone."""
    return f"{name}_{hashlib.sha256(repr(content).encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
