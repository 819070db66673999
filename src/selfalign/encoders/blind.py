"""Whether an encoder can read the seeds at all: what it makes of a script that it was never shown is chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from selfalign.encoders.sentence import SentenceEncoder
from selfalign.protocols import Encode, Flags, declared
from selfalign.text import TENTH, languages, normalise, rouge_l_matrix
from selfalign.types import Example

UNREAD = 0.15
"""Above: the share of letters and marks that is too much to lose. all-MiniLM-L6-v2 loses 0 to 10 % in twelve languages in Latin
letters (accents without which a reader would guess the word), 31 % in Vietnamese, 35 % in Hindi, 57 to 89 % in Russian,
Ukrainian, Greek, Arabic, Persian, Hebrew, Armenian, Georgian, Korean, Japanese and Chinese, all in Thai (our own measurement on
one to twenty sentences each). Of ten questions put in other words it finds all in English, 4 or 5 in German and Polish, 2 or 3 in
Russian, Greek and Arabic, where unrelated ones have cosines of 0.56 to 0.75 (English: 0.07)."""
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
            what = f"{name} cannot read {lost:.0%} of the letters and marks of the seeds' {side}"
            return f"{what}, as its vocabulary lacks them, or has the letters and none of the words"
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


def of_many_languages(encoder: object, seeds: Sequence[Example]) -> str:
    """An encoder for the seeds' language, where that is none of the bundled encoder's; "" elsewhere (see `UNREAD`)."""
    spoken = languages([seed.prompt for seed in seeds])
    if not isinstance(encoder, SentenceEncoder) or encoder.model != SentenceEncoder.model or not spoken or "en" in spoken:
        return ""
    return (
        f"the bundled encoder learned English, and the prompts are in {', '.join(spoken)}: --encoder.model"
        " sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2 knows some fifty languages"
    )
