"""The model's own answers to the held-out prompts, made once however many evaluators read them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from selfalign.protocols import Context
from selfalign.types import Completion, Example, Request, Sampling, derive_seed

GREEDY = Sampling(max_tokens=96, temperature=0.0)


def answers(context: Context, held_out: Sequence[Example], sampling: Sampling) -> list[Completion]:
    """Answers without demonstrations, in order.

    The same stage and requests whoever asks, so the run's journal answers the second evaluator. Another way of decoding is
    another stage: it must not be given the answers of the first.
    """
    stage = "held_out"
    if sampling != GREEDY:
        stage += "_" + hashlib.sha256(repr(sampling).encode()).hexdigest()[:6]
    requests = [
        Request(id=example.id, prompt=example.prompt, seed=derive_seed(context.seed, "held_out", row))
        for row, example in enumerate(held_out)
    ]
    return [completion for _, completion in context.generate(stage, requests, sampling)]
