"""Direct preference optimisation: on the seeds alone, once or against every round's samples, and on new prompts whose
categories contrast."""

from __future__ import annotations

from dataclasses import replace

from selfalign.filters import Differs
from selfalign.proof.alarms import Alarms
from selfalign.proposers import Contrasted, Rivals
from selfalign.recipe import Recipe
from selfalign.recipes.isara import isara
from selfalign.retrievers import Uniform
from selfalign.trainers import DPO, SFT, Ditto
from selfalign.types import Sampling


def dpo() -> Recipe:
    """DPO (arXiv 2305.18290) on the seeds: their answers preferred to the model's own answers to the same prompts.

    One round: the start model answers the seeds' prompts (where a seed brings a `rejected` answer, that is taken), what is the
    seed's own answer is dropped, and the model learns the preference, with a term for imitation against answers that grow less
    probable on both sides. A second round would have the newest model as its reference, as SPIN (2401.01335) does.

    `per_round` is the number of pairs; above the number of seeds they get several rejected answers each. Rate and numbers are
    our own choice.
    """
    return Recipe(
        name="dpo",
        proposer=Rivals(),
        retriever=Uniform(demonstrations=0),
        sampling=Sampling(max_tokens=0, temperature=1.0),
        trainer=SFT(full_rate=2e-5, epochs=3, loss=DPO()),
        filters=(Differs(),),
        rounds=1,
        per_round=128,
        min_yield=0.0,
        validation_share=0.2,
        alarms=Alarms(action="off"),
    )


def ditto() -> Recipe:
    """DITTO (arXiv 2406.00888): the seeds preferred to the model's own answers, and newer ones of these to older ones.

    Round 1 is plain fine-tuning on the seeds until its loss is below 1, or 30 steps; its model is the fixed reference of all that
    follows. Each of four more rounds has the newest model answer the seeds' prompts and trains 10 steps of 24 pairs on it: 70 %
    a seed over one of these samples, 20 % over one of an earlier round, 10 % a newer sample over an older one; β 0.05. Where a
    seed brings a `rejected` answer, that is taken for a sample.

    Deviations: a round draws as many samples as its steps compare (168), so that each is compared once, and their number for
    each prompt follows from that (the paper draws 10 for each of its 7 prompts and compares each more than twice); there is a
    term for imitation of the seeds, against likelihood displacement; rates are for all weights of a small model (the paper's
    3e-5 and 1e-6 are an adapter's on 7B), and the optimiser starts anew in each round, with a warm-up of two steps; the round to
    ship is chosen on validation seeds.
    """
    return replace(
        dpo(),
        name="ditto",
        trainer=SFT(full_rate=2e-6, max_steps=10, batch_size=24, schedule="constant", warmup=0.2, loss=Ditto()),
        evaluate="shipped",
        rounds=5,
        per_round=168,
        train_on="all",
    )


def contrast(*, demonstrations: int = 5, aim: str = "balanced") -> Recipe:
    """ISARA's round, and each answer preferred to what examples of another category make of the same prompt; learned by DPO.

    The answers of the seeds and of the new pairs are the preferred ones; the rejected ones are the model's own, shown another
    category's examples and kept where they look like that category's. The loss has a term for imitation, so that the preferred
    answers do not grow less probable. Needs seeds of two categories at least. One round; a second one starts from the newest
    model, which is then its reference. Our own recipe; nearest are RLCD (arXiv 2307.12950) and PT-ALIGN (2502.11075).

    Args:
        demonstrations: C, as in `isara`.
        aim: as in `isara`.
    """
    ours = isara(demonstrations=demonstrations, aim=aim)
    return replace(
        ours,
        name="contrast",
        proposer=Contrasted(demonstrations=demonstrations, aim=aim, sampling=Sampling(max_tokens=0, temperature=0.8)),
        trainer=SFT(full_rate=2e-5, epochs=2, loss=DPO()),
        rounds=1,
        learning_rate_decay=1.0,
    )
