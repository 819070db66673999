"""A recipe without filters: a random model writes noise, and noise is all that these tests need."""

from __future__ import annotations

from dataclasses import replace

from selfalign.encoders import Hashed
from selfalign.engines import HF
from selfalign.proposers import FewShot
from selfalign.recipe import Recipe
from selfalign.recipes import isara
from selfalign.trainers import SFT
from selfalign.types import Sampling


def tiny(*, rounds: int = 2, epochs: int = 2, lora_rank: int = 0) -> Recipe:
    """Two rounds of a few tokens, trained in steps of four with a checkpoint every other step."""
    recipe = replace(
        isara(demonstrations=2),
        rounds=rounds,
        per_round=6,
        validation_share=0.0,
        min_yield=0.0,
        proposer=FewShot(demonstrations=2, aim="rarest", sampling=Sampling(max_tokens=12)),
        sampling=Sampling(max_tokens=12),
        engine=HF(batch_size=4, dtype="float32"),
        encoder=Hashed(),
        trainer=SFT(epochs=epochs, batch_size=4, save_every=2, lora_rank=lora_rank, learning_rate=1e-3),
    )
    return replace(recipe, name="tiny", prompt_filters=(), filters=())
