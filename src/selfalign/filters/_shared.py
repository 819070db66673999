"""What the filters have in common: cutting a batch in two, saying what a text collided with, and learning from the seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from typing import Any, Literal

import numpy as np

from selfalign.protocols import Filter
from selfalign.text import TENTH, split_task
from selfalign.types import Dropped, Example, FilterResult

Field = Literal["prompt", "response", "instruction", "input"]
"""Which text of an example a filter looks at; the last two are the parts of its prompt (see `text.split_task`)."""

Verdict = tuple[str, str] | None
"""(rule, evidence) of a drop; None keeps."""
Rules = Callable[[Example], Iterable[tuple[str, str]]]
"""All that is wrong with an example, as (rule, evidence), in the order in which rules count."""


def split(examples: Sequence[Example], judge: Callable[[Example], Verdict]) -> FilterResult:
    """Both halves, in order. `judge` is asked once per example, in order, so it may remember what it kept."""
    kept: list[Example] = []
    dropped: list[Dropped] = []
    for example in examples:
        if verdict := judge(example):
            dropped.append(Dropped(example, *verdict))
        else:
            kept.append(example)
    return FilterResult(tuple(kept), tuple(dropped))


def split_by(examples: Sequence[Example], rules: Rules, seeds: Sequence[Example] = ()) -> FilterResult:
    """As `split`, by the first rule that an example breaks.

    Rules that more than a tenth of the `seeds` break are not applied: what the seeds do so often, an answer may do.
    """
    broken = Counter(rule for seed in seeds for rule in {rule for rule, _ in rules(seed)})
    usual = {rule for rule, times in broken.items() if times > TENTH * len(seeds)}
    return split(examples, lambda example: next((found for found in rules(example) if found[0] not in usual), None))


def near_top(values: Sequence[float]) -> float:
    """What at most one in twenty of the values exceeds; 0 for none."""
    return float(np.quantile(values, 0.95, method="higher")) if len(values) else 0.0


def above(bound: float, usual: float) -> float:
    """A bound on a likeness that leaves room for the seeds' `usual` one: a third of the way from it to 1, or higher."""
    return max(bound, usual + (1.0 - usual) / 3)


def published(*filters: Any) -> tuple[Filter, ...]:
    """The filters as their papers have them: nothing is learned from the seeds."""
    return tuple(replace(each, learn=False) if any(f.name == "learn" for f in fields(each)) else each for each in filters)


def text_of(example: Example, field: Field) -> str:
    if field in ("instruction", "input"):
        return split_task(example.prompt)[field == "input"]
    return example.prompt if field == "prompt" else example.response


def categories(examples: Sequence[Example]) -> list[str]:
    """The categories the examples carry, in order of first appearance."""
    return list(dict.fromkeys(example.category for example in examples if example.category))
