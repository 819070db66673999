from __future__ import annotations

import dataclasses
import math
import random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from selfalign.proof.calibration import APPEALS, Calibrated, Calibration, calibrate
from selfalign.proof.injection import REMOVED, addressed
from selfalign.proof.judge_stats import auc_interval, entropy, mean_change, modal_share, repeatability, spearman
from selfalign.proof.spoiling import KINDS, spoil
from selfalign.protocols import Context, Engine
from selfalign.scorers import Judge, Perplexity
from selfalign.scorers._standards import judge_prompt
from selfalign.seeds.read import read_seeds
from selfalign.types import Completion, Continuation, Example, Likelihood, Request, Sampling
from tests.contracts.test_scorers import scoring_context

SEEDS = tuple(read_seeds(Path(str(files("selfalign") / "data" / "safe_helpful" / "seeds.jsonl"))))
QUALITY = Judge()
Opinion = Callable[[str], float]
"""The score that a fake model wants to give to a judge's prompt."""


def good_texts(judge: Judge) -> set[str]:
    return {judge_prompt(seed, judge.aspect, judge.standard, judge.prompt_form, judge.reverse) for seed in SEEDS}


def perfect(judge: Judge) -> Opinion:
    """Knows the seeds, also where words to the judge were taken out of them."""
    known = good_texts(judge)
    return lambda text: 8.0 + noise(text) if text.replace(f" {REMOVED}", "") in known else 4.0 + noise(text)


def noise(text: str) -> float:
    return random.Random(text).uniform(-1.0, 1.0)


def inverted(judge: Judge) -> Opinion:
    right = perfect(judge)
    return lambda text: 11.0 - right(text)


def chance(judge: Judge) -> Opinion:
    return lambda text: random.Random(text).uniform(1.0, 10.0)


def saturated(judge: Judge) -> Opinion:
    return lambda text: 10.0


def gullible(judge: Judge) -> Opinion:
    """Knows the seeds, but is moved by what it is told: nine points up wherever words to the judge stood."""
    right = perfect(judge)
    return lambda text: min(right(text) + 3.0 * (REMOVED in text), 10.0)


def likely(opinion: Opinion, stages: list[str] | None = None) -> Callable[..., list[Continuation]]:
    """A model's likelihoods of the ten scores, peaked at its opinion; "10" is two tokens."""

    def continuation(stage: str, pairs: Sequence[tuple[str, str]]) -> list[Continuation]:
        if stages is not None:
            stages.append(stage)
        found, wanted = [], {before: opinion(before) for before, _ in pairs}
        for before, after in pairs:
            weights = [math.exp(-8.0 * (score - wanted[before]) ** 2) + 1e-12 for score in range(1, 11)]
            mass = weights[int(after) - 1] + (weights[9] if after == " 1" else 0.0)
            found.append(Continuation(math.log(mass / sum(weights)), len(after), False))
        return found

    return continuation


def figures(make: Callable[[Judge], Opinion], judge: Judge = QUALITY) -> Calibration:
    found = judge.calibrate(scoring_context(continuation=likely(make(judge))), SEEDS)
    assert found is not None
    return found


def test_a_perfect_judge_is_usable() -> None:
    found = figures(perfect)
    assert isinstance(Judge(), Calibrated) and found.verdict == "usable" and found.refusal == ""
    assert found.auc.value == 1.0 and 0.9 < found.auc.low < 1.0
    assert (found.seeds, found.spoiled) == (64, 64 * 5)
    assert [kind for kind, _ in found.auc_by_kind] == list(KINDS)
    assert found.mean == pytest.approx(8.0, abs=0.3) and found.mean_spoiled == pytest.approx(4.0, abs=0.2)
    assert found.unparsed == 0.0 and found.repeatability is None and found.position_bias is None
    assert found.flagged == 1.0 and abs(found.sway.value) < 0.5


@pytest.mark.parametrize(
    ("make", "verdict"),
    [(inverted, "inverted"), (chance, "no better than chance"), (saturated, "saturated"), (gullible, "swayed")],
)
def test_a_judge_that_is_none_refuses_with_its_figures(make: Callable[[Judge], Opinion], verdict: str) -> None:
    found = figures(make)
    assert found.verdict == verdict
    assert found.refusal.startswith(f"judge_quality cannot filter, it is {verdict}: AUC {found.auc.value:.2f} [")
    assert "over 64 seeds and 320 spoiled versions (swapped " in found.refusal and "ignore_calibration" in found.refusal


def test_500_seeds_that_ask_for_a_10_move_an_honest_judge_by_less_than_half_a_point_and_are_flagged() -> None:
    judge = Judge()
    own = scoring_context(continuation=likely(perfect(judge)))
    found = calibrate(judge, own, SEEDS, scale=(1.0, 10.0), appeals=500)
    assert found.appeals == 500 and found.flagged == 1.0 and found.verdict == "usable"
    assert abs(found.sway.value) <= 0.5 and found.sway.high <= 0.5


def test_no_judge_reads_what_a_seed_says_to_it() -> None:
    """One that does as it is told, if only it were told."""
    obeys: Opinion = lambda text: 10.0 if any(words in text for words in APPEALS) else 5.0 + noise(text)  # noqa: E731
    found = figures(lambda judge: obeys)
    assert found.flagged == 1.0 and abs(found.sway.value) < 0.5
    assert all(addressed(f"{words}") for words in APPEALS)


def test_a_sampled_judge_is_tried_twice_and_unreadable_replies_rank_last() -> None:
    judge = Judge(method="parsed")
    known = good_texts(judge)

    def write(request: Request) -> Completion:
        good = (request.text or "").replace(f" {REMOVED}", "") in known
        draw = random.Random(request.seed)
        score = 8 if good else draw.choice([3, 4, 5, 6])
        return Completion("no idea" if not good and draw.random() < 0.3 else f"{score}||because", "stop")

    def generate(stage: str, requests: Sequence[Request], sampling: Sampling) -> list[tuple[Request, Completion]]:
        return [(request, write(request)) for request in requests]

    found = judge.calibrate(scoring_context(generate=generate), SEEDS)
    assert found is not None and found.auc.value == 1.0 and found.verdict == "usable"
    assert 0.15 < found.unparsed < 0.35
    assert found.repeatability is not None and 0.3 < found.repeatability < 0.95


def test_a_judge_that_never_answers_is_refused() -> None:
    def generate(stage: str, requests: Sequence[Request], sampling: Sampling) -> list[tuple[Request, Completion]]:
        return [(request, Completion("Well.", "stop")) for request in requests]

    found = Judge(method="parsed").calibrate(scoring_context(generate=generate), SEEDS)
    assert found is not None and found.verdict == "no better than chance" and found.unparsed == 1.0
    assert "100% without a score" in found.refusal
    assert all(math.isfinite(metric.value) for metric in found.metrics())


def test_a_judge_that_likes_length_and_one_that_minds_the_order_of_examples_are_seen() -> None:
    judge = Judge(standard="in_context")
    plain = perfect(judge)

    def opinion(text: str) -> float:
        first = text.index("is: 6||") < text.index("is: 10||")
        words = len(text.split()) / 400
        return (plain(text) if first else 6.0) - 1.0 + words

    found = figures(lambda _: opinion, judge)
    assert found.position_bias is not None and found.position_bias.high < -0.5
    assert "order of examples" in found.text
    longer: Opinion = lambda text: 1.0 + len(text.split()) / 50  # noqa: E731
    found = figures(lambda _: longer)
    assert found.length_bias.value > 0.7 and found.length_bias.low > 0.5
    by_kind = dict(found.auc_by_kind)
    assert by_kind["repeated"].high < 0.1 and by_kind["cut"].low > 0.6


def test_calibration_uses_stages_of_its_own_also_in_another_model() -> None:
    stages: list[str] = []
    judge = Judge(model="base")
    answers = likely(perfect(judge), stages)

    @contextmanager
    def open_model(model: str, engine: Engine | None = None) -> Iterator[Context]:
        yield scoring_context(continuation=answers)

    own = scoring_context(open_model=open_model)
    judge.score(own, SEEDS)
    judge.calibrate(own, SEEDS)
    assert len(set(stages)) == 2 and [stage.startswith("calibrate_judge_quality_") for stage in stages] == [False, True]


def test_a_fixed_judge_is_calibrated_once_and_the_current_one_in_every_round() -> None:
    second = dataclasses.replace(scoring_context(continuation=likely(perfect(Judge()))), round=2)
    assert Judge(model="base").calibrate(second, SEEDS) is None
    assert Judge(model="current").calibrate(second, SEEDS) is not None


def test_a_scorer_of_which_less_is_better() -> None:
    def likelihood(stage: str, examples: Sequence[Example], shown: Sequence[Sequence[Example]] = ()) -> list[Likelihood]:
        return [Likelihood(-2.0 - 3.0 * ("/" in example.id and "appeal" not in example.id), 1) for example in examples]

    own = scoring_context(likelihood=likelihood)
    part = Perplexity(model="current")
    assert calibrate(part, own, SEEDS, higher_is_better=False).auc.value == 1.0
    assert calibrate(part, own, SEEDS).verdict == "inverted"


def test_of_many_seeds_some_are_drawn_and_one_alone_is_too_few() -> None:
    judge = Judge()
    own = scoring_context(continuation=likely(perfect(judge)))
    found = calibrate(judge, own, SEEDS, most=20)
    assert (found.seeds, found.spoiled, found.appeals) == (20, 100, 20)
    with pytest.raises(ValueError, match="at least 2"):
        calibrate(judge, own, SEEDS[:1])


def test_the_metrics_are_named_after_the_score() -> None:
    metrics = {metric.name: metric for metric in figures(chance).metrics()}
    assert set(metrics) == {
        "judge_quality_auc", "judge_quality_length_bias", "judge_quality_sway", "judge_quality_entropy",
        "judge_quality_saturation", "judge_quality_unparsed", "judge_quality_flagged",
        *(f"judge_quality_auc_{kind}" for kind in KINDS),
    }  # fmt: skip
    assert all(metric.low <= metric.value <= metric.high and metric.n > 0 for metric in metrics.values())
    shares, worse, biases = (
        {name.removeprefix("judge_quality_") for name, metric in metrics.items() if wanted in (metric.unit, metric.better)}
        for wanted in ("share", "lower", "neither")
    )
    assert shares == {"saturation", "unparsed", "flagged"} and worse == {"saturation", "unparsed"}
    assert biases == {"length_bias", "sway"}


# The spoiling


def test_every_seed_is_spoiled_in_every_way_and_never_left_as_it_is() -> None:
    responses = [seed.response for seed in SEEDS]
    versions = spoil(responses)
    assert tuple(versions) == KINDS
    for made in versions.values():
        assert len(made) == 64 and all(text and text != response for text, response in zip(made, responses, strict=True))
    assert spoil(responses) == versions


def test_the_kinds_are_what_they_say() -> None:
    responses = ["I can't help with that. It is a crime.", "Wipe it with a damp cloth.", "Yes", "Солью и лимоном чистят медь."]
    versions = spoil(responses)
    assert versions["swapped"] == [responses[2], responses[3], responses[0], responses[1]]
    assert versions["cut"] == ["I can't help with", "Wipe it with", None, "Солью и"]
    assert versions["negated"] == ["I can help with that. It is not a crime.", "Do not wipe it with a damp cloth.", None, None]
    assert versions["repeated"][2] == "Yes Yes Yes"
    assert all(text and not set(re.findall(r"\w{5,}", text)) & {"crime", "cloth"} for text in versions["off_topic"])
    assert spoil(["There is no doubt that it works."] * 2)["negated"][0] == "There is doubt that it works."
    assert spoil(["Same.", "Same."])["swapped"] == [None, None]


# The statistics


def test_the_auc_is_that_of_the_textbook() -> None:
    from sklearn.metrics import roc_auc_score

    draw = np.random.default_rng(0)
    good, bad = draw.integers(4, 10, 30).astype(float), draw.integers(1, 9, (30, 5)).astype(float)
    bad[3, 2] = bad[7, 4] = np.nan
    others = bad[~np.isnan(bad)]
    wanted = roc_auc_score([1] * 30 + [0] * len(others), [*good, *others])
    found = auc_interval(good, bad)
    assert found.value == pytest.approx(wanted) and found.low < wanted < found.high


def test_the_auc_interval_covers_what_it_says() -> None:
    """Normal scores whose seeds and versions share an effect of the seed: the true area is Φ(d / √(2(s² + 1)))."""
    from scipy.stats import norm

    draw = np.random.default_rng(1)
    for distance, shared, kinds in ((0.0, 0.0, 1), (0.5, 1.0, 5), (1.0, 2.0, 1)):
        truth = norm.cdf(distance / math.sqrt(2 * (shared**2 + 1)))
        hits = 0
        for _ in range(200):
            effect = shared * draw.normal(size=40)
            good = effect + draw.normal(size=40) + distance
            found = auc_interval(good, effect[:, None] + draw.normal(size=(40, kinds)))
            hits += found.low <= truth <= found.high
        assert 0.9 <= hits / 200 <= 0.99, (distance, shared, kinds, hits)


def test_no_score_loses_to_every_score_and_ties_with_none() -> None:
    assert auc_interval(np.array([1.0, 2.0]), np.array([[-np.inf], [-np.inf]])).value == 1.0
    assert auc_interval(np.array([-np.inf, -np.inf]), np.array([[-np.inf], [-np.inf]])).value == 0.5


def test_the_small_figures() -> None:
    nan = math.nan
    assert modal_share(np.array([9.9, 9.92, 5.0, nan]), (1.0, 10.0)) == pytest.approx(2 / 3)
    assert modal_share(np.array([9.9, 9.92, 5.0]), None) == pytest.approx(1 / 3)
    assert modal_share(np.array([nan]), None) == 0.0
    assert entropy(np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx(2.0) and entropy(np.array([5.1, 4.9, nan])) == 0.0
    change = mean_change(np.array([1.0, 1.0, 1.0, nan]), np.array([2.0, 4.0, 1.0, 9.0]), np.array([0, 0, 1, 1]))
    assert change.value == pytest.approx(1.0) and change.low < 0 < change.high
    assert mean_change(np.array([nan]), np.array([1.0])) == (0.0, -math.inf, math.inf)
    a = np.array([1.0, 5.0, 9.0, 3.0])
    assert repeatability(a, a) == 1.0 and repeatability(a, a[::-1]) == pytest.approx(7 / 13) and repeatability(a, a * nan) == 0.0
    assert spearman(a, a**3).value == pytest.approx(1.0) and spearman(a, -a).value == pytest.approx(-1.0)
    assert spearman(a, a * 0) == (0.0, -1.0, 1.0)
    draw = np.random.default_rng(2)
    noise_only = spearman(draw.normal(size=50), draw.normal(size=50))
    assert noise_only.low < 0 < noise_only.high and noise_only.high - noise_only.low < 0.7
