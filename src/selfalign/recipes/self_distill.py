"""On-policy self-distillation: the model learns to answer as it does with demonstrations of the prompt's category before it."""

from __future__ import annotations

from selfalign.errors import UserError
from selfalign.proof.alarms import Alarms
from selfalign.proposers import FewShot, WithSeeds
from selfalign.recipe import Recipe
from selfalign.recipes.isara import NEW_PROMPTS
from selfalign.retrievers import Knn
from selfalign.trainers import SFT, Distill
from selfalign.types import Sampling


def self_distill(*, demonstrations: int = 4, own_share: float = 1.0, aim: str = "balanced") -> Recipe:
    """The model with demonstrations teaches the model without: OPSA (arXiv 2605.15239), SDFT (2601.19897).

    Each round the newest model answers the seeds' prompts and new ones, bare. The start model, shown the seeds nearest to the
    prompt of the prompt's own category and never the prompt's own seed, says at each token of such an answer what it would write
    there, and the model is pulled towards that. The last round learns the seeds' own answers, endings above all: in the same
    steps as the rollouts (`--train_seeds true`) they made the model tell the categories apart less well. Answers are not
    imitated and so not filtered; new prompts are, as in isara. Deviations: theirs have one context for each category and given
    prompts (OPSA), or the prompt's own answer (SDFT); rounds, numbers, the weight of the first tokens and the last round are
    our own choice. Without categories the nearest seeds of any kind teach.

    Args:
        demonstrations: k, the seeds that the teacher is shown.
        own_share: of a round's prompts, how many are the seeds'; the others are new ones, for which a model must be able to
            write prompts of each category. Our own choice.
        aim: as in `isara`.

    Raises:
        UserError: no demonstrations: the teacher would know nothing that its student does not.
    """
    if demonstrations < 1:
        raise UserError(f"self_distill: demonstrations = {demonstrations}: a teacher needs at least 1")
    if not 0.0 <= own_share <= 1.0:
        raise UserError(f"self_distill: own_share = {own_share}: between 0 and 1")
    new = FewShot(demonstrations=5, generated=0, aim=aim, sampling=Sampling(max_tokens=0, temperature=0.8))
    return Recipe(
        name="self_distill",
        proposer=WithSeeds(new=new, share=own_share),
        retriever=Knn(demonstrations=demonstrations, generated=0, by_category=True),
        shown_to="teacher",
        sampling=Sampling(max_tokens=32, temperature=1.0),
        trainer=SFT(full_rate=1e-4, epochs=2, batch_size=24, schedule="constant", warmup=0.0, loss=Distill()),
        prompt_filters=NEW_PROMPTS,
        evaluate="shipped",
        rounds=8,
        per_round=48,
        train_seeds="last",
        seed_weight=0.2,
        validation_share=0.2,
        alarms=Alarms(action="off"),
    )
