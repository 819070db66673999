"""What evaluators need of a model that judges answers."""

from __future__ import annotations

from selfalign.errors import UserError
from selfalign.models.names import resolve_ref
from selfalign.protocols import Engine, Session
from selfalign.types import ModelRef, Request


def judge_hash(judge: str, engine: Engine | None) -> str:
    """The hash of the judge's files; "" where there is none, and for `base`, whose hash is the run's own. Raises UserError: there
    is no such folder, none of that name on the hub, or one without a model."""
    if judge in ("", "base"):
        return ""
    model = ModelRef(judge)
    return (engine.check(model, (), "auto") if engine else resolve_ref(model)).hash


def fits(session: Session, text: str, room: int) -> bool:
    """Whether a judge can be asked it with `room` new tokens."""
    try:
        return session.fit(Request("", prompt=text), room) is not None
    except UserError:  # an answer may spell out what means a turn to the judge
        return False
