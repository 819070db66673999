"""The loss of on-policy self-distillation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, get_args

from selfalign.errors import UserError
from selfalign.trainers._batches import IGNORE, Lost, Row, Unit, Weights
from selfalign.trainers._weighted import Batch, Tensor, collate, token_logits
from selfalign.types import LATER

Divergence = Literal["forward", "reverse", "symmetric"]
Who = Literal["start", "round", "ema"]


@dataclass(frozen=True)
class Distill:
    """On-policy self-distillation: the model's own answers, pulled token by token towards what a teacher would say there.

    The teacher is the same model with demonstrations before the prompt, the student the model with the bare prompt; the student
    wrote the answer y. Loss of an answer: the mean over its tokens of D(p_teacher(·|c, x, y<t), p_student(·|x, y<t)) over the
    whole vocabulary, in nats, with a gradient through the student alone (OPSA, arXiv 2605.15239; SDFT, 2601.19897). Seeds are
    learned by the cross-entropy of their own answers, mean over tokens: `seed_weight` says how much of the loss that is.
    An answer that was cut off has no end to learn. Rows of one category are spread evenly over the steps.
    """

    kl: Divergence = "forward"
    """D: forward is KL(teacher ‖ student), as SDFT's results were made; reverse is KL(student ‖ teacher), as its paper has it;
    symmetric is alpha times the first and 1 - alpha times the second (OPSA's, in our reading)."""
    alpha: float = 0.5
    """Share of the forward KL where kl is symmetric; OPSA's 0.5."""
    first_tokens: int = 6
    """The first tokens of an answer, which count 1. What changes sits in the first ten to thirty (2605.15239)."""
    later_weight: float = 0.1
    """What each token after those counts. Weights are made to have the sum 1 in every answer."""
    skip_tokens: int = 0
    """Tokens at an answer's beginning that are not learned, for openings that only make sense to who sees the demonstrations."""
    clip: float = 0.0
    """Where > 0 the most nats that a token counts: one above has its loss and gradient scaled down to it. (Tokens of style carry
    many times the others' KL, 2601.18734, which cuts them off; then those that differ most would teach nothing.)"""
    temperature: float = 1.0
    """Both distributions are softmax(logits / temperature)."""
    balance: bool = True
    """Every category counts the same, however many rows it has."""
    teacher: Who = "start"
    """The teacher's weights: those the run started from (OPSA's), those the round starts from, or (ema, SDFT's) the moving
    average of what is trained, from the run's start on. With an adapter the start is the model's own weights without it, and an
    average as large as the adapter; else a teacher is a second copy of the model in memory."""
    ema_rate: float = field(default=0.05, metadata=LATER)
    """What the average takes of its student at each step: average = (1 - ema_rate) · average + ema_rate · student. SDFT has 0.01
    to 0.05; with 0.05 half of the average is younger than 14 steps, and a run of the default recipe has about thirty."""

    preferences: ClassVar[bool] = False
    refers: ClassVar[bool] = False
    distils: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, wrong in (
            ("kl", self.kl not in get_args(Divergence)),
            ("alpha", not 0.0 <= self.alpha <= 1.0),
            ("first_tokens", self.first_tokens < 0),
            ("later_weight", not 0.0 <= self.later_weight <= 1.0 or (not self.later_weight and not self.first_tokens)),
            ("skip_tokens", self.skip_tokens < 0),
            ("clip", not self.clip >= 0.0),
            ("temperature", not self.temperature > 0.0),
            ("teacher", self.teacher not in get_args(Who)),
            ("ema_rate", not 0.0 < self.ema_rate <= 1.0),
        ):
            if wrong:
                raise UserError(f"loss Distill: {name} = {getattr(self, name)} is out of range")
        if self.alpha != 0.5 and self.kl != "symmetric":
            raise UserError(f"loss Distill: alpha = {self.alpha} changes nothing with kl = {self.kl}; it is for symmetric")
        if self.ema_rate != 0.05 and self.teacher != "ema":
            raise UserError(f"loss Distill: ema_rate = {self.ema_rate} changes nothing without teacher = ema")

    def units(self, rows: Sequence[Row], pairs: Sequence[Sequence[int]]) -> tuple[list[Unit], list[Lost]]:
        """Each row by itself. Rule of an answer that no token of is learned: `all_skipped`."""
        found = [row if row.seed else self._window(row) for row in rows]
        left = [row for row in found if row.learned]
        why = f"it has no more tokens than are skipped ({self.skip_tokens})"
        sizes = Counter((row.seed, row.kind) for row in left)
        of, kinds = Counter(row.seed for row in left), Counter(seed for seed, _ in sizes)
        even = {group: of[group[0]] / (kinds[group[0]] * size) for group, size in sizes.items()}
        units = [Unit((row,), 1, even[row.seed, row.kind] if self.balance else 1.0) for row in left]
        return units, [Lost(row.place, "all_skipped", why) for row in found if not row.learned]

    def collate(self, units: Sequence[Unit], weights: Weights, pad: int) -> Batch:
        """`shares` (rows, tokens) is what each token counts; `taught_…` are the same answers as the teacher reads them."""
        import torch

        rows = [unit.rows[0] for unit in units]
        batch = collate(rows, weights, pad)
        learned = batch["targets"] != IGNORE
        shares = torch.zeros(learned.shape)
        for place, (row, unit) in enumerate(zip(rows, units, strict=True)):
            shares[place, learned[place]] = torch.tensor(self._shares(row)) * batch["weights"][place] * unit.weight
        batch |= {"shares": shares, "seeds": torch.tensor([row.seed for row in rows])}
        taught = [row.taught for row in rows if row.taught]
        return {**batch, **{f"taught_{name}": each for name, each in collate(taught, weights, pad).items()}} if taught else batch

    def total(self, model: Any, batch: Batch, head: Any) -> Tensor:
        """`taught` are the teacher's logits on the tokens of `taught_targets`, in order, shape (tokens, words)."""
        import torch

        learned = batch["targets"] != IGNORE
        logits, labels, shares = token_logits(model, batch, head), batch["targets"][learned], batch["shares"][learned]
        seeds = batch["seeds"].unsqueeze(1).expand_as(learned)[learned]
        total = torch.nn.functional.cross_entropy(logits[seeds], labels[seeds], reduction="none") @ shares[seeds]
        return total + self.divergence(batch["taught"], logits[~seeds]) @ shares[~seeds] if "taught" in batch else total

    def divergence(self, teacher: Tensor, student: Tensor) -> Tensor:
        """D of each token in nats, shape (tokens,), from both logits (tokens, words)."""
        theirs, ours = (logits.div(self.temperature).log_softmax(-1) for logits in (teacher, student))
        share = {"forward": 1.0, "reverse": 0.0, "symmetric": self.alpha}[self.kl]
        found = ((share * theirs.exp() - (1 - share) * ours.exp()) * (theirs - ours)).sum(-1)
        return found * (self.clip / found.detach().clamp(min=self.clip)) if self.clip else found

    def _window(self, row: Row) -> Row:
        """The row, and as the teacher reads it, with labels on the tokens alone that count something."""
        end = None if self.later_weight else self.skip_tokens + self.first_tokens
        taught = row.taught and replace(row.taught, labels=_kept(row.taught.labels, self.skip_tokens, end))
        return replace(row, labels=_kept(row.labels, self.skip_tokens, end), taught=taught)

    def _shares(self, row: Row) -> list[float]:
        first = row.learned if row.seed else min(self.first_tokens, row.learned)
        weights = [1.0] * first + [self.later_weight] * (row.learned - first)
        return [weight / sum(weights) for weight in weights]


def _kept(labels: Sequence[int], begin: int, end: int | None) -> tuple[int, ...]:
    """The labels without those outside the window; the first token of a text has none anyway."""
    kept = set([place for place, label in enumerate(labels) if place and label != IGNORE][begin:end])
    return tuple(label if place in kept else IGNORE for place, label in enumerate(labels))
