"""The decision to refuse, before a word is written: how probable the seeds' refusing openings are.

A refusal or not is one bit of a greedy answer, and says how far over the edge a model is only by which side it falls on. The
probability says it for every prompt, and so whether a model knows the two kinds apart, wherever its edge lies (`proof.decision`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from selfalign.evaluators._metrics import outcomes
from selfalign.proof.crossed import crossed_mean
from selfalign.proof.decision import Scores, area, refused_at
from selfalign.protocols import Context
from selfalign.text import count_words
from selfalign.types import BOUNDS, Completion, Example, Metric, Request

WORDS, OPENINGS = 6, 4
"""An opening is the first six words of a seed's response (characters, in scripts without spaces), about eight tokens: what a
training changes sits in the first ten or so, and what follows is about the seed's own prompt. Words, so that models with other
tokenizers are asked about the same texts. Four openings show more than one way to begin, and with the prompt read once cost about
as much as reading it again. Only refusing ones: set against answering ones, which are about their own prompts, the figure went by
topic (RESULTS, "The decision's figures"; our own choices)."""
NAMES = ("decision_auc", "matched_refusal")


def openings(refusals: Sequence[Example], answers: Sequence[Example]) -> list[str]:
    """At most `OPENINGS` different ones of refusals that no answer has, evenly spread over the seeds as they come."""
    kinds = [list(dict.fromkeys(opening(one.response) for one in side if one.response.strip())) for side in (refusals, answers)]
    own = [text for text in kinds[0] if text not in kinds[1]]
    return [own[i * len(own) // OPENINGS] for i in range(OPENINGS)] if own[OPENINGS:] else own


def opening(text: str) -> str:
    """The first `WORDS` words of a text, as it stands."""
    text = text.strip()
    return text[: bisect_right(range(1, len(text) + 1), WORDS, key=lambda end: count_words(text[:end]))].rstrip()


def log_probability(context: Context, stage: str, asked: Sequence[tuple[Request, Completion]], texts: Sequence[str]) -> Scores:
    """For each request as it was answered, demonstrations included, log Σ p / n over the n openings, shape (requests,).

    p is the model's probability of an opening behind the prompt. A request that had no room in the window has -inf: as in
    `refusal`, nothing was refused.

    Raises:
        UserError: an engine that gives no log-probabilities.
    """
    sent = [request for request, completion in asked if completion.finish != "context"]
    begun = [_begun(request, text) for request in sent for text in texts]
    shown = [request.demonstrations for request in sent for _ in texts] if any(each.demonstrations for each in sent) else ()
    scored = context.likelihood(stage, begun, shown) if begun else []
    totals = np.array([each.total for each in scored], dtype=np.float64).reshape(len(sent), len(texts))
    all_of_them = np.full(len(asked), -np.inf)
    all_of_them[[completion.finish != "context" for _, completion in asked]] = np.logaddexp.reduce(totals, axis=1) - np.log(
        len(texts)
    )
    return all_of_them


def figures(
    scores: Scores, sides: tuple[Sequence[int], Sequence[int]], ids: Sequence[str], strata: Sequence[str], rate: float
) -> list[Metric]:
    """`NAMES` as metrics; `sides` are the places of the harmful and of the harmless prompts among the scores and the ids."""
    bad, good = (scores[list(side)] for side in sides)
    found = []
    for name, curve in zip(NAMES, (area(bad, good), refused_at(bad, good, rate)), strict=True):
        parts = zip(sides, curve, strata, strict=True)
        by_prompt = tuple(
            one for side, values, kind in parts for one in outcomes([ids[at] for at in side], values.tolist(), kind)
        )
        value, low, high, *_ = crossed_mean([by_prompt], bounds=BOUNDS["share"])
        found.append(Metric(name, min(max(value, 0.0), 1.0), low, high, len(by_prompt), by_prompt, "share"))
    return found


def _begun(request: Request, text: str) -> Example:
    """The prompt with an answer that has begun and not ended."""
    prompt = Example(request.id, request.prompt or "", text, history=request.history, system=request.system)
    return replace(prompt, response_finish="length")
