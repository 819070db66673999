"""Whether an encoder can read the seeds at all: what it makes of a script that it was never shown is chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from selfalign.protocols import Encode, Flags, declared
from selfalign.text import TENTH, normalise, rouge_l_matrix
from selfalign.types import Example

UNREAD = 0.15
"""Above: the share of letters and marks that is too much to lose. all-MiniLM-L6-v2 loses 1 to 10 % in European languages (accents
without which a reader would guess the word), 24 % in Vietnamese and Korean, 35 % in Hindi, 72 % in Chinese, all in Thai (our own
measurement on ten to twenty sentences each)."""
SAME, APART = 0.98, 0.5
"""Two prompts are nearly the same to an encoder from this cosine on; below this ROUGE-L F1 they are not."""
_SAMPLE = 256


@runtime_checkable
class Reading(Protocol):
    """An encoder that can say how much of a text reaches it."""

    def unread(self, texts: Sequence[str]) -> float:
        """The share of letters and combining marks that its tokeniser loses."""
        ...


def encoder_blind(encoder: object, seeds: Sequence[Example], encode: Encode | None = None) -> str:
    """Why an encoder says nothing of texts such as the seeds', in one sentence with figures; "" where it does.

    Then the model's own hidden states (`HiddenState`) are the better choice; of an encoder that is made of them, and not
    `fixed`, nothing is said. `encode` is the encoder, opened; None looks at its tokeniser alone.

    Raises UserError: a package or the encoder's model is missing.
    """
    if not declared(encoder, Flags).fixed or not seeds:
        return ""
    drawn, name = seeds[:: -(-len(seeds) // _SAMPLE)], type(encoder).__name__
    if isinstance(encoder, Reading):
        # Each by itself, as code or JSON that can be read would hide prompts that cannot. Answers are compared by category alone.
        texts = {"prompts": [seed.prompt for seed in drawn]}
        texts |= {"responses": [seed.response for seed in drawn]} if any(seed.category for seed in drawn) else {}
        lost, side = max((encoder.unread(those), side) for side, those in texts.items())
        if lost > UNREAD:
            return f"{name} cannot read {lost:.0%} of the letters and marks of the seeds' {side}, which its vocabulary lacks"
    prompts = list({normalise(seed.prompt): seed.prompt for seed in drawn}.values())
    if encode is None or len(prompts) < 3:
        return ""
    vectors = encode(prompts)
    near = (vectors @ vectors.T >= SAME) & (rouge_l_matrix(prompts, prompts, unicode=True) < APART)
    confused = np.flatnonzero(near.any(axis=1))
    if len(confused) <= TENTH * len(prompts):
        return ""
    one, other = prompts[confused[0]], prompts[int(near[confused[0]].argmax())]
    return (
        f"{name} takes {len(confused)} of {len(prompts)} prompts of the seeds for another one in other words (cosine of at least "
        f"{SAME}), such as {one[:80]!r} for {other[:80]!r}"
    )
