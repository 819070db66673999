"""Collapse alarms: when generated examples grow shorter, more alike or repeat themselves, the run says so or stops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal

from selfalign.errors import UserError
from selfalign.proof.diversity import SATURATION, SECOND_TURN, VERY_SHORT
from selfalign.types import Metric

Action = Literal["warn", "stop", "off"]

Series = Mapping[int, Sequence[Metric]]
"""The figures of `diversity` by round; round 0 holds those of the seeds."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """One figure of one round beyond its threshold."""

    name: str
    """The metric's name."""
    round: int
    value: float
    threshold: float
    text: str
    """For people: the figure, what it is compared with, and the limit."""


@dataclass(frozen=True)
class Alarms:
    """What is watched in the examples a round kept, and where the alarm goes off; null switches one of them off.

    First turns and second ones are watched apart, each against its own kind: on MT-Bench I-SHEEP's first turn falls by a
    tenth and its second by half.

    References are the seeds and the first generated round, whichever speaks louder: comparing a round with the one before it
    would let a slow decline pass. The thresholds are our own choice; the five steps of I-SHEEP's released 72B sets (median
    words 57, 27, 21 …, very short 8, 16, 20 … %) set off two of them at the first step.
    """

    action: Action = "warn"
    """warn: say so and go on; stop: end the run before the round trains; off: do not look."""
    median_words: float | None = 0.5
    """Median words of a response below this share of a reference's."""
    very_short: float | None = 0.15
    """Share of responses of at most three words above this, where the reference's is not."""
    very_short_rise: float | None = 0.10
    """The same share more than this above a reference's."""
    distinct_2: float | None = 0.85
    """Distinct word pairs of prompts or responses below this share of a reference's."""
    repeats: float | None = 0.02
    """Share of prompts that stand verbatim in the seeds or an earlier round, above this."""
    spread: float | None = 0.8
    """Mean distance between the prompts' embeddings below this share of a reference's."""
    saturation: float | None = 0.9
    """Share of scored examples that have the highest value of a score, above this."""
    min_examples: int = 20
    """Fewer examples than this say too little: neither watched nor taken as a reference, but for seeds that are very short
    themselves."""

    def __post_init__(self) -> None:
        if self.action not in ("warn", "stop", "off"):
            raise UserError(f"alarms.action = {self.action!r}: one of warn, stop, off")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in ("action", "min_examples") and value is not None and not 0 <= value <= 1:
                raise UserError(f"alarms.{field.name} = {value}: between 0 and 1, or null for no such alarm")
        if self.min_examples < 1:
            raise UserError(f"alarms.min_examples = {self.min_examples}: at least 1")

    def check(self, series: Series) -> list[Alarm]:
        """Every alarm of the series, by round; none with action off. The seeds (round 0) are never watched themselves."""
        if self.action == "off":
            return []
        figures = {
            round: {metric.name: metric.value for metric in metrics if metric.n >= self.min_examples}
            for round, metrics in sorted(series.items())
        }
        seeds = {metric.name: metric.value for metric in series.get(0, ())}  # labels are seen to be labels by a dozen
        first = min((round for round in figures if round), default=0)
        found: list[Alarm] = []
        for round, values in figures.items():
            references = {at: figures[at] for at in (0, first) if at in figures and at < round}
            if round:
                for turn in ("", SECOND_TURN):
                    found += self._fallen(round, values, references, turn)
                    found += self._short(round, values, references, turn, seeds.get(f"kept_{turn}very_short", 0.0))
                found += self._above(round, values)
        return found

    def _fallen(
        self, round: int, values: Mapping[str, float], references: Mapping[int, Mapping[str, float]], turn: str
    ) -> list[Alarm]:
        found = []
        for name, share, what in (
            (f"kept_{turn}median_words", self.median_words, "median words of a response"),
            (f"diversity_{turn}distinct_2_prompts", self.distinct_2, "distinct word pairs of the prompts"),
            (f"diversity_{turn}distinct_2_responses", self.distinct_2, "distinct word pairs of the responses"),
            (f"diversity_{turn}spread", self.spread, "mean distance between the prompts' embeddings"),
        ):
            if share is None or name not in values or not (known := _of(name, references)):
                continue
            at = max(known, key=lambda at: known[at])
            if values[name] < (limit := share * known[at]):
                text = f"{what} {values[name]:.3g}, below {share:g} of the {known[at]:.3g} of {_whose(at)}"
                found.append(Alarm(name, round, values[name], limit, f"{_head(round, turn)}: {text}"))
        return found

    def _short(
        self, round: int, values: Mapping[str, float], references: Mapping[int, Mapping[str, float]], turn: str, seeds: float
    ) -> list[Alarm]:
        name = f"kept_{turn}very_short"
        known = _of(name, references)
        if name not in values:
            return []
        if not known and self.very_short is not None and seeds > self.very_short:
            known = {0: seeds}
        value, least = values[name], min(known.values(), default=0.0)
        head = f"{_head(round, turn)}: {value:.1%} of the responses have at most {VERY_SHORT} words"
        if self.very_short is not None and value > self.very_short >= least:
            return [Alarm(name, round, value, self.very_short, f"{head}, above {self.very_short:.0%}")]
        if self.very_short_rise is not None and known and value > least + self.very_short_rise:
            at = min(known, key=lambda at: known[at])
            text = f"{head}, more than {100 * self.very_short_rise:g} points above the {least:.1%} of {_whose(at)}"
            return [Alarm(name, round, value, least + self.very_short_rise, text)]
        return []

    def _above(self, round: int, values: Mapping[str, float]) -> list[Alarm]:
        found = []
        for name, value in values.items():
            turn = SECOND_TURN if name.startswith(f"diversity_{SECOND_TURN}") else ""
            if name == f"diversity_{turn}repeats":
                limit, what = self.repeats, "of the prompts repeat a seed or an earlier round word by word"
            elif name.startswith(SATURATION):
                limit, what = self.saturation, f"of the scored examples have the highest {name.removeprefix(SATURATION)}"
            else:
                continue
            if limit is not None and value > limit:
                found.append(Alarm(name, round, value, limit, f"{_head(round, turn)}: {value:.1%} {what}, above {limit:.0%}"))
        return found


DEFAULT = Alarms()


def _of(name: str, references: Mapping[int, Mapping[str, float]]) -> dict[int, float]:
    return {at: values[name] for at, values in references.items() if name in values}


def _head(round: int, turn: str) -> str:
    return f"round {round}{', second turns' if turn else ''}"


def _whose(round: int) -> str:
    return f"round {round}" if round else "the seeds"
