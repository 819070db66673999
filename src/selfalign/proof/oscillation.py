"""Metrics that turn round from round to round: what one training taught, the next one undoes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise

from selfalign.proof.crossed import Comparison, compare, holm
from selfalign.proof.stats import LEAST
from selfalign.proof.verdicts import SIGNIFICANT
from selfalign.text import counted, decimals
from selfalign.types import BOUNDS, SHARES, Metric


def turned(measured: Mapping[int, Mapping[str, Metric]]) -> list[str]:
    """The metrics that rose and fell, or fell and rose, by more than noise, a sentence each with every step that is clear.

    A step is the difference between two rounds measured one after the other, paired by prompt (`crossed.compare`). A metric
    has turned where two of its steps in opposite directions are each clear of zero after Holm's correction over all steps of
    all metrics: who looks at many figures finds one that turns by chance (our own choice, and on the safe side, for metrics of
    the same answers go together). Small steps that only together make a rise are no clear ones and turn nothing.

    Args:
        measured: by round (0: the base model) its metrics by name, with their outcomes. Nothing can turn in fewer than three.
    """
    steps = [
        (name, one, other, found)
        for one, other in pairwise(sorted(measured) if len(measured) > 2 else ())
        for name, metric in measured[other].items()
        if name in measured[one] and (found := _step(measured[one][name], metric)) is not None
    ]
    clear: dict[str, list[tuple[int, int, Comparison]]] = defaultdict(list)
    for (name, one, other, found), p in zip(steps, holm([found.p_value for *_, found in steps]), strict=True):
        if p < SIGNIFICANT and not found.low <= 0 <= found.high:
            clear[name].append((one, other, found))
    return [
        f"{name.replace('_', ' ')} turned round: "
        + ", then ".join(_in_words(measured[one][name], measured[other][name], one, other, found) for one, other, found in moves)
        + f" (each clear of zero among the {counted(len(steps), 'step')} looked at)"
        for name, moves in clear.items()
        if len({found.value > 0 for *_, found in moves}) == 2
    ]


def _step(before: Metric, after: Metric) -> Comparison | None:
    """What changed on the prompts that both have; None where they are too few to show anything."""
    known = {each.id: each for each in before.outcomes if math.isfinite(each.value)}
    pairs = [(each, known[each.id]) for each in after.outcomes if each.id in known and math.isfinite(each.value)]
    if len(pairs) < LEAST or before.unit != after.unit:
        return None
    return compare([[new for new, _ in pairs]], [[old for _, old in pairs]], bounds=BOUNDS[after.unit])


def _in_words(before: Metric, after: Metric, one: int, other: int, found: Comparison) -> str:
    """ "from 20% to 96% in rounds 1 to 2 (+76 points [60, 88])"."""
    share = after.unit in SHARES
    scale, unit, mark = (100, " points", "%") if share else (1, "", "")
    digits = 0 if share else decimals(found.value, found.low, found.high)
    was, now, low, high = (f"{scale * each:.{digits}f}" for each in (before.value, after.value, found.low, found.high))
    change = f"{scale * found.value:+.{digits}f}{unit} [{low}, {high}]"
    return f"from {was}{mark} to {now}{mark} in rounds {one} to {other} ({change})"
