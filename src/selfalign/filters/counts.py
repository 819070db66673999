"""No more examples than a prompt or a training shall have."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from selfalign.filters._shared import Verdict, split
from selfalign.protocols import Context
from selfalign.text import counted, normalise
from selfalign.types import Example, FilterResult


@dataclass(frozen=True)
class PerPrompt:
    """Keeps at most so many different answers to the same prompt, those with the earliest slots.

    Without a limit the easy prompts fill the data: the model solves them in all its samples (ReST-EM, arXiv 2312.06585, keeps
    10). Stand it behind the filters by score.
    """

    most: int | None = 10
    """None drops the same answer alone."""

    def __post_init__(self) -> None:
        if self.most is not None and self.most < 1:
            raise ValueError(f"PerPrompt: most = {self.most} is out of range: at least 1")

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rules: `same_answer` (case and white space do not count), `enough_answers`."""
        kept: dict[str, dict[str, str]] = defaultdict(dict)

        def judge(example: Example) -> Verdict:
            answers, answer = kept[example.prompt], normalise(example.response)
            if answer in answers:
                return "same_answer", f"{answers[answer]} gives the same answer to the same prompt: {example.response[:200]}"
            if self.most is not None and len(answers) >= self.most:
                there = f"there are {counted(len(answers), 'kept answer')} to the same prompt"
                return "enough_answers", f"{there}: {', '.join(answers.values())}"
            answers[answer] = example.id
            return None

        return split(examples, judge)


@dataclass(frozen=True)
class AtMost:
    """Keeps the first so many (I-SHEEP's training reads 3,000 at most). Stand it last."""

    count: int = 3000
    """The most examples that stay."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"AtMost: count = {self.count} is out of range: at least 1")

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `surplus`."""
        place = {example.id: number for number, example in enumerate(examples, start=1)}

        def judge(example: Example) -> Verdict:
            number = place[example.id]
            return None if number <= self.count else ("surplus", f"number {number} of {len(examples)}, {self.count} are kept")

        return split(examples, judge)
