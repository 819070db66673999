"""The point on the curve of refusals: how far the model goes from its start, so that it over-refuses no more than is asked for.

Trained models stand at different points of one curve: one refuses much of what it should and much of what it should not, another
little of either. Weights between the start and the trained model (`models.between`) are points of such a curve too, and each is a
plain model that any engine runs. (Method: our own choice; the line is WiSE-FT's, arXiv 2109.01903, which is about robustness.)

The points are tried from the trained model down to an eighth of the way, and the first whose over-refusal on the validation seeds
is at most the aim is shipped, where it refuses more of what it should: as a rule both rates fall on the way down, so that it is
the one with the most refusal, and fewer points are looked at. Validation seeds are never trained on; they are few, so that the
rate goes in large steps, and a point that is chosen by it flatters itself: both are said, with Wilson's interval.

By the answers, and not by the decision's log-probabilities, which would be finer: `decision_auc` needs no threshold, but how
often a model refuses does, and the log-probability of the seeds' openings at which greedy answers turn is another in each model.
What limits the choice is the number of prompts, and finer scores of the same prompts do not mend that.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfalign.errors import RunFailed
from selfalign.evaluators import Refusal
from selfalign.loop.context import Setup, opened
from selfalign.loop.guards import Best
from selfalign.loop.progress import say
from selfalign.models.between import write_between
from selfalign.protocols import Served
from selfalign.record.checkpoints import publish, read_manifest
from selfalign.record.faults import fault_point
from selfalign.record.joined import begun
from selfalign.record.journal import Journal
from selfalign.record.model_rows import made_of
from selfalign.types import Better, Metric, ModelRef, Pool

SHARES = (1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)
"""Of the way from the start to the trained model, in the order in which they are tried. Eighths are our own choice: a dozen
validation seeds would not tell finer steps apart."""
RATES = ("refusal", "over_refusal")


def aimed(run: Setup, best: Best, pool: Pool) -> tuple[Best, str]:
    """(what is shipped instead of the best round, how it was chosen, in a sentence); the same and "" where nothing is aimed at.

    Where a point between is shipped it is the model of a round of its own, the next number, whose lineage stands in the event
    `aim`. Each point is a stage of the best round, so that a run that goes on asks no prompt twice.
    """
    aim, store = run.recipe.aim_over_refusal, run.store
    if aim is None or not run.recipe.trains or not run.recipe.rounds:
        return best, ""
    if best.round == 0:
        return best, "no point was chosen on the validation seeds (aim_over_refusal): the base model is shipped"
    if (done := store.stage(best.round, "aim")) is None:
        tried: list[dict[str, Any]] = []
        for share in SHARES:
            tried.append(_measured(run, best, pool, share))
            if _reaches(tried[-1], aim):
                break
        done = _chosen(run, best, aim, tried)
    if done["round"] == best.round:
        return best, done["text"]
    if store.verified_model(done["round"]) is None:
        _ship(run, best, done)
    return Best(done["round"], store.model(done["round"]), ()), done["text"]


def _measured(run: Setup, best: Best, pool: Pool, share: float) -> dict[str, Any]:
    """{"share", and each of `RATES`: [value, low, high, prompts]} of a point, on the validation seeds."""
    store, stage = run.store, f"aim-{share:g}"
    if (found := store.stage(best.round, stage)) is None:
        began, folder = time.monotonic(), store.folder / "aim"
        model = best.model if share == 1 else _written(run, best, share, folder)
        judge = next(part for part in run.recipe.evaluators if isinstance(part, Refusal))
        with opened(run, model, Pool(pool.parts[: best.round + 1])) as context:
            its = context(best.round)
            _verify(run, best, its.session, share)
            assert isinstance(its.journal, Journal)
            its = replace(its, journal=replace(its.journal, prefix=f"{stage}-"))
            metrics = {each.name: each for each in replace(judge, decision=False).evaluate(its, run.validation)}
        if missing := [name for name in RATES if name not in metrics]:
            raise RunFailed(f"aim_over_refusal: the validation seeds give no {missing[0]}")
        found = {"share": share} | {name: [m.value, m.low, m.high, m.n] for name, m in metrics.items() if name in RATES}
        store.finish_stage(best.round, stage, found, time.monotonic() - began - store.seconds(best.round))
        shutil.rmtree(folder, ignore_errors=True)
    return found


def _verify(run: Setup, best: Best, session: object, share: float) -> None:
    """As `guards.verify_weights`: a point may be hardly another model than the trained one, which is said and no error."""
    if isinstance(session, Served):
        others = {"the base model": run.base, **({f"round {best.round}": best.model} if share < 1 else {})}
        name = f"round {best.round} at {share:g}"
        tell = {"round": best.round}
        session.verify_weights(name, run.shown, others, lambda found: run.store.event("verify_weights", {**tell, **found}))


def _chosen(run: Setup, best: Best, aim: float, tried: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the points came to, recorded once: {"aim", "of", "share", "round", "tried", "text"}."""
    store, last = run.store, tried[-1]
    share = last["share"] if _reaches(last, aim) else None
    round = best.round if share in (None, 1.0) else begun(store) + 1
    done: dict[str, Any] = {"aim": aim, "of": best.round, "share": share, "round": round, "tried": list(tried)}
    done["text"] = _text(done)
    with store.transaction("aim"):
        store.event("aim", done)
        if share in (None, 1.0):
            store.add_metrics(best.round, _metrics(tried[0]))
        store.finish_stage(best.round, "aim", done, 0.0)
    say(run.progress, done["text"])
    return done


def _reaches(found: Mapping[str, Any], aim: float) -> bool:
    """A model that refuses nothing, or either kind alike, over-refuses as little as is asked for and is worth nothing."""
    return bool(found["over_refusal"][0] <= aim and found["refusal"][0] > found["over_refusal"][0])


def _text(done: Mapping[str, Any]) -> str:
    first, last, aim = done["tried"][0], done["tried"][-1], f"an over-refusal of at most {done['aim']:.0%}"
    told = f"refuses {_rate(last['refusal'])} of what it should and {_rate(last['over_refusal'])} of what it should not"
    seeds = f"of {last['refusal'][3]} and {last['over_refusal'][3]} validation seeds, which chose it and so flatter it"
    if done["share"] is None:
        return (
            f"aimed at {aim}: no point between the base model and round {done['of']} reaches it and refuses more of what it"
            f" should, so that round is shipped as it is; it refuses {_rate(first['refusal'])} of what it should and"
            f" {_rate(first['over_refusal'])} of what it should not"
        )
    if done["share"] == 1.0:
        return f"aimed at {aim}: round {done['of']} itself reaches it: it {told} ({seeds})"
    return (
        f"aimed at {aim}: round {done['round']} is round {done['of']} at {done['share']:.1%} of its way from the base model"
        f" (weights between the two); it {told} ({seeds}); round {done['of']} itself {_rate(first['refusal'])} and"
        f" {_rate(first['over_refusal'])}"
    )


def _rate(found: Sequence[float]) -> str:
    return f"{found[0]:.0%} [{100 * found[1]:.0f}, {100 * found[2]:.0f}]"


def _metrics(found: Mapping[str, Any]) -> list[Metric]:
    sides: tuple[tuple[str, Better], ...] = (("refusal", "higher"), ("over_refusal", "lower"))
    named = [(f"validation_{name}", better, found[name]) for name, better in sides]
    return [Metric(name, value, low, high, n, unit="share", better=better) for name, better, (value, low, high, n) in named]


def _ship(run: Setup, best: Best, done: Mapping[str, Any]) -> None:
    """The chosen point as the model of a round of its own."""
    store, round, began = run.store, done["round"], time.monotonic()
    out = store.round_folder(round) / "model"
    partial = out.with_name(".model.partial")
    for folder in (out, partial):  # written, but not recorded: nobody vouches for it
        shutil.rmtree(folder, ignore_errors=True)
    _written(run, best, done["share"], partial)
    fault_point("aim.model.before-rename")
    publish(partial, out)
    fault_point("aim.model.after-rename")
    with store.transaction("aim-model"):
        store.add_model(round, made_of(best.model, out, best.model.adapter is not None), read_manifest(out))
        store.add_metrics(round, _metrics(done["tried"][-1]))
        if store.stage(round, "interpolate") is None:
            store.finish_stage(round, "interpolate", {"of": done["of"], "share": done["share"]}, time.monotonic() - began)


def _written(run: Setup, best: Best, share: float, folder: Path) -> ModelRef:
    shutil.rmtree(folder, ignore_errors=True)
    write_between(run.base, best.model, share, folder)
    return made_of(best.model, folder, best.model.adapter is not None)
