"""The recipe of `gpu.py`: one round of few and short candidates, none dropped, so that every path is walked with any model."""

from __future__ import annotations

from dataclasses import replace

from selfalign.encoders import Hashed
from selfalign.engines import HF
from selfalign.proposers import FewShot
from selfalign.recipe import Recipe
from selfalign.recipes import isara
from selfalign.trainers import SFT
from selfalign.types import Sampling


def short(*, rounds: int = 1, per_round: int = 8, max_tokens: int = 24) -> Recipe:
    """Few candidates, kept whatever they say, and eight steps of training with a checkpoint every other one.

    Args:
        rounds: how often all of it is done.
        per_round: candidates of a round.
        max_tokens: of a prompt, and of an answer.
    """
    sampling = Sampling(max_tokens=max_tokens)
    recipe = replace(
        isara(demonstrations=2),
        rounds=rounds,
        per_round=per_round,
        validation_share=0.25,
        min_yield=0.0,
        # A round whose model is worse is rolled back, and is none the worse a check.
        proposer=FewShot(demonstrations=2, aim="balanced", sampling=sampling),
        sampling=sampling,
        engine=HF(batch_size=4),
        encoder=Hashed(),
        trainer=SFT(batch_size=4, save_every=2, max_steps=8),
    )
    return replace(recipe, name="short", prompt_filters=(), filters=())
