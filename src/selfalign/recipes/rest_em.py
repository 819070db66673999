"""ReST-EM as a setting of the loop: many answers to given prompts, those that are right, fine-tuning of the base."""

from __future__ import annotations

from selfalign.encoders import Hashed, HiddenState, SentenceEncoder
from selfalign.engines import HF, OpenAI, OpenVINO, Scripted
from selfalign.evaluators import HeldOut, Refusal
from selfalign.filters import EmptyResponse, Finished, PerPrompt, Threshold
from selfalign.proof.alarms import Alarms
from selfalign.proposers import Repeated
from selfalign.recipe import Recipe, RollBack
from selfalign.retrievers import Uniform
from selfalign.scorers import ExactAnswer
from selfalign.trainers import SFT, NullTrainer
from selfalign.types import Format, Sampling


def rest_em(
    *,
    rounds: int = 2,
    per_round: int = 512,
    samples: int = 8,
    most: int = 10,
    min_yield: float = 0.02,
    train_seeds: bool = False,
    validation_share: float = 0.2,
    roll_back: RollBack = "worse",
    alarms: Alarms = Alarms(repeats=None, distinct_2=None, saturation=None),
    allow_overlap: bool = False,
    format: Format = "auto",
    seed: int = 0,
    sampling: Sampling = Sampling(max_tokens=256, temperature=0.7, top_k=40),
    reward: ExactAnswer = ExactAnswer(),
    engine: HF | OpenVINO | OpenAI | Scripted = HF(),
    encoder: SentenceEncoder | HiddenState | Hashed = SentenceEncoder(),
    trainer: SFT | NullTrainer = SFT(learning_rate=5e-5, epochs=2),
) -> Recipe:
    """ReST-EM (arXiv 2312.06585): answer the seeds' prompts many times, train the base model on the answers that are right.

    Right is an answer with the seed's result (GSM8K's form, `#### 42`). Each round trains the base anew, on the newest
    answers alone and not on the seeds'. Deviations: no demonstrations are shown (the seed's own would give the result away),
    samples and rounds are fewer by default, and the round is chosen on held-out seeds instead of problems that are checked.

    Args:
        rounds: rounds of generation and training at most.
        per_round: answers per round; samples times the number of seeds asks each seed once.
        samples: answers to one prompt; theirs is 32.
        most: different right answers kept for one prompt.
        min_yield: stop when a round keeps fewer than min_yield·per_round.
        train_seeds: train on the seeds' own answers too.
        validation_share: share of the seeds held out to choose the round.
        roll_back: the round that falls and ends the run: one worse than the best one by a paired test on those seeds, or one
            whose mean is no better. One no better than the model as it came falls either way.
        alarms: when answers that grow shorter or prompts that grow alike warn or stop, threshold by threshold (null: none);
            prompts repeat and rewards are 0 or 1 here, so three are off.
        allow_overlap: train on generated pairs or seeds that ask the same as a held-out prompt, instead of stopping.
        format: the model's chat template, plain markers, or the template where there is one.
        seed: the random seed of the run.
        sampling: how answers are decoded.
        reward: how a result is read and compared.
        engine: what runs the model.
        encoder: what embeds prompts for the figures of diversity.
        trainer: what trains.
    """
    return Recipe(
        name="rest_em",
        engine=engine,
        encoder=encoder,
        proposer=Repeated(samples=samples),
        retriever=Uniform(demonstrations=0),
        sampling=sampling,
        trainer=trainer,
        pair_filters=(Finished(sentence_end=False), EmptyResponse()),
        scorers=(reward,),
        filters=(Threshold(reward.score_name, above=0.5), PerPrompt(most=most)),
        evaluators=(Refusal(), HeldOut()),
        rounds=rounds,
        per_round=per_round,
        min_yield=min_yield,
        start_from="base",
        train_seeds=train_seeds,
        validation_share=validation_share,
        roll_back=roll_back,
        alarms=alarms,
        allow_overlap=allow_overlap,
        format=format,
        seed=seed,
    )
