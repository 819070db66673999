"""The seeds' prompts once more, for answers that the seeds' own are preferred to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from selfalign.proposers._drafts import draft, drawn_in_order, once_more
from selfalign.protocols import Context
from selfalign.text import counted
from selfalign.types import PREFERRED, Example, derive_seed

_COLUMN = re.compile(r"rejected(_[1-9]\d{0,5})?")


@dataclass(frozen=True)
class Rivals:
    """Drafts whose answers are to be rejected in favour of a seed's: its prompt, to be answered by the model itself.

    Rejected answers that the seed file has (`rejected`, `rejected_2` …) come first and are not generated. The slots left go round
    the seeds that bring none; where there are fewer slots than seeds, some are drawn anew each round. Later turns that bring none
    are not asked again. That the model's own answer is the worse one is the assumption of DITTO (arXiv 2406.00888) and SPIN
    (2401.01335); nothing checks it.
    """

    preferences: ClassVar[bool] = True
    takes_conversations: ClassVar[bool] = True
    """Its pool has the seeds' later turns too."""

    def propose(self, context: Context, count: int) -> list[Example]:
        """`count` drafts in slot order, without asking the model; a slot that nothing is left for has an empty prompt."""
        random = np.random.default_rng(derive_seed(context.seed, context.round, "propose"))
        seeds = context.pool.seeds
        brought = [(seed, answer) for seed in seeds for answer in rejected_answers(seed)]
        if len(brought) > count:
            brought = [brought[place] for place in sorted(random.choice(len(brought), size=count, replace=False))]
        bare = _bare(seeds)
        whole, rest = divmod(count - len(brought), len(bare)) if bare else (0, 0)
        asked = [*brought, *((seed, "") for seed in (*bare * whole, *drawn_in_order(bare, rest, random)))]
        why = "every seed brings its rejected answers, and there are no more of them"
        return [
            replace(once_more(context, slot, seed), response=answer, metadata={PREFERRED: seed.id})
            for slot, (seed, answer) in enumerate(asked)
        ] + [draft(context, slot, "", metadata={"problem": why}) for slot in range(len(asked), count)]

    def void(self, seeds: Sequence[Example]) -> str:
        """As `proof.seed_rules.Voidable`."""
        if brought := sum(len(rejected_answers(seed)) for seed in seeds) if not _bare(seeds) else 0:
            what = f"finds {counted(brought, 'rejected answer')} in the file and generates none"
            return f"{what}: of a round's candidates the others are dropped as empty_prompt"
        later = sum(bool(seed.history) and not rejected_answers(seed) for seed in seeds)
        what = f"asks no later turn again, so that no answer stands against {later} of the {counted(len(seeds), 'seed')}"
        return what if later else ""


def _bare(seeds: Sequence[Example]) -> list[Example]:
    return [seed for seed in seeds if not (seed.history or rejected_answers(seed))]


def rejected_answers(seed: Example) -> tuple[str, ...]:
    """The answers that the seed's file says its own is preferred to."""
    names = sorted((name for name in seed.metadata if _COLUMN.fullmatch(name)), key=lambda name: (len(name), name))
    return tuple(text for name in names if (text := seed.metadata[name].strip()))
