"""Which weights does a server serve? Its figures on a few seeds, against those that the weights themselves give here.

A name is no evidence: servers have answered under a new name from an old cache, and a restart can fail unseen. Equality would
ask too much, since a server computes in another number type. So the figures must lie nearer to the model's own than half the way
from these to any earlier model's: a server of an earlier model is then farther away than one of this model. Where the
models hardly differ themselves, figures within a tolerance of the own ones pass; the verdict says that they show no more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfalign.engines.hf import HF
from selfalign.errors import RunFailed
from selfalign.models.rendering import same_until
from selfalign.protocols import INDISTINCT, VERIFIED, Session
from selfalign.types import Example, Format, ModelRef, Request, Sampling

Figures = Sequence[float | str]
"""Of one model, seed by seed: the log-probability of its response in nats a token, or the greedy answer to its prompt."""

NATS = 0.01
"""Tolerance of log-probabilities, a token; our own choice, as is the next one."""
PARTED = 0.25
"""Tolerance of texts: the share that stands behind the place where two part."""
TOKENS = 24
"""Of a greedy answer: the longer it is, the surer another number type makes it part."""


@dataclass(frozen=True)
class WeightsCheck:
    """What a session compares with its server's figures before its first answer is taken."""

    name: str
    seeds: tuple[Example, ...]
    others: Mapping[str, ModelRef]
    tell: Callable[[Mapping[str, Any]], None]
    scored: bool
    """By log-probabilities, else by greedy answers."""

    def expected(self, model: ModelRef, format: Format) -> tuple[Figures, dict[str, Figures]]:
        """What the model's weights give, and those of the others: in float32, and on the processor, for the GPU may be the
        server's."""

        def own(each: ModelRef) -> Figures:
            with HF(dtype="float32", device="cpu").open(each, format) as session:
                return figures(session, self.seeds, self.scored)

        return own(model), {name: own(other) for name, other in self.others.items()}

    def compare(self, session: Session, own: Figures, others: Mapping[str, Figures]) -> None:
        """Raises RunFailed: what the session's server gives is not what was expected."""
        verdict = judge(figures(session, self.seeds, self.scored), own, others, self.name)
        self.tell({"verdict": verdict.kind, "text": verdict.text})
        if verdict.kind not in (VERIFIED, INDISTINCT):
            raise RunFailed(verdict.text)


@dataclass(frozen=True)
class Verdict:
    """`kind` is VERIFIED, INDISTINCT, stale (an earlier model is nearer) or other (none is near)."""

    kind: str
    text: str


def figures(session: Session, seeds: Sequence[Example], scored: bool) -> Figures:
    """Log-probabilities of the seeds' responses, which training moves most; greedy answers where a server gives none."""
    if scored:
        return [one.per_token for one in session.likelihood(seeds)]
    requests = [Request(f"verify/{seed.id}", prompt=seed.prompt, history=seed.history, system=seed.system) for seed in seeds]
    return [one.text for one in session.generate(requests, Sampling(max_tokens=TOKENS, temperature=0.0))]


def judge(served: Figures, own: Figures, others: Mapping[str, Figures], name: str) -> Verdict:
    """
    Args:
        served, own, others: what the server gives, what the model itself gives, and each earlier model by its name.
        name: the model's, for the text.
    """
    scored = isinstance(served[0], float)
    away = distance(served, own)
    near = {other: distance(served, found) for other, found in others.items()}
    apart = {other: distance(own, found) for other, found in others.items()}
    what = f"on {len(served)} seeds its {'log-probabilities' if scored else 'greedy answers'} are "
    shown = [f"{value:.2g} from those of {other}" for other, value in {name: away, **near}.items()]
    what += ", ".join(shown) + (" (nats a token)" if scored else " (share of text behind where they part)")
    tolerance = NATS if scored else PARTED
    if not away <= max(tolerance, min(apart.values()) / 2):
        closest = min(near, key=lambda other: near[other])
        if near[closest] <= max(tolerance, apart[closest] / 2):
            return Verdict("stale", f"the server does not serve {name} but still {closest}: {what}")
        return Verdict(
            "other", f"the server serves neither {name} nor an earlier model, or computes too coarsely to tell: {what}"
        )
    alike = [other for other, value in apart.items() if away >= value / 2]
    if alike:
        return Verdict(INDISTINCT, f"the server may serve {name} or {alike[0]}, which hardly differ: {what}")
    return Verdict(VERIFIED, f"the server serves {name}: {what}")


def distance(ours: Figures, theirs: Figures) -> float:
    """Mean over the seeds."""
    return sum(_apart(one, other) for one, other in zip(ours, theirs, strict=True)) / len(ours)


def _apart(one: float | str, other: float | str) -> float:
    if isinstance(one, str) and isinstance(other, str):
        return 1.0 - same_until(one, other) / max(len(one), len(other)) if one != other else 0.0
    return abs(float(one) - float(other))
