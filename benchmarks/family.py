"""`isheep_paper` at a size that two cores can run beside its neighbours: an arm of the study of all recipes in RESULTS.md.

    selfalign study isheep general-seeds.jsonl … --baselines pretrained,./benchmarks/family.py:isheep_paper_small,…

All values are the paper's but those that make it small and comparable: one round, 48 tasks instead of 10,000, answers and
lists as long as its neighbours', as many optimiser steps as they take.
"""

from __future__ import annotations

from dataclasses import replace

from selfalign.encoders.sentence import SentenceEncoder
from selfalign.engines.hf import HF
from selfalign.engines.openvino import OpenVINO
from selfalign.recipe import Recipe
from selfalign.recipes.isheep_paper import PUBLISHED_TRAINING, isheep_paper
from selfalign.scorers.judge import Judge
from selfalign.types import Sampling

PER_ROUND, STEPS = 48, 12
ENGINE, ENCODER = HF(), SentenceEncoder()


def isheep_paper_small(*, engine: HF | OpenVINO = ENGINE, encoder: SentenceEncoder = ENCODER, seed: int = 0) -> Recipe:
    """One round of `isheep_paper` with 48 slots and 12 optimiser steps."""
    small = isheep_paper(
        rounds=1,
        per_round=PER_ROUND,
        seed=seed,
        prompt_sampling=Sampling(max_tokens=600, top_p=0.95),
        sampling=Sampling(max_tokens=128, top_p=0.95),
        judge=Judge(model="base", method="parsed", calibrate_on=8),
        engine=engine,
        encoder=encoder,
        trainer=replace(PUBLISHED_TRAINING, max_steps=STEPS),
    )
    return replace(small, name="isheep_paper_small")
