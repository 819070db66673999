"""What a training reads, worked out before it starts: which rows, with which weight, in which batches. No torch here."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from selfalign.errors import UserError
from selfalign.types import Turns, derive_seed

IGNORE = -100
"""The label of a token that is not learned (the prompt's)."""

Encoder = Callable[[str, str, Turns, str], tuple[list[int], list[int]]]
"""(prompt, response, history, system) to (token ids, labels); see `Renderer.training_ids`."""

Step = tuple[tuple[int, ...], ...]
"""One optimiser step: its micro-batches, each the positions of its units."""


@dataclass(frozen=True, slots=True)
class Row:
    """One pair as tokens."""

    place: int
    """Its position among all rows that were handed in."""
    seed: bool
    """From D0, or generated."""
    ids: tuple[int, ...]
    labels: tuple[int, ...]
    kind: str = ""
    """Its category, or the round that it is of, where the loss goes by that."""
    taught: Row | None = None
    """The same response behind what a teacher reads before it."""
    shares: tuple[float, ...] = ()
    """What each of its learned tokens counts, where the loss does not count them alike."""

    @property
    def learned(self) -> int:
        """Tokens with a label. The first token of a text has none: nothing stands before it to predict it from."""
        return sum(label != IGNORE for label in self.labels[1:])


@dataclass(frozen=True, slots=True)
class Unit:
    """What a step is made of: a row, or a preferred and a rejected one."""

    rows: tuple[Row, ...]
    counts: int
    """What it counts in the mean of a step: its learned tokens, or one however long it is."""
    weight: float = 1.0
    """Times its loss, where the loss does not count rows alike."""
    reference: tuple[float, ...] = ()
    """The log-probability of each row by a model that stands still, in nats."""

    @property
    def seed(self) -> bool:
        return self.rows[0].seed

    @property
    def kind(self) -> str:
        """Units of one kind are spread evenly over the steps."""
        return "".join(row.kind for row in self.rows)

    @property
    def size(self) -> int:
        """Tokens of the longest text of it that is read."""
        return max(len(read.ids) for row in self.rows for read in (row, row.taught) if read)


@dataclass(frozen=True, slots=True)
class Lost:
    """A row that cannot be trained on, by rule."""

    place: int
    rule: str
    evidence: str


@dataclass(frozen=True, slots=True)
class Weights:
    """What a token counts in the loss, and the share of the loss that comes from the seeds."""

    seed: float
    generated: float
    share: float


def tokenise(rows: Sequence[dict[str, Any]], encode: Encoder, limit: int, ending: int = 0) -> tuple[list[Row], list[Lost]]:
    """Every row as tokens or as lost; nothing is ever cut.

    Args:
        rows: {"prompt", "response", "history", "system", "seed"} each, and "unfinished" where the response was not ended by its
            model: it is learned, or unlearned, without an end.
        limit: the most tokens a row may have.
        ending: tokens of a response's end.
    """
    kept, lost = [], []
    for place, row in enumerate(rows):
        try:
            ids, labels = encode(row["prompt"], row["response"], row["history"], row["system"])
        except UserError as error:
            lost.append(Lost(place, "not_renderable", str(error)))
            continue
        if row.get("unfinished"):
            ids, labels = ids[: len(ids) - ending], labels[: len(labels) - ending]
        tokenised = Row(place, bool(row["seed"]), tuple(ids), tuple(labels), row.get("category", ""))
        if len(ids) > limit:
            lost.append(Lost(place, "too_long", f"{len(ids)} tokens, the limit is {limit}"))
        elif tokenised.learned == 0:
            lost.append(Lost(place, "no_labels", f"none of its {len(ids)} tokens is a response token to learn"))
        else:
            kept.append(tokenised)
    return kept, lost


def weigh(units: Sequence[Unit], seed_weight: float | None) -> Weights:
    """Weights per token (or pair) with mean 1 over the data set, so that L = γ·mean(D0) + (1-γ)·mean(generated) over its tokens.

    `seed_weight` (γ, ISARA's coefficient; the form of the loss is our reading of the paper) None gives every token weight
    1, as the authors' code does by concatenating. With one side empty all of the loss is the other's, whatever γ says.
    """
    total = sum(unit.counts for unit in units)
    seeds = sum(unit.counts for unit in units if unit.seed)
    if total == 0:
        return Weights(1.0, 1.0, 0.0)
    if seed_weight is None or seeds in (0, total):
        return Weights(1.0, 1.0, seeds / total)
    return Weights(seed_weight * total / seeds, (1 - seed_weight) * total / (total - seeds), seed_weight)


def plan(units: Sequence[Unit], seed: int, epochs: int, max_steps: int, batch: int, micro: int, devices: int = 1) -> list[Step]:
    """All optimiser steps of a training, a pure function of its arguments; a resumed training finds the same ones.

    Each epoch visits every unit once, in steps of equal size (within one, at most `batch`) that hold seeds and generated
    ones in about the proportion of the data set. Inside a step they are sorted by length, longest first, and cut into
    micro-batches of at most `micro`: little padding, no step of long rows only.
    With several devices the micro-batches of a step go round the devices in turn; an empty one fills up the last turn.
    `max_steps` > 0 replaces `epochs`: epochs follow each other until there are so many steps.
    """
    per_epoch = -(-len(units) // batch)
    wanted = max_steps if max_steps > 0 else epochs * per_epoch
    steps: list[Step] = []
    for epoch in range(-(-wanted // per_epoch)):
        order = _mixed(units, random.Random(derive_seed(seed, "epoch", epoch)))
        for chunk in _split(order, per_epoch):
            by_length = sorted(chunk, key=lambda i: (-units[i].size, i))
            pieces = -(-len(by_length) // micro)
            steps.append(tuple(_split(by_length, -(-pieces // devices) * devices)))
    return steps[:wanted]


def _mixed(units: Sequence[Unit], draw: random.Random) -> list[int]:
    """Positions in random order, seeds and generated rows (and of each the kinds) spread evenly over the whole."""
    place: dict[int, float] = {}
    kinds = sorted({unit.kind for unit in units})
    for group, kind in ((group, kind) for group in (True, False) for kind in kinds):
        members = [i for i, unit in enumerate(units) if unit.seed is group and unit.kind == kind]
        draw.shuffle(members)
        offset = draw.random()
        place.update({i: (number + offset) / len(members) for number, i in enumerate(members)})
    return sorted(place, key=lambda i: (place[i], i))


def _split(items: Sequence[int], parts: int) -> list[tuple[int, ...]]:
    """Contiguous parts whose sizes differ by at most one."""
    edges = [len(items) * part // parts for part in range(parts + 1)]
    return [tuple(items[low:high]) for low, high in pairwise(edges)]
