"""Baseline: supervised fine-tuning on the seed examples as the ISARA paper runs it."""

from __future__ import annotations

from selfalign.encoders import Hashed, HiddenState, SentenceEncoder
from selfalign.engines import HF, OpenAI, OpenVINO, Scripted
from selfalign.evaluators import HeldOut, Refusal
from selfalign.proposers import FewShot
from selfalign.recipe import Recipe
from selfalign.recipes.isara_paper import PUBLISHED_TRAINING
from selfalign.retrievers import Knn
from selfalign.trainers import SFT, NullTrainer
from selfalign.types import Format, Sampling


def sft_paper(
    *,
    rounds: int = 2,
    learning_rate_decay: float = 0.5,
    format: Format = "isara",
    seed: int = 42,
    engine: HF | OpenVINO | OpenAI | Scripted = HF(batch_size=4),
    encoder: SentenceEncoder | HiddenState | Hashed = SentenceEncoder(),
    trainer: SFT | NullTrainer = PUBLISHED_TRAINING,
) -> Recipe:
    """The SFT baseline of ISARA (arXiv 2401.06785): the seeds alone, one epoch of steps of 32 in each of two iterations.

    With the paper's 64 seeds that is two optimiser steps an iteration, far fewer than its loop takes: `sft` is the fair one.
    Trainer and text layout are those of `isara_paper`; the last iteration is kept.

    Args:
        rounds: iterations; the paper reports 2.
        learning_rate_decay: the scripts halve the learning rate each iteration.
        format: theirs is a plain text layout with markers.
        seed: the random seed of the run; theirs is 42.
        engine: what runs the model.
        encoder: opened by every run, not used by this one.
        trainer: what trains; effective batch 32 in micro-batches of 4.
    """
    evaluation = Sampling(max_tokens=200, temperature=0.0)
    return Recipe(
        name="sft_paper",
        engine=engine,
        encoder=encoder,
        proposer=FewShot(),
        retriever=Knn(),
        sampling=Sampling(),
        trainer=trainer,
        evaluators=(Refusal(sampling=evaluation), HeldOut(sampling=evaluation)),
        rounds=rounds,
        per_round=0,
        learning_rate_decay=learning_rate_decay,
        format=format,
        seed=seed,
    )
