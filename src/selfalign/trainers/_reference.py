"""What the reference model thinks of the rows: computed once, before the first step, and kept beside the checkpoints.

So no second copy of the model is in memory during the training, and one that goes on has the same figures to the last bit. The
reference is the start model, or an earlier one (DITTO). An adapter that is new changes nothing yet, so that the start is the
model without it; one that is trained further is itself the start.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfalign.record.checkpoints import write_synced
from selfalign.trainers._batches import Unit, Weights
from selfalign.trainers._shard import placed
from selfalign.trainers._weighted import NotFinite, collate, row_losses

NAME = "reference.json"


def with_reference(
    units: Sequence[Unit],
    model: AbstractContextManager[Any],
    device: Any,
    half: Any,
    spec: dict[str, Any],
    pad: int,
    writes: bool,
) -> list[Unit]:
    """The units with `reference`, the log-probability of each of their rows by a model as it now stands, in nats.

    Args:
        model: opened where it has to be asked.
        half: the 16-bit type of matrix products; None for 32 bits.
        writes: whether this process, of several, keeps them.

    Raises:
        NotFinite: one of them is NaN or infinite.
    """
    file = Path(spec["work"]) / NAME
    kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"key": None}
    found = kept["log_probabilities"] if kept["key"] == spec["key"] else None
    if found is None:
        with model as asked:
            found = _measure(units, asked, device, half, spec["options"]["micro_batch"], pad)
        if writes:
            write_synced(file, json.dumps({"key": spec["key"], "log_probabilities": found}).encode())
    return [replace(unit, reference=tuple(values)) for unit, values in zip(units, found, strict=True)]


def _measure(units: Sequence[Unit], model: Any, device: Any, half: Any, micro: int, pad: int) -> list[list[float]]:
    import torch

    placed(model, device).eval()
    head, found = model.get_output_embeddings(), [[0.0]] * len(units)
    order = sorted(range(len(units)), key=lambda place: (-units[place].size, place))
    for first in range(0, len(order), micro):
        places = order[first : first + micro]
        batch = collate([row for place in places for row in units[place].rows], Weights(1.0, 1.0, 1.0), pad)
        on_device = {name: tensor.to(device) for name, tensor in batch.items()}
        with torch.no_grad(), torch.autocast(device.type, half, enabled=half is not None):
            values = (-row_losses(model, on_device, head)).tolist()
        if not all(map(math.isfinite, values)):
            raise NotFinite("a log-probability by the reference model is not finite, before the first step")
        for place in places:
            found[place], values = values[: len(units[place].rows)], values[len(units[place].rows) :]
    return found
