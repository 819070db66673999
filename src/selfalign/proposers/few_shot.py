"""New prompts from a few examples: the model is shown conversations and left to open the next one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from selfalign.errors import UserError
from selfalign.proposers._drafts import at_least, drawn, request, written
from selfalign.protocols import Context
from selfalign.types import Example, Pool, Request, Sampling, derive_seed

AIMS = ("balanced", "seeds", "any")


@dataclass(frozen=True)
class FewShot:
    """ISARA's question step: C pairs drawn uniformly without replacement, seeds first, then one of each generated round.

    No instruction is given, only the pairs and an opened user turn. Demonstrations that do not fit the model's window are left
    away from the end. Where seeds have different system prompts, a draft has one of these, and pairs of that one are shown first.
    """

    demonstrations: int = 8
    """C. The paper's 8; 6 for long examples."""
    generated: int = 1
    """How many of them come from each generated round; the rest are seeds."""
    aim: str = "any"
    """Which category a slot's prompt shall belong to; it is then shown demonstrations of that category alone. `any`: no aim;
    `balanced`: the category with the fewest examples so far, slots before it included, so that seeds and generated pairs together
    approach equal shares; `seeds`: each category in the seeds' proportions; a category's name: that one. Our own addition. Seeds
    without a category are never aimed at: they only fill up a prompt that a small category cannot fill."""
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        at_least(self, demonstrations=0, generated=0)

    def propose(self, context: Context, count: int) -> list[Example]:
        """`count` drafts in slot order; request ids `r<round>-<slot>` are the drafts' ids."""
        seeds = context.pool.seeds
        aims = self.aims(context.pool.examples if self.aim == "balanced" else seeds, count)
        aimed = {aim: _aimed(context.pool, aim) for aim in set(aims)}  # once: the pool may be large, and the slots many
        requests = [self._request(context, slot, *aimed[aim]) for slot, aim in enumerate(aims)]
        answers = context.generate("propose", requests, self.sampling)
        return [
            written(context, slot, sent, done, category=aim)
            for slot, (aim, (sent, done)) in enumerate(zip(aims, answers, strict=True))
        ]

    def aims(self, known: Sequence[Example], count: int) -> list[str]:
        """A category for each slot, "" where nothing has one; the one that is furthest behind what it should have by then.

        Raises:
            UserError: the aim is neither a way to choose nor a category of these examples.
        """
        there = Counter(example.category for example in known if example.category)
        if self.aim == "any" or (not there and self.aim in AIMS):
            return [""] * count
        if self.aim not in AIMS:
            if self.aim not in there:
                raise UserError(
                    f"aim = {self.aim!r}: it is {', '.join(AIMS)} or a category of the seeds ({', '.join(there) or 'none'})"
                )
            return [self.aim] * count
        aims: list[str] = []
        have = Counter(there) if self.aim == "balanced" else Counter(dict.fromkeys(there, 0))
        for slot in range(1, count + 1):
            due = {name: 0.0 if self.aim == "balanced" else slot * of / there.total() for name, of in there.items()}
            behind = {name: due[name] - have[name] for name in there}  # of equals the first that the seeds name
            chosen = max(behind, key=behind.__getitem__)
            have[chosen] += 1
            aims.append(chosen)
        return aims

    def shown(self, seeds: Sequence[Example], categories: Collection[str]) -> tuple[int, int]:
        """As `SeedUse.shown`; the seeds of other categories fill a prompt up."""
        return self.demonstrations, min(self.demonstrations, len(seeds))

    def _request(self, context: Context, slot: int, aimed: Pool, others: Sequence[Example]) -> Request:
        random = np.random.default_rng(derive_seed(context.seed, context.round, "propose", slot))
        systems = [one.system for one in aimed.seeds or aimed.examples]
        system = systems[int(random.integers(len(systems)))] if len(set(systems)) > 1 else "".join(systems[:1])
        same = Pool(tuple(tuple(one for one in part if one.system == system) for part in aimed.parts))
        shown: list[Example] = []
        for part, count in same.shares(self.demonstrations, self.generated):
            shown += drawn(part, count, random)
        # What is too few to fill the prompt has others of the seeds before it, where they steer the least.
        for each in ([seed for seed in aimed.seeds if seed.system != system], others):
            shown = [*drawn(each, min(self.demonstrations - len(shown), len(each)), random), *shown]
        return request(context, slot, shown, system=system)


def _aimed(pool: Pool, aim: str) -> tuple[Pool, list[Example]]:
    """The examples of the category aimed at, and the seeds that are none."""
    if not aim:
        return pool, []
    same = Pool(tuple(tuple(example for example in part if example.category == aim) for part in pool.parts))
    return same, [seed for seed in pool.seeds if seed.category != aim]
