"""I-SHEEP with its known faults mended."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from selfalign.encoders import Hashed, HiddenState, SentenceEncoder
from selfalign.engines import HF, OpenAI, OpenVINO, Scripted
from selfalign.evaluators import HeldOut, Refusal
from selfalign.filters import (
    AnswerChoices,
    Blacklist,
    EmptyResponse,
    Finished,
    LeakedMarkers,
    LeftoverLabels,
    Links,
    NearDuplicates,
    NextTurns,
    Novelty,
    OnePerCluster,
    Percentile,
    Placeholders,
    RepeatedInput,
    Repetition,
    TaskLength,
    TaskStart,
    Threshold,
)
from selfalign.proof.alarms import Alarms
from selfalign.proposers import Instructions
from selfalign.protocols import Filter, Scorer
from selfalign.recipe import Recipe, RollBack, StartFrom, TrainOn
from selfalign.retrievers import Uniform
from selfalign.scorers import Density, Judge, Perplexity
from selfalign.trainers import SFT, NullTrainer
from selfalign.types import Format, Sampling

Select = Literal["judge", "perplexity", "density", "density_perplexity", "nothing"]


def isheep(
    *,
    rounds: int = 2,
    per_round: int = 200,
    select: Select = "judge",
    keep: float = 0.7,
    score_above: float | None = None,
    max_overlap: float = 0.7,
    max_similarity: float = 0.92,
    min_yield: float = 0.1,
    start_from: StartFrom = "base",
    train_on: TrainOn = "all",
    validation_share: float = 0.2,
    roll_back: RollBack = "worse",
    alarms: Alarms = Alarms(),
    allow_overlap: bool = False,
    ignore_calibration: bool = False,
    format: Format = "auto",
    seed: int = 0,
    prompt_sampling: Sampling = Sampling(max_tokens=600, top_p=0.95),
    sampling: Sampling = Sampling(max_tokens=128, temperature=0.7),
    judge: Judge = Judge(model="base"),
    engine: HF | OpenVINO | OpenAI | Scripted = HF(),
    encoder: SentenceEncoder | HiddenState | Hashed = SentenceEncoder(),
    trainer: SFT | NullTrainer = SFT(learning_rate=5e-5, epochs=2),
) -> Recipe:
    """New tasks from a list that a few seeds begin, answers, a judge's scores, supervised fine-tuning of the base, repeat.

    The method of I-SHEEP (arXiv 2408.08072) with what its published data shows mended: the expectation over the ten scores
    instead of one sample of them, the best share instead of an absolute bound (above 8 its 7B run kept 2 to 3 %), data that
    accumulates over the rounds and keeps the seeds, answers that are finished and do not loop, near-duplicates by embedding,
    alarms where answers shrink, tasks listed without an input taken as such, and the round to ship chosen on held-out seeds.
    Its rules are for tasks in English.

    Args:
        rounds: rounds of generation and training at most.
        per_round: slots for generated tasks, 10 for each request.
        select: what chooses among the pairs that pass the rules: the judge's two scores; the perplexity of the answer and of
            the pair; one pair of each cluster of hidden states, drawn at random or that of the lowest perplexity; or nothing.
        keep: share kept by the first of the judge's two scores or of two perplexities, and of these by the second one.
        score_above: where given, both scores of the judge must exceed it, and `keep` does not count.
        max_overlap: ROUGE-L above which a new instruction is too close to any of the pool.
        max_similarity: cosine above which a new prompt is a near-duplicate of one.
        min_yield: stop when a round keeps fewer than min_yield·per_round.
        start_from: train each round from the base or from the previous round's model.
        train_on: the pairs of all rounds or the newest round's (the seeds always).
        validation_share: share of the seeds held out to choose the round.
        roll_back: the round that falls and ends the run: one worse than the best one by a paired test on those seeds, or one
            whose mean is no better. One no better than the model as it came falls either way.
        alarms: when answers that grow shorter or prompts that grow alike warn or stop, threshold by threshold (null: none).
        allow_overlap: train on generated pairs or seeds that ask the same as a held-out prompt, instead of stopping.
        ignore_calibration: filter by a judge that cannot tell the seeds from spoiled versions of them, instead of stopping.
        format: the model's chat template, plain markers, or the template where there is one.
        seed: the random seed of the run.
        prompt_sampling: how lists of tasks are decoded.
        sampling: how answers are decoded.
        judge: asked twice, for quality and for following the instruction; its model is base, current, a folder or a name on
            the hub. Perplexities and hidden states are that model's too.
        engine: what runs the model.
        encoder: what embeds texts for near-duplicates; HiddenState needs no model beside the one aligned.
        trainer: what trains.
    """
    scorers, by_score = _selection(select, judge, keep, score_above)
    return Recipe(
        name="isheep",
        engine=engine,
        encoder=encoder,
        proposer=Instructions(input_needed=False, sampling=prompt_sampling),
        retriever=Uniform(demonstrations=0),
        sampling=sampling,
        trainer=trainer,
        prompt_filters=(
            LeakedMarkers(),
            TaskLength(),
            Blacklist(),
            TaskStart(),
            Placeholders(),
            LeftoverLabels(),
            Links(),
            RepeatedInput(),
            Novelty(max_overlap=max_overlap, field="instruction"),
            NearDuplicates(max_similarity=max_similarity),
        ),
        pair_filters=(Finished(sentence_end=False), EmptyResponse(), LeakedMarkers(), NextTurns(), AnswerChoices(), Repetition()),
        scorers=scorers,
        filters=by_score,
        evaluators=(Refusal(), HeldOut()),
        rounds=rounds,
        per_round=per_round,
        min_yield=min_yield,
        start_from=start_from,
        train_on=train_on,
        validation_share=validation_share,
        roll_back=roll_back,
        alarms=alarms,
        allow_overlap=allow_overlap,
        ignore_calibration=ignore_calibration,
        format=format,
        seed=seed,
    )


def _selection(
    select: Select, judge: Judge, keep: float, score_above: float | None
) -> tuple[tuple[Scorer, ...], tuple[Filter, ...]]:
    """The scorers, and the filters that act on what they say."""
    if score_above is not None and select != "judge":
        raise ValueError(
            f"isheep: score_above = {score_above} is for select = judge; with select = {select} nobody gives such scores"
        )
    response, pair, density = Perplexity(model=judge.model), Perplexity(of="pair", model=judge.model), Density(model=judge.model)
    if select == "perplexity":
        return (response, pair), tuple(Percentile(each.score_name, keep=keep, highest=False) for each in (response, pair))
    if select == "density":
        return (density,), (OnePerCluster(by=""),)
    if select == "density_perplexity":
        return (density, response), (OnePerCluster(by=response.score_name),)
    if select == "nothing":
        return (), ()
    judges = (replace(judge, aspect="quality", name=""), replace(judge, aspect="following", name=""))
    if score_above is not None:
        return judges, tuple(Threshold(each.score_name, above=score_above) for each in judges)
    return judges, tuple(Percentile(each.score_name, keep=keep) for each in judges)
