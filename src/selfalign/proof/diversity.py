"""How varied and how long the examples of a round are: pure functions over what it kept.

I-SHEEP's released sets show why (our measurement): over five rounds the median answer fell from 57 words to 13 and the share
of answers of three words or fewer rose from 8 to 29 %, while the scores its filter reads went up.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from selfalign.proof.stats import mean_interval, wilson
from selfalign.text import count_words, normalise, words
from selfalign.types import Example, FloatArray, Metric

VERY_SHORT = 3
"""Words: an answer of this many or fewer is very short (the mark at which I-SHEEP's sets were measured)."""
PAIRS = 200
"""Word pairs that distinct-2 is counted over, whatever the size of a set (20 prompts have about so many): the plain share falls
as a set grows."""
SATURATION = "diversity_saturation_"
"""Head of the metrics of `saturation`; the score's name follows."""
SECOND_TURN = "second_turn_"
"""In the names of the figures about examples with earlier turns: `kept_second_turn_median_words`."""
OF_THE_DATA = ("kept_", "diversity_", "overlap_", "alarms")
"""How the guards' figures about what a round trains on begin."""
OF_THE_JUDGES = ("calibration_",)
"""How those about the judges that filter begin; the metric's own name follows."""
OF_THE_CHOICE = ("validation_",)
"""How those that choose the round begin."""
_ROWS = 4096  # vectors in double precision at once
GUARDS = (*OF_THE_DATA, *OF_THE_JUDGES, *OF_THE_CHOICE)
"""Names that no evaluator may give: cards and reports separate figures on held-out prompts from the guards' by them."""


def diversity(kept: Sequence[Example], earlier: Sequence[Example], vectors: FloatArray, turn: str = "") -> list[Metric]:
    """The figures of one set of examples, with 95 % intervals; one that the set is too small for is left out.

    `kept_mean_words` (t interval) and `kept_median_words` (order statistics; at least 6 examples) of the responses;
    `kept_very_short`: share of responses of at most `VERY_SHORT` words (Wilson); `diversity_repeats`: share of prompts that
    stand verbatim (`normalise`) among the `earlier` ones (Wilson; left out where there are none);
    `diversity_distinct_2_prompts` and `…_responses`, see `distinct_2` (figures of the set as it stands: low = high = value);
    `diversity_spread`, see `spread`.

    Args:
        vectors: embeddings of the kept prompts, shape (len(kept), d), rows of unit length.
        turn: put behind the first word of every name: "" or `SECOND_TURN`.
    """
    if not kept:
        return []
    lengths = [count_words(example.response) for example in kept]
    metrics = []
    if len(kept) > 1:
        mean, low, high = mean_interval(lengths)
        words_each = (mean, max(low, 0.0), high)
        metrics.append(Metric(f"kept_{turn}mean_words", *words_each, n=len(kept), unit="amount", better="neither"))
    if middle := median(lengths):
        metrics.append(Metric(f"kept_{turn}median_words", *middle, n=len(kept), unit="amount", better="neither"))
    short = sum(length <= VERY_SHORT for length in lengths)
    metrics.append(Metric(f"kept_{turn}very_short", *wilson(short, len(kept)), n=len(kept), unit="share", better="lower"))
    if earlier:
        known = {normalise(example.prompt) for example in earlier}
        again = sum(normalise(example.prompt) in known for example in kept)
        metrics.append(Metric(f"diversity_{turn}repeats", *wilson(again, len(kept)), n=len(kept), unit="share", better="lower"))
    for name, texts in (("prompts", [e.prompt for e in kept]), ("responses", [e.response for e in kept])):
        if (share := distinct_2(texts)) is not None:
            metrics.append(Metric(f"diversity_{turn}distinct_2_{name}", share, share, share, n=len(kept)))
    if (apart := spread(vectors)) is not None:
        metrics.append(Metric(f"diversity_{turn}spread", *apart, n=len(kept), unit="amount"))
    return metrics


def saturation(scored: Sequence[Example]) -> list[Metric]:
    """For each score of `Example.scores` the share of examples within 1 % of the highest value that occurs (Wilson interval),
    named `diversity_saturation_<score>`. Expected scores, such as 9.98 and 9.97, are never quite equal.

    Near 1 the score no longer separates examples. Give it all scored candidates, dropped ones too: among the kept alone a
    filter on the score would look like saturation. A score that is NaN counts as none.
    """
    found: dict[str, list[float]] = {}
    for example in scored:
        for name, value in example.scores.items():
            if not math.isnan(value):
                found.setdefault(name, []).append(value)
    return [
        Metric(f"{SATURATION}{name}", *wilson(_at_top(values), len(values)), n=len(values), unit="share", better="lower")
        for name, values in sorted(found.items())
    ]


def _at_top(values: Sequence[float]) -> int:
    highest = max(values)
    return sum(value >= highest - 0.01 * abs(highest) for value in values)


def median(values: Sequence[float]) -> tuple[float, float, float] | None:
    """The median with its distribution-free 95 % interval between two order statistics; None below 6 values, where there
    is none at that level."""
    from scipy import stats

    if len(values) < 6:
        return None
    bounds = stats.quantile_test(values, p=0.5).confidence_interval(0.95)
    return float(np.median(values)), float(bounds.low), float(bounds.high)


def distinct_2(texts: Iterable[str], pairs: int = PAIRS) -> float | None:
    """The share of different word pairs to expect among `pairs` drawn from the texts without putting back; None where they
    have fewer.

    Distinct-2 (Li et al. 2016) falls as a set grows, so rounds of different yields cannot be compared by it; brought to one
    size by rarefaction (Hurlbert 1971), exact and without a random draw, they can (our own choice).
    """
    counts = Counter(pair for text in texts for pair in pairwise(words(text, unicode=True)))
    total = counts.total()
    if total < pairs:
        return None
    from scipy import stats

    often = Counter(counts.values())
    times, kinds = (np.asarray(side, dtype=np.float64) for side in (list(often), list(often.values())))
    missed = stats.hypergeom.pmf(0, total, times, pairs)  # a pair that stands `times` times, by the draw
    return min(float((kinds * (1.0 - missed)).sum()) / pairs, 1.0)


def spread(vectors: FloatArray) -> tuple[float, float, float] | None:
    """Mean cosine distance between two different rows (pairwise, as it does not depend on their number), with the interval of
    a U-statistic: twice the t interval's half-width of the rows' own mean distances, within 0 … 2. None below 3 rows.

    Args:
        vectors: shape (n, d), rows of unit length. Vectors of two encoders cannot be compared: with one that reads the model
            itself (`HiddenState`), part of a change from round to round is the model's.
    """
    count = len(vectors)
    if count < 3:
        return None
    whole = vectors.sum(axis=0, dtype=np.float64)
    apart: list[float] = []
    for start in range(0, count, _ROWS):
        rows = np.asarray(vectors[start : start + _ROWS], dtype=np.float64)
        apart += (1.0 - (rows @ whole - (rows * rows).sum(axis=1)) / (count - 1)).tolist()
    value, low, high = mean_interval(apart)
    value = max(value, 0.0)  # rounding may bring it below
    return value, max(value - 2 * (value - low), 0.0), min(value + 2 * (high - value), 2.0)
