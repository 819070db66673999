"""ISARA with its known faults mended: the default recipe."""

from __future__ import annotations

from dataclasses import replace

from selfalign.encoders import Hashed, HiddenState, SentenceEncoder
from selfalign.engines import HF, OpenAI, OpenVINO, Scripted
from selfalign.evaluators import HeldOut, Refusal
from selfalign.filters import CategoryAgreement, Finished, LeakedMarkers, Length, NearDuplicates, Novelty, Repetition, Substring
from selfalign.proof.alarms import Alarms
from selfalign.proposers import FewShot
from selfalign.proposers.few_shot import Aim
from selfalign.recipe import Recipe, RollBack, StartFrom, TrainOn
from selfalign.retrievers import Knn, Uniform
from selfalign.trainers import SFT, NullTrainer
from selfalign.types import Format, Sampling


def isara(
    *,
    rounds: int = 2,
    per_round: int = 128,
    demonstrations: int = 5,
    aim: Aim = "rarest",
    max_overlap: float = 0.7,
    max_similarity: float = 0.92,
    min_yield: float = 0.1,
    seed_weight: float | None = None,
    start_from: StartFrom = "previous",
    train_on: TrainOn = "latest",
    learning_rate_decay: float = 0.5,
    validation_share: float = 0.2,
    roll_back: RollBack = "worse",
    alarms: Alarms = Alarms(),
    allow_overlap: bool = False,
    format: Format = "auto",
    seed: int = 0,
    prompt_sampling: Sampling = Sampling(max_tokens=48, temperature=0.8),
    sampling: Sampling = Sampling(max_tokens=96, temperature=0.3),
    engine: HF | OpenVINO | OpenAI | Scripted = HF(),
    encoder: SentenceEncoder | HiddenState | Hashed = SentenceEncoder(),
    retriever: Knn | Uniform = Knn(by_category=True),
    trainer: SFT | NullTrainer = SFT(learning_rate=5e-5, epochs=3),
) -> Recipe:
    """Retrieval-augmented in-context generation of new pairs, filters, supervised fine-tuning, repeat.

    The method of ISARA (arXiv 2401.06785) with the faults of the published scripts mended: novelty against the whole pool
    instead of one prompt's own demonstrations, near-duplicates by embedding, finished answers only, no leaked markers, the
    model's chat template where it has one, sampling instead of beams, and the round to ship chosen on seeds held out for it.

    Args:
        rounds: K, rounds of generation and training at most.
        per_round: N, candidates per round.
        demonstrations: C, examples shown in a prompt; one from each generated round, the rest seeds.
        aim: where every seed has a category, the one new prompts aim at: rarest (the one with the fewest seeds, so that what
            is generated balances the seeds), seeds (in their proportions) or any. An answer is shown examples of the aim's
            category, and is dropped where it looks like another category's (our own; measured in benchmarks/RESULTS.md).
        max_overlap: ROUGE-L above which a new prompt is too close to any prompt of the pool.
        max_similarity: cosine above which it is a near-duplicate of one.
        min_yield: α, stop when a round keeps fewer than min_yield·per_round.
        seed_weight: γ in L = γ·mean(D0) + (1-γ)·mean(D_k); null concatenates the two, and the γ in effect is reported.
        start_from: train each round from the previous round's model or from the base.
        train_on: the newest round's pairs or those of all rounds (the seeds always).
        learning_rate_decay: factor on the learning rate from one round to the next.
        validation_share: share of the seeds held out to choose the round.
        roll_back: the round that falls and ends the run: one worse than the best one by a paired test on those seeds, or one
            whose mean is no better. One no better than the model as it came falls either way.
        alarms: when answers that grow shorter or prompts that grow alike warn or stop, threshold by threshold (null: none).
        allow_overlap: train on generated pairs or seeds that ask the same as a held-out prompt, instead of stopping.
        format: the model's chat template, plain markers, or the template where there is one.
        seed: the random seed of the run.
        prompt_sampling: how new prompts are decoded.
        sampling: how answers are decoded.
        engine: what runs the model.
        encoder: what embeds texts for retrieval and near-duplicates; HiddenState needs no model beside the one aligned.
        retriever: what chooses the examples an answer is shown; how many is told by `demonstrations`.
        trainer: what trains.
    """
    return Recipe(
        name="isara",
        engine=engine,
        encoder=encoder,
        proposer=FewShot(demonstrations=demonstrations, aim=aim, sampling=prompt_sampling),
        retriever=replace(retriever, demonstrations=demonstrations),
        sampling=sampling,
        trainer=trainer,
        prompt_filters=(
            Finished(sentence_end=False),
            LeakedMarkers(),
            Length(min_prompt_words=4, max_prompt_words=60, min_response_words=0),
            Novelty(max_overlap=max_overlap, against="pool"),
            NearDuplicates(max_similarity=max_similarity),
        ),
        filters=(
            Finished(),
            LeakedMarkers(),
            Length(min_prompt_words=0, min_response_words=5),
            Repetition(),
            Substring(both_ways=True),
            CategoryAgreement(unanimous=True),
        ),
        evaluators=(Refusal(), HeldOut()),
        rounds=rounds,
        per_round=per_round,
        min_yield=min_yield,
        seed_weight=seed_weight,
        start_from=start_from,
        train_on=train_on,
        learning_rate_decay=learning_rate_decay,
        validation_share=validation_share,
        roll_back=roll_back,
        alarms=alarms,
        allow_overlap=allow_overlap,
        format=format,
        seed=seed,
    )
