"""What a part may tell before a run begins, beside what `protocols` asks of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
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
