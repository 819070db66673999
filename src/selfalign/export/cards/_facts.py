"""What both cards tell of a run, and how they name models, options and licences."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfalign.errors import UserError
from selfalign.export.cards._markdown import code, fenced
from selfalign.record.plain import portable
from selfalign.record.status import status, warnings
from selfalign.record.store import Store
from selfalign.types import ModelRef

UNKNOWN = "unknown"
"""The hub's own word for a licence nobody has named; we never choose one."""

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")
_HUB_NAME = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)
_HASHES = ("model", "adapter", "model_hash", "seeds_hash", "held_out_hash")


@dataclass(frozen=True)
class Facts:
    """What both cards tell of a run."""

    recipe: str
    identity: Mapping[str, Any]
    start: ModelRef
    rounds: Sequence[Mapping[str, Any]]
    """As `status` gives them."""
    training: Sequence[Mapping[str, Any]]
    ended: Mapping[str, Any]
    seeds: int
    validation: int
    kept: int
    warnings: Sequence[str]
    """As `status.warnings` gives them."""

    @classmethod
    def of(cls, store: Store) -> Facts:
        with store.snapshot() as connection:
            counts = dict(connection.execute("SELECT verdict, count(*) FROM samples GROUP BY verdict"))
        identity, rounds = store.identity(), status(store)["rounds"]
        return cls(
            recipe=str(identity.get("name", "selfalign")),
            identity=identity,
            start=store.model(0),
            rounds=rounds,
            training=[store.training(row["round"]) for row in rounds],
            ended=portable(store.state()),
            seeds=counts.get("seed", 0),
            validation=counts.get("validation", 0),
            kept=counts.get("kept", 0),
            warnings=portable(warnings(store)),
        )


def check_license(license: str | None) -> str:
    """The licence as the hub spells it; `unknown` where none is given.

    Raises:
        UserError: no identifier; whether the hub knows it, only the hub can say.
    """
    if license is not None and not _LICENSE.fullmatch(license):
        raise UserError(f"license {license[:80]!r} is no identifier of the hub: write it as apache-2.0, mit, cc-by-4.0, other …")
    return license or UNKNOWN


def hub_library() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise UserError("cards need huggingface_hub; install it with: pip install huggingface_hub") from None
    return huggingface_hub


def licence_text(chosen: str, sources: str) -> str:
    if chosen == UNKNOWN:
        return f"Nobody has named one. The licences of {sources} may bind whoever uses this."
    return f"{code(chosen)}, named by whoever made this card; see also the licences of {sources}."


def options_text(identity: Mapping[str, Any]) -> str:
    options = {key: value for key, value in identity.items() if key not in _HASHES}
    block = fenced(json.dumps(portable(options), indent=1), "json")
    return f"<details><summary>All options of the run</summary>\n\n{block}\n\n</details>"


def is_hub_name(base: str) -> bool:
    """By its form alone: the card must not change with what lies in the working folder."""
    return _HUB_NAME.fullmatch(base) is not None and ".." not in base and "--" not in base


def base_name(model: ModelRef) -> str:
    return model.base if is_hub_name(model.base) else last_part(model.base)


def last_part(path: str) -> str:
    return Path(path).name or path
