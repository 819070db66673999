"""What follows from the finished runs of a study: figures of each arm, comparisons, verdicts in words."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from difflib import get_close_matches
from math import isfinite
from typing import Any

from selfalign.errors import UserError
from selfalign.proof.crossed import Comparison, compare, crossed_mean, holm
from selfalign.proof.shortcuts import BALANCE, EXPECTED, overtaken
from selfalign.proof.stats import too_few
from selfalign.proof.unfinished import Failed, shared, unequal
from selfalign.record.finished import Finished, mean_costs
from selfalign.text import counted, finite
from selfalign.types import BOUNDS, SHARES, Metric, Outcome

PREFERRED = (EXPECTED, BALANCE, "log_likelihood")
"""What the verdict is about where nobody says: the first of these that every arm has."""
COPIED = "its answers are copied: no model decides"
SIGNIFICANT = 0.05
SEEDS = 3
"""Random seeds from which on a difference counts the chance of a training. Where a training moves a model by 2 or 5 points,
two arms alike are told apart in 7 or 22 % of studies on one, 3 or 4 % on two, 2 % on three (simulate_statistics.py)."""


def conclude(
    found: Mapping[str, Sequence[Finished]],
    metric: str | None,
    *,
    held_out: int,
    random_seeds: Sequence[int],
    shortcuts: Sequence[Mapping[str, Any]] = (),
    failed: Failed = (),
) -> dict[str, Any]:
    """The study as plain data: figures of each arm, comparisons of the first arm with the others, verdicts. Under `missing`
    stand, for each metric, the arms that cannot be compared on it, with the reason.

    Two arms are compared on the random seeds that both have. An arm without any run is left out, but Holm's correction counts
    it: so no verdict becomes weaker when the failed runs are made up for.

    Args:
        failed: runs that did not finish (`proof.unfinished`); an arm of `found` may have none at all.
        shortcuts: what trivial rules reach on the held-out prompts (`shortcuts.audit`). Verdicts name a rule that does as well.

    Raises:
        UserError: the metric asked for is missing in an arm, or no metric is common to all.
    """
    main, planned = next(iter(found)), len(found) - 1
    found = {arm: runs for arm, runs in found.items() if runs}
    metrics, left_out, missing = _comparable(found)
    chosen = _chosen(metric, metrics, left_out, missing)
    pairs = {arm: shared(found, failed, main, arm) for arm in found if main in found and arm != main}
    pairs = {arm: pair for arm, pair in pairs.items() if all(pair)}
    compared = {name: _compared(each, pairs, missing.get(name, ()), planned) for name, each in metrics.items()}
    arms = {
        arm: arm_figures(runs, {name: each for name, each in metrics.items() if arm not in missing.get(name, ())})
        for arm, runs in found.items()
    }
    easy = overtaken(shortcuts, chosen, arms[main]["metrics"][chosen]["low"]) if main in arms else ""
    verdicts = [
        {
            "arm": arm,
            "metric": chosen,
            "verdict": verdict(metrics[chosen], *each),
            "sentence": sentence(main, arm, metrics[chosen], *each)
            + reservations(found, failed, main, arm)
            + (f"; {easy}" if easy else ""),
        }
        for arm, each in compared[chosen].items()
    ]
    return {
        "main": main,
        "metric": chosen,
        "held_out": held_out,
        "random_seeds": list(random_seeds),
        "arms": arms,
        "shortcuts": list(shortcuts),
        "metrics": {name: {"unit": each.unit, "better": each.better} for name, each in metrics.items()},
        "left_out": left_out,
        "missing": missing,
        "comparisons": {name: {arm: comparison_figures(*each) for arm, each in row.items()} for name, row in compared.items()},
        "verdicts": verdicts,
    }


def _chosen(metric: str | None, metrics: Collection[str], left_out: Mapping[str, str], missing: Collection[str]) -> str:
    preferred = (name for name in (*PREFERRED, *metrics) if name in metrics and name not in missing)
    chosen = meant(metric, metrics) if metric else next(preferred, None)
    if chosen is not None and chosen in metrics:
        return chosen
    reason = f"there is {no_such_metric(chosen, metrics)}" if chosen else "there is no metric that all arms have"
    if chosen and chosen in left_out:
        reason = f"{left_out[chosen]}; all arms have: {', '.join(metrics) or 'none'}"
    raise UserError(f"no verdict on {chosen or 'anything'}: {reason}")


def meant(metric: str, names: Collection[str]) -> str:
    """The one of the names that `--metric` asks for: itself, or the only one that ends in it (`exact` of `expected:exact`)."""
    ends = [] if metric in names else _ending_in(metric, names)
    return ends[0] if len(ends) == 1 else metric


def no_such_metric(metric: str, names: Collection[str]) -> str:
    """In words, with the nearest one there is; "" where there is one."""
    if meant(metric, names) in names:
        return ""
    near = _ending_in(metric, names) or get_close_matches(metric, names, 1)
    hint = f"did you mean {' or '.join(near)}? There are" if near else "there are"
    return f"no such metric on these held-out prompts; {hint} {', '.join(names) or 'none'}"


def _ending_in(metric: str, names: Collection[str]) -> list[str]:
    """A check stands in a metric's name with `_` for `:`, so `exact:day` asks for `expected:exact_day`, as `day` does."""
    return [name for name in names if name.replace(":", "_").endswith(f"_{metric.replace(':', '_')}")]


def outcomes_of(runs: Sequence[Finished], name: str) -> list[Sequence[Outcome]]:
    return [run.metrics[name].outcomes for run in runs]


def _compared(
    metric: Metric, pairs: Mapping[str, Sequence[Sequence[Finished]]], lacking: Collection[str], planned: int
) -> dict[str, tuple[Comparison, float]]:
    """By arm, how the main one differs from it on a metric, and p after Holm's correction, but for the arms that lack it.

    An arm of the `planned` ones that could not be compared otherwise counts with the largest p there is.
    """
    family = planned - len(lacking)
    row = {
        arm: compare(outcomes_of(main, metric.name), outcomes_of(other, metric.name), bounds=BOUNDS[metric.unit], family=family)
        for arm, (main, other) in pairs.items()
        if arm not in lacking
    }
    adjusted = holm([*(each.p_value for each in row.values()), *[1.0] * (family - len(row))])
    return {arm: (each, p_value) for (arm, each), p_value in zip(row.items(), adjusted, strict=False)}


def verdict(metric: Metric, comparison: Comparison, p_value: float) -> str:
    """better or worse (higher or lower for a metric with no good side), else unclear.

    Clear is p below 5 % after Holm's correction (`p_value`) with an interval that leaves out zero.
    """
    if not p_value < SIGNIFICANT or comparison.low <= 0 <= comparison.high:
        return "unclear"
    side = "higher" if comparison.value > 0 else "lower"
    return side if metric.better == "neither" else "better" if metric.better == side else "worse"


def agreed(metrics: Iterable[Metric]) -> Metric:
    """One metric for several runs: the first run's, but a plain number where units differ, with no good side where sides do."""
    first, *others = metrics
    return replace(
        first,
        unit=first.unit if all(each.unit == first.unit for each in others) else "number",
        better=first.better if all(each.better == first.better for each in others) else "neither",
    )


def sentence(main: str, arm: str, metric: Metric, comparison: Comparison, p_value: float) -> str:
    """The verdict in words that follow from the figures. Shares are given in percentage points."""
    scale, unit, form = (100, " points", "{:+.0f}") if metric.unit in SHARES else (1, "", "{:+.3g}")
    value, low, high = (form.format(scale * each) for each in (comparison.value, comparison.low, comparison.high))
    p_text = "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}"
    span = f" [{low.lstrip('+')}, {high.lstrip('+')}]" if isfinite(comparison.low) else ""  # with too few prompts it has no ends
    figures = f"{value}{unit}{span}, {p_text}"
    n = f"n = {counted(comparison.prompts, 'prompt')} × {counted(comparison.repeats, 'random seed')}"
    about = metric.name.replace("_", " ")
    outcome = verdict(metric, comparison, p_value)
    if outcome != "unclear":
        return f"{main} is {outcome} than {arm} on {about}: {figures}, {n}"
    direction = "higher" if metric.better == "neither" else "better"
    detectable = scale * comparison.minimum_detectable
    if comparison.value == comparison.standard_error == 0:
        limit = "no prompt separates the two"
    elif few := too_few(comparison.prompts, "prompts"):
        limit = few
    elif comparison.minimum_detectable > BOUNDS[metric.unit][1] - BOUNDS[metric.unit][0]:
        limit = "even the largest difference there can be would be missed more often than one time in five"
    elif isfinite(detectable):
        limit = f"a difference below {form.format(detectable).lstrip('+')}{unit} would be missed more often than one time in five"
    else:
        limit = "too few data for a minimum detectable effect"
    return f"cannot tell whether {main} is {direction} than {arm} on {about}: {figures}, {n}; {limit}"


def looked_at(looks: Sequence[int]) -> str:
    """What it means that verdicts were given after several numbers of random seeds; "" where they were once."""
    if len(looks) < 2:
        return ""
    counts = f"{', '.join(map(str, looks[:-1]))} and {looks[-1]}"
    return (
        f"verdicts were given after {counts} random seeds: whoever looks and goes on until p is below 0.05 finds differences that"
        " are not there; decide on --repeats before the start"
    )


def reservations(found: Mapping[str, Sequence[Finished]], failed: Failed, *pair: str) -> str:
    """What a reader of a verdict on two arms must know of their runs, behind its sentence; "" for nothing."""
    sides, alone = shared(found, failed, *pair), unequal(found, failed, *pair)
    return _stayed(dict(zip(pair, sides, strict=True))) + alone + _chance(sides, unfinished=bool(alone))


def _chance(arms: Sequence[Sequence[Finished]], unfinished: bool) -> str:
    """That another random seed could say something else, where an arm was trained on fewer than three (`unfinished`: only as some
    run failed); "" elsewhere."""
    seeds = min((len(runs) for runs in arms if any(any(run.steps) for run in runs)), default=SEEDS)
    if seeds >= SEEDS:
        return ""
    alone = f"; trained on {counted(seeds, 'random seed')} alone"
    return f"{alone}: another training could differ" + ("" if unfinished else f", a study of --repeats {SEEDS} or more tells")


def _stayed(arms: Mapping[str, Sequence[Finished]]) -> str:
    """Which arms should have trained but ship the base model, so that its figures are theirs; "" for none."""
    told = ""
    for name, runs in arms.items():
        if same := [run for run in runs if run.trains and run.best_round == 0]:
            often = f"on {len(same)} of {counted(len(runs), 'random seed')}"
            told += f"; {name} stayed the base model {often} ({same[0].stopped_because})"
    return told


def common_metrics(found: Mapping[str, Sequence[Finished]]) -> tuple[dict[str, Metric], dict[str, str]]:
    """The metrics that every run of every arm has on the same prompts, and why each of the others cannot be compared."""
    runs = [(name, run) for name, runs in found.items() for run in runs]
    metrics, left_out = {}, {}
    for metric in dict.fromkeys(metric for _, run in runs for metric in run.metrics):
        lacking = sorted({name for name, run in runs if metric not in run.metrics})
        having = [(name, run.metrics[metric]) for name, run in runs if metric in run.metrics]
        prompts = {tuple((each.id, each.stratum) for each in one.outcomes) for _, one in having}
        broken = sorted({name for name, one in having for each in one.outcomes if finite(each.value) is None})
        if lacking:
            left_out[metric] = f"{metric} is missing in {', '.join(lacking)}"
        elif len(prompts) > 1:
            left_out[metric] = f"{metric} is not about the same prompts in all arms"
        elif broken:
            left_out[metric] = f"{metric} is not finite for some prompt in {', '.join(broken)}"
        else:
            metrics[metric] = agreed(one for _, one in having)
    return metrics, left_out


def _comparable(found: Mapping[str, Sequence[Finished]]) -> tuple[dict[str, Metric], dict[str, str], dict[str, dict[str, str]]]:
    """As `common_metrics`, and with the metrics that only arms without a model lack. The third part has, for each of these, the
    arms that cannot be compared on it, with the reason."""
    main = next(iter(found))
    metrics, left_out = common_metrics(found)
    missing: dict[str, dict[str, str]] = {}
    for name in tuple(left_out):
        without = [arm for arm, runs in found.items() if all(run.copies and name not in run.metrics for run in runs)]
        others, _ = common_metrics({arm: runs for arm, runs in found.items() if arm not in without})
        if without and main not in without and len(found) - len(without) > 1 and name in others:
            metrics[name], missing[name] = others[name], dict.fromkeys(without, COPIED)
            del left_out[name]
    return metrics, left_out, missing


def arm_figures(runs: Sequence[Finished], metrics: Mapping[str, Metric]) -> dict[str, Any]:
    estimates = {name: crossed_mean(outcomes_of(runs, name), bounds=BOUNDS[each.unit]) for name, each in metrics.items()}
    return {
        "runs": [
            {
                **{name: getattr(run, name) for name in ("seed", "folder", "best_round", "stopped_because")},
                "steps": list(run.steps),
                "costs": asdict(run.costs),
                **({"aim": run.aim} if run.aim else {}),
            }
            for run in runs
        ],
        "costs": asdict(mean_costs([run.costs for run in runs])),
        "metrics": {
            name: {
                **{end: finite(getattr(each, end)) for end in ("value", "low", "high")},
                "prompts": each.prompts,
                "repeats": each.repeats,
            }
            for name, each in estimates.items()
        },
    }


def comparison_figures(each: Comparison, p_holm: float) -> dict[str, Any]:
    return {
        "difference": finite(each.value),
        "low": finite(each.low),
        "high": finite(each.high),
        "p_value": finite(each.p_value),
        "p_holm": finite(p_holm),
        "minimum_detectable": finite(each.minimum_detectable),
        "prompts": each.prompts,
        "repeats": each.repeats,
        "test": each.test,
    }
