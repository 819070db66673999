"""ReST as a setting of the loop: many answers to given prompts, a bound on their reward that rises, fine-tuning."""

from __future__ import annotations

from selfalign.filters import EmptyResponse, Finished, PerPrompt, RisingThreshold, Threshold
from selfalign.proof.alarms import Alarms
from selfalign.proposers import Repeated
from selfalign.recipe import Recipe
from selfalign.retrievers import Uniform
from selfalign.scorers import ExactAnswer, Judge, Reward
from selfalign.trainers import SFT
from selfalign.types import Sampling


def rest(*, samples: int = 4, reward: Judge | ExactAnswer | Reward = Judge(model="base")) -> Recipe:
    """ReST (arXiv 2308.08998): answer the seeds' prompts many times, keep what a reward puts above a rising bound, train.

    Deviations: each round generates anew (Grow) and trains once (Improve), where theirs trains several times with rising
    bounds on one round's answers. Bound and numbers are our own choice, and the reward is a judge of the base model unless a
    reward model, as theirs, is named (`--reward Reward --reward.model …`); a recipe of your own can put any scorer there.

    Args:
        samples: answers to one prompt.
        reward: what scores an answer. What its score has to exceed, by round, say `--filters.rising_threshold.first` and `.step`
            on the reward's own scale (for ExactAnswer 0.5 and 0).
    """
    return Recipe(
        name="rest",
        proposer=Repeated(samples=samples),
        retriever=Uniform(demonstrations=0),
        sampling=Sampling(max_tokens=0, temperature=0.8),
        trainer=SFT(full_rate=5e-5, epochs=2),
        pair_filters=(Finished(sentence_end=False), EmptyResponse(), PerPrompt(most=None)),
        scorers=(reward,),
        filters=(RisingThreshold(reward.score_name, first=5.0, step=0.5),),
        rounds=3,
        min_yield=0.05,
        learning_rate_decay=0.5,
        validation_share=0.2,
        alarms=Alarms(repeats=None, distinct_2=None),
    )


def rest_em(*, samples: int = 8, reward: ExactAnswer = ExactAnswer()) -> Recipe:
    """ReST-EM (arXiv 2312.06585): answer the seeds' prompts many times, train the base model on the answers that are right.

    Right is an answer with the seed's result (GSM8K's form, `#### 42`). Each round trains the base anew, on the newest
    answers alone and not on the seeds'. Deviations: no demonstrations are shown (the seed's own would give the result away),
    samples and rounds are fewer by default, and the round is chosen on held-out seeds instead of problems that are checked.

    Args:
        samples: answers to one prompt; theirs is 32.
        reward: how a result is read and compared.
    """
    return Recipe(
        name="rest_em",
        proposer=Repeated(samples=samples),
        retriever=Uniform(demonstrations=0),
        sampling=Sampling(max_tokens=0, temperature=0.7, top_k=40),
        trainer=SFT(full_rate=5e-5, epochs=2),
        pair_filters=(Finished(sentence_end=False), EmptyResponse()),
        scorers=(reward,),
        filters=(Threshold(reward.score_name, above=0.5), PerPrompt(most=10)),
        per_round=512,
        min_yield=0.02,
        start_from="base",
        train_seeds=False,
        validation_share=0.2,
        alarms=Alarms(repeats=None, distinct_2=None, saturation=None),
    )
