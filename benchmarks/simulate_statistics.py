"""What the intervals, tests and powers of a study are worth, on made-up outcomes whose truth is known.

    python benchmarks/simulate_statistics.py [--studies 2000]

Prints: how often the interval of a share that was measured once covers the truth (counted over all outcomes, not drawn); how
often one comparison of yes and no on one random seed is called a difference where there is none, and whether its interval and
its test ever disagree; with which power a difference of the printed minimum detectable effect is found after Holm's correction;
how often a difference is found where two trainings differ by their random seed alone; what looking after each repeat and
stopping does; and how often a model that lost nothing, or just the margin, is said to have kept and to have lost it (counted).
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from selfalign.proof.crossed import Comparison, compare, crossed_mean, holm
from selfalign.proof.kept import paired_shares
from selfalign.types import Outcome

Arms = NDArray[np.float64]
"""Outcomes of the arms of one study, the main one first: (arms, repeats, prompts)."""


def repeats(table: NDArray[np.float64]) -> list[list[Outcome]]:
    return [[Outcome(str(place), float(value)) for place, value in enumerate(row)] for row in table]


def against_all(arms: Arms) -> list[Comparison]:
    main, *others = (repeats(arm) for arm in arms)
    return [compare(main, other, bounds=(-1e9, 1e9), family=len(others)) for other in others]


def coverage(n: int, share: float) -> float:
    """Of the interval of a share that is measured once on n prompts, over all outcomes there can be."""
    ends = [crossed_mean([[Outcome(str(i), float(i < k)) for i in range(n)]], bounds=(0.0, 1.0)) for k in range(n + 1)]
    return float(sum(stats.binom.pmf(k, n, share) for k, each in enumerate(ends) if each.low <= share <= each.high))


def yes_and_no(random: np.random.Generator, prompts: int, share: float, studies: int) -> tuple[float, int]:
    """(false alarms, disagreements of interval and test) of two arms alike, one random seed each."""
    alarms = disagreements = 0
    for _ in range(studies):
        inclined = random.beta(share, 1 - share, prompts)  # prompts differ far more than answers to one of them
        a, b = ((random.random((1, prompts)) < inclined).astype(float) for _ in range(2))
        found = compare(repeats(a), repeats(b), bounds=(0.0, 1.0))
        alarms += found.p_value < 0.05
        disagreements += (found.p_value < 0.05) == (found.low <= 0.0 <= found.high)
    return alarms / studies, disagreements


def study(random: np.random.Generator, arms: int, count: int, prompts: int, of_seed: float) -> Arms:
    """Arms alike in truth. Standard deviations: prompts 0.5, trainings `of_seed`, answers to one prompt 0.5."""
    shared = random.normal(0.0, 0.5, prompts)
    trained = random.normal(0.0, of_seed, (arms, count, 1))
    own: Arms = shared + trained + random.normal(0.0, 0.5, (arms, count, prompts))
    return own


def power(random: np.random.Generator, arms: int, count: int, prompts: int, of_seed: float, studies: int) -> float:
    """How often the main arm is told from the second one, which lies the printed effect below it, after Holm's correction."""
    usual = [against_all(study(random, arms, count, prompts, of_seed))[0].minimum_detectable for _ in range(100)]
    effect, found = float(np.median(usual)), 0
    for _ in range(studies):
        outcomes = study(random, arms, count, prompts, of_seed)
        outcomes[1] -= effect
        found += holm([each.p_value for each in against_all(outcomes)])[0] < 0.05
    return found / studies


def false_alarms(random: np.random.Generator, count: int, of_seed: float, studies: int, looks: tuple[int, ...] = ()) -> float:
    """How often two arms alike are told apart on `count` random seeds, or at any of the looks after so many of them."""
    found = 0
    for _ in range(studies):
        outcomes = study(random, 2, count, 160, of_seed)
        found += any(against_all(outcomes[:, :seen])[0].p_value < 0.05 for seen in looks or (count,))
    return found / studies


def kept(n: int, changed: float, true: float, margin: float) -> tuple[float, float]:
    """(kept, lost): how often each is said where the share `changed` of n questions is answered otherwise and the difference of
    the two shares is `true`."""
    said = [0.0, 0.0]
    for differ in range(n + 1):
        for gained in range(differ + 1):
            weight = stats.binom.pmf(differ, n, changed) * stats.binom.pmf(gained, differ, (1 + true / changed) / 2)
            if weight > 1e-7:
                _, low, high = paired_shares(gained, differ - gained, n)
                said[0] += weight * (low > -margin)
                said[1] += weight * (low <= -margin and high < 0)
    return said[0], said[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000)
    studies = parser.parse_args().studies
    random = np.random.default_rng(20)
    for n in (40, 160, 430):
        print(
            f"share measured once on {n} prompts: " + ", ".join(f"{s:.0%} {coverage(n, s):.3f}" for s in (0.02, 0.03, 0.05, 0.3))
        )
    for n, share in ((40, 0.3), (160, 0.1), (430, 0.3)):
        alarms, apart = yes_and_no(random, n, share, studies)
        print(f"yes and no, {n} prompts, share {share:.0%}: false alarms {alarms:.3f}, test against interval {apart}")
    for arms, of_seed in ((2, 0.0), (4, 0.0), (4, 0.02), (8, 0.02)):
        found = power(random, arms, 3, 160, of_seed, studies // 4)
        print(f"{arms - 1} baselines, 3 seeds that move a model by {of_seed}: power {found:.2f} at the printed effect")
    for count in (1, 2, 3, 5):
        alarms = ", ".join(f"{s} {false_alarms(random, count, s, studies // 2):.3f}" for s in (0.0, 0.02, 0.05))
        print(f"{count} random seeds, alarms where trainings differ by: {alarms}")
    stopped = false_alarms(random, 6, 0.02, studies // 2, (3, 4, 5, 6))
    print(f"looking after 3, 4, 5 and 6 random seeds: alarms {stopped:.3f}")
    for n, changed in ((100, 0.15), (80, 0.2), (60, 0.05)):
        for margin in (0.05, 0.10, 0.15):
            cases = [true for true in (0.0, -margin) if -true <= changed]
            said = ["{:+.0%}: kept {:.3f}, lost {:.3f}".format(true, *kept(n, changed, true, margin)) for true in cases]
            print(f"{n} questions, {changed:.0%} answered otherwise, margin {margin:.0%}; true difference {'; '.join(said)}")


if __name__ == "__main__":
    main()
