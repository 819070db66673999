"""Where a run stands, as plain data for `selfalign status --json` and the tables."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from selfalign.protocols import VERIFIED
from selfalign.record import model_rows
from selfalign.record.lock import is_locked
from selfalign.record.now import read_now
from selfalign.record.plain import metric_table
from selfalign.record.review import is_ready, summary, waiting
from selfalign.record.store import Store


def status(store: Store) -> dict[str, Any]:
    """The state of a run and a row for each round; round 0 is the base model.

    `state` is running (a process works on the folder), done, failed, interrupted (by a signal), waiting (for people to review a
    round's pairs, also while they do), or stopped: nobody works on it and nothing was said, so the process was killed and the
    same command goes on. `tokens.prompt` counts the tokens
    read, those of scored responses included. `verify_weights` is what was found last of the weights that a server served as the
    round's model, {"verdict", "text"}; None where nothing was verified. `progress` is the stage that a running run is at,
    with count, rate, and when it and (as far as was measured) the run will end; None where none is open.
    """
    running = is_locked(store.folder)
    with store.snapshot() as connection:
        ended, found = {} if running else store.state(), verifications(store)
        waits = "" if ended else _waits(store, running)
        return {
            "state": "waiting" if waits else "running" if running else ended.get("state", "stopped"),
            "stopped_because": waits or ended.get("stopped_because"),
            "recipe": store.identity().get("name"),
            "best_round": store.state().get("best_round"),
            "progress": read_now(store.folder) if running else None,
            **_replay(connection),
            "rounds": [_round(store, connection, round, found.get(round, ())) for round in _rounds(connection)],
        }


def _waits(store: Store, running: bool) -> str:
    """What a run waits for; "" where it waits for nothing, or goes on already."""
    if (round := waiting(store)) is None or (running and is_ready(store, round)):
        return ""
    go_on = "the same command goes on from here" if is_ready(store, round) else f"`selfalign review {store.folder}` shows them"
    return f"{summary(store, round)['text']}, and none of them stands in kept.jsonl or an export before that is done; {go_on}"


def warnings(store: Store) -> list[str]:
    """What the run had to report, oldest first; then the rounds whose weights a server was not verified to serve, and those of
    which one rule took half."""
    findings = ("alarm", "retrieval", "overlap", "oscillation")
    added = ("rounds", "joined", "forgotten")
    kinds = ("demonstrations", "seed_rule", "evaluation", *findings, "damaged-model", "software", "given", *added)
    reported = [(kind, data) for _, kind, data in standing_events(store) if kind in kinds]
    reported += [("verify_weights", found[-1]) for found in verifications(store).values() if found[-1]["verdict"] != VERIFIED]
    return [f"{kind}: {data['text']}" for kind, data in _folded(reported)] + [f"drops: {text}" for text in _taken(store)]


def standing_events(store: Store) -> list[tuple[str, str, dict[str, Any]]]:
    """As `Store.events`, without what was found of all rounds together (`oscillation`) before rounds were added."""
    events = store.events()
    last = max((place for place, (_, kind, _) in enumerate(events) if kind == "rounds"), default=-1)
    return [each for place, each in enumerate(events) if each[1] != "oscillation" or place > last]


def _folded(reported: Sequence[tuple[str, Mapping[str, Any]]]) -> list[tuple[str, Mapping[str, Any]]]:
    """With one line for all rounds that have the same to report: an alarm of one figure, by the round where it is worst, and
    rows that are no held-out prompt's, but nearly so (twins make such pairs in every round)."""
    alike: dict[tuple[str, object], list[Mapping[str, Any]]] = {}
    for place, (kind, data) in enumerate(reported):
        name = data.get("name", place) if kind == "alarm" else "near" if kind == "overlap" and not data["exact"] else place
        alike.setdefault((kind, name), []).append(data)
    return [(kind, _together(group) if len(group) > 1 else group[0]) for (kind, _), group in alike.items()]


def _together(group: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    rounds = ", ".join(str(data["round"]) for data in group)
    if "near" in group[0]:
        counts = [data["near"] for data in group]
        what = "no training row asks the same as a held-out prompt"
        return {"text": f"rounds {rounds}: {what}, {min(counts)} to {max(counts)} pairs nearly so"}
    worst = max(group, key=lambda data: abs(data["value"] - data["threshold"]))
    return {"text": f"rounds {rounds}, worst in {worst['text']}"}


def shortcuts(store: Store) -> list[dict[str, Any]]:
    """What trivial rules reach on the held-out prompts (`proof.shortcuts.audit`); empty where nothing was audited."""
    found: list[list[dict[str, Any]]] = [data["rows"] for *_, data in store.events("shortcuts")]
    return found[-1] if found else []


COUNTED = ("enough_answers", "surplus", "same_cluster", "low_agreement")
"""Rules that keep as many as were asked for, and the one by which `self_train` keeps the few that agree: what they drop is
nobody's fault."""
_FEW = 8
"""Candidates below which half of a round is chance."""


def _taken(store: Store) -> list[str]:
    """The rounds of at least `_FEW` candidates of which one rule dropped half or more, in words: it, or the model, does not fit
    these seeds."""
    query = "SELECT round, verdict, rule, count(*) FROM samples WHERE round > 0 GROUP BY 1, 2, 3 ORDER BY 1"
    with store.snapshot() as connection:
        rows = connection.execute(query).fetchall()
    found = []
    for round, verdict, rule, count in rows:
        made = sum(number for each, *_, number in rows if each == round)
        if verdict == "dropped" and rule not in COUNTED and 2 * count >= made >= _FEW:
            found.append(f"round {round}: one rule, {rule}, took {count} of {made} candidates ({count / made:.0%})")
    return found


def stage_seconds(store: Store) -> dict[int, dict[str, float]]:
    """Round to what each of its stages took so far."""
    with store.snapshot() as connection:
        return {round: _seconds(connection, round) for round in _rounds(connection)}


def verifications(store: Store) -> dict[int, list[dict[str, Any]]]:
    """Round to what was found of the weights served as its model, {"verdict", "text"} each, oldest first."""
    found: dict[int, list[dict[str, Any]]] = {}
    for *_, data in store.events("verify_weights"):
        found.setdefault(data["round"], []).append({key: data[key] for key in ("verdict", "text")})
    return found


def _rounds(connection: sqlite3.Connection) -> list[int]:
    tables = ("samples", "batches", "stages", "metrics", "models")
    found = connection.execute(" UNION ".join(f"SELECT DISTINCT round FROM {table}" for table in tables))
    return sorted({0} | {round for (round,) in found})


def _round(store: Store, connection: sqlite3.Connection, round: int, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    kept = connection.execute("SELECT count(*) FROM samples WHERE round = ? AND verdict = 'kept'", (round,)).fetchone()[0]
    dropped = dict(
        connection.execute(
            "SELECT rule, count(*) FROM samples WHERE round = ? AND verdict = 'dropped' GROUP BY rule ORDER BY 2 DESC, 1",
            (round,),
        )
    )
    model = model_rows.read(connection, store.folder, round)
    return {
        "round": round,
        "candidates": kept + sum(dropped.values()),
        "kept": kept,
        "dropped": dropped,
        **_given(connection, round),
        **({"review": said} if store.identity().get("review") and (said := summary(store, round))["pairs"] else {}),
        "metrics": metric_table(store.metrics(round)),
        "model": None if model is None else str(model_rows.place(model[0])),
        "verify_weights": found[-1] if found else None,
        "seconds": _seconds(connection, round),
        "tokens": _tokens(store, connection, round),
    }


def _replay(connection: sqlite3.Connection) -> dict[str, Any]:
    """{"replay": {"prompts", "kept", "dropped": {rule: count}}} of a run with replay rows; nothing for any other."""
    query = "SELECT rule, count(*) FROM samples WHERE round = 0 AND verdict = 'replay' GROUP BY rule ORDER BY 2 DESC, 1"
    found = dict(connection.execute(query))
    rest = {rule: count for rule, count in found.items() if rule}
    return {"replay": {"prompts": sum(found.values()), "kept": found.get(None, 0), "dropped": rest}} if found else {}


def _given(connection: sqlite3.Connection, round: int) -> dict[str, Any]:
    """{"given": {"candidates", "kept"}} of a round whose prompts were not all proposed; nothing for any other."""
    query = "SELECT count(*), coalesce(sum(verdict = 'kept'), 0) FROM samples WHERE round = ? AND round > 0 AND"
    found, kept = connection.execute(f"{query} json_extract(metadata, '$.source') = 'given'", (round,)).fetchone()
    return {"given": {"candidates": found, "kept": kept}} if found else {}


def _seconds(connection: sqlite3.Connection, round: int) -> dict[str, float]:
    """By stage: those of the journaled batches and, under the stage's own name, what it took besides."""
    total: dict[str, float] = {}
    for stage, seconds in connection.execute(
        "SELECT stage, sum(seconds) FROM batches WHERE round = ?1 GROUP BY stage "
        "UNION ALL SELECT stage, seconds FROM stages WHERE round = ?1",
        (round,),
    ):
        total[stage] = total.get(stage, 0.0) + seconds
    return {stage: seconds for stage, seconds in total.items() if seconds}


def _tokens(store: Store, connection: sqlite3.Connection, round: int) -> dict[str, int]:
    read, generated = connection.execute(
        "SELECT coalesce(sum(prompt_tokens), 0), coalesce(sum(generated_tokens), 0) FROM batches WHERE round = ?", (round,)
    ).fetchone()
    return {"prompt": read, "generated": generated, "trained": int(store.training(round).get("tokens", 0))}
