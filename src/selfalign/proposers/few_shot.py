"""New prompts from a few examples: the model is shown conversations and left to open the next one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from selfalign.pool import Pool
from selfalign.protocols import Context
from selfalign.types import Demonstration, Example, Request, Sampling, derive_seed


@dataclass(frozen=True)
class FewShot:
    """ISARA's question step: C pairs drawn uniformly without replacement, seeds first, then one of each generated round.

    No instruction is given, only the pairs and an opened user turn. Demonstrations that do not fit the model's window are left
    away from the end.
    """

    demonstrations: int = 8
    """C. The paper's 8; 6 for long examples."""
    generated: int = 1
    """How many of them come from each generated round; the rest are seeds."""
    by_category: bool = False
    """Aim every slot at one category, in the seeds' proportions, and show demonstrations of it alone (our own addition: mixed
    demonstrations let the model drift to the kind it finds easier; seeds of other categories only fill up where it is too small).
    Needs a category on every seed, else it does nothing."""
    sampling: Sampling = field(default_factory=Sampling)

    def propose(self, context: Context, count: int) -> list[Example]:
        """`count` drafts in slot order; request ids `r<round>-<slot>` are the drafts' ids."""
        seeds = context.pool.seeds
        aims = _aims(seeds, count) if self.by_category and all(seed.category for seed in seeds) else [""] * count
        requests = [self._request(context, slot, aim) for slot, aim in enumerate(aims)]
        answers = context.generate("propose", requests, self.sampling)
        return [
            Example(
                id=request.id,
                prompt=completion.text,
                response="",
                round=context.round,
                slot=slot,
                category=aim,
                prompt_finish=completion.finish,
                prompt_demonstrations=tuple(Demonstration(example.id) for example in request.demonstrations),
            )
            for slot, (aim, (request, completion)) in enumerate(zip(aims, answers, strict=True))
        ]

    def _request(self, context: Context, slot: int, aim: str) -> Request:
        random = np.random.default_rng(derive_seed(context.seed, context.round, "propose", slot))
        return Request(
            id=f"r{context.round:02d}-{slot:05d}",
            demonstrations=self._draw(context.pool, aim, random),
            seed=derive_seed(context.seed, context.round, "propose-draw", slot),
        )

    def _draw(self, pool: Pool, aim: str, random: np.random.Generator) -> tuple[Example, ...]:
        aimed = Pool(tuple(tuple(e for e in part if e.category == aim) for part in pool.parts)) if aim else pool
        drawn: list[Example] = []
        for part, count in aimed.shares(self.demonstrations, self.generated):
            drawn += _choose(part, count, random)
        # A small category cannot fill the prompt: others of the seeds go before it, where they steer the least.
        others = [seed for seed in pool.seeds if aim and seed.category != aim]
        missing = min(self.demonstrations - len(drawn), len(others))
        return (*_choose(others, missing, random), *drawn)


def _choose(part: Sequence[Example], count: int, random: np.random.Generator) -> list[Example]:
    return [part[position] for position in random.choice(len(part), size=count, replace=False)]


def _aims(seeds: Sequence[Example], count: int) -> list[str]:
    """A category for each slot such that every prefix keeps the seeds' shares to within one slot: the one furthest behind."""
    shares = Counter(seed.category for seed in seeds)
    taken: Counter[str] = Counter()
    aims: list[str] = []
    for slot in range(count):
        aim = max(shares, key=lambda name: shares[name] * (slot + 1) / len(seeds) - taken[name])
        taken[aim] += 1
        aims.append(aim)
    return aims
