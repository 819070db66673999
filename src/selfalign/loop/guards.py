"""The guards of the loop: is the new round better, do its examples collapse, has it seen the test?

Each is a stage of the journal, so a run that goes on reports nothing twice.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from selfalign.errors import RunFailed
from selfalign.loop.context import Setup
from selfalign.loop.parts import tried, watched
from selfalign.proof.alarms import Alarm
from selfalign.proof.calibration import Calibrated, Calibration
from selfalign.proof.diversity import OF_THE_JUDGES, SECOND_TURN, diversity, saturation
from selfalign.proof.oscillation import turned
from selfalign.proof.overlap import Hit, overlap, systems_decide
from selfalign.proof.retrieval import far_from_shown, nearest_other
from selfalign.proof.seed_rules import harmful, void_on_seeds
from selfalign.proof.stats import LEAST, Difference, mean_interval, paired_difference, too_few
from selfalign.protocols import Context, Served
from selfalign.record.finished import paired_metrics
from selfalign.record.replay import replayed
from selfalign.record.status import standing_events
from selfalign.text import counted, normalise
from selfalign.types import Example, Metric, ModelRef, Pool

SIGNIFICANT = 0.05
"""p below which a difference is called one and not noise."""
HITS_STORED = 20
"""Overlapping pairs that an event holds with their texts, the strongest first; all of them are counted."""


@dataclass(frozen=True)
class Best:
    """A round's model with its log-likelihoods on the validation seeds (empty without validation seeds)."""

    round: int
    model: ModelRef
    values: tuple[float, ...]


@dataclass(frozen=True)
class Verdict:
    """Where the run stands after a round; `text` is empty where there is nothing to compare."""

    best: Best
    """The round to ship."""
    highest: Best
    """The round with the highest mean so far, which the next one is compared with: small losses must not add up unnoticed."""
    go_on: bool = True
    text: str = ""


def choose(run: Setup, context: Context, current: ModelRef, last: Verdict | None) -> Verdict:
    """Which round to ship after this one, measured on the validation seeds; one to be rolled back ends the run.

    The measure is the mean log-likelihood per token of their responses: it needs no judge and moves with every weight
    (our own choice; the authors' code trains a fixed number of rounds and its best round was picked on the test set). With
    `roll_back="worse"` a round falls only if the paired test says that it is worse: a dozen validation seeds cannot see a
    small change, and going by the sign of one drops every second good round. A round must still beat the base model by its mean:
    what is no better than that is not worth shipping. Fewer than six seeds see nothing, so then no round falls: by the sign of
    two seeds a study once compared a loop with plain fine-tuning that had been rolled back to the base model.

    With `train_seeds="last"` no round before the last one falls: they are parts of one training, and what they teach moves the
    likelihood of the seeds' answers either way. The last one is compared with the best of them.
    """
    round, store = context.round, run.store
    seeds = run.validation
    values = tuple(each.per_token for each in context.likelihood("validation", seeds)) if seeds else ()
    new = Best(round, current, values)
    if not seeds:
        return Verdict(new, new)
    metrics = [Metric("validation_log_likelihood", *mean_interval(values), n=len(values))]
    if last is None:
        store.add_metrics(round, metrics)
        return Verdict(new, new)
    against = last.highest
    change = paired_difference(values, against.values)
    clear = change.p_value < SIGNIFICANT
    part = run.recipe.train_seeds == "last" and round < run.recipe.seeds_round
    spared = part or len(values) < LEAST or (run.recipe.roll_back == "worse" and against.round > 0 and not clear)
    kept = spared or change.value > 0
    kind, text = compare(round, against.round, change, len(values), kept)
    if len(values) >= LEAST:
        metrics.append(Metric("validation_change", change.value, change.low, change.high, len(values)))
    if store.stage(round, "choose") is None:
        found = {"round": round, "against": against.round, "verdict": kind, "p_value": change.p_value, "text": text}
        with store.transaction("choose"):
            store.add_metrics(round, metrics)
            store.event("validation", found)
            store.finish_stage(round, "choose", found, 0.0)
    return Verdict(new if kept else against, new if change.value > 0 else against, kept, text)


def compare(round: int, against: int, change: Difference, n: int, kept: bool) -> tuple[str, str]:
    """(better | better within noise | no better within noise | regression, the same as a sentence with interval and p)."""
    p = "p < 0.001" if change.p_value < 0.001 else f"p = {change.p_value:.3f}"
    seeds = counted(n, "validation seed")
    few = too_few(n, "validation seeds")
    sure = f"; {few}" if few else f" [{change.low:+.4f}, {change.high:+.4f}], {p}"
    figures = f"on the {seeds}: log-likelihood per token {change.value:+.4f}{sure}"
    clear = change.p_value < SIGNIFICANT
    if change.value > 0:
        doubt = "" if clear else " (within noise)"
        return "better" if clear else "better within noise", f"round {round} is better than round {against}{doubt} {figures}"
    done = "kept as the newer one" if kept else f"rolled back to round {against}"
    if clear:
        return "regression", f"regression: round {round} is worse than round {against} {figures}; {done}"
    return "no better within noise", f"round {round} is no better than round {against} (within noise) {figures}; {done}"


def verify_weights(run: Setup, context: Context, before: int) -> None:
    """Has a session on a server verify, before its first answer, that it serves the round's weights and not older ones.

    Older are those of round `before`, which was served last, of the round before this one and of the base model. Each opening
    is verified anew: a run that goes on may meet another server.
    """
    round, session = context.round, context.session
    if round == 0 or not isinstance(session, Served):
        return
    older = [each for each in sorted({0, round - 1, before} - {round}) if _is_there(run, each)]
    others = {f"round {other}" if other else "the base model": run.store.model(other) for other in older}
    session.verify_weights(
        f"round {round}", run.shown, others, lambda found: run.store.event("verify_weights", {"round": round, **found})
    )


def _is_there(run: Setup, round: int) -> bool:
    """Whether a round still has its weights: without them nobody serves it, and nothing can be compared with it."""
    if round and run.store.stage(round, "train") is None:  # a round that kept too little to train on
        return False
    model = run.store.model(round)
    return round == 0 or Path(model.adapter or model.base).exists()


def try_rules(run: Setup, context: Context) -> None:
    """Tries the recipe's filters on the seeds shown, before anything is paid for: what the seeds do is not to be punished.

    At the start, and in a round that seeds join for.

    Raises:
        RunFailed: a rule would drop more than a tenth of them; not with `ignore_seed_rules`.
    """
    named = list(run.recipe.named_filters())
    if not named or not run.recipe.rounds * run.recipe.per_round:
        return
    if (done := run.store.stage(context.round, "seed_rules")) is None:
        began = time.monotonic()
        rules = tried(named, context.encode, context.pool.seeds)
        stops = [each.text for each in harmful(rules)]
        warned = [*stops, *void_on_seeds([("proposer", run.recipe.proposer), *named], context.pool.seeds)]
        done = {"stops": stops}
        with run.store.transaction("seed_rules"):
            for text in warned:
                run.store.event("seed_rule", {"text": text})
            run.store.finish_stage(context.round, "seed_rules", done, time.monotonic() - began)
    if done["stops"] and not run.recipe.ignore_seed_rules:
        raise RunFailed("; ".join(done["stops"]) + "; --ignore_seed_rules true goes on all the same")


def calibrate_judges(run: Setup, context: Context) -> None:
    """Calibrates the recipe's judges on the seeds shown, before the round pays for a candidate that they would filter.

    Raises:
        RunFailed: one of them cannot separate good from bad; not with `ignore_calibration`.
    """
    judges = [scorer for scorer in run.recipe.scorers if isinstance(scorer, Calibrated)]
    if not judges or not run.recipe.per_round:
        return
    if (done := run.store.stage(context.round, "calibrate")) is None:
        began = time.monotonic()
        found = []
        for judge in judges:
            with watched(f"round {context.round}, calibration of {type(judge).__name__}", context.pool.examples):
                found += [each] if (each := judge.calibrate(context, context.pool.seeds)) is not None else []
        done = _store_calibrations(run, context.round, found, began)
    if done["refusals"] and not run.recipe.ignore_calibration:
        raise RunFailed("; ".join(done["refusals"]))


def _store_calibrations(run: Setup, round: int, found: Sequence[Calibration], began: float) -> dict[str, Any]:
    done = {"refusals": [each.refusal for each in found if each.refusal]}
    with run.store.transaction("calibrate"):
        metrics = [metric for each in found for metric in each.metrics()]
        run.store.add_metrics(round, [replace(each, name=f"{OF_THE_JUDGES[0]}{each.name}") for each in metrics])
        for each in found:
            finding = {"name": each.name, "verdict": each.verdict, "text": f"{each.name} is {each.verdict}: {each.text}"}
            run.store.event("calibration", {"round": round, **finding})
        run.store.finish_stage(round, "calibrate", done, time.monotonic() - began - run.store.seconds(round))
    return done


def check_training_data(run: Setup, context: Context, pool: Pool) -> str:
    """Measures what the context's round trains on (round 0: the seeds) and says why to stop before it does, if so.

    Diversity, alarms and overlap with the prompts that models are measured on; embeddings only for recipes that generate, whose
    encoder is in use anyway. Kept examples only: what is dropped is never trained on. Second turns have figures of their own.

    Args:
        pool: the seeds and what the rounds before kept.
    """
    round = context.round
    if round and not run.recipe.candidates(round):
        return ""
    if (done := run.store.stage(round, "guards")) is None:
        began = time.monotonic()
        examples = run.store.kept(round) if round else pool.seeds
        metrics = _diversity(run, context, pool, examples)
        alarms = _alarms(run, round, metrics)
        if round and run.recipe.alarms.action != "off" and len(examples) >= run.recipe.alarms.min_examples:
            metrics.append(_count("alarms", len(alarms), len(examples)))
        # Replay rows are the same ones in each round.
        trained = (*examples, *run.joining(round)) if round else (*examples, *replayed(run.store))
        hits = _overlap(run, context, trained)
        far, text = _retrieval(run, context) if round else ([], "")
        metrics += far
        if run.asked:
            same, near = ({hit.training for hit in hits if hit.same is wanted} for wanted in (True, False))
            metrics += [_count("overlap_exact", len(same), len(trained)), _count("overlap_near", len(near), len(trained))]
        with run.store.transaction("guards"):
            if text:
                run.store.event("retrieval", {"round": round, "text": text})
            done = _store_findings(run, round, metrics, alarms, hits, began)
    overlapping = "" if run.recipe.allow_overlap else done.get("overlap", "")
    return "; ".join(filter(None, (overlapping, done["stop"])))


def check_turns(run: Setup) -> None:
    """Notes the metrics on held-out prompts that turned round over the rounds of a run that is at its end (`turned`).

    The validation seeds choose the round, so that there a fall is a regression, told and rolled back as it happens (`choose`).
    """
    store = run.store
    if any(kind == "oscillation" for _, kind, _ in standing_events(store)):
        return
    rounds = [round for round in range(run.recipe.rounds + 1) if store.stage(round, "evaluate") is not None]
    found = turned({round: paired_metrics(store, round) for round in rounds})
    with store.transaction("oscillation"):
        for text in found:
            store.event("oscillation", {"text": text})


def _diversity(run: Setup, context: Context, pool: Pool, examples: Sequence[Example]) -> list[Metric]:
    metrics: list[Metric] = []
    if run.recipe.per_round:
        earlier = pool.examples if context.round else ()
        own = [one for one in examples if one.history or not context.round or one.slot < run.recipe.candidates(context.round)]
        for turn in ("", SECOND_TURN):
            if these := [example for example in own if bool(example.history) is bool(turn)]:
                metrics += diversity(these, earlier, context.encode([example.prompt for example in these]), turn)
    if context.round:
        metrics += saturation((*examples, *(drop.example for drop in run.store.dropped(context.round))))
    return metrics


def _retrieval(run: Setup, context: Context) -> tuple[list[Metric], str]:
    """`far_from_shown` of the round's first turns, whatever became of them; what they were shown stands in the record."""
    kept = run.store.kept(context.round)
    made = [*kept, *(drop.example for drop in run.store.dropped(context.round))]
    answered = [each for each in made if not each.history and any(d.similarity is not None for d in each.response_demonstrations)]
    if not answered:
        return [], ""
    seeds = context.pool.seeds
    of = {seed.id: seed.category for seed in seeds}
    # Where each is shown its own category alone, so near as the seeds of one category are to each other can the shown ones be.
    own = all(of.get(shown.id, each.category) == each.category for each in answered for shown in each.response_demonstrations)
    groups = [[seed for seed in seeds if seed.category == kind] for kind in sorted({*of.values()})] if own else [seeds]
    # Each prompt once: seeds that ask the same of other customers or answer it otherwise would make every new prompt a far one.
    texts = [list({normalise(seed.prompt): seed.prompt for seed in group}.values()) for group in groups]
    near = [nearest_other(context.encode(prompts)) for prompts in texts if len(prompts) > 1]
    return far_from_shown(context.round, answered, {each.id for each in kept}, [*chain.from_iterable(near)])


def _alarms(run: Setup, round: int, metrics: Sequence[Metric]) -> list[Alarm]:
    series = {**{earlier: run.store.metrics(earlier) for earlier in range(round)}, round: metrics}
    return [alarm for alarm in run.recipe.alarms.check(series) if alarm.round == round]


def _overlap(run: Setup, context: Context, examples: Sequence[Example]) -> list[Hit]:
    apart = systems_decide((*run.shown, *run.validation))
    if not run.recipe.per_round or not examples or not run.asked:
        return overlap(examples, run.asked, apart=apart)
    ours, theirs = (context.encode([example.full_prompt for example in side]) for side in (examples, run.asked))
    return overlap(examples, run.asked, (ours, theirs), apart=apart)


def _store_findings(
    run: Setup, round: int, metrics: Sequence[Metric], alarms: Sequence[Alarm], hits: Sequence[Hit], began: float
) -> dict[str, Any]:
    action = run.recipe.alarms.action
    collapse = "; ".join(alarm.text for alarm in alarms) if action == "stop" else ""
    overlapping = next((_named(hit) for hit in hits if hit.same), "")
    done = {"stop": f"alarm in {collapse}" if collapse else "", "overlap": overlapping}
    with run.store.transaction("guards"):
        run.store.add_metrics(round, metrics)
        for alarm in alarms:
            run.store.event("alarm", {**asdict(alarm), "action": action})
        if hits:
            run.store.event("overlap", _overlap_event(round, hits))
        run.store.finish_stage(round, "guards", done, time.monotonic() - began)
    return done


def _named(hit: Hit) -> str:
    return (
        f"training row {hit.training} asks the same as held-out example {hit.held_out}: {hit.training_text!r} and "
        f"{hit.held_out_text!r}; allow_overlap = true goes on and trains on it all the same"
    )


def _overlap_event(round: int, hits: Sequence[Hit]) -> dict[str, Any]:
    same = sum(hit.same for hit in hits)
    stored = [asdict(hit) for hit in hits[:HITS_STORED]]
    pairs = f"{counted(same, 'pair')} of a training row and a held-out prompt"
    text = f"round {round}: {pairs} that ask the same, {len(hits) - same} nearly so"
    return {"round": round, "exact": same, "near": len(hits) - same, "hits": stored, "text": text}


def _count(name: str, count: int, of: int) -> Metric:
    """A plain count of what should not be: nothing was sampled, so low = high = value."""
    return Metric(name, float(count), float(count), float(count), of, unit="count", better="lower")
