"""What the filters have in common: cutting a batch in two, and saying what a text collided with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from selfalign.text import split_task
from selfalign.types import Dropped, Example, FilterResult

Field = Literal["prompt", "response", "instruction", "input"]
"""Which text of an example a filter looks at; the last two are the parts of its prompt (see `text.split_task`)."""

Verdict = tuple[str, str] | None
"""(rule, evidence) of a drop; None keeps."""


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


def text_of(example: Example, field: Field) -> str:
    if field in ("instruction", "input"):
        return split_task(example.prompt)[field == "input"]
    return example.prompt if field == "prompt" else example.response


def categories(examples: Sequence[Example]) -> list[str]:
    """The categories the examples carry, in order of first appearance."""
    return list(dict.fromkeys(example.category for example in examples if example.category))
