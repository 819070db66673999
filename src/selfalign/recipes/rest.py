"""ReST as a setting of the loop: many answers to given prompts, a bound on their reward that rises, fine-tuning."""

from __future__ import annotations

from dataclasses import replace

from selfalign.encoders import Hashed, HiddenState, SentenceEncoder
from selfalign.engines import HF, OpenAI, OpenVINO, Scripted
from selfalign.evaluators import HeldOut, Refusal
from selfalign.filters import EmptyResponse, Finished, PerPrompt, RisingThreshold
from selfalign.proof.alarms import Alarms
from selfalign.proposers import Repeated
from selfalign.recipe import Recipe, RollBack, StartFrom, TrainOn
from selfalign.retrievers import Uniform
from selfalign.scorers import ExactAnswer, Judge, Reward
from selfalign.trainers import SFT, NullTrainer
from selfalign.types import Format, Sampling


def rest(
    *,
    rounds: int = 3,
    per_round: int = 256,
    samples: int = 4,
    min_yield: float = 0.05,
    start_from: StartFrom = "previous",
    train_on: TrainOn = "latest",
    learning_rate_decay: float = 0.5,
    validation_share: float = 0.2,
    roll_back: RollBack = "worse",
    alarms: Alarms = Alarms(repeats=None, distinct_2=None),
    allow_overlap: bool = False,
    ignore_calibration: bool = False,
    format: Format = "auto",
    seed: int = 0,
    sampling: Sampling = Sampling(max_tokens=128, temperature=0.8),
    reward: Judge | ExactAnswer | Reward = Judge(model="base"),
    threshold: RisingThreshold = RisingThreshold(first=5.0, step=0.5),
    engine: HF | OpenVINO | OpenAI | Scripted = HF(),
    encoder: SentenceEncoder | HiddenState | Hashed = SentenceEncoder(),
    trainer: SFT | NullTrainer = SFT(learning_rate=5e-5, epochs=2),
) -> Recipe:
    """ReST (arXiv 2308.08998): answer the seeds' prompts many times, keep what a reward puts above a rising bound, train.

    Deviations: each round generates anew (Grow) and trains once (Improve), where theirs trains several times with rising
    bounds on one round's answers. Bound and numbers are our own choice, and the reward is a judge of the base model unless a
    reward model, as theirs, is named (`--reward Reward --reward.model …`); a recipe of your own can put any scorer there.

    Args:
        rounds: rounds of generation and training at most.
        per_round: answers per round.
        samples: answers to one prompt.
        min_yield: stop when a round keeps fewer than min_yield·per_round.
        start_from: train each round from the previous round's model or from the base.
        train_on: the newest round's pairs or those of all rounds (the seeds always).
        learning_rate_decay: factor on the learning rate from one round to the next.
        validation_share: share of the seeds held out to choose the round.
        roll_back: the round that falls and ends the run: one worse than the best one by a paired test on those seeds, or one
            whose mean is no better. One no better than the model as it came falls either way.
        alarms: when answers that grow shorter or prompts that grow alike warn or stop, threshold by threshold (null: none);
            prompts repeat here, so two are off.
        allow_overlap: train on generated pairs or seeds that ask the same as a held-out prompt, instead of stopping.
        ignore_calibration: filter by a judge that cannot tell the seeds from spoiled versions of them, instead of stopping.
        format: the model's chat template, plain markers, or the template where there is one.
        seed: the random seed of the run.
        sampling: how answers are decoded.
        reward: what scores an answer.
        threshold: what a score has to exceed, by round, on the reward's own scale (for ExactAnswer first 0.5 and step 0); its
            name is the reward's.
        engine: what runs the model.
        encoder: what embeds prompts for the figures of diversity.
        trainer: what trains.
    """
    return Recipe(
        name="rest",
        engine=engine,
        encoder=encoder,
        proposer=Repeated(samples=samples),
        retriever=Uniform(demonstrations=0),
        sampling=sampling,
        trainer=trainer,
        pair_filters=(Finished(sentence_end=False), EmptyResponse(), PerPrompt(most=None)),
        scorers=(reward,),
        filters=(replace(threshold, name=reward.score_name),),
        evaluators=(Refusal(), HeldOut()),
        rounds=rounds,
        per_round=per_round,
        min_yield=min_yield,
        start_from=start_from,
        train_on=train_on,
        learning_rate_decay=learning_rate_decay,
        validation_share=validation_share,
        roll_back=roll_back,
        alarms=alarms,
        allow_overlap=allow_overlap,
        ignore_calibration=ignore_calibration,
        format=format,
        seed=seed,
    )
