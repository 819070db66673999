"""What exports need of models: whether a base is still the one that was trained on."""

from __future__ import annotations

from pathlib import Path

from selfalign.errors import UserError
from selfalign.models.names import may_be_on_hub, resolve_ref
from selfalign.record.store import Store
from selfalign.types import ModelRef

_OURS = "selfalign.engines."


def check_base(store: Store, round: int) -> None:
    """Nothing for whole weights, which lie in the run folder and have sums there, and for a base of the hub, which its revision
    names.

    Raises:
        UserError: a round's model is the run's base model, or an adapter on it, and that is not there any more or has other files
            than when the run began: what it writes would be another model's.
    """
    model, base = store.model(round), store.model(0)
    engine = str((store.identity().get("engine") or {}).get("part", ""))
    ours = engine.startswith(_OURS) and not engine.endswith(".Scripted")  # others give hashes of their own
    if (round and model.adapter is None) or not ours or may_be_on_hub(base.base):
        return
    about = f"round {round} of {store.folder} needs the base model {base.base}"
    if not Path(base.base).is_dir():
        raise UserError(f"{about}, which is not there any more: put it back there, or a link to where it is now")
    if resolve_ref(ModelRef(base.base, base.adapter)).hash != base.hash:
        raise UserError(f"{about}, and another one lies there than the run began with: put that one back")
