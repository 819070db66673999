"""What a training minimises, as a part of the trainer: one file a loss, all over the same steps, checkpoints and accounts.

A loss says what a step is made of (`Unit`: a row, or rows to compare) and what a batch of those costs. What must be known of
another model than the one in training stands in the units before the first step (`_reference`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from selfalign.trainers._batches import Lost, Row, Unit, Weights
from selfalign.trainers._cross_entropy import CrossEntropy
from selfalign.trainers._distill import Distill
from selfalign.trainers._ditto import Ditto
from selfalign.trainers._dpo import DPO
from selfalign.trainers._weighted import Batch

if TYPE_CHECKING:
    import torch


class Loss(Protocol):
    """A frozen dataclass whose fields are its options; torch appears inside `collate` and `total` only."""

    preferences: ClassVar[bool]
    """Whether it learns from pairs of a preferred and a rejected answer, and from nothing else."""
    refers: ClassVar[bool]
    """Whether its units need the log-probabilities of a model that stands still, as their field `reference`."""
    distils: ClassVar[bool]
    """Whether it needs each generated row's `taught`, and in a batch the teacher's logits on it (`_teacher`)."""

    def units(self, rows: Sequence[Row], pairs: Sequence[Sequence[int]]) -> tuple[list[Unit], list[Lost]]:
        """What steps are made of, and the rows that are in none of them, by rule.

        Args:
            pairs: (preferred, rejected), by the places of rows; one of them may be lost already.
        """
        ...

    def collate(self, units: Sequence[Unit], weights: Weights, pad: int) -> Batch:
        """Units as one batch, for one call of the model."""
        ...

    def total(self, model: Any, batch: Batch, head: Any) -> torch.Tensor:
        """Σ weight·loss over a batch, a scalar in float32; the step divides it by Σ `Unit.counts`."""
        ...


def make_loss(options: Mapping[str, Any]) -> Loss:
    """The loss of a spec: its class by `name`, and that class's options."""
    known: dict[str, Any] = {part.__name__: part for part in (CrossEntropy, DPO, Distill, Ditto)}
    loss: Loss = known[options["name"]](**{name: value for name, value in options.items() if name != "name"})
    return loss
