"""SELF-GUIDE's prompts: new inputs for the one task that the seeds are examples of."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from selfalign.proposers._drafts import at_least, drawn, request, written
from selfalign.proposers._lists import english_around
from selfalign.protocols import Context
from selfalign.text import join_task, one_line, split_task
from selfalign.types import Example, Request, Sampling, derive_seed


@dataclass(frozen=True)
class TaskInputs:
    """Inputs of a few examples are shown below the task's instruction, and the next one is written (arXiv 2407.12874).

    The instruction is the first paragraph of the seeds' prompts, where all of them share it and go on with an input; else the
    prompts as a whole count as inputs of a task that is not put into words. The wording is our own.
    """

    demonstrations: int = 4
    """Seeds whose inputs are shown."""
    generated: int = 0
    """How many inputs of each earlier round are shown in place of seeds."""
    sampling: Sampling = field(default_factory=lambda: Sampling(max_tokens=256, temperature=1.0))

    def __post_init__(self) -> None:
        at_least(self, demonstrations=1, generated=0)

    def propose(self, context: Context, count: int) -> list[Example]:
        """`count` drafts in slot order; request ids are the drafts' ids."""
        instruction = shared_instruction(context.pool.seeds)
        requests = [self._request(context, slot, instruction) for slot in range(count)]
        sampling = replace(self.sampling, stop=(*self.sampling.stop, "\nInput "))
        drafts = [written(context, slot, *each) for slot, each in enumerate(context.generate("propose", requests, sampling))]
        return [replace(e, prompt=join_task(instruction, e.prompt)) if instruction and e.prompt else e for e in drafts]

    def shown(self, seeds: Sequence[Example], categories: Collection[str]) -> tuple[int, int]:
        """As `SeedUse.shown`."""
        return self.demonstrations, min(self.demonstrations, len(seeds))

    def void(self, seeds: Sequence[Example]) -> str:
        """As `proof.seed_rules.Voidable`."""
        return english_around(seeds)

    def _request(self, context: Context, slot: int, instruction: str) -> Request:
        random = np.random.default_rng(derive_seed(context.seed, context.round, "propose", slot))
        shown: list[Example] = []
        for part, size in context.pool.shares(self.demonstrations, self.generated):
            shown += drawn(part, size, random)
        head = f"Task: {one_line(instruction)}\n\n" if instruction else ""
        inputs = [split_task(example.prompt)[1] if instruction else example.prompt for example in shown]
        text = "".join(f"Input {number}:\n{input.strip()}\n\n" for number, input in enumerate(inputs, start=1))
        return request(context, slot, shown, text=f"{head}Different inputs for the task:\n\n{text}Input {len(shown) + 1}:\n")


def shared_instruction(seeds: Sequence[Example]) -> str:
    """The instruction that all seeds have with an input; "" where they have none in common."""
    parts = [split_task(seed.prompt) for seed in seeds]
    common = {instruction for instruction, _ in parts}
    return common.pop() if len(common) == 1 and all(input for _, input in parts) else ""
