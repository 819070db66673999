"""The baselines that a loop is compared with: the base model, seeds in its prompt, and fine-tuning on the seeds alone."""

from __future__ import annotations

from selfalign.engines import HF
from selfalign.recipe import Recipe
from selfalign.retrievers import Copied, Knn, Uniform
from selfalign.text import ISARA_MARKERS
from selfalign.trainers import SFT
from selfalign.types import Sampling

PUBLISHED_TRAINING = SFT(
    method="full",
    learning_rate=2e-5,
    epochs=1,
    batch_size=32,
    micro_batch=4,
    schedule="cosine",
    warmup=0.03,
    weight_decay=0.0,
    max_grad_norm=1.0,
    adam_beta1=0.9,
    adam_beta2=0.95,
    max_length=2048,
)
"""The trainer of ISARA's scripts: effective batch 32 in micro-batches of 4."""
PUBLISHED_EVALUATION = Sampling(max_tokens=200, temperature=0.0, stop=ISARA_MARKERS)
"""How ISARA's scripts decode the answers that they measure: greedy, cut at their markers."""
PUBLISHED_ENGINE = HF(batch_size=40)
"""Eight prompts of five beams at once."""


def pretrained() -> Recipe:
    """The base model: nothing is trained and nothing shown, which is the least that a loop has to be better than.

    Greedy answers, so the random seed changes nothing.
    """
    return Recipe(name="pretrained", rounds=0)


def icl_knn(*, demonstrations: int = 8) -> Recipe:
    """In-context learning with the seed examples nearest to each prompt (the ISARA paper's ICL-kNN).

    Every seed may be shown, whatever its category: a prompt to be answered has no label. Costs nothing to train, and its
    demonstrations at every answer. Greedy answers, so the random seed changes nothing.

    Args:
        demonstrations: C, seed examples shown before each prompt; fewer where the model's window is too small.
    """
    shown = Knn(demonstrations=demonstrations)
    return Recipe(name="icl_knn", rounds=0, retriever=shown, eval_retriever=shown)


def icl_random(*, demonstrations: int = 8) -> Recipe:
    """In-context learning with seed examples drawn at random for each prompt (the ISARA paper's ICL-Random).

    Every seed may be shown. Costs nothing to train, and its demonstrations at every answer; another random seed shows others.

    Args:
        demonstrations: C, seed examples shown before each prompt; fewer where the model's window is too small.
    """
    shown = Uniform(demonstrations=demonstrations)
    return Recipe(name="icl_random", rounds=0, retriever=shown, eval_retriever=shown)


def copy_nearest() -> Recipe:
    """Answers each held-out prompt with the response of the seed nearest to it, word for word: what needs no model at all.

    For labels and other answers of a few kinds it is a classifier by one neighbour. Where it does as well as a trained model, the
    test does not show that training was worth it. (Our own choice.)
    """
    return Recipe(name="copy_nearest", rounds=0, eval_retriever=Copied(Knn(demonstrations=1)))


def copy_random() -> Recipe:
    """Answers each held-out prompt with the response of a seed drawn at random: what chance reaches, in the seeds' own form.

    A metric on which it does well measures form, and not what is said. (Our own choice.)
    """
    return Recipe(name="copy_random", rounds=0, eval_retriever=Copied(Uniform(demonstrations=1)))


def sft() -> Recipe:
    """Plain supervised fine-tuning on the seed examples, matched to a loop: as many optimiser steps, the same choice of round.

    The published baseline has four optimiser steps where the loop has dozens; a loop that beats that has shown little. This
    one has the loop's trainer, rates and rounds and its choice of the round on validation seeds; only the generated pairs
    are missing. `selfalign study` fills in the steps of the run it is compared with.
    """
    return Recipe(name="sft", per_round=0, learning_rate_decay=0.5, validation_share=0.2)


def sft_paper() -> Recipe:
    """The SFT baseline of ISARA (arXiv 2401.06785): the seeds alone, one epoch of steps of 32 in each of two iterations.

    With the paper's 64 seeds that is two optimiser steps an iteration, far fewer than its loop takes: `sft` is the fair one.
    Trainer and text layout are those of `isara_paper`; the scripts halve the learning rate each iteration, their random seed is
    42, and the last iteration is kept.
    """
    return Recipe(
        name="sft_paper",
        engine=PUBLISHED_ENGINE,
        trainer=PUBLISHED_TRAINING,
        eval_sampling=PUBLISHED_EVALUATION,
        per_round=0,
        learning_rate_decay=0.5,
        format="isara",
        seed=42,
    )
