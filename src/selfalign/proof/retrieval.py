"""Whether retrieval finds anything near: a prompt that is shown nothing like it is answered in imitation of something else."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from selfalign.proof.stats import wilson
from selfalign.types import Example, FloatArray, Metric

SEEDS, PROMPTS = 12, 20
"""Seeds and prompts below which nothing is said."""
NOTABLE = 0.25
"""Share of far prompts above which they are a finding. Of prompts that are like the seeds, more than a quarter lie beyond the
seeds' own limit in 3 runs of 100 where there are 12 seeds, in 2 of 100 with 20 and in 1 of 1,000 with 40 (the least, or second
least, of so many draws): a quarter says that the prompts are others, and not that the seeds are few (our own choice)."""
_ROWS, _CELLS = 1024, 1 << 24  # rows and similarities held at once: 64 MiB as float32


def nearest_other(vectors: FloatArray) -> list[float]:
    """Each row's highest cosine with another one; vectors of shape (n, d), rows of unit length, n > 1."""
    found: list[float] = []
    step = min(_ROWS, _CELLS // len(vectors) + 1)
    for start in range(0, len(vectors), step):
        near = vectors[start : start + step] @ vectors.T
        near[np.arange(len(near)), np.arange(start, start + len(near))] = -np.inf
        found += near.max(axis=1).tolist()
    return found


def far_from_shown(
    round: int, answered: Sequence[Example], kept: Collection[str], seeds: Sequence[float]
) -> tuple[list[Metric], str]:
    """The share of a round's prompts that lie far from every example their answer was shown (Wilson), and the finding in words;
    "" for none.

    Far is farther, by cosine, than all but a twentieth of the seeds (below 20 than all of them) lie from the nearest other
    seed: as near as the seeds are to each other is what a set of this kind can offer. The limit is our own choice, and drops
    nothing: an answer far from all that was shown may be a good one, and the filters judge it.

    Args:
        answered: the round's prompts with the examples that their answers were shown; those without a similarity (drawn at
            random) do not count.
        kept: ids of those that were kept.
        seeds: of each seed to show the cosine with the nearest other one, by the same encoder.
    """
    nearest = {
        example.id: max(similarities)
        for example in answered
        if (similarities := [shown.similarity for shown in example.response_demonstrations if shown.similarity is not None])
    }
    if len(seeds) < SEEDS or not nearest:
        return [], ""
    limit = sorted(seeds)[len(seeds) // 20]
    far = [id for id, similarity in nearest.items() if similarity < limit]
    metric = Metric("diversity_far_from_shown", *wilson(len(far), len(nearest)), n=len(nearest), unit="share", better="lower")
    if len(nearest) < PROMPTS or metric.value <= NOTABLE:
        return [metric], ""
    near = [id for id in nearest if id not in set(far)]
    shares = [f"{sum(id in kept for id in ids) / len(ids):.0%}" for ids in (far, near) if ids]
    others = f", those to the others {shares[1]}" if near else ""
    within = sum(similarity >= limit for similarity in seeds)
    most = f"all {within} seeds" if within == len(seeds) else f"{within} of the {len(seeds)} seeds"
    return [metric], (
        f"round {round}: {metric.value:.0%} of {len(nearest)} prompts lie farther from every example they were shown than {most}"
        f" lie from the nearest other seed (cosine below {limit:.2f}); answers to them were kept {shares[0]} of the time{others}."
        " What such an answer was shown is about something else than its prompt asks for: read some of them; seeds of more kinds,"
        " or prompts nearer to the seeds, would mend it"
    )
