"""Replay: general prompts, answered by the base model itself, that are trained on beside what a run is about."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from selfalign.proposers.given import Prompts, whence
from selfalign.types import Example, Sampling


@cache
def bundled() -> Prompts:
    """General prompts of our own writing: questions, rewriting, lists, sums, small talk, code."""
    lines = (files("selfalign") / "data" / "replay" / "prompts.jsonl").read_text("utf-8").splitlines()
    return Prompts(tuple(Example(f"general-{i:03d}", json.loads(line)["prompt"], "", slot=i) for i, line in enumerate(lines)))


@dataclass(frozen=True)
class Replay:
    """So many prompts, drawn by the run's random seed, whose answers by the base model are rows of every round's training.

    A model that is trained on one behaviour alone unlearns others. That a model's own answers can stand for data it no longer
    sees is shown by self-synthesised rehearsal (arXiv 2403.01244); theirs writes the prompts too and lets a later model mend the
    answers, where ours are given, so that nothing depends on a base model that cannot write prompts.
    """

    count: int
    prompts: Prompts = field(default_factory=bundled)
    sampling: Sampling = field(default_factory=lambda: Sampling(max_tokens=256, temperature=0.0))
    """Greedy, the answers that the base model would give; with room of their own, as the seeds may be short."""

    def __post_init__(self) -> None:
        there = len(self.prompts.examples)
        if not 1 <= self.count <= there:
            raise ValueError(
                f"replay = {self.count} is out of range: 0 for none, and at most {there}, the prompts that there are"
            )

    @property
    def general(self) -> bool:
        """Whether the prompts are those that come with the package, which are in English."""
        return self.prompts == bundled()

    def drafts(self, seed: int) -> list[Example]:
        """The prompts of a run of this random seed, of round 0 and without answers."""
        drawn = self.prompts.drawn(seed, "replay")[: self.count]
        return [
            Example(
                id=f"replay-{slot:05d}",
                prompt=prompt.prompt,
                response="",
                slot=slot,
                metadata=whence(prompt),
                history=prompt.history,
                system=prompt.system,
            )
            for slot, prompt in enumerate(drawn)
        ]
