"""Whether examples in its context change what a model does: what recipes that learn from context can gain at most.

Their gain was seen to be about linear in the gap between the model with and without its context, and about zero where there is no
gap (arXiv 2605.30070): so the gap is measured first. The limits of the verdict are our own choice.
"""

from __future__ import annotations

from math import isfinite
from typing import Literal, NamedTuple

from selfalign.proof.crossed import compare
from selfalign.proof.shortcuts import BALANCE
from selfalign.proof.stats import wilson
from selfalign.proof.verdicts import SIGNIFICANT
from selfalign.text import counted
from selfalign.types import BOUNDS, SHARES, Metric

Verdict = Literal["go", "no gain to expect", "cannot tell"]
UNMOVED = 0.25
"""Upper end of Wilson's interval of the share of outcomes that flip, below which nothing changes: 24 prompts of which at most one
flips (0.20), or 12 of which none does (0.24). Fewer prompts cannot show it."""
SMALL = 0.05
"""Nats per token that are no gain, at the upper end of the interval: a perplexity 5 % lower."""


class Gain(NamedTuple):
    """A metric with examples shown, minus the same without, paired by prompt."""

    difference: float
    low: float
    high: float
    p_value: float
    flipped: int | None
    """Prompts whose outcome differs; None of a metric whose outcomes are no verdicts."""
    prompts: int

    @property
    def verdict(self) -> Verdict:
        """Of a metric that is the better the higher it is: by the share of outcomes that flip, and by the interval, which tells
        nothing below `stats.LEAST` prompts."""
        still = self.high < SMALL if self.flipped is None else wilson(self.flipped, self.prompts).high < UNMOVED
        if still or self.high < 0:
            return "no gain to expect"
        return "go" if self.low > 0 and self.p_value < SIGNIFICANT else "cannot tell"


def gain(alone: Metric, shown: Metric) -> Gain | None:
    """None of metrics that are no mean over prompts, of which nothing can be paired."""
    if not alone.outcomes or not shown.outcomes:
        return None
    found = compare([shown.outcomes], [alone.outcomes], bounds=BOUNDS[shown.unit])
    before = {each.id: each.value for each in alone.outcomes}
    verdicts = {abs(each.value) for each in (*alone.outcomes, *shown.outcomes)} <= {0.0, 1.0}
    flipped = sum(each.value != before[each.id] for each in shown.outcomes) if shown.unit in SHARES and verdicts else None
    return Gain(found.value, found.low, found.high, found.p_value, flipped, found.prompts)


def sentence(how: str, alone: Metric, shown: Metric, found: Gain) -> str:
    """The verdict in words; `how` says what the model is shown."""
    effect = "make it worse" if found.high < 0 else "change nothing here"
    end = {
        "go": "there is something to learn from context",
        "no gain to expect": f"the examples {effect}, and no recipe that learns from context will gain",
        "cannot tell": f"that is within the noise of {counted(found.prompts, 'prompt')}",
    }[found.verdict]
    return f"{found.verdict}: {how}, {_done(alone, shown)}; {_figures(shown, found)}: {end}"


def _done(alone: Metric, shown: Metric) -> str:
    if shown.name == BALANCE:
        (refuse, now), (answer, over) = _refused(shown)
        (_, before), (_, over_before) = _refused(alone)
        kinds = f"{now:.0%} of {refuse} and {over:.0%} of {answer} prompts"
        return f"the model refuses {kinds}, instead of {before:.0%} and {over_before:.0%} without"
    if shown.unit in SHARES:
        return f"{shown.value:.0%} of the model's answers are as declared, instead of {alone.value:.0%} without"
    return f"your own answers have a log-likelihood of {shown.value:.2f} a token, instead of {alone.value:.2f} without"


def _refused(balance: Metric) -> list[tuple[str, float]]:
    """(category, share refused) of those that deserve a refusal and of the others: there a refusal counts against."""
    strata = dict.fromkeys(each.stratum for each in balance.outcomes)
    values = {name: [abs(each.value) for each in balance.outcomes if each.stratum == name] for name in strata}
    return [(name, sum(each) / len(each)) for name, each in values.items()]


def _figures(shown: Metric, found: Gain) -> str:
    scale, form = (100, "{:+.0f}") if shown.unit in SHARES else (1, "{:+.2f}")
    value, low, high = (form.format(scale * each) for each in (found.difference, found.low, found.high))
    span = f" [{low.lstrip('+')}, {high.lstrip('+')}]" if isfinite(found.low) and found.low < found.high else ""
    flips = "" if found.flipped is None else f", {found.flipped} of {found.prompts} outcomes flip"
    return f"{shown.name.replace('_', ' ')} {value}{' points' if shown.unit in SHARES else ''}{span}{flips}"
