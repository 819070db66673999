"""Given prompts: those of a user's file, answered instead of new ones, or beside them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from selfalign.proposers._drafts import draft
from selfalign.protocols import Context, Flags, Preflight, Proposer, SeedUse, declared
from selfalign.text import counted
from selfalign.types import LATER, Example, FloatArray, Sampling, cosines, derive_seed

SOURCE, GIVEN = "source", "given"
"""Key and value in the metadata of a candidate whose prompt was given."""
REFERENCE = "reference"
"""The key of the response that a given prompt had in its file: nothing learns it."""
VOTED = "category_by"
NEIGHBOURS = 5
"""Seeds that vote on the category of a prompt without one: as many as `filters.CategoryAgreement` asks."""
_CELLS = 1 << 22  # similarities put in order at once: 64 MiB with their places


@dataclass(frozen=True)
class Prompts:
    """Prompts as a part of a recipe: two are equal where their content is, whatever their files are called."""

    examples: tuple[Example, ...] = field(repr=False, compare=False)
    """Their responses count for nothing, and of their metadata `line` alone (see `seeds.read.read_prompts`)."""
    notes: tuple[str, ...] = field(default=(), repr=False, compare=False)
    """What reading did to them, a sentence each."""
    content: str = field(init=False, default="")
    """SHA-256 of all that is in them."""

    def __post_init__(self) -> None:
        rows = [[e.prompt, e.history, e.system, e.category, e.response, sorted(e.metadata.items())] for e in self.examples]
        digest = hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()
        object.__setattr__(self, "content", digest)

    def drawn(self, seed: int, purpose: str) -> list[Example]:
        """All of them in the order in which a run of this random seed takes them."""
        order = np.random.default_rng(derive_seed(seed, purpose)).permutation(len(self.examples))
        return [self.examples[place] for place in order]


@dataclass(frozen=True)
class Given:
    """A share of a round's candidates from the user's file, the rest from the recipe's own proposer (our own addition).

    The file is drawn from without repetition, over all rounds, in an order that the run's random seed decides. Once it is used up
    the own proposer fills the rounds up; with a share of 1 the last round takes what is left, and none follows.
    """

    own: Proposer
    prompts: Prompts
    share: float = 1.0
    """Of a round's candidates; at least one of them is given while there are some left."""
    samples: int = 1
    """Answers drawn for each prompt (see `Repeated`)."""
    from_round: int = field(default=1, metadata=LATER)
    """The first round that has candidates."""

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise ValueError(f"prompts_share = {self.share} is out of range: above 0 and at most 1")

    @property
    def sampling(self) -> Sampling | None:
        """How new prompts are decoded, where some are written."""
        return getattr(self.own, "sampling", None) if self.share < 1.0 else None

    @property
    def preferences(self) -> bool:
        return declared(self.own, Flags).preferences

    @property
    def oppose(self) -> Callable[[Context, Sequence[Example], int], list[Example]] | None:
        """The own proposer's drafts to be rejected (`Contrasted.oppose`), against answers to given prompts too."""
        found: Callable[[Context, Sequence[Example], int], list[Example]] | None = getattr(self.own, "oppose", None)
        return found

    def split(self, round: int, count: int) -> tuple[int, int]:
        """(given, proposed) candidates of round 1 and on, of `count` that are asked for in each round."""
        if round < self.from_round:
            return 0, 0
        left = max(0, len(self.prompts.examples) - self._taken(round, count))
        given = min(self._slots(count), left * self.samples)
        return given, count - given if self.share < 1.0 else 0

    def shortage(self, round: int, count: int) -> str:
        """What to say of a round that finds fewer prompts in the file than it would take; "" where it finds enough."""
        (given, _), wanted = self.split(round, count), self._slots(count)
        if given == wanted or round < self.from_round:
            return ""
        rest = "the model's own fill it up" if self.share < 1.0 else f"it has {counted(given, 'candidate')} instead of {wanted}"
        return f"round {round} finds {counted(-(-given // self.samples), 'given prompt')} left: {rest}"

    def ends(self, rounds: int, count: int) -> int:
        """The first round of so many for which nothing is left; the last where something is."""
        return next((each for each in range(self.from_round, rounds) if not any(self.split(each, count))), rounds)

    def lasts(self, count: int) -> float:
        """For how many rounds there are prompts."""
        return len(self.prompts.examples) * self.samples / self._slots(count)

    def propose(self, context: Context, count: int) -> list[Example]:
        """First the drafts with given prompts, so that of two that are alike the given one stays; their slots come last.

        Fewer than `count` where the file is used up and the share is 1. Metadata of a given one: `source`, `line` (or `id`) and,
        where they are so, `category_by` (the seeds that voted) and `reference` (the response that the file has).
        """
        given, own = self.split(context.round, count)
        proposed = self.own.propose(context, own) if own else []
        first = self._taken(context.round, count)
        chosen = self.prompts.drawn(context.seed, GIVEN)[first : first + -(-given // self.samples)]
        chosen = _with_categories(context, chosen)
        drafts = [
            draft(
                context,
                own + place,
                prompt.prompt,
                category=prompt.category,
                metadata=_told(prompt),
                history=prompt.history,
                system=prompt.system,
            )
            for place, prompt in ((place, chosen[place // self.samples]) for place in range(given))
        ]
        return [*drafts, *proposed]

    def aims(self, seeds: Sequence[Example], count: int) -> list[str]:
        """As `SeedUse.aims`, but each category once: those of the file, and all of the seeds' where a prompt has none."""
        own = self.split(self.from_round, count)[1]
        kinds = {prompt.category for prompt in self.prompts.examples}
        voted = {seed.category for seed in seeds} if "" in kinds else set()
        return [*(declared(self.own, SeedUse).aims(seeds, own) if own else ()), *sorted((kinds - {""}) | voted)]

    def check_examples(self, seeds: Sequence[Example], held_out: Sequence[Example]) -> None:
        """As `Preflight.check_examples`, of the own proposer."""
        declared(self.own, Preflight).check_examples(seeds, held_out)

    def shown(self, seeds: Sequence[Example], categories: Collection[str]) -> tuple[int, int]:
        """As `SeedUse.shown`: to a prompt that the model writes itself."""
        return declared(self.own, SeedUse).shown(seeds, categories) if self.share < 1.0 else (0, 0)

    def _slots(self, count: int) -> int:
        return max(1, round(self.share * count))

    def _taken(self, round: int, count: int) -> int:
        """Prompts that the rounds before this one took."""
        return (round - self.from_round) * -(-self._slots(count) // self.samples)


def whence(prompt: Example) -> dict[str, str]:
    """Where a prompt comes from, as metadata: its line, or its id. Other columns stay behind: some mean something to the loop."""
    return {"line": prompt.metadata["line"]} if "line" in prompt.metadata else {"id": prompt.id}


def _told(prompt: Example) -> dict[str, str]:
    voted = {VOTED: prompt.metadata[VOTED]} if VOTED in prompt.metadata else {}
    return {SOURCE: GIVEN, **whence(prompt), **voted, **({REFERENCE: prompt.response} if prompt.response.strip() else {})}


def _with_categories(context: Context, prompts: Sequence[Example]) -> list[Example]:
    """The prompts, each with a category: its own, or the one of most of the nearest seeds by cosine (of equals the nearest)."""
    seeds = [seed for seed in context.pool.seeds if seed.category]
    bare = [prompt for prompt in prompts if not prompt.category]
    if not seeds or not bare:
        return list(prompts)
    nearest = _nearest(context.encode([each.prompt for each in bare]), context.encode([seed.prompt for seed in seeds]))
    told = f"the {min(NEIGHBOURS, len(seeds))} nearest seeds"
    return [
        prompt
        if prompt.category
        else replace(
            prompt,
            category=Counter(seeds[column].category for column in next(nearest)).most_common(1)[0][0],
            metadata={**whence(prompt), VOTED: told},
        )
        for prompt in prompts
    ]


def _nearest(rows: FloatArray, known: FloatArray) -> Iterator[NDArray[np.intp]]:
    """Of each row the places of the nearest known ones, nearest first, equals in order."""
    step = _CELLS // len(known) + 1
    for start in range(0, len(rows), step):
        yield from np.argsort(-cosines(rows[start : start + step], known), axis=1, kind="stable")[:, :NEIGHBOURS]
