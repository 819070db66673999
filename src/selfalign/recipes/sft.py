"""Baseline: the seed examples alone, trained as long as the loop was."""

from __future__ import annotations

from selfalign.encoders import Hashed, HiddenState, SentenceEncoder
from selfalign.engines import HF, OpenAI, OpenVINO, Scripted
from selfalign.evaluators import HeldOut, Refusal
from selfalign.proposers import FewShot
from selfalign.recipe import Recipe, RollBack, StartFrom
from selfalign.retrievers import Knn
from selfalign.trainers import SFT, NullTrainer
from selfalign.types import Format, Sampling


def sft(
    *,
    steps: tuple[int, ...] = (),
    rounds: int = 2,
    start_from: StartFrom = "previous",
    learning_rate_decay: float = 0.5,
    validation_share: float = 0.2,
    roll_back: RollBack = "worse",
    format: Format = "auto",
    seed: int = 0,
    engine: HF | OpenVINO | OpenAI | Scripted = HF(),
    encoder: SentenceEncoder | HiddenState | Hashed = SentenceEncoder(),
    trainer: SFT | NullTrainer = SFT(learning_rate=5e-5, epochs=3),
) -> Recipe:
    """Plain supervised fine-tuning on the seed examples, matched to a loop: as many optimiser steps, the same choice of round.

    The published baseline has four optimiser steps where the loop has dozens; a loop that beats that has shown little. This
    one has the loop's trainer, rates and rounds and its choice of the round on validation seeds; only the generated pairs
    are missing. `selfalign study` fills in the steps of the run it is compared with.

    Args:
        steps: optimiser steps of each round, such as [24,30]; empty leaves them to the trainer.
        rounds: rounds of training where no steps are given.
        start_from: train each round from the previous round's model or from the base.
        learning_rate_decay: factor on the learning rate from one round to the next.
        validation_share: share of the seeds held out to choose the round.
        roll_back: the round that falls and ends the run: one worse than the best one by a paired test on those seeds, or one
            whose mean is no better. One no better than the model as it came falls either way.
        format: the model's chat template, plain markers, or the template where there is one.
        seed: the random seed of the run.
        engine: what runs the model.
        encoder: opened by every run, not used by this one.
        trainer: what trains.
    """
    return Recipe(
        name="sft",
        engine=engine,
        encoder=encoder,
        proposer=FewShot(),
        retriever=Knn(),
        sampling=Sampling(),
        trainer=trainer,
        evaluators=(Refusal(), HeldOut()),
        rounds=len(steps) or rounds,
        per_round=0,
        steps=tuple(steps),
        start_from=start_from,
        learning_rate_decay=learning_rate_decay,
        validation_share=validation_share,
        roll_back=roll_back,
        format=format,
        seed=seed,
    )
