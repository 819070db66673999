"""Direct preference optimisation on the seeds: the baseline that more than imitation of the same examples is worth."""

from __future__ import annotations

from selfalign.filters import Differs
from selfalign.proof.alarms import Alarms
from selfalign.proposers import Rivals
from selfalign.recipe import Recipe
from selfalign.retrievers import Uniform
from selfalign.trainers import DPO, SFT
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
        trainer=SFT(learning_rate=2e-5, epochs=3, loss=DPO()),
        filters=(Differs(),),
        rounds=1,
        per_round=128,
        min_yield=0.0,
        validation_share=0.2,
        alarms=Alarms(action="off"),
    )
