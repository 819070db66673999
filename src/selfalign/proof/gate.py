"""Whether a trained model should be shipped: the facts, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selfalign.proof import crossed, verdicts
from selfalign.proof.kept import GUARD, KEPT, LOST, MARGIN, NONE, PARTS, Change, changes, on_purpose
from selfalign.proof.shortcuts import EXPECTED, form, overtaken
from selfalign.record.finished import Candidate
from selfalign.types import BOUNDS, SHARES, Metric

SHIP, DO_NOT, CANNOT_TELL = "SHIP", "DO NOT SHIP", "CANNOT TELL"
YES, NO, UNKNOWN = "yes", "no", "cannot tell"


@dataclass(frozen=True)
class Reason:
    """One of the things that a model must show."""

    check: str
    """finished, target, guard or shortcuts."""
    verdict: str
    """yes, no or cannot tell."""
    text: str


@dataclass(frozen=True)
class Gain:
    """The metric that the training was for, the model's minus the other's, positive where the model is better."""

    verdict: str
    """better, worse or unclear, by `verdicts.verdict`."""
    low: float
    high: float
    text: str
    scale: float
    """What one is said as: 100 points of a share."""


REPEATED = 0.5
"""Where one answer to everything is as expected as the model's: the share of its answers that it may give twice and still be
said to read its prompts (our own choice)."""


@dataclass(frozen=True)
class Facts:
    """What is known of a model that may be shipped."""

    unfinished: str = ""
    unchanged: str = ""
    gain: Gain | None = None
    no_gain: str = ""
    """Why there is no such metric."""
    guard: Sequence[Change] | None = ()
    """What it kept; empty where that was not measured, None where nobody asks."""
    on_purpose: str = ""
    """Why it may lose there because of what it learned (`kept.on_purpose`); "" too where somebody said what counts."""
    shortcut: str = ""
    """The trivial rule that does as well on the held-out prompts, in words."""
    excused: str = ""
    """Why that does not hold the model back: its answers differ from prompt to prompt."""


def decide(facts: Facts, at_least: float = 0.0) -> tuple[str, list[Reason]]:
    """SHIP where everything is shown, DO NOT SHIP where something is shown to be wrong, else CANNOT TELL; with the reasons.

    Args:
        at_least: the gain that has to be shown, in the metric's own units (a share's from 0 to 1): the whole interval lies above
            it. At 0 the test of a study counts too (`verdicts.verdict`).
    """
    if facts.unfinished:
        return CANNOT_TELL, [Reason("finished", UNKNOWN, facts.unfinished)]
    if facts.unchanged:
        return DO_NOT, [Reason("finished", NO, facts.unchanged)]
    reasons = [
        Reason("finished", YES, "the run is done and its model is whole"),
        _target(facts, at_least),
        *_guard(facts.guard, facts.on_purpose),
    ]
    if facts.shortcut:
        found = YES if facts.excused else UNKNOWN
        reasons.append(Reason("shortcuts", found, "; ".join(filter(None, (facts.shortcut, facts.excused)))))
    said = {each.verdict for each in reasons}
    return DO_NOT if NO in said else CANNOT_TELL if UNKNOWN in said else SHIP, reasons


def _target(facts: Facts, at_least: float) -> Reason:
    gain = facts.gain
    if gain is None:
        return Reason("target", UNKNOWN, facts.no_gain)
    if not at_least:
        found = {"better": YES, "worse": NO}.get(gain.verdict, UNKNOWN)
        return Reason("target", found, gain.text)
    found = YES if gain.low >= at_least else NO if gain.high < at_least else UNKNOWN
    return Reason("target", found, f"{gain.text}; a gain of {gain.scale * at_least:g} or more is asked for")


def _guard(guard: Sequence[Change] | None, on_purpose: str) -> list[Reason]:
    if guard is None:
        return []
    if not guard:
        missing = "what training cost was not measured: run it with --guard.parts, or leave this out by --guard none"
        return [Reason("guard", UNKNOWN, missing)]
    found = {KEPT: YES, LOST: UNKNOWN if on_purpose else NO}
    meant = (
        f"; in English, where a model that {on_purpose} loses on purpose: say by --guard which parts count,"
        f" {','.join(PARTS)} or {NONE}"
        if on_purpose
        else "; where it is meant to, leave this part out by --guard"
    )
    return [Reason("guard", found.get(each.verdict, UNKNOWN), each.text + meant * (each.verdict == LOST)) for each in guard]


def facts(
    candidate: Candidate,
    metric: str | None = None,
    *,
    declined: Sequence[str] = (),
    margin: float = MARGIN,
    guard: Sequence[str] | None = None,
) -> Facts:
    """What a record shows.

    Args:
        metric: what the training was for; without it the first of `verdicts.PREFERRED` that both models have.
        declined: see `kept.on_purpose`.
        margin: see `kept.changes`.
        guard: the parts of the suite that count, all that were measured without it; none of them where it is empty.
    """
    before, after = candidate.before, candidate.after
    name = metric or next((each for each in verdicts.PREFERRED if each in before and each in after), None)
    pair = (before[name], after[name]) if name in before and name in after else None
    found = None if guard is not None and not guard else changes(before, after, margin)
    if found is not None and guard is not None:
        found = [each for each in found if each.name.removeprefix(GUARD) in guard]
        found = [] if len(found) < len(guard) else found  # a part that counts and is not there
    easy = overtaken(candidate.shortcuts, name, pair[1].low) if pair else ""
    varied = name == EXPECTED and form(candidate.shortcuts) and candidate.repeated is not None and candidate.repeated <= REPEATED
    return Facts(
        candidate.unfinished,
        candidate.unchanged,
        gain(*pair, candidate.other) if pair else None,
        f"the models have no {name or ', '.join(verdicts.PREFERRED)} in common: measure them with --held_out",
        found,
        on_purpose(candidate.seeds, declined) if guard is None and any(each.verdict == LOST for each in found or ()) else "",
        easy,
        f"but {100 * (1 - (candidate.repeated or 0)):.0f} % of the model's answers are given to no other prompt"
        if varied
        else "",
    )


def gain(before: Metric, after: Metric, other: str) -> Gain | None:
    """The difference of a metric, prompt by prompt, as a study with one random seed has it; None where it has no good side, or
    where no prompt is common."""
    ours, theirs = ({each.id: each for each in metric.outcomes} for metric in (after, before))
    ids = [id for id in ours if id in theirs]
    metric = verdicts.agreed((after, before))
    if not ids or metric.better == "neither":
        return None
    found = crossed.compare([[ours[id] for id in ids]], [[theirs[id] for id in ids]], bounds=BOUNDS[metric.unit])
    sign = -1.0 if metric.better == "lower" else 1.0
    low, high = sorted((sign * found.low, sign * found.high))
    text = verdicts.sentence("it", other, metric, found, found.p_value)
    return Gain(verdicts.verdict(metric, found, found.p_value), low, high, text, 100.0 if metric.unit in SHARES else 1.0)
