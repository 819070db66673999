"""The learning curve of a study: a metric by the number of seeds, and whether more of them would help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from selfalign.proof.crossed import compare, holm
from selfalign.proof.verdicts import arm_figures, chance, common_metrics, comparison_figures, sentence, stayed, verdict
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


def add_curve(study: dict[str, Any], found: _Runs, sizes: Sequence[Size], whole: int) -> dict[str, Any]:
    """The study with the arms of its learning curve among `arms`, and the curve itself under `curve`:

    - `metric`: what it is about, the verdicts' own;
    - `lines`: by the arm that has all seeds, {"seeds", "arm"} of each point, smallest first;
    - `comparisons`: the main arm minus the other line at each size that both have, p after Holm's correction over the sizes;
    - `missing`: arms without the metric (`Refusal` may not be able to judge by few seeds), each with the reason;
    - `verdict`, `sentence`: the main arm at its two largest sizes, one paired comparison fixed beforehand, not corrected.

    The sizes are compared in their own family: asking how many seeds are needed makes no verdict on the baselines weaker.

    Args:
        whole: how many seeds there are.
    """
    main, name, unit = study["main"], study["metric"], study["metrics"][study["metric"]]["unit"]
    lines: dict[str, list[dict[str, Any]]] = {}
    missing: dict[str, str] = {}
    for line, seeds, arm in (*sizes, *(Size(each, whole, each) for each in dict.fromkeys(size.line for size in sizes))):
        metrics, left_out = common_metrics({main: found[main], arm: found[arm]})
        study["arms"].setdefault(arm, arm_figures(found[arm], {m: each for m, each in metrics.items() if m in study["metrics"]}))
        if name in metrics:
            lines.setdefault(line, []).append({"seeds": seeds, "arm": arm})
        else:
            missing[arm] = left_out[name]
    lines = {line: sorted(points, key=lambda point: int(point["seeds"])) for line, points in lines.items()}
    at = {line: {point["seeds"]: _outcomes(found[point["arm"]], name) for point in points} for line, points in lines.items()}
    compared: dict[str, list[dict[str, Any]]] = {}
    for line in (each for each in lines if each != main):
        shared = [seeds for seeds in at[main] if seeds in at[line]]
        each = [compare(at[main][seeds], at[line][seeds], bounds=BOUNDS[unit], family=len(shared)) for seeds in shared]
        adjusted = holm([one.p_value for one in each])
        compared[line] = [
            {"seeds": seeds, **comparison_figures(one, p)} for seeds, one, p in zip(shared, each, adjusted, strict=True)
        ]
    study["curve"] = {"metric": name, "lines": lines, "comparisons": compared, "missing": missing}
    study["curve"] |= _more(main, lines[main], found, name)
    return study


def _more(main: str, points: Sequence[Mapping[str, Any]], found: _Runs, name: str) -> dict[str, Any]:
    """Whether more seeds than there are would help, as far as the last step of the curve tells: verdict and sentence."""
    ask = "would more examples help?"
    if len(points) < 2:
        return {"verdict": "unclear", "sentence": f"{ask} cannot tell: {name.replace('_', ' ')} is there at one size alone"}
    smaller, larger = (found[point["arm"]] for point in points[-2:])
    metric = common_metrics({"smaller": smaller, "larger": larger})[0][name]
    step = compare(_outcomes(larger, name), _outcomes(smaller, name), bounds=BOUNDS[metric.unit])
    told = verdict(metric, step, step.p_value)
    fewer, more = (point["seeds"] for point in points[-2:])
    figures = sentence(f"{main} with {more} seeds", f"with {fewer}", metric, step, step.p_value)
    led = LED.get(told, f"the last ones made {name.replace('_', ' ')} {told}")
    kept = stayed({point["arm"]: found[point["arm"]] for point in points[-2:]})
    return {"verdict": told, "sentence": f"{ask} {f'{led}: ' if led else ''}{figures}{kept}{chance(smaller, larger)}"}


def _outcomes(runs: Sequence[Finished], name: str) -> list[Any]:
    return [run.metrics[name].outcomes for run in runs]
