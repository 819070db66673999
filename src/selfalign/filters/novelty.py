"""Prompts that repeat what is there already, by shared word sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from selfalign.filters._shared import Field, Verdict, split, text_of
from selfalign.protocols import Context
from selfalign.text import Overlap, rouge_l_growing, rouge_l_max
from selfalign.types import Example, FilterResult


@dataclass(frozen=True)
class Novelty:
    """Drops an example whose text has a ROUGE-L F1 above `max_overlap` with one that is there already; exact.

    `against="pool"` (ours): the seeds, all that earlier rounds kept, and what this call has kept so far, in slot order; as in
    Self-Instruct. `against="demonstrations"`: only the prompts shown when this one was written, as ISARA's code does, which
    lets a round repeat itself.
    """

    max_overlap: float = 0.7
    """In [0, 1]; the paper's 0.7."""
    against: Literal["pool", "demonstrations"] = "pool"
    field: Field = "prompt"
    unicode: bool = True
    """Count words of every script; False counts a-z and 0-9 alone, as ISARA's ROUGE does. No difference for ASCII text."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.max_overlap <= 1.0:
            raise ValueError(f"Novelty: max_overlap = {self.max_overlap} is out of range: between 0 and 1")

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `not_novel`; evidence: score, id and text of the nearest one.

        Raises:
            KeyError: against="demonstrations" and a demonstration is not in the pool.
        """
        pool = context.pool.examples
        if self.against == "pool":
            texts = [text_of(example, self.field) for example in examples]
            references = [text_of(example, self.field) for example in pool]
            nearest = rouge_l_growing(texts, references, self.max_overlap, unicode=self.unicode)
            known: Sequence[Example] = (*pool, *examples)
            found = [(overlap, known[overlap.position] if overlap.position >= 0 else None) for overlap in nearest]
        else:
            by_id = {example.id: example for example in pool}
            found = [self._among_demonstrations(example, by_id) for example in examples]
        verdicts = iter([self._verdict(*pair) for pair in found])
        return split(examples, lambda _: next(verdicts))

    def _among_demonstrations(self, example: Example, by_id: dict[str, Example]) -> tuple[Overlap, Example | None]:
        shown = [by_id[demonstration.id] for demonstration in example.prompt_demonstrations]
        texts = [text_of(other, self.field) for other in shown]
        (overlap,) = rouge_l_max([text_of(example, self.field)], texts, unicode=self.unicode)
        return overlap, shown[overlap.position] if shown else None

    def _verdict(self, overlap: Overlap, other: Example | None) -> Verdict:
        if other is None or overlap.score <= self.max_overlap:
            return None
        return "not_novel", f"ROUGE-L {overlap.score:.3f} > {self.max_overlap} with {other.id}: {text_of(other, self.field)}"
