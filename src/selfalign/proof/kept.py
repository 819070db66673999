"""Whether a trained model kept what the base model could do: paired shares of the guard suite, none inferior by a margin or more.

"No significant loss" is not "no loss": where questions are few, a large one is not significant either. What has to be shown is
that a loss of the margin can be ruled out, a test of non-inferiority:

    kept          the interval of the difference lies above -margin
    lost          else, it lies below 0
    cannot tell   else

The interval is Tango's for paired shares (1998, Statistics in Medicine 17, 891), at 90 % two-sided, so that either end is wrong
one time in twenty. Unlike Student's t it has a length where no question separates the two models: of 60 questions answered
alike, a loss of 4 points is not ruled out.

Margin and number of questions go together (our own choice). A model that lost nothing still answers some questions otherwise, as
many right as wrong. If it does so on 15 % of 100 questions of knowledge, 20 % of 80 forms and 5 % of 60 requests, it is called
kept with probability 0.98, 0.89 and 0.99 at a margin of 15 points, but 0.80, 0.61 and 0.87 at 10, and 0.35, 0.26 and 0.39 at 5:
then most models that lost nothing could not be shipped. One that lost 15 points is called kept with 0.05 (all by counting over
the binomial outcomes, benchmarks/simulate_statistics.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from selfalign.proof.stats import Interval
from selfalign.record.finished import Finished, paired_metrics
from selfalign.record.store import Store
from selfalign.text import languages
from selfalign.types import Example, Metric

GUARD = "guard_"
"""How the metrics of the guard suite begin; the part's name follows."""
PARTS, NONE = ("knowledge", "form", "answered"), "none"
MARGIN = 0.15
CONFIDENCE = 0.90
KEPT, LOST, UNKNOWN = "kept", "lost", "cannot tell"


@dataclass(frozen=True)
class Change:
    """What became of a share of the guard suite; `value` is the trained model's minus the base model's."""

    name: str
    verdict: str
    value: float
    low: float
    high: float
    n: int
    """Questions that both were asked."""

    @property
    def text(self) -> str:
        """In a line: "guard knowledge kept: -2 points [-8, +3] against the base model on 100 questions"."""
        value, low, high = (f"{100 * each:+.0f}".replace("-0", "+0") for each in (self.value, self.low, self.high))
        what = self.name.replace("_", " ")
        return f"{what} {self.verdict}: {value} points [{low}, {high}] against the base model on {self.n} questions"


def of_run(store: Store, best: int | None) -> list[Change]:
    """What the model to ship kept; nothing where that is the base model, or not chosen yet."""
    return changes(paired_metrics(store, 0), paired_metrics(store, best)) if best else []


def notes(found: Sequence[Change], margin: float = MARGIN) -> list[str]:
    """What a reader must know of these, in sentences."""
    if not found:
        return []
    said = f"guard: English questions; kept where a loss of {100 * margin:.0f} points or more is ruled out"
    declining = (
        "a model that is to decline what is not its business, or to answer in another language or in one form alone, loses here"
        " on purpose: --guard.parts leaves parts out"
    )
    return [said, *([declining] if any(each.verdict == LOST for each in found) else [])]


def on_purpose(seeds: Sequence[Example], declined: Sequence[str], one_form: bool = False) -> str:
    """Why a model that answers all it is asked as these seeds do loses on the guard's English questions, as what it does; ""
    where nothing of them says so.

    Args:
        declined: categories of the seeds whose prompts are declined though they do no harm (`Refusal.declines`).
        one_form: whether the answers are of one form alone (`expect.suggest`). The gate does not excuse that: a model of JSON
            can be expected to know what it knew.
    """
    answers = [seed.response for seed in seeds if seed.response.strip()]
    spoken = languages(answers) or languages([seed.prompt for seed in seeds])  # JSON, code and figures are in no language
    does = [f"answers in {', '.join(spoken)} alone"] if spoken and "en" not in spoken else []
    does += ["answers in one form alone"] if one_form else []
    named = "out of its scope" if list(declined) == ["out_of_scope"] else f"of category {' or '.join(map(repr, declined))}"
    does += [f"declines what is {named}"] if declined else []
    return " and ".join(does)


def changes(base: Mapping[str, Metric], trained: Mapping[str, Metric], margin: float = MARGIN) -> list[Change]:
    """The guard's metrics that both models have, over the questions that both were asked.

    Args:
        base: by name, with outcomes, as `record.finished.paired_metrics` gives them.
        margin: the loss to be ruled out, as a share.
    """
    found = []
    for name in (name for name in base if name.startswith(GUARD) and name in trained):
        before, after = ({each.id: bool(each.value) for each in side[name].outcomes} for side in (base, trained))
        pairs = [(right, after[id]) for id, right in before.items() if id in after]
        if pairs:
            gained, lost = pairs.count((False, True)), pairs.count((True, False))
            each = paired_shares(gained, lost, len(pairs))
            verdict = KEPT if each.low > -margin else LOST if each.high < 0 else UNKNOWN
            found.append(Change(name, verdict, *each, len(pairs)))
    return found


def on_common_questions(found: Mapping[str, Sequence[Finished]]) -> dict[str, list[Finished]]:
    """The guard suite's outcomes of those questions alone that every run was asked: each leaves out what it was trained on."""
    runs = [run for each in found.values() for run in each]
    common: dict[str, set[str]] = {}
    for name, metric in ((name, metric) for run in runs for name, metric in run.metrics.items() if name.startswith(GUARD)):
        asked = {each.id for each in metric.outcomes}
        common[name] = common.get(name, asked) & asked

    def narrowed(run: Finished) -> Finished:
        of_all = {
            name: replace(metric, outcomes=tuple(each for each in metric.outcomes if each.id in common[name]))
            for name, metric in run.metrics.items()
            if name in common
        }
        return replace(run, metrics={**run.metrics, **of_all})

    return {arm: [narrowed(run) for run in each] for arm, each in found.items()}


def paired_shares(gained: int, lost: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """The difference of two shares over the same n prompts, (gained - lost) / n, with Tango's score interval: prompts that only
    the first side has right, and those that only the second has. Raises ValueError: counts below 0, or more than prompts."""
    if min(gained, lost) < 0 or n < 1 or gained + lost > n:
        raise ValueError(f"{gained} gained and {lost} lost of {n} prompts do not exist")
    from scipy import optimize, special  # late: see `stats`

    z, value = float(special.ndtri(0.5 + confidence / 2)), (gained - lost) / n

    def score(true: float) -> float:
        """The difference in standard errors, where `true` is the true one and the rest is as likely as can be."""
        linear, constant = (2 * n - gained + lost) * true - gained - lost, -lost * true * (1 - true)
        against = (math.sqrt(max(linear**2 - 8 * n * constant, 0.0)) - linear) / (4 * n)
        error = math.sqrt(max(n * (2 * against + true * (1 - true)), 0.0))
        return (gained - lost - n * true) / error if error else 0.0

    edge = 1 - 1e-12
    low = -1.0 if value == -1 else optimize.brentq(lambda true: score(true) - z, -edge, value)
    high = 1.0 if value == 1 else optimize.brentq(lambda true: score(true) + z, value, edge)
    return Interval(value, float(low), float(high))
