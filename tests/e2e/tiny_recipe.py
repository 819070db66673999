"""A recipe without filters: a random model writes noise, and noise is all that these tests need."""

from __future__ import annotations

from dataclasses import replace

from selfalign.encoders import Hashed
from selfalign.engines import HF
from selfalign.recipe import Recipe
from selfalign.recipes.isara import isara
from selfalign.trainers import SFT
from selfalign.types import Sampling


def tiny(*, rounds: int = 2, epochs: int = 2, lora_rank: int = 0) -> Recipe:
    """Two rounds of a few tokens, trained in steps of four with a checkpoint every other step."""
    recipe = isara(
        rounds=rounds,
        per_round=6,
        demonstrations=2,
        validation_share=0.0,
        min_yield=0.0,
        prompt_sampling=Sampling(max_tokens=12),
        sampling=Sampling(max_tokens=12),
        engine=HF(batch_size=4, dtype="float32"),
        encoder=Hashed(),
        trainer=SFT(epochs=epochs, batch_size=4, save_every=2, lora_rank=lora_rank, learning_rate=1e-3),
    )
    return replace(recipe, name="tiny", prompt_filters=(), filters=())
