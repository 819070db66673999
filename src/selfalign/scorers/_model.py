"""Which model a scorer asks, what that model has room for, and what its stages are called."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from selfalign.errors import UserError
from selfalign.models.names import resolve_ref
from selfalign.protocols import Context, Engine, Session
from selfalign.types import Example, ModelRef, Request, with_score, without_score


@contextmanager
def asked(context: Context, model: str, engine: Engine | None) -> Iterator[Context]:
    """The context of the model to ask: `current` is the one being aligned, anything else see `Context.open_model`."""
    if model == "current":
        yield context
    else:
        with context.open_model(model, engine) as other:
            yield other


def obstacle(session: Session, request: Request, room: int, whose: str) -> str:
    """Why the model cannot read a request with `room` tokens behind it; "" where it can. `whose` names the model.

    What one model wrote can spell out what means a turn to another one: that is a pair without a score, not the run's end.
    """
    try:
        return "" if session.fit(request, room) is not None else f"the pair does not fit {whose} window"
    except UserError as error:
        return str(error)


def scored(examples: Sequence[Example], name: str, values: Iterable[float | str]) -> list[Example]:
    """Each example with its score, or with the text that says why it has none."""
    return [
        without_score(example, name, value) if isinstance(value, str) else with_score(example, name, value)
        for example, value in zip(examples, values, strict=True)
    ]


def another(model: str) -> str:
    """As `Preflight.other_model`: "" for the model of the round itself."""
    return "" if model == "current" else model


def check_engine(model: str, engine: Engine | None) -> None:
    """Raises ValueError: an engine for the model being aligned."""
    if engine is not None and model == "current":
        raise ValueError("engine is for another model: the one being aligned (current) runs on the recipe's engine; name a model")


def fingerprint(model: str, engine: Engine | None = None) -> str:
    """The hash of the files of the model to ask; "" for `current` and `base`, which the run knows itself. Raises UserError: there
    is no such model."""
    if model in ("current", "base"):
        return ""
    return (engine.check(ModelRef(model), (), "auto") if engine else resolve_ref(ModelRef(model))).hash


def stage(name: str, *content: object) -> str:
    """A stage's name with the hash of all that its outputs depend on: the journal knows work by that name alone."""
    return f"{name}_{hashlib.sha256(repr(content).encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
