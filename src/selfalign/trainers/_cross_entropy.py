"""The loss of supervised fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from selfalign.trainers._batches import Lost, Row, Weights
from selfalign.trainers._weighted import Batch, collate, weighted_sum

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class CrossEntropy:
    """-log p of the response tokens, mean over those of a step: the answers are imitated."""

    preferences: ClassVar[bool] = False
    refers: ClassVar[bool] = False
    distils: ClassVar[bool] = False

    def units(self, rows: Sequence[Row], pairs: Sequence[Sequence[int]]) -> tuple[list[Row], list[Lost]]:
        """Each row by itself."""
        return list(rows), []

    def collate(self, units: Sequence[Row], weights: Weights, pad: int) -> Batch:
        return collate(units, weights, pad)

    def total(self, model: Any, batch: Batch, head: Any) -> torch.Tensor:
        return weighted_sum(model, batch, head)
