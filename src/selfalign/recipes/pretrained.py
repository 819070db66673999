"""Baseline: the model as it came."""

from __future__ import annotations

from selfalign.encoders import Hashed, HiddenState, SentenceEncoder
from selfalign.engines import HF, OpenAI, OpenVINO, Scripted
from selfalign.evaluators import HeldOut, Refusal
from selfalign.proposers import FewShot
from selfalign.recipe import Recipe
from selfalign.retrievers import Knn
from selfalign.trainers import NullTrainer
from selfalign.types import Format, Sampling


def pretrained(
    *,
    format: Format = "auto",
    seed: int = 0,
    engine: HF | OpenVINO | OpenAI | Scripted = HF(),
    encoder: SentenceEncoder | HiddenState | Hashed = SentenceEncoder(),
) -> Recipe:
    """Nothing is trained and nothing shown: what a loop has to be better than at the least.

    Greedy answers, so the random seed changes nothing.

    Args:
        format: the model's chat template, plain markers, or the template where there is one.
        seed: the random seed of the run.
        engine: what runs the model.
        encoder: opened by every run, not used by this one.
    """
    return Recipe(
        name="pretrained",
        engine=engine,
        encoder=encoder,
        proposer=FewShot(),
        retriever=Knn(),
        sampling=Sampling(),
        trainer=NullTrainer(),
        evaluators=(Refusal(), HeldOut()),
        rounds=0,
        format=format,
        seed=seed,
    )
