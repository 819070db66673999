"""The loss of supervised fine-tuning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from selfalign.errors import UserError
from selfalign.trainers._batches import IGNORE, Lost, Row, Unit, Weights
from selfalign.trainers._weighted import Batch, Tensor, collate, token_losses, weighted_sum
from selfalign.types import LATER


@dataclass(frozen=True)
class CrossEntropy:
    """-log p of the response tokens, mean over those of a step: the answers are imitated.

    With `first_tokens` the first tokens of the answers, which decide what kind of answer each will be, are balanced over the
    categories: where most rows are refusals, plain fine-tuning learns to refuse everything. Of the N learned tokens of the seeds
    let F be among the first ones of their answer, F_c of them in rows of category c, of C categories (rows without one are one).
    A first token of category c counts u·w·F / (C·F_c) and any other one u, with w = `first_weight` and u = N / (w·F + N - F). So
    the first tokens of every category have the same total, u·w·F / C, however many its rows are, and the mean over all tokens is
    1; the same for the generated rows by themselves, so that seed_weight stays what it is. (Our own choice; that first tokens
    decide: Qi et al., arXiv 2406.05946, section 2.) Rows of one category are then spread evenly over the steps.
    """

    first_tokens: int = field(default=0, metadata=LATER)
    """How many of an answer's first tokens are balanced over the categories; 0 counts all tokens alike."""
    first_weight: float = field(default=1.0, metadata=LATER)
    """w: what a first token counts against 1 of a later one, in the mean over the categories."""

    preferences: ClassVar[bool] = False
    refers: ClassVar[bool] = False
    distils: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.first_tokens < 0 or not 0.0 < self.first_weight < 1e6:
            given = f"first_tokens = {self.first_tokens}, first_weight = {self.first_weight}"
            raise UserError(f"loss CrossEntropy: {given}: at least 0, and above 0")
        if self.first_weight != 1.0 and not self.first_tokens:
            raise UserError(f"loss CrossEntropy: first_weight = {self.first_weight} changes nothing without first_tokens")

    def units(self, rows: Sequence[Row], pairs: Sequence[Sequence[int]]) -> tuple[list[Unit], list[Lost]]:
        """Each row by itself, with what its tokens count."""
        return [Unit((row,), row.learned) for row in (self._balanced(rows) if self.first_tokens else rows)], []

    def collate(self, units: Sequence[Unit], weights: Weights, pad: int) -> Batch:
        """With `first_tokens` also `shares` (rows, tokens): what each token counts, the weight of its row's side included."""
        import torch

        batch = collate([unit.rows[0] for unit in units], weights, pad)
        if not self.first_tokens:
            return batch
        learned = batch["targets"] != IGNORE
        shares = torch.zeros(learned.shape)
        for place, unit in enumerate(units):
            shares[place, learned[place]] = torch.tensor(unit.rows[0].shares) * batch["weights"][place]
        return {**batch, "shares": shares}

    def total(self, model: Any, batch: Batch, head: Any) -> Tensor:
        if "shares" not in batch:
            return weighted_sum(model, batch, head)
        return token_losses(model, batch, head) @ batch["shares"][batch["targets"] != IGNORE]

    def _balanced(self, rows: Sequence[Row]) -> list[Row]:
        firsts = {row.place: min(self.first_tokens, row.learned) for row in rows}
        tokens, of = Counter[bool](), Counter[tuple[bool, str]]()
        for row in rows:
            tokens[row.seed] += row.learned
            of[row.seed, row.kind] += firsts[row.place]
        found = []
        for row in rows:
            counts = [count for (seed, _), count in of.items() if seed == row.seed]
            weighed, all_first = self.first_weight * sum(counts), sum(counts)
            unit = tokens[row.seed] / (weighed + tokens[row.seed] - all_first)
            first = unit * weighed / (len(counts) * of[row.seed, row.kind])
            count = firsts[row.place]
            found.append(replace(row, shares=(first,) * count + (unit,) * (row.learned - count)))
        return found
