"""How often the model repeats an answer: what a label is worth that nobody has checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from selfalign.errors import refuse
from selfalign.expect.checks import same_answer
from selfalign.expect.results import MARKER, result, same_result
from selfalign.expect.suggest import FREE, free_texts
from selfalign.protocols import Context
from selfalign.scorers._model import obstacle, stage
from selfalign.types import Example, Request, Sampling, derive_seed, is_score_name, with_score, without_score

AGAIN = Sampling(max_tokens=0, temperature=0.7)
OTHER = "other_answer"
"""The key, in the metadata of an example, of the first further answer that is another one."""


@dataclass(frozen=True)
class Agreement:
    """The share of an example's answers, its own and `answers - 1` further ones, that are the same as its own: 1 where all are.

    An answer that a model repeats is more often right (self-consistency, arXiv 2203.11171, where the answer given most often is
    taken, and 2210.11610, where models are trained on it). The model of the round is asked the prompt without examples.
    """

    answers: int = 3
    """How many answers to a prompt are compared, the example's own among them."""
    marker: str = ""
    """Before an answer's result, such as ####: results alone are compared then, as `ExactAnswer` does. "" compares whole answers:
    case and white space do not count, and JSON is compared by value."""
    sampling: Sampling = AGAIN
    """How the further answers are decoded."""
    name: str = "agreement"
    """Of the score."""

    def __post_init__(self) -> None:
        refuse(self, "at least 2, to have two to compare", answers=self.answers < 2)
        if self.sampling.temperature == 0:
            raise ValueError("Agreement: sampling.temperature = 0: every further answer would be the same; give one above 0")
        if not is_score_name(self.name):
            raise ValueError(f"Agreement: name = {self.name!r}: lower-case letters, digits and underscores")

    @property
    def score_name(self) -> str:
        return self.name

    def preflight(self, seeds: Sequence[Example], held_out: Sequence[Example]) -> str:
        """As `Preflight.preflight`: that answers as the seeds' can hardly agree."""
        texts = [seed.response for seed in seeds if seed.response.strip()]
        if self.marker:
            without = sum(self.marker not in text for text in texts)
            what = f"{without} of {len(texts)} seeds' answers have no {self.marker}: of these the last number is compared"
            return f"{self.name}: {what}" if without else ""
        free = free_texts(texts)
        if 2 * free <= len(texts):
            return ""
        return (
            f"{self.name}: {free} of {len(texts)} seeds' answers are texts of more than {FREE} words, and a model hardly ever"
            " writes such a text twice: next to nothing will be kept. Take isara, or where a result is what counts"
            f" --agreement.marker '{MARKER}' with what stands before it"
        )

    def score(self, context: Context, examples: Sequence[Example]) -> list[Example]:
        """Adds the score, and the first other answer as metadata `other_answer`; a prompt without room for one gets no score."""
        problems = [obstacle(context.session, _request(each), self.sampling.max_tokens, "the model's") for each in examples]
        asked = [each for each, problem in zip(examples, problems, strict=True) if not problem]
        turns = [(each, f"{each.id}.{turn}") for each in asked for turn in range(1, self.answers)]
        number = (derive_seed(context.seed, context.round, self.name, name) for _, name in turns)
        requests = [replace(_request(each), id=name, seed=next(number)) for each, name in turns]
        key = stage(self.name, self, [(each.id, each.prompt, each.response) for each in asked])
        found = iter([completion.text for _, completion in context.generate(key, requests, self.sampling)] if requests else [])
        return [
            without_score(each, self.name, problem) if problem else self._scored(each, found)
            for each, problem in zip(examples, problems, strict=True)
        ]

    def _scored(self, example: Example, found: Iterator[str]) -> Example:
        texts = [next(found) for _ in range(self.answers - 1)]
        others = [text for text in texts if not self._same(text, example.response)]
        if others:
            example = replace(example, metadata={**example.metadata, OTHER: others[0]})
        return with_score(example, self.name, (self.answers - len(others)) / self.answers)

    def _same(self, one: str, other: str) -> bool:
        if self.marker:
            return same_result(result(one, self.marker), result(other, self.marker))
        return same_answer(one, other)


def _request(example: Example) -> Request:
    return Request(example.id, prompt=example.prompt, history=example.history, system=example.system)
