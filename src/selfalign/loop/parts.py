"""What a part of a recipe may do with the examples it is given, held each time it is called; anything else stops the run.

The lineage says of every text who wrote it. A filter that mends an answer, a scorer that sorts, a retriever that shows a text of
its own would make that untrue without a trace, so what comes back is compared with what went in, text by text and in order.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

from selfalign.errors import RunFailed, no_exit
from selfalign.proof.seed_rules import SeedRule, rules_on_seeds
from selfalign.protocols import Context, Encode, Evaluator, Filter, Proposer, Retriever, Scorer
from selfalign.types import Dropped, Example, FilterResult, Metric, is_score_name

Shown = tuple[tuple[Example, float | None], ...]
_FIELDS = tuple(field.name for field in fields(Example))


@contextmanager
def watched(where: str, *groups: Sequence[Example]) -> Iterator[None]:
    """The block is a part's work.

    Raises:
        RunFailed: one of the examples is another one behind it, or the part ends the program.
    """
    before = [(example, _plain(example)) for group in groups for example in group]
    with no_exit(where):
        yield
    for example, was in before:
        if change := _change(was, _plain(example)):
            raise RunFailed(f"{where}: writes into {was['id']}, whose {change}; make another one by dataclasses.replace")


def propose(context: Context, part: Proposer, count: int, made: int) -> list[Example]:
    """`Proposer.propose`, asked for `count`: so many new examples of the round, each slot once.

    Args:
        made: how many there must be: fewer than `count` where given prompts are used up.

    Raises:
        RunFailed: they are others.
    """
    where = _where(context, "proposer", part)
    with watched(where, context.pool.examples):
        drafts = _listed(where, part.propose(context, count), Example)
    if sorted(draft.slot for draft in drafts) != list(range(made)):
        raise RunFailed(f"{where}: gives {len(drafts)} drafts, not {made} with each slot from 0 on once")
    known = Counter(example.id for example in (*context.pool.examples, *drafts))
    for draft in drafts:
        if known[draft.id] > 1:
            raise RunFailed(f"{where}: gives an example with the id {draft.id!r}, which another one has")
        if draft.round != context.round:
            raise RunFailed(f"{where}: gives {draft.id} as one of round {draft.round}")
        if wrong := [name for name in ("prompt", "response", "category", "system") if type(getattr(draft, name)) is not str]:
            raise RunFailed(f"{where}: gives {draft.id} with a {wrong[0]} that is no text: {getattr(draft, wrong[0])!r:.60}")
    return drafts


def retrieve(context: Context, part: Retriever, drafts: Sequence[Example]) -> list[Shown]:
    """`Retriever.retrieve`: for each draft examples of the pool, as they stand there.

    Raises:
        RunFailed: it shows something else, or not to each draft.
    """
    where = _where(context, "retriever", part)
    with watched(where, context.pool.examples, drafts):
        chosen: list[Shown] = [tuple(shown) for shown in part.retrieve(context, drafts)]
    if len(chosen) != len(drafts):
        raise RunFailed(f"{where}: chooses for {len(chosen)} drafts, was asked for {len(drafts)}")
    known = {example.id: example for example in context.pool.examples}
    for draft, (example, _) in ((draft, each) for draft, shown in zip(drafts, chosen, strict=True) for each in shown):
        own = known.get(example.id)
        if own is None:
            raise RunFailed(f"{where}: shows {example.id} for {draft.id}, which is no example of the pool")
        if change := _change(_plain(own), _plain(example)):
            raise RunFailed(f"{where}: rewrites {example.id}, shown for {draft.id}: its {change}")
    return chosen


@dataclass(frozen=True)
class HeldRetriever:
    """A retriever for the evaluators, which call it themselves."""

    part: Retriever

    def retrieve(self, context: Context, drafts: Sequence[Example]) -> list[Shown]:
        return retrieve(context, self.part, drafts)


def apply(context: Context, part: Filter, examples: Sequence[Example]) -> FilterResult:
    """`Filter.apply`; see `conserve`."""
    where = _where(context, "filter", part)
    with watched(where, context.pool.examples, examples):
        result = part.apply(context, tuple(examples))
    if not isinstance(result, FilterResult):
        raise RunFailed(f"{where}: gives {type(result).__name__}, not a FilterResult with both halves")
    kept, dropped = _listed(where, result.kept, Example), _listed(where, result.dropped, Dropped)
    conserve(where, examples, kept, dropped)
    return FilterResult(tuple(kept), tuple(dropped))


def tried(named: Iterable[tuple[str, Filter]], encode: Encode | None, seeds: Sequence[Example]) -> list[SeedRule]:
    """`rules_on_seeds`, filter by filter; none of them may write into a seed."""
    found: list[SeedRule] = []
    for name, part in named:
        with watched(f"filter {type(part).__name__}, tried on the seeds", seeds):
            found += rules_on_seeds([(name, part)], encode, seeds)
    return sorted(found, key=lambda rule: -rule.dropped)


def score(context: Context, part: Scorer, examples: Sequence[Example]) -> list[Example]:
    """`Scorer.score`: the same examples in the same order, with scores, or metadata that says why there are none, and no other
    change.

    Raises:
        RunFailed: anything else changes, or a score is no finite number.
    """
    where = _where(context, "scorer", part)
    with watched(where, context.pool.examples, examples):
        found = _listed(where, part.score(context, tuple(examples)), Example)
    balance(where, examples, found, ())
    _in_order(where, examples, found)
    for before, after in zip(examples, found, strict=True):
        was, now = _plain(before), _plain(after)
        for name in ("scores", "metadata"):
            if change := _change(was[name], {key: value for key, value in now[name].items() if key in was[name]}):
                raise RunFailed(
                    f"{where}: takes over a {name.removesuffix('s')} that {before.id} has: {change}; use another name"
                )
            del was[name], now[name]
        if change := _change(was, now):
            raise RunFailed(f"{where}: rewrites {before.id}: its {change}; a scorer adds scores and changes nothing else")
        _check_scores(where, after)
    return found


def _check_scores(where: str, example: Example) -> None:
    for name, value in example.scores.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise RunFailed(f"{where}: {name!r} of {example.id} is {value!r:.60}; a score is a finite float, or is left out")
        if not is_score_name(name):
            raise RunFailed(f"{where}: a score is named {name!r}; letters in lower case, digits and underscores are wanted")
    for key, text in example.metadata.items():
        if type(key) is not str or type(text) is not str:
            raise RunFailed(f"{where}: the metadata {key!r:.60} of {example.id} are no text: {text!r:.60}")


def evaluate(context: Context, part: Evaluator, held_out: Sequence[Example]) -> list[Metric]:
    """`Evaluator.evaluate`: figures that can be, about prompts that were asked.

    Raises:
        RunFailed: a value outside its interval, no prompts behind it, or outcomes that contradict it or are of other prompts.
    """
    where = _where(context, "evaluator", part)
    with watched(where, context.pool.examples, held_out):
        found = _listed(where, part.evaluate(context, held_out), Metric)
    # One that brings questions of its own names them as it likes; it need not list them all (`Preflight.prompts`).
    asked = None if hasattr(part, "prompts") else {example.id for example in held_out}
    for metric in found:
        if wrong := _impossible(metric, asked):
            raise RunFailed(f"{where}: its metric {metric.name!r} {wrong}")
    return found


def _impossible(metric: Metric, asked: Set[str] | None) -> str:
    """What is wrong with a figure; "" for nothing. NaN is the value of nothing, and a bound of nothing."""
    value, low, high = metric.value, metric.low, metric.high
    if type(metric.name) is not str or not metric.name.isprintable() or not metric.name or " " in metric.name:
        return "needs another name: printable and without spaces"
    if any(isinstance(each, bool) or not isinstance(each, (int, float)) for each in (value, low, high)):
        return f"is no number: {value!r:.40} [{low!r:.40}, {high!r:.40}]"
    if low > high or value < low - _ROUNDING or value > high + _ROUNDING or math.isinf(value):
        return f"does not lie in its interval: {value} [{low}, {high}]"
    if type(metric.n) is not int or metric.n < 1:
        return f"has n = {metric.n!r:.40}: the number of prompts behind it, at least 1; a figure about none is left out"
    strata: dict[str, list[float]] = {}
    for outcome in metric.outcomes:
        if asked is not None and outcome.id not in asked:
            return f"has an outcome of {outcome.id!r:.80}, which is no held-out prompt; a method `prompts` tells of others"
        if not isinstance(outcome.value, (int, float)) or not math.isfinite(outcome.value):
            return f"has an outcome of {outcome.id} that is no finite number: {outcome.value!r:.40}"
        strata.setdefault(outcome.stratum, []).append(outcome.value)
    mean = sum(math.fsum(values) / len(values) for values in strata.values())
    if strata and not math.isnan(value) and not math.isclose(mean, value, rel_tol=1e-6, abs_tol=1e-6):
        return f"is {value}, and the mean of its outcomes is {mean}"
    return ""


_ROUNDING = 1e-9


def conserve(where: str, before: Sequence[Example], kept: Sequence[Example], dropped: Sequence[Dropped]) -> None:
    """Every example ends in exactly one half, as it was and in the order it came, and every drop has a rule and evidence.

    Raises:
        RunFailed: it does not; the message names the part, the example and what became of it.
    """
    balance(where, before, kept, dropped)
    known = {example.id: _plain(example) for example in before}
    for half in (kept, [drop.example for drop in dropped]):
        _in_order(where, before, half)
        for example in half:
            if change := _change(known[example.id], _plain(example)):
                raise RunFailed(f"{where}: rewrites {example.id}: its {change}; a part keeps or drops and changes nothing")


def balance(where: str, before: Sequence[Example], kept: Sequence[Example], dropped: Sequence[Dropped]) -> None:
    """As `conserve`, by the ids alone: for steps in which a response is added."""
    came, went = [e.id for e in before], [*(e.id for e in kept), *(d.example.id for d in dropped)]
    if sorted(came) != sorted(went):
        lost, invented = sorted(set(came) - set(went)), sorted(set(went) - set(came))
        twice = sorted(name for name, count in Counter(went).items() if count > 1)
        raise RunFailed(
            f"{where}: {len(came)} candidates in, {len(kept)} kept + {len(dropped)} dropped out"
            f" (lost: {lost[:3]}, invented: {invented[:3]}, in two buckets: {twice[:3]}); a part of the recipe loses rows"
        )
    nameless = [drop.example.id for drop in dropped if not drop.rule]
    if nameless:
        raise RunFailed(f"{where}: dropped without a named rule: {nameless[:3]}")
    if wrong := [drop for drop in dropped if type(drop.rule) is not str or type(drop.evidence) is not str]:
        raise RunFailed(
            f"{where}: rule or evidence of {wrong[0].example.id} is no text: {wrong[0].rule!r}, {wrong[0].evidence!r}"
        )


def _in_order(where: str, before: Sequence[Example], half: Sequence[Example]) -> None:
    place = {example.id: number for number, example in enumerate(before)}
    for one, other in pairwise(half):
        if place[one.id] > place[other.id]:
            raise RunFailed(f"{where}: puts {one.id} before {other.id}, which came first; a part keeps the order")


def _plain(example: Example) -> dict[str, Any]:
    """All of an example as values of their own, so that what is written into it later shows."""
    found = {name: getattr(example, name) for name in _FIELDS}
    for name in ("prompt_demonstrations", "response_demonstrations"):
        found[name] = tuple((each.id, each.similarity) for each in found[name])
    turns = tuple(map(tuple, example.history))
    return {**found, "scores": dict(example.scores), "metadata": dict(example.metadata), "history": turns}


def _change(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first thing in which two differ, in words; "" where they are equal. (In a tuple a NaN equals itself.)"""
    for name, value in was.items():
        if name not in now:
            return f"{name} is gone"
        if (value,) != (now[name],):
            return f"{name} was {value!r:.80} and is {now[name]!r:.80}"
    return ""


def _listed(where: str, found: Any, kind: type[Any]) -> list[Any]:
    """What a part gave, as a list of its kind."""
    if not isinstance(found, (list, tuple)):
        raise RunFailed(f"{where}: gives {type(found).__name__}, not a list of {kind.__name__}")
    if wrong := [each for each in found if not isinstance(each, kind)]:
        raise RunFailed(f"{where}: gives {type(wrong[0]).__name__} where {kind.__name__} is wanted")
    for each in found if kind is Example else ():
        if not isinstance(each.scores, Mapping) or not isinstance(each.metadata, Mapping):
            raise RunFailed(f"{where}: gives {each.id} with scores or metadata that are no mapping")
    return list(found)


def _where(context: Context, kind: str, part: object) -> str:
    return f"round {context.round}, {kind} {type(part).__name__}"
