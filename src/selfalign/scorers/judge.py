"""A model that scores pairs from 1 to 10."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np

from selfalign.errors import refuse
from selfalign.models.layouts import fold
from selfalign.proof.calibration import Calibration, calibrate
from selfalign.proof.injection import addressed, without_address
from selfalign.protocols import Context, Engine
from selfalign.scorers._model import another, asked, check_engine, fingerprint, obstacle, stage
from selfalign.scorers._standards import Aspect, PromptForm, Standard, judge_prompt
from selfalign.types import (
    Continuation,
    Example,
    Likelihood,
    Request,
    Sampling,
    derive_seed,
    is_score_name,
    with_score,
    without_score,
)

SCORES = tuple(range(1, 11))
SHORT = Sampling(max_tokens=12)
"""The authors' temperature of 1; a score and the first words of its reason."""


@dataclass(frozen=True)
class Judge:
    """Asks a model for a score from 1 to 10 of each prompt with its response (I-SHEEP's self-assessment, 2408.08072).

    The authors' scripts sample one score at temperature 1 from the base model; that is `Judge(model="base",
    method="parsed")`. By default the score is the expectation over the ten scores' probabilities: no noise, no unreadable
    replies, and ties become rare, so that a percentile can cut anywhere.

    An example's system prompt is the first paragraph of the instruction that is judged, for the answer had to follow it.

    Sentences that speak to the judge ("score this 10") are flagged and kept from it: it scores what is left, and the filters
    by score drop the example whatever came of it. Before a judge filters anything it is calibrated on the seeds.
    """

    aspect: Aspect = "quality"
    """What is scored: the response (quality), or how well it follows its instruction (following)."""
    standard: Standard = "combined"
    """simple: right or wrong; combined: also succinct, clear and in form; in_context: three scored pairs in place of words."""
    model: str = "current"
    """current: the model being aligned; base: the one the run started from; else a folder or a name on the hub. Another model
    than the current one is loaded next to it."""
    method: Literal["expected", "parsed"] = "expected"
    """expected: the mean of the ten scores, weighted by their probabilities; parsed: a score is read from sampled text."""
    prompt_form: PromptForm = "raw"
    """raw: plain text that breaks off where the score belongs, as in the authors' scripts; own: a message in the run's own
    format, for models tuned to chat."""
    sampling: Sampling = SHORT
    """Of parsed scores."""
    name: str = ""
    """Of the score; "" is `judge_<aspect>`."""
    reverse: bool = False
    """Show the pairs of the standard in_context in the opposite order."""
    calibrate_on: int = 64
    """The most seeds the calibration scores, with six texts made from each; fewer cost less and widen its intervals."""
    engine: Engine | None = field(default=None, repr=False)
    """What runs the model, where that is not the recipe's engine; not with current."""

    def __post_init__(self) -> None:
        refuse(
            self,
            aspect=self.aspect not in get_args(Aspect),
            standard=self.standard not in get_args(Standard),
            model=not self.model,
            method=self.method not in ("expected", "parsed"),
            prompt_form=self.prompt_form not in get_args(PromptForm),
            name=self.name != "" and not is_score_name(self.name),
            calibrate_on=self.calibrate_on < 2,
        )
        check_engine(self.model, self.engine)

    @property
    def score_name(self) -> str:
        return self.name or f"judge_{self.aspect}"

    @property
    def other_model(self) -> str:
        return another(self.model)

    @property
    def other_sampling(self) -> Sampling | None:
        return self.sampling if self.method == "parsed" else None

    def check(self) -> str:
        """The hash of the model asked, where it is one of its own. Raises UserError where there is no such model."""
        return fingerprint(self.model, self.engine)

    def score(self, context: Context, examples: Sequence[Example]) -> list[Example]:
        """Adds the score, or the reason why there is none: the text no number was found in, or what the judge cannot read."""
        if not examples:
            return []
        requests = [self._request(context, row, example) for row, example in enumerate(examples)]
        key = stage(self.score_name, self, context.seed, [(one.id, one.text or one.prompt) for one in requests])
        with asked(context, self.model, self.engine) as judge:
            # Checked here because a text too long for the window would lose its beginning, the standard, or end the run.
            problems = [obstacle(judge.session, request, self.sampling.max_tokens, "the judge's") for request in requests]
            sent = [request for request, problem in zip(requests, problems, strict=True) if not problem]
            found = iter(self._parsed(judge, key, sent) if self.method == "parsed" else self._expected(judge, key, sent))
        values = [problem or next(found) for problem in problems]
        return [self._marked(*each) for each in zip(examples, values, strict=True)]

    def calibrate(self, context: Context, seeds: Sequence[Example]) -> Calibration | None:
        """See `calibration.calibrate`. None where nothing changed since round 1: the judge is another model than the current."""
        if self.model != "current" and context.round > 1:
            return None
        turned = replace(self, reverse=not self.reverse) if self.standard == "in_context" else None
        again, most = self.method == "parsed", self.calibrate_on
        return calibrate(self, context, seeds, scale=(1.0, 10.0), repeat=again, turned=turned, most=most)

    def _request(self, context: Context, row: int, example: Example) -> Request:
        instruction = fold(example.system, example.full_prompt)
        shown = replace(example, prompt=without_address(instruction), response=without_address(example.response))
        text = judge_prompt(shown, self.aspect, self.standard, self.prompt_form, self.reverse)
        seed = derive_seed(context.seed, context.round, self.score_name, row)
        if self.prompt_form == "raw":
            return Request(example.id, text=text, seed=seed)
        return Request(example.id, prompt=text, seed=seed)

    def _expected(self, judge: Context, key: str, requests: Sequence[Request]) -> list[float | str]:
        found: Sequence[Continuation | Likelihood]
        if self.prompt_form == "raw":
            found = judge.continuation(key, [(one.text or "", f" {score}") for one in requests for score in SCORES])
        else:  # the end token is scored too, so "1" is not a part of "10"
            pairs = [Example(f"{one.id}/{score}", one.prompt or "", str(score)) for one in requests for score in SCORES]
            found = judge.likelihood(key, pairs)
        rows = [found[at : at + len(SCORES)] for at in range(0, len(found), len(SCORES))]
        return [expected_score(row, ended=self.prompt_form == "own") for row in rows]

    def _parsed(self, judge: Context, key: str, requests: Sequence[Request]) -> list[float | str]:
        replies = [completion.text for _, completion in judge.generate(key, requests, self.sampling)]
        scores = map(parse_score, replies)
        return [reply if score is None else float(score) for score, reply in zip(scores, replies, strict=True)]

    def _marked(self, example: Example, value: float | str) -> Example:
        if isinstance(value, str):
            return without_score(example, self.score_name, value)
        flag = " | ".join((*addressed(example.prompt), *addressed(example.response)))
        return with_score(example, self.score_name, value, flag)


def expected_score(found: Sequence[Continuation | Likelihood], *, ended: bool) -> float:
    """The mean of the scores 1 … 10, weighted by the probabilities of their texts, which are brought to a sum of 1.

    "1" begins "10". With the end token in both (`ended`) they exclude each other. Without it, and where the tokenizer writes
    "10" as "1" and more, the probability of "1" contains that of "10", which is taken off; where "10" is a token of its own,
    the two exclude each other again. Which it is follows from the numbers of tokens. What else may follow a digit (25, 7.5) is
    left in: it is rare after these prompts, and no digit is favoured.
    """
    totals = np.array([one.total for one in found])
    weights = np.exp(totals - totals.max())
    if not ended and found[-1].tokens > found[0].tokens:
        weights[0] = max(weights[0] - weights[-1], 0.0)
    return float((weights * SCORES).sum() / weights.sum())


def parse_score(text: str) -> int | None:
    """The first number of a reply, the part before "||" where there is one, rounded; None unless it is 1 to 10.

    As the authors' scripts read it, but for their judge's explanation, which cannot supply the number here.
    """
    head = text.partition("||")[0]
    found = re.search(r"\d+(?:\.\d+)?", head)
    value = float(found[0]) if found else 0.0  # a number of any length; rounded only where it can be a score
    return round(value) if 0.5 < value < 10.5 else None
