"""Self-Instruct as a setting of the loop: tasks from lists, a label first where the answer is one, plain fine-tuning."""

from __future__ import annotations

from selfalign import filters
from selfalign.filters.tasks import SELF_INSTRUCT
from selfalign.proposers import SelfInstruct
from selfalign.recipe import Recipe
from selfalign.retrievers import Uniform
from selfalign.trainers import SFT
from selfalign.types import Sampling


def self_instruct(*, human: int = 6, generated: int = 2, demonstrations: int = 4) -> Recipe:
    """Self-Instruct (arXiv 2212.10560): six human and two generated tasks begin a list, its rules, and no judge.

    Deviations: prompts are of our own wording. Theirs grows one pool in many small steps and trains once; here a round's
    tasks are shown from the next round on, and each round trains the base model on all pairs so far, seeds included (for one
    training after all generation there is no slot). The answer to a task that is none of classification is written by the
    loop's answer step, which shows seed examples in the model's format. Tasks with a turn's marks in them and answers that ran
    into max_tokens are dropped. There is no presence penalty. Whether a task is one
    of classification is read from the likelihood of Yes and No. For classification labels the seeds must say in their
    metadata which they are (`is_classification`, as in Self-Instruct's seed file); else all tasks go input-first.

    Args:
        human: seeds shown in a list.
        generated: tasks of earlier rounds shown with them.
        demonstrations: seed examples shown before an answer is written.
    """
    return Recipe(
        name="self_instruct",
        proposer=SelfInstruct(human=human, generated=generated, sampling=Sampling(max_tokens=512, temperature=0.7, top_p=0.5)),
        retriever=Uniform(demonstrations=demonstrations, generated=0),
        sampling=Sampling(max_tokens=0, temperature=0.0),
        trainer=SFT(full_rate=5e-5, epochs=2),
        prompt_filters=filters.published(
            filters.TaskLength(),
            filters.Blacklist(words=SELF_INSTRUCT),
            filters.TaskStart(phrases=("Write a program",)),
            filters.LeakedMarkers(roles=()),
            filters.Novelty(max_overlap=0.7, field="instruction", unicode=False),
        ),
        pair_filters=filters.published(
            filters.Finished(sentence_end=False), filters.EmptyResponse(), filters.CopiedInput(), filters.Exact(ignore_case=True)
        ),
        per_round=200,
        ignore_seed_rules=True,
        start_from="base",
        train_on="all",
        validation_share=0.2,
    )
