"""What a part may tell before a run begins, beside what `protocols` asks of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Protocol, runtime_checkable

from selfalign.types import Example


@runtime_checkable
class Aiming(Protocol):
    """A proposer whose drafts shall belong to categories that follow from the seeds."""

    def aims(self, seeds: Sequence[Example], count: int) -> list[str]:
        """The category of each of `count` drafts, "" for none."""
        ...


@runtime_checkable
class Showing(Protocol):
    """A proposer or a retriever that is asked to show a number of examples, which the seeds may not suffice for."""

    def shown(self, seeds: Sequence[Example], categories: Collection[str]) -> tuple[int, int]:
        """(how many it is asked for, how many it shows where there are the seeds alone, for the category with the fewest).

        Args:
            categories: those that drafts are of, "" for drafts without one.
        """
        ...


@runtime_checkable
class Pretending(Protocol):
    """A trainer whose folders are no models, or an engine that runs them all the same."""

    pretends: bool


def pretends(part: object) -> bool:
    return isinstance(part, Pretending) and part.pretends


@runtime_checkable
class Naming(Protocol):
    """An evaluator that can tell how its metrics will be called."""

    def metric_names(self, held_out: Sequence[Example]) -> Sequence[str]:
        """All that `evaluate` may give on these examples; `*` stands for any text."""
        ...


@runtime_checkable
class Bringing(Protocol):
    """An evaluator that brings prompts of its own, beside the held-out ones or instead of them."""

    def prompts(self, seeds: Sequence[Example]) -> Sequence[Example]:
        """What it asks where these are the seeds: none of it should be trained on."""
        ...


def brought(evaluators: Sequence[object], seeds: Sequence[Example]) -> tuple[Example, ...]:
    """The prompts that evaluators bring, of all of them."""
    return tuple(prompt for part in evaluators if isinstance(part, Bringing) for prompt in part.prompts(seeds))


def unknown_metric(metric: str, evaluators: Sequence[object], held_out: Sequence[Example]) -> str:
    """What is wrong with a metric that none of the evaluators can give; "" where one can, or one does not tell its names."""
    names: list[str] = []
    for part in evaluators:
        if not isinstance(part, Naming):
            return ""
        names += part.metric_names(held_out)
    return "" if any(fnmatchcase(metric, name) for name in names) else no_such_metric(metric, names)


def no_such_metric(metric: str, names: Collection[str]) -> str:
    """In words, with the nearest one there is."""
    near = get_close_matches(metric, names, 1)
    hint = f"did you mean {near[0]}? It has" if near else "it has"
    return f"no such metric on these held-out prompts; {hint} {', '.join(names) or 'none'}"
