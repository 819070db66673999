"""Self-training: the model that the seeds made answers new prompts, and learns the answers that it repeats."""

from __future__ import annotations

from selfalign.filters import EmptyResponse, Finished, LeakedMarkers, Threshold
from selfalign.proof.alarms import Alarms
from selfalign.proposers import FewShot
from selfalign.recipe import Recipe
from selfalign.recipes.isara import NEW_PROMPTS
from selfalign.retrievers import Uniform
from selfalign.scorers import Agreement
from selfalign.trainers import SFT
from selfalign.types import Sampling


def self_train(*, agreement: Agreement = Agreement(), demonstrations: int = 5, aim: str = "balanced") -> Recipe:
    """Self-training by agreement, for answers of which one is right: JSON, labels, results.

    Round 1 is plain fine-tuning on the seeds. In each later round the newest model answers new prompts without examples, several
    times each; what it answers the same every time is kept, and the start model is trained anew on the seeds and all that was
    kept so far. Models trained on answers chosen by agreement: arXiv 2210.11610 (their answers are those of a model shown
    examples, and the most frequent one is kept); a student begun anew on its teacher's labels: 1911.04252. That the teacher is
    made by the seeds first, and asked without examples, is our own choice: a small model that is shown seeds answers in their
    form and wrongly (benchmarks/RESULTS.md). Best with many prompts of the kind without answers (`--prompts`).

    Args:
        agreement: how many answers, and what of them must be the same.
        demonstrations: seeds shown for a new prompt, where prompts are not given.
        aim: as in `isara`.
    """
    return Recipe(
        name="self_train",
        proposer=FewShot(demonstrations=demonstrations, aim=aim, sampling=Sampling(max_tokens=0, temperature=0.8)),
        retriever=Uniform(demonstrations=0),
        sampling=Sampling(max_tokens=0, temperature=0.0),
        trainer=SFT(full_rate=5e-5, epochs=3),
        prompt_filters=NEW_PROMPTS,
        pair_filters=(Finished(sentence_end=False), LeakedMarkers(), EmptyResponse()),
        scorers=(agreement,),
        filters=(Threshold(agreement.score_name, above=0.999),),
        rounds=3,
        min_yield=0.02,
        start_from="base",
        train_on="all",
        train_seeds="first",
        validation_share=0.2,
        alarms=Alarms(distinct_2=None, spread=None, very_short=None, very_short_rise=None),
    )
