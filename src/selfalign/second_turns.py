"""Second turns: kept pairs that the model itself goes on with, first as the user, then as the assistant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from selfalign.protocols import Context
from selfalign.types import Demonstration, Example, Request, Sampling, derive_seed


@dataclass(frozen=True)
class SecondTurns:
    """Extends a share of a round's kept pairs by a second turn; each is a candidate of its own, `<id of the first>.2`.

    I-SHEEP trains on single turns alone, and its second turn on MT-Bench falls from 7.6 to 3.5 (arXiv 2408.08072). The user's
    message is written as Magpie (2406.08464) has it, by opening the user's turn and leaving it to the model; the answer is
    made and filtered as the recipe makes and filters first ones. That only what was kept is extended is our own choice: a
    follow-up to a bad answer is a bad follow-up.
    """

    share: float = 0.0
    """Of a round's kept pairs, drawn at random; 0 extends none."""
    sampling: Sampling = field(default_factory=lambda: Sampling(max_tokens=48, temperature=0.8))
    """How the user's messages are decoded."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"SecondTurns: share = {self.share} is out of range: between 0 and 1")

    def propose(self, context: Context, kept: Sequence[Example], first_slot: int) -> list[Example]:
        """A draft for each pair drawn, in the order of `kept`, slots from `first_slot` on; see `Proposer.propose`.

        It has no category (nobody aimed at one), and the first turn for its only demonstration.
        """
        random = np.random.default_rng(derive_seed(context.seed, context.round, "second_turns"))
        drawn = sorted(random.permutation(len(kept))[: round(self.share * len(kept))].tolist())
        requests = [
            Request(
                id=f"{first.id}.2",
                history=((first.prompt, first.response),),
                seed=derive_seed(context.seed, context.round, "second_turns", first.slot),
            )
            for first in (kept[place] for place in drawn)
        ]
        return [
            Example(
                id=request.id,
                prompt=completion.text,
                response="",
                round=context.round,
                slot=slot,
                prompt_finish=completion.finish,
                prompt_demonstrations=(Demonstration(kept[place].id),),
                history=request.history,
            )
            for slot, (place, (request, completion)) in enumerate(
                zip(drawn, context.generate("propose_second_turn", requests, self.sampling), strict=True), first_slot
            )
        ]


NONE = SecondTurns()
