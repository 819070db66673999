"""The loss and the Trainer that takes whole optimiser steps; only the training process imports torch through here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from selfalign.trainers._batches import IGNORE, Row, Step, Weights

if TYPE_CHECKING:
    import torch

Batch = Mapping[str, "torch.Tensor"]
"""input_ids, attention_mask, targets (rows, tokens) and weights (rows,); `targets[i, t]` is what token t is to predict."""


class NotFinite(Exception):
    """A loss, a gradient or a weight is NaN or infinite; the message says which and when."""


def collate(rows: Sequence[Row], weights: Weights, pad: int) -> dict[str, torch.Tensor]:
    """Rows padded on the right. What is learned comes from the labels alone, never from a token's value."""
    import torch

    width = max(len(row.ids) for row in rows) - 1
    shape = (len(rows), width)
    ids = torch.full(shape, pad, dtype=torch.long)
    mask = torch.zeros(shape, dtype=torch.long)
    targets = torch.full(shape, IGNORE, dtype=torch.long)
    for place, row in enumerate(rows):
        length = len(row.ids) - 1  # the last token predicts nothing
        ids[place, :length] = torch.tensor(row.ids[:-1])
        mask[place, :length] = 1
        targets[place, :length] = torch.tensor(row.labels[1:])
    each = torch.tensor([weights.seed if row.seed else weights.generated for row in rows], dtype=torch.float32)
    return {"input_ids": ids, "attention_mask": mask, "targets": targets, "weights": each}


def weighted_sum(model: Any, batch: Batch) -> torch.Tensor:
    """Σ weight·(-log p) over the learned tokens of a batch, a scalar in float32, in nats.

    The output layer sees only the positions that have a target: with 49,000 words it is a third of a small model's work.
    """
    import torch

    learned = batch["targets"] != IGNORE
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][learned].unsqueeze(0), *inputs[1:])) if head else None
    try:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    finally:
        if hook is not None:
            hook.remove()
    logits = logits[learned] if logits.shape[:2] == learned.shape else logits[0]
    loss = torch.nn.functional.cross_entropy(logits.float(), batch["targets"][learned], reduction="none")
    return (loss * batch["weights"].unsqueeze(1).expand_as(learned)[learned]).sum()
