"""Baseline: the nearest seed examples in the prompt, no training."""

from __future__ import annotations

from selfalign.encoders import Hashed, HiddenState, SentenceEncoder
from selfalign.engines import HF, OpenAI, OpenVINO, Scripted
from selfalign.evaluators import HeldOut, Refusal
from selfalign.proposers import FewShot
from selfalign.recipe import Recipe
from selfalign.retrievers import Knn
from selfalign.trainers import NullTrainer
from selfalign.types import Format, Sampling


def icl_knn(
    *,
    demonstrations: int = 8,
    format: Format = "auto",
    seed: int = 0,
    engine: HF | OpenVINO | OpenAI | Scripted = HF(),
    encoder: SentenceEncoder | HiddenState | Hashed = SentenceEncoder(),
) -> Recipe:
    """In-context learning with the seed examples nearest to each prompt (the ISARA paper's ICL-kNN).

    Every seed may be shown, whatever its category: a prompt to be answered has no label. Costs nothing to train, and its
    demonstrations at every answer. Greedy answers, so the random seed changes nothing.

    Args:
        demonstrations: C, seed examples shown before each prompt; fewer where the model's window is too small.
        format: the model's chat template, plain markers, or the template where there is one.
        seed: the random seed of the run.
        engine: what runs the model.
        encoder: what embeds prompts to find the nearest.
    """
    shown = Knn(demonstrations=demonstrations)
    return Recipe(
        name="icl_knn",
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
