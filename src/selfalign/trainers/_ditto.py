"""The loss of DITTO: seeds preferred to the model's own answers, newer ones of these to older ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from selfalign.errors import UserError
from selfalign.trainers._batches import Lost, Row, Unit, Weights
from selfalign.trainers._dpo import DPO
from selfalign.trainers._weighted import Batch, Tensor
from selfalign.types import Example, Preference, derive_seed, preferences, preferred_to


@dataclass(frozen=True)
class Ditto:
    """DPO of seeds over samples of all rounds' models, against a fixed reference (Shaikh et al., arXiv 2406.00888, sec. 3).

    Round 1 imitates the seeds alone, by cross-entropy, until that costs less than `start_below`: its model is the reference of
    all later rounds. These compare each of the round's samples with its seed, and so many older ones as the shares say; a
    sample that is preferred to an older one was written by a later model. Only seeds are imitated besides (`sft_weight`).
    """

    beta: float = 0.05
    """β, as in `DPO`; the paper's value."""
    sft_weight: float = 1.0
    """As in `DPO`, of the seeds' answers alone. Our own choice, against seeds that grow less probable."""
    older_share: float = 0.2
    """Share of the pairs in which a seed is preferred to a sample of an earlier round; needs train_on=all, as the next one."""
    between_share: float = 0.1
    """Share of the pairs in which a newer sample is preferred to an older one to the same prompt."""
    start_below: float = 1.0
    """Round 1 ends with the first step whose loss, in nats per response token, is below this; 0: with its last."""
    start_steps: int = 30
    """The most optimiser steps of round 1."""
    start_rate: float = 25.0
    """Round 1's learning rate over that of the others; 30 in the paper. At 2.5, as it was, the bundled model's answers fell apart
    (benchmarks/RESULTS.md)."""

    preferences: ClassVar[bool] = True
    refers: ClassVar[bool] = True
    distils: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name, wrong in (
            ("beta", not self.beta > 0.0),
            ("sft_weight", not self.sft_weight >= 0.0),
            ("older_share", not 0.0 <= self.older_share < 1.0),
            ("between_share", not 0.0 <= self.between_share < 1.0 - self.older_share),
            ("start_below", not self.start_below >= 0.0),
            ("start_steps", self.start_steps < 1),
            ("start_rate", not self.start_rate > 0.0),
        ):
            if wrong:
                raise UserError(f"loss Ditto: {name} = {getattr(self, name)} is out of range")

    def begin(self, learning_rate: float) -> dict[str, Any]:
        """The trainer's options that differ in a training without rejected answers, which is round 1."""
        return {
            "loss": {"name": "CrossEntropy"},
            "learning_rate": learning_rate * self.start_rate,
            "max_steps": self.start_steps,
            "stop_below": self.start_below,
        }

    def compared(self, examples: Sequence[Example], seed: int) -> list[Preference]:
        """The pairs of a round: each newest sample once as the worse one, then older ones, drawn without repetition."""
        draw = random.Random(derive_seed(seed, "pairs"))
        every = preferences(examples)
        newest = max((pair.rejected.round for pair in every), default=0)
        current = [pair for pair in every if pair.rejected.round == newest]
        older = [pair for pair in every if pair.rejected.round < newest]
        each = len(current) / (1.0 - self.older_share - self.between_share)
        replayed = draw.sample(older, min(len(older), _rounded(each * self.older_share)))
        newer: dict[str, list[Example]] = {}
        for pair in every:
            newer.setdefault(pair.chosen.id, []).append(pair.rejected)
        between: list[Preference] = []
        for pair in draw.sample(older, len(older)):
            if len(between) == _rounded(each * self.between_share):
                break
            old = pair.rejected
            better = [one for one in newer[pair.chosen.id] if one.round > old.round and one.response != old.response]
            between += [Preference(draw.choice(better), old)] if better else []
        return [*current, *replayed, *between]

    def units(self, rows: Sequence[Row], pairs: Sequence[Sequence[int]]) -> tuple[list[Unit], list[Lost]]:
        """As `DPO.units`. Rule of an older sample that no pair was drawn of: `not_drawn`."""
        units, lost = self._dpo.units(rows, pairs)
        asked, samples = {place for pair in pairs for place in pair}, {row.place for row in rows if not row.seed}
        why = "an older sample, and the round drew others"
        lost = [Lost(one.place, "not_drawn", why) if one.place in samples - asked else one for one in lost]
        return units, lost

    def collate(self, units: Sequence[Unit], weights: Weights, pad: int) -> Batch:
        import torch

        seeds = torch.tensor([float(pair.seed) for pair in units])
        return {**self._dpo.collate(units, weights, pad), "imitated": seeds}

    def total(self, model: Any, batch: Batch, head: Any) -> Tensor:
        return self._dpo.total(model, batch, head)

    @property
    def _dpo(self) -> DPO:
        return DPO(beta=self.beta, sft_weight=self.sft_weight)


def rejects(examples: Sequence[Example]) -> bool:
    """Whether any of them is an answer to be rejected."""
    return any(preferred_to(example) for example in examples)


def _rounded(number: float) -> int:
    return int(number + 0.5)
