"""A round's model in a folder of its own, with its card."""

from __future__ import annotations

import shutil
from pathlib import Path

from selfalign.export.base import check_base
from selfalign.export.cards import model_card
from selfalign.models.merge import write_merged
from selfalign.record.checkpoints import AVERAGE
from selfalign.record.disk import free_folder, require_space, whole_folder
from selfalign.record.exports import best_round, model_files
from selfalign.record.store import Store

_REMEDY = "name a new folder for the model"


def export_model(
    store: Store, folder: str | Path, round: int | None = None, merge: bool = False, license: str | None = None
) -> Path:
    """Copies the model of a round (without one, of the best round) to a folder of its own, its files verified first, with
    its card as README.md.

    With `merge` an adapter becomes part of full weights, proven to say what the adapter says (`merging`).

    Raises:
        UserError: no such model, a damaged one, a base model of the hub, or one that is gone or another one now, the folder is
            taken or cannot be written, or as `model_card`.
        RunFailed: too little space, or a merged model that says something else than the adapter.
    """
    target = free_folder(folder, _REMEDY)
    chosen = best_round(store) if round is None else round
    model, source = store.model(chosen), model_files(store, chosen)
    if merge or model.adapter is None:
        check_base(store, chosen)
    card = model_card(store, chosen, license=license, merged=merge)
    with whole_folder(target, _REMEDY) as temporary:
        if merge and model.adapter is not None:
            asked = (*store.validation_seeds(), *store.seeds())
            write_merged(model, temporary, asked, store.identity().get("format", "auto"))
        else:
            require_space(target.parent, sum(path.stat().st_size for path in source.rglob("*") if path.is_file()))
            shutil.copytree(source, temporary, ignore=shutil.ignore_patterns(AVERAGE), dirs_exist_ok=True)
        (temporary / "README.md").unlink(missing_ok=True)  # a library's own, or a link to it
        (temporary / "README.md").write_text(card, "utf-8")
    return target
