"""Whether an answer comes to the result that is known: a reward that nobody has to judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from selfalign.expect.results import MARKER, comes_to, result
from selfalign.protocols import Context
from selfalign.scorers._model import scored
from selfalign.types import Example, is_score_name


@dataclass(frozen=True)
class ExactAnswer:
    """1 where a response ends in the same result as the seed of the same prompt, 0 where it does not (ReST-EM, 2312.06585).

    A prompt of the user's own (`proposers.Given`) is compared with the response that its file has.

    The result is what stands behind `marker`, as in GSM8K ("… #### 1,250"); without it the last number of the text, as models
    seldom write the marker. Numbers are compared as numbers (1,250 = 1250.00), anything else as text, where case, white space
    and a final full stop do not count.
    """

    references: ClassVar[bool] = True
    marker: str = MARKER
    """What stands before a result."""
    name: str = ""
    """Of the score; "" is `exact_answer`."""

    def __post_init__(self) -> None:
        if not self.marker.strip():
            raise ValueError("ExactAnswer: marker is empty; write the one that stands before the result, such as ####")
        if self.name != "" and not is_score_name(self.name):
            raise ValueError(f"ExactAnswer: name = {self.name!r}: lower-case letters, digits and underscores")

    @property
    def score_name(self) -> str:
        return self.name or "exact_answer"

    def score(self, context: Context, examples: Sequence[Example]) -> list[Example]:
        """Adds the score; an example whose prompt is no seed's, nor given with a `reference`, gets none, and the reason."""
        known = {seed.prompt: seed.response for seed in context.pool.seeds}
        texts = [known.get(example.prompt, example.metadata.get("reference")) for example in examples]
        return scored(examples, self.score_name, map(self._scored, examples, texts))

    def _scored(self, example: Example, known: str | None) -> float | str:
        if known is None:
            return f"no seed has the prompt: {example.prompt[:200]}"
        return float(comes_to(example.response, result(known, self.marker), self.marker))
