"""Lengths that the examples of a task never have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from selfalign.filters._shared import Verdict, split
from selfalign.protocols import Context
from selfalign.text import count_words, counted
from selfalign.types import Example, FilterResult


@dataclass(frozen=True)
class LengthRange:
    """Drops a prompt or response whose number of words is far from the seeds' (SELF-GUIDE, arXiv 2407.12874).

    Far is more than `deviations` standard deviations from their mean, on either side. Does nothing with fewer than two seeds.
    """

    deviations: float = 2.0
    responses_only: bool = False
    """Judge responses alone, for prompts that may be as long as they like."""

    def __post_init__(self) -> None:
        if not self.deviations > 0.0:
            raise ValueError(f"LengthRange: deviations = {self.deviations} is out of range: above 0")

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rules: `prompt_length`, `response_length`."""
        seeds = context.pool.seeds
        if len(seeds) < 2:
            return FilterResult(tuple(examples), ())
        limits = {
            "prompt": self._limits([count_words(seed.prompt) for seed in seeds]),
            "response": self._limits([count_words(seed.response) for seed in seeds]),
        }
        if self.responses_only:
            del limits["prompt"]

        def judge(example: Example) -> Verdict:
            words = {"prompt": count_words(example.prompt), "response": count_words(example.response)}
            for name, (low, high) in limits.items():
                if not low <= words[name] <= high:
                    return f"{name}_length", f"{counted(words[name], 'word')}, the seeds' lengths allow {low:.1f} to {high:.1f}"
            return None

        return split(examples, judge)

    def _limits(self, lengths: Sequence[int]) -> tuple[float, float]:
        middle, spread = mean(lengths), self.deviations * stdev(lengths)
        return middle - spread, middle + spread
