"""The loss of direct preference optimisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from selfalign.errors import UserError
from selfalign.trainers._batches import IGNORE, Lost, Row, Unit, Weights
from selfalign.trainers._weighted import Batch, Tensor, collate, row_losses


@dataclass(frozen=True)
class DPO:
    """Direct preference optimisation (Rafailov et al., arXiv 2305.18290, eq. 7): -log σ(β·h), mean over the pairs of a step.

    h is how much more the model has moved towards the preferred answer than towards the rejected one, from where it started:
    (log π(c) - log π0(c)) - (log π(r) - log π0(r)), each the sum over an answer's tokens in nats. π0 is the model that the
    round starts from; its figures are computed once, before the first step.
    """

    beta: float = 0.1
    """β: the smaller, the further the model may go from where it started."""
    label_smoothing: float = 0.0
    """The share of pairs taken to be the wrong way round (conservative DPO, in the reference code of 2305.18290)."""
    sft_weight: float = 1.0
    """Times the preferred answer's -log p per token, added to each pair's loss (Pang et al., arXiv 2404.19733, eq. 2, where it is
    1). Alone DPO may make both answers less probable, if only the rejected one falls faster; 0 is DPO alone."""

    preferences: ClassVar[bool] = True
    refers: ClassVar[bool] = True
    distils: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name, wrong in (
            ("beta", not self.beta > 0.0),
            ("label_smoothing", not 0.0 <= self.label_smoothing < 0.5),
            ("sft_weight", not self.sft_weight >= 0.0),
        ):
            if wrong:
                raise UserError(f"loss DPO: {name} = {getattr(self, name)} is out of range")

    def units(self, rows: Sequence[Row], pairs: Sequence[Sequence[int]]) -> tuple[list[Unit], list[Lost]]:
        """(preferred, rejected) of each pair whose rows are both there. Rule of the rows in none: `no_pair`."""
        there = {row.place: row for row in rows}
        made = [Unit(tuple(there[place] for place in pair), 1) for pair in pairs if there.keys() >= {*pair}]
        used, asked = {row.place for pair in made for row in pair.rows}, {place for pair in pairs for place in pair}
        whys = ("no answer stands against it", "the answers that it stands against are not trained on")
        return made, [Lost(place, "no_pair", whys[place in asked]) for place in there if place not in used]

    def collate(self, units: Sequence[Unit], weights: Weights, pad: int) -> Batch:
        """All preferred answers, then all rejected ones; `weights` and `imitated` (0 leaves out its term for imitation) have one
        for each pair, `reference` is (pairs, 2)."""
        import torch

        batch = collate([pair.rows[side] for side in (0, 1) for pair in units], weights, pad)
        reference = torch.tensor([pair.reference for pair in units], dtype=torch.float32)
        own = {"weights": batch["weights"][: len(units)], "reference": reference, "imitated": torch.ones(len(units))}
        return {**batch, **own}

    def total(self, model: Any, batch: Batch, head: Any) -> Tensor:
        from torch.nn.functional import logsigmoid

        losses = row_losses(model, batch, head)
        chosen, rejected = losses.chunk(2)
        moved = (rejected - chosen) - (batch["reference"][:, 0] - batch["reference"][:, 1])
        each = -(1 - self.label_smoothing) * logsigmoid(self.beta * moved)
        each = each - self.label_smoothing * logsigmoid(-self.beta * moved)
        tokens = (batch["targets"][: len(chosen)] != IGNORE).sum(1)
        return ((each + self.sft_weight * batch["imitated"] * chosen / tokens) * batch["weights"]).sum()
