"""The method for a real server, or vLLM, and a random model: without filters, which what such a model writes would not pass."""

from __future__ import annotations

from dataclasses import replace

from selfalign.encoders import Hashed
from selfalign.engines import VLLM, OpenAI, Ray
from selfalign.proposers import FewShot
from selfalign.recipe import Recipe
from selfalign.recipes import isara
from selfalign.trainers import SFT
from selfalign.types import Sampling

DEFAULT = OpenAI()


def served(
    *,
    engine: OpenAI | VLLM | Ray = DEFAULT,
    lora_rank: int = 0,
    rounds: int = 2,
    validation_share: float = 0.0,
) -> Recipe:
    recipe = replace(
        isara(demonstrations=2),
        rounds=rounds,
        per_round=6,
        validation_share=validation_share,
        min_yield=0.0,
        proposer=FewShot(demonstrations=2, aim="balanced", sampling=Sampling(max_tokens=12)),
        sampling=Sampling(max_tokens=12),
        engine=engine,
        encoder=Hashed(),
        trainer=SFT(epochs=2, batch_size=4, lora_rank=lora_rank, learning_rate=1e-2),
    )
    return replace(recipe, name="served", prompt_filters=(), filters=())
