"""The verdict of a run: its best round against the base model, paired prompt by prompt, and a sentence that follows."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from selfalign.proof import crossed, kept, verdicts
from selfalign.proof.diversity import GUARDS
from selfalign.proof.shortcuts import overtaken
from selfalign.proof.stats import too_few
from selfalign.protocols import VERIFIED
from selfalign.record.status import shortcuts
from selfalign.record.store import Store
from selfalign.text import counted, decimals, finite
from selfalign.types import BOUNDS, SHARES


def verdict(store: Store, where: Mapping[str, Any]) -> dict[str, Any]:
    """{"title", "sentence", "notes", "round", "rows"} of a run, `where` being its `status`.

    The figure that decides is named before a run, as in a study: the first of `verdicts.PREFERRED` that there is. The
    intervals of the others are not corrected for their number.
    """
    evaluated = [row["round"] for row in where["rounds"] if any(not name.startswith(GUARDS) for name in row["metrics"])]
    chosen = where["best_round"] if where["best_round"] is not None else max(evaluated, default=0)
    rows = [row for name in _names(where, chosen) if (row := compare(store, where, chosen, name)) is not None] if chosen else []
    title, sentence = _sentence(where, evaluated, chosen, [row for row in rows if not row["name"].startswith(kept.GUARD)])
    notes = [*_shortcut(store, where, chosen), *_guard(store, chosen), *_notes(where, chosen, rows)]
    return {"round": chosen, "title": title, "sentence": sentence, "notes": notes, "rows": rows}


def compare(store: Store, where: Mapping[str, Any], round: int, name: str) -> dict[str, Any] | None:
    """A metric of a round and of round 0 with their difference over the prompts both have; None where nothing is paired.

    By the statistics of a study with one random seed: a t interval over the prompts of each stratum, the exact McNemar test
    for outcomes of yes and no, and exact tests where prompts are few (`crossed.compare`).
    """
    before, after = ({o.id: o for o in store.outcomes(each, name)} for each in (0, round))
    paired = [id for id in before if id in after and math.isfinite(before[id].value) and math.isfinite(after[id].value)]
    if not paired:
        return None
    metric = verdicts.agreed(each for at in (0, round) for each in store.metrics(at) if each.name == name)
    found = crossed.compare([[after[id] for id in paired]], [[before[id] for id in paired]], bounds=BOUNDS[metric.unit])
    outcome = verdicts.verdict(metric, found, found.p_value)
    return {
        "name": name,
        "before": _metrics(where, 0)[name]["value"],
        "after": _metrics(where, round)[name]["value"],
        "difference": found.value,
        "low": finite(found.low),
        "high": finite(found.high),
        "p": found.p_value,
        "detectable": finite(found.minimum_detectable),
        "n": len(paired),
        "unpaired": len(before.keys() | after.keys()) - len(paired),
        "share": metric.unit in SHARES,
        "better": metric.better,
        "verdict": "cannot tell" if outcome == "unclear" else outcome,
    }


def number(value: float | None, share: bool, signed: bool = False, digits: int | None = None) -> str:
    """A figure for people: shares in per cent, others with two decimals, or one from 10 on, or `digits`; a missing bound as ∞."""
    if value is None:
        return "∞"
    if share:
        text = f"{100 * value:+.0f}" if signed else f"{100 * value:.0f} %"
    else:
        text = f"{value:{'+' if signed else ''},.{decimals(value) if digits is None else digits}f}"
    return text.replace("-", "−")


def difference_text(row: Mapping[str, Any]) -> str:
    """ "+12 points [+3, +21]"."""
    unit, share, digits = (" points" if row["share"] else ""), row["share"], decimals(row["difference"], row["low"], row["high"])
    low = "−∞" if row["low"] is None else number(row["low"], share, True, digits)
    return f"{number(row['difference'], share, True, digits)}{unit} [{low}, {number(row['high'], share, True, digits)}]"


def size_text(row: Mapping[str, Any], value: float | None) -> str:
    """The size of a difference that could have been next to that of `row`: "12 points"; "–" where it is not known."""
    if value is None:
        return "–"
    digits = decimals(row["difference"], row["low"], row["high"])
    if row["share"]:
        return counted(round(100 * value), "point")
    return number(value, row["share"], digits=digits)


def p_text(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def typeset(text: str) -> str:
    """A sentence of the record, written for any terminal, as a page sets it: minus signs, and no line that breaks at "="."""
    return re.sub(r"(?<![^ [])-(?=[0-9]|inf\b)", "−", text).replace(" = ", "\u00a0=\u00a0")


def words(name: str) -> str:
    return name.replace("_", " ")


def _names(where: Mapping[str, Any], round: int) -> list[str]:
    """Of the metrics that this round and round 0 have, those that verdicts are about first, those of the guard suite last."""
    before, after, first = _metrics(where, 0), _metrics(where, round), verdicts.PREFERRED
    rank = {name: place for place, name in enumerate(first)}
    names = [name for name in after if name in before]
    return sorted(names, key=lambda name: rank.get(name, len(first) + name.startswith(kept.GUARD)))


def _metrics(where: Mapping[str, Any], round: int) -> Mapping[str, Any]:
    return next((row["metrics"] for row in where["rounds"] if row["round"] == round), {})


def _sentence(
    where: Mapping[str, Any], evaluated: Sequence[int], chosen: int, rows: Sequence[Mapping[str, Any]]
) -> tuple[str, str]:
    if not chosen and where["best_round"] is None:
        yet = "No round of this run has been evaluated" if not evaluated else "Only the base model has been evaluated"
        if where["state"] == "failed":
            return "The run failed", f"{yet}: there is nothing to compare."
        return ("Cannot tell yet", f"{yet} so far.") if evaluated else ("Cannot tell", f"{yet} yet.")
    if not chosen:
        if len(where["rounds"]) == 1:
            return "No round to compare", "This run trains nothing: the figures are those of the base model."
        if len(evaluated) < 2 and not any(row["tokens"]["trained"] for row in where["rounds"]):
            return "No round was trained", "The figures are those of the base model; the run made pairs alone."
        return "No round was better than the base model", "The run keeps the base model."
    if not rows:
        apart = f"Round {chosen} and the base model have no held-out prompts in common"
        return "Cannot tell", f"{apart}: give the run some with --held_out."
    lead = rows[0]
    change = f"{words(lead['name'])} {number(lead['before'], lead['share'])} → {number(lead['after'], lead['share'])}"
    on = counted(lead["n"], "held-out prompt")
    sentence = f"Round {chosen} against the base model on {on}: {change}, {difference_text(lead)}."
    if lead["verdict"] == "cannot tell":
        missed = f"a difference below {size_text(lead, lead['detectable'])} would be missed more often than one time in five"
        limit = too_few(lead["n"], "prompts") or missed
        return f"Cannot tell whether round {chosen} is better", f"{sentence} {limit[0].upper()}{limit[1:]}."
    if lead["verdict"] in ("better", "worse"):
        return f"Round {chosen} is {lead['verdict']} than the base model", sentence
    return f"Round {chosen}: {words(lead['name'])} is {lead['verdict']}", f"{sentence} Whether that is better is for you to say."


def _shortcut(store: Store, where: Mapping[str, Any], chosen: int) -> list[str]:
    """That a trivial rule does as well as the round, where one does."""
    metrics = _metrics(where, chosen)
    found = (overtaken(shortcuts(store), name, metrics.get(name, {}).get("low")) for name in verdicts.PREFERRED)
    return [f"{told[:1].upper()}{told[1:]}." for told in found if told]


def _guard(store: Store, chosen: int) -> list[str]:
    """What the round kept of what the base model could do."""
    found = kept.of_run(store, chosen)
    texts = [*(each.text for each in found), *kept.notes(found)]
    return [typeset(f"{text[0].upper()}{text[1:]}.") for text in texts]


def _notes(where: Mapping[str, Any], chosen: int, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    notes = []
    if where["best_round"] is None and chosen:
        notes.append(f"The run is not done ({where['state']}): this is round {chosen}, the newest one evaluated, not the best.")
    if worse := [words(row["name"]) for row in rows if row["verdict"] == "worse"]:
        notes.append(f"Worse than before: {', '.join(worse)}.")
    if unknown := [words(row["name"]) for row in rows if row["verdict"] == "cannot tell"]:
        notes.append(f"Cannot tell for {', '.join(unknown)}: chance alone could have made these differences.")
    if lost := [row for row in rows if row["unpaired"]]:
        most = max(row["unpaired"] for row in lost)
        these = f"{counted(most, 'prompt')} {'is' if most == 1 else 'are'}"
        notes.append(f"{these} not compared: only one of the two models has a figure there.")
    findings = [(row["round"], row["verify_weights"]) for row in where["rounds"]]
    if verified := [str(round) for round, found in findings if found and found["verdict"] == VERIFIED]:
        serves = f"The server was verified to serve the weights of round {', '.join(verified)}"
        notes.append(f"{serves} (verify_weights, see the events).")
    if rows:
        notes.append("Intervals are 95 %, paired by prompt; neither they nor p are corrected for the number of metrics.")
        effect = "The minimum detectable effect is the smallest difference that four such comparisons in five would find."
        notes.append(f"{effect} ↑\u00a0higher is better, ↓\u00a0lower is better.")
    return notes
