"""SELF-GUIDE as a setting of the loop: a few examples of one task, new inputs for it, answers, fine-tuning."""

from __future__ import annotations

from selfalign.filters import CopiedInput, EmptyResponse, Finished, LeakedMarkers, LengthRange, NoiseWords, Novelty
from selfalign.proof.alarms import Alarms
from selfalign.proposers import TaskInputs
from selfalign.recipe import Recipe
from selfalign.retrievers import Uniform
from selfalign.types import Sampling


def self_guide(*, demonstrations: int = 4) -> Recipe:
    """SELF-GUIDE (arXiv 2407.12874): a few examples of one task, inputs for it, outputs, noise and length filters, training.

    The seeds are examples of one task: prompts that share their first paragraph, the instruction, and go on with an input
    each (files of instruction, input and output are read so); or prompts of one kind without an instruction. Deviations:
    prompts and noise words are of our own wording, numbers are our own choice but for the range of two standard deviations,
    the seeds are trained on too, and inputs with a turn's marks in them, near-copies and copied inputs are dropped as well.

    Args:
        demonstrations: seeds whose inputs are shown for a new input, and that are shown for an answer.
    """
    return Recipe(
        name="self_guide",
        proposer=TaskInputs(demonstrations=demonstrations, sampling=Sampling(max_tokens=0)),
        retriever=Uniform(demonstrations=demonstrations, generated=0),
        sampling=Sampling(max_tokens=0, temperature=0.0),
        prompt_filters=(Finished(sentence_end=False), LeakedMarkers(roles=()), Novelty(max_overlap=0.99)),
        pair_filters=(Finished(sentence_end=False), EmptyResponse(), NoiseWords(), LengthRange(deviations=2.0), CopiedInput()),
        rounds=1,
        per_round=128,
        validation_share=0.2,
        alarms=Alarms(distinct_2=None, spread=None, very_short=None, very_short_rise=None),
    )
