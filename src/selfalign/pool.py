"""The pool: the seed examples and what each finished round kept. Immutable; `add` returns a new one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

from selfalign.types import Example


def in_pool_order(examples: Iterable[Example]) -> tuple[Example, ...]:
    """Oldest round first, and within a round by place: any two prompts that show the same examples show them in this order."""
    return tuple(sorted(examples, key=lambda example: (example.round, example.slot, example.id)))


@dataclass(frozen=True, slots=True)
class Pool:
    """`parts[0]` are the seeds (D0), `parts[k]` what round k kept (D_k)."""

    parts: tuple[tuple[Example, ...], ...]

    @property
    def seeds(self) -> tuple[Example, ...]:
        return self.parts[0]

    @property
    def examples(self) -> tuple[Example, ...]:
        """All of them, oldest round first."""
        return tuple(chain.from_iterable(self.parts))

    def add(self, kept: tuple[Example, ...]) -> Pool:
        return Pool((*self.parts, kept))

    def single_turns(self) -> Pool:
        """Where demonstrations come from: the pairs without earlier turns. "And why?" shows nobody what to ask or answer."""
        return Pool(tuple(tuple(example for example in part if not example.history) for part in self.parts))

    def shares(self, demonstrations: int, generated: int) -> list[tuple[tuple[Example, ...], int]]:
        """How many demonstrations each part gives to one prompt: (part, count), the seeds first, empty parts left out.

        ISARA's budget: `generated` from each generated round, the rest of `demonstrations` from the seeds (its code takes 1 of
        C = 8). Where the rounds would ask for more than there is room for, the newest go first. No part gives more than it has.
        """
        rounds: list[tuple[tuple[Example, ...], int]] = []
        left = demonstrations
        for part in reversed(self.parts[1:]):
            if take := min(generated, len(part), left):
                rounds.append((part, take))
                left -= take
        seeds = [(self.seeds, take)] if (take := min(left, len(self.seeds))) else []
        return seeds + rounds[::-1]
