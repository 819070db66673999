"""The arms of the study of all recipes in RESULTS.md that need values of their own.

    selfalign study isara general-seeds.jsonl … --baselines pretrained,./benchmarks/family.py:isheep_judge,…

`isheep` with three ways to select, and `isheep_paper` made small: one round, as many slots and steps as its neighbours, lists
and answers as long. All other values are the recipes' own. Lists are sampled at 0.7, for at 1.0 this model writes no sense.
"""

from __future__ import annotations

from dataclasses import replace

from selfalign.encoders import SentenceEncoder
from selfalign.engines import HF, OpenVINO
from selfalign.recipe import Recipe
from selfalign.recipes import isheep_paper as published
from selfalign.recipes.isheep import Select, isheep
from selfalign.recipes.isheep_paper import PUBLISHED_TRAINING
from selfalign.scorers import Judge
from selfalign.trainers import SFT
from selfalign.types import Sampling

LISTS = Sampling(max_tokens=600, temperature=0.7, top_p=0.95)
ENGINE, ENCODER, TRAINER = HF(), SentenceEncoder(), SFT(max_steps=10)
Engine = HF | OpenVINO


def isheep_judge(
    *, per_round: int = 48, engine: Engine = ENGINE, encoder: SentenceEncoder = ENCODER, trainer: SFT = TRAINER, seed: int = 0
) -> Recipe:
    """Selection by the base model as the judge, whatever its calibration says."""
    return _isheep("judge", per_round, engine, encoder, trainer, seed)


def isheep_perplexity(
    *, per_round: int = 48, engine: Engine = ENGINE, encoder: SentenceEncoder = ENCODER, trainer: SFT = TRAINER, seed: int = 0
) -> Recipe:
    """Selection by the base model's perplexity."""
    return _isheep("perplexity", per_round, engine, encoder, trainer, seed)


def isheep_nothing(
    *, per_round: int = 48, engine: Engine = ENGINE, encoder: SentenceEncoder = ENCODER, trainer: SFT = TRAINER, seed: int = 0
) -> Recipe:
    """No selection but the rules."""
    return _isheep("nothing", per_round, engine, encoder, trainer, seed)


def isheep_paper(
    *, per_round: int = 48, engine: Engine = ENGINE, encoder: SentenceEncoder = ENCODER, trainer: SFT = TRAINER, seed: int = 0
) -> Recipe:
    """The paper's values at this size; of `trainer` only the number of steps."""
    return replace(
        made := published(judge=Judge(model="base", method="parsed", calibrate_on=8)),
        rounds=1,
        per_round=per_round,
        seed=seed,
        proposer=replace(made.proposer, sampling=replace(LISTS, temperature=1.0)),  # type: ignore[type-var]
        sampling=Sampling(max_tokens=128, top_p=0.95),
        engine=engine,
        encoder=encoder,
        trainer=replace(PUBLISHED_TRAINING, max_steps=trainer.max_steps),
    )


def _isheep(select: Select, per_round: int, engine: Engine, encoder: SentenceEncoder, trainer: SFT, seed: int) -> Recipe:
    recipe = replace(
        made := isheep(select=select, judge=Judge(model="base", calibrate_on=8)),
        rounds=1,
        per_round=per_round,
        min_yield=0.0,
        ignore_calibration=True,
        seed=seed,
        proposer=replace(made.proposer, sampling=LISTS),  # type: ignore[type-var]
        engine=engine,
        encoder=encoder,
        trainer=trainer,
    )
    return replace(recipe, name=f"isheep_{select}")
