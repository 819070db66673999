"""Baseline: random seed examples in the prompt, no training."""

from __future__ import annotations

from selfalign.encoders import Hashed, HiddenState, SentenceEncoder
from selfalign.engines import HF, OpenAI, OpenVINO, Scripted
from selfalign.evaluators import HeldOut, Refusal
from selfalign.proposers import FewShot
from selfalign.recipe import Recipe
from selfalign.retrievers import Uniform
from selfalign.trainers import NullTrainer
from selfalign.types import Format, Sampling


def icl_random(
    *,
    demonstrations: int = 8,
    format: Format = "auto",
    seed: int = 0,
    engine: HF | OpenVINO | OpenAI | Scripted = HF(),
    encoder: SentenceEncoder | HiddenState | Hashed = SentenceEncoder(),
) -> Recipe:
    """In-context learning with seed examples drawn at random for each prompt (the ISARA paper's ICL-Random).

    Every seed may be shown. Costs nothing to train, and its demonstrations at every answer; another random seed shows others.

    Args:
        demonstrations: C, seed examples shown before each prompt; fewer where the model's window is too small.
        format: the model's chat template, plain markers, or the template where there is one.
        seed: the random seed of the run.
        engine: what runs the model.
        encoder: opened by every run, not used by this one.
    """
    shown = Uniform(demonstrations=demonstrations)
    return Recipe(
        name="icl_random",
        engine=engine,
        encoder=encoder,
        proposer=FewShot(),
        retriever=shown,
        sampling=Sampling(),
        trainer=NullTrainer(),
        eval_retriever=shown,
        evaluators=(Refusal(), HeldOut()),
        rounds=0,
        format=format,
        seed=seed,
    )
