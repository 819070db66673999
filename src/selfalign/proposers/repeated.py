"""Given prompts, each of them several times: for loops that draw many answers and keep the best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from selfalign.proposers._drafts import at_least, drawn_in_order, once_more
from selfalign.protocols import Context
from selfalign.types import Example, derive_seed


@dataclass(frozen=True)
class Repeated:
    """The seeds' prompts as they stand, `samples` drafts of each (the Grow step of ReST, arXiv 2308.08998).

    With fewer slots than samples times seeds, a round takes as many seeds as it has room for, drawn anew each round; with
    more, it goes round again. Every draft names its seed as the one demonstration of its prompt.
    """

    samples: int = 4
    """Answers drawn for each prompt, one next to the other in slot order."""

    def __post_init__(self) -> None:
        at_least(self, samples=1)

    def propose(self, context: Context, count: int) -> list[Example]:
        """`count` drafts in slot order, without asking the model."""
        seeds = context.pool.seeds
        random = np.random.default_rng(derive_seed(context.seed, context.round, "propose"))
        whole, rest = divmod(-(-count // self.samples), len(seeds))
        chosen = [*seeds] * whole + drawn_in_order(seeds, rest, random)
        return [once_more(context, slot, chosen[slot // self.samples]) for slot in range(count)]
