"""The learning curve of a study: a metric by the number of seeds, and whether more of them would help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from selfalign.proof.crossed import compare, holm
from selfalign.proof.unfinished import Failed, shared
from selfalign.proof.verdicts import arm_figures, common_metrics, comparison_figures, outcomes_of, reservations, sentence, verdict
from selfalign.record.finished import Finished
from selfalign.types import BOUNDS

_Runs = Mapping[str, Sequence[Finished]]
LED = {"better": "the last ones did help", "worse": "the last ones did harm", "unclear": ""}
"""By the verdict on the two largest sizes. What was not measured is not promised."""


class Size(NamedTuple):
    """An arm on part of the seeds: a point on the curve of the arm `line`, which has all of them."""

    line: str
    seeds: int
    arm: str


def add_curve(study: dict[str, Any], found: _Runs, sizes: Sequence[Size], whole: int, failed: Failed = ()) -> dict[str, Any]:
    """The study with the arms of its learning curve among `arms`, and the curve itself under `curve`:

    - `metric`: what it is about, the verdicts' own;
    - `lines`: by the arm that has all seeds, {"seeds", "arm"} of each point, smallest first;
    - `comparisons`: the main arm minus the other line at each size that both have, p after Holm's correction over the sizes;
    - `missing`: arms without the metric (`Refusal` may not be able to judge by few seeds), each with the reason;
    - `verdict`, `sentence`: the main arm at its two largest sizes, one paired comparison fixed beforehand, not corrected.

    The sizes are compared in their own family: asking how many seeds are needed makes no verdict on the baselines weaker.

    `whole`: how many seeds there are; `failed`: as for `conclude`.
    """
    main, name, unit = study["main"], study["metric"], study["metrics"][study["metric"]]["unit"]
    lines: dict[str, list[dict[str, Any]]] = {}
    missing: dict[str, str] = {}
    for line, seeds, arm in (*sizes, *(Size(each, whole, each) for each in dict.fromkeys(size.line for size in sizes))):
        if not found[arm]:
            missing[arm] = "no run of it finished"
            continue
        metrics, left_out = common_metrics({main: found[main], arm: found[arm]})
        study["arms"].setdefault(arm, arm_figures(found[arm], {m: each for m, each in metrics.items() if m in study["metrics"]}))
        if name in metrics:
            lines.setdefault(line, []).append({"seeds": seeds, "arm": arm})
        else:
            missing[arm] = left_out[name]
    lines = {line: sorted(points, key=lambda point: int(point["seeds"])) for line, points in lines.items()}
    at = {line: {point["seeds"]: point["arm"] for point in points} for line, points in lines.items()}
    compared: dict[str, list[dict[str, Any]]] = {}
    for line in (each for each in lines if each != main):
        both = {seeds: shared(found, failed, arm, at[line][seeds]) for seeds, arm in at[main].items() if seeds in at[line]}
        both = {seeds: pair for seeds, pair in both.items() if all(pair)}
        each = [
            compare(outcomes_of(one, name), outcomes_of(other, name), bounds=BOUNDS[unit], family=len(both))
            for one, other in both.values()
        ]
        adjusted = holm([one.p_value for one in each])
        compared[line] = [
            {"seeds": seeds, **comparison_figures(one, p)} for seeds, one, p in zip(both, each, adjusted, strict=True)
        ]
    study["curve"] = {"metric": name, "lines": lines, "comparisons": compared, "missing": missing}
    study["curve"] |= _more(main, lines[main], found, name, failed)
    return study


def _more(main: str, points: Sequence[Mapping[str, Any]], found: _Runs, name: str, failed: Failed) -> dict[str, Any]:
    """Whether more seeds than there are would help, as far as the last step of the curve tells: verdict and sentence."""
    ask = "would more examples help?"
    if len(points) < 2:
        return {"verdict": "unclear", "sentence": f"{ask} cannot tell: {name.replace('_', ' ')} is there at one size alone"}
    pair = [point["arm"] for point in points[-2:]]
    smaller, larger = shared(found, failed, *pair)
    if not (smaller and larger):
        return {"verdict": "unclear", "sentence": f"{ask} cannot tell: {' and '.join(pair)} finished on no random seed together"}
    metric = common_metrics({"smaller": smaller, "larger": larger})[0][name]
    step = compare(outcomes_of(larger, name), outcomes_of(smaller, name), bounds=BOUNDS[metric.unit])
    told = verdict(metric, step, step.p_value)
    fewer, more = (point["seeds"] for point in points[-2:])
    figures = sentence(f"{main} with {more} seeds", f"with {fewer}", metric, step, step.p_value)
    led = LED.get(told, f"the last ones made {name.replace('_', ' ')} {told}")
    known = reservations(found, failed, *pair)
    return {"verdict": told, "sentence": f"{ask} {f'{led}: ' if led else ''}{figures}{known}"}


def only_on_curve(study: Mapping[str, Any]) -> set[str]:
    """The arms of a study that are points on its learning curve and in no other comparison."""
    curve = study.get("curve") or {"lines": {}, "missing": ()}
    points = {point["arm"] for points in curve["lines"].values() for point in points}
    return (points | {*curve["missing"]}) - {*curve["lines"]}
