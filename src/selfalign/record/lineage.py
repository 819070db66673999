"""The lineage of a sample: where it came from, what was decided about it, and what became of it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from selfalign.errors import UserError
from selfalign.protocols import INDISTINCT, VERIFIED
from selfalign.record import model_rows, rows
from selfalign.record.exports import everything
from selfalign.record.joined import identity_of, since_round
from selfalign.record.review import said_of
from selfalign.record.status import verifications
from selfalign.record.store import Store
from selfalign.text import counted, printable
from selfalign.types import ROLLOUT, Example, preferred_to

SHOWN_AT_MOST = 100
"""Samples listed that a demonstration was shown in; all of them are counted."""
_NOBODY = "no model: the seed file has it, as an answer that the seed's own is preferred to"
_TRAINED_INTO = "SELECT round, rule, evidence FROM training WHERE sample = ? ORDER BY round"
_UNANSWERED = """SELECT id FROM samples WHERE round > 0 AND response = '' AND (response_finish = 'context' OR NOT EXISTS (
  SELECT 1 FROM outputs o WHERE o.id = samples.id AND o.round = samples.round AND o.stage LIKE 'respond%'))"""


def lineage(store: Store, id: str) -> dict[str, Any]:
    """Everything the record knows of one sample, as plain data.

    `since_round` is the first round that had the seed: 0 for those of the start, None for what is no seed.
    `written_by` is the model that wrote it: that of the round before, and behind which finding about a server's weights its
    answers were taken (`verify_weights`; None where nothing was verified); None of a rejected answer that a seed brought.
    `answered` is False where it was dropped before a response was written; then that is "" as an empty one is. `prompt_texts`
    are the exact texts the model was given, by stage. `trained_into` are the rounds whose training saw it (with the rule where
    that training dropped it), `shown_in` the samples it was a demonstration for.

    Raises:
        UserError: no such sample.
    """
    with store.snapshot() as connection:
        found = connection.execute("SELECT number, verdict FROM samples WHERE id = ?", (id,)).fetchone()
        if found is None:
            raise UserError(f"{store.folder} has no sample {id!r}{_example_ids(connection)}")
        number, verdict = found
        replay = verdict == "replay"
        example, rule, evidence = next(rows.read(connection, "number = ?", (number,)))
        written = replay or (example.round and not _brought(connection, example))
        return {
            **everything(example),
            "history": [list(turn) for turn in example.history],
            "answered": not unanswered(connection, id),
            "verdict": verdict,
            "since_round": since_round(store).get(id, 0) if verdict in ("seed", "validation") else None,
            "rule": rule or None,
            "evidence": evidence or None,
            "review": [asdict(each) for each in said_of(store, id)],
            "prompt_demonstrations": _demonstrations(connection, number, "prompt"),
            "response_demonstrations": _demonstrations(connection, number, "response"),
            "written_by": _writer(store, connection, max(example.round - 1, 0)) if written else None,
            "sampling": _sampling(store, example, replay) if written else None,
            "prompt_texts": _prompt_texts(connection, example),
            "trained_into": [
                {**(_model(store, connection, round) or {}), "rule": rule, "evidence": evidence}
                for round, rule, evidence in connection.execute(_TRAINED_INTO, (number,))
            ],
            "shown_in": _shown_in(connection, number),
        }


def unanswered(connection: sqlite3.Connection, id: str | None = None) -> set[str]:
    """The ids of the candidates (or of this one) that were dropped before the model wrote a response, if only an empty one."""
    one, values = ("", ()) if id is None else (" AND id = ?", (id,))
    return {found for (found,) in connection.execute(_UNANSWERED + one, values)}


def lineage_text(lineage: Mapping[str, Any]) -> str:
    """The lineage for a terminal, with nothing in it that a terminal would obey."""
    p = lineage
    firsts = ", ".join(d["id"] for d in p["prompt_demonstrations"]) if p["history"] else ""
    again = "replay, " if p["verdict"] == "replay" else ""
    joined = f", joined for round {p['since_round']} on" if p["since_round"] else ""
    is_given = p["round"] and p["metadata"].get("source") == "given"
    origin = f"round {p['round']}, slot {p['slot']}" + (f", category {p['category']}" if p["category"] else "")
    parts = [
        f"{p['id']} ({origin})",
        _block("verdict", p["verdict"] + joined if p["rule"] is None else f"{again}dropped by {p['rule']}: {p['evidence']}"),
        _block("review", *map(_reviewed, p["review"])),
        _block("system text", p.get("system", "")),
        _block(f"earlier turns ({firsts})" if firsts else "earlier turns", *("\n→ ".join(turn) for turn in p["history"])),
        _block("prompt (given)" if is_given else f"prompt (ended by {p['prompt_finish']})", p["prompt"]),
        _block(f"response (ended by {p['response_finish']})", p["response"] or "(empty)")
        if p["answered"]
        else _block("response", "(not answered)"),
        _block("scores", *(f"{name} {value}" for name, value in p["scores"].items())),
        _block("metadata", *(f"{name}: {value}" for name, value in p["metadata"].items())),
        _block("written by", _wrote(p["written_by"]) if p["written_by"] else _NOBODY if p["round"] else ""),
        _block("sampling", *(f"{name}: {json.dumps(value)}" for name, value in (p["sampling"] or {}).items())),
        _block("demonstrations of the prompt", *([] if firsts else map(_shown, p["prompt_demonstrations"]))),
        _block(
            "shown to the teacher" if ROLLOUT in p["metadata"] else "demonstrations of the response",
            *map(_shown, p["response_demonstrations"]),
        ),
        *(_block(f"the model was given ({stage})", text) for stage, text in p["prompt_texts"].items()),
        _block("trained into", *map(_trained, p["trained_into"])),
        _block(f"shown in {counted(p['shown_in']['count'], 'sample')}", *map(_where, p["shown_in"]["samples"])),
    ]
    return printable("\n\n".join(part for part in parts if part))


def _block(title: str, *said: str) -> str:
    """Left out where there is nothing to say."""
    text = "\n".join(said)
    return f"{title}\n" + "\n".join(f"  {line}" for line in text.split("\n")) if text else ""


def _named(model: Mapping[str, Any]) -> str:
    return f"model of round {model['round']}: {model['adapter'] or model['base']} ({model['hash'][:12] or 'no hash'})"


def _brought(connection: sqlite3.Connection, example: Example) -> bool:
    """Whether an answer to be rejected stands in the seed file: none was generated under its id."""
    asked = "SELECT 1 FROM outputs WHERE id = ? AND round = ? AND stage LIKE 'respond%'"
    rejected = bool(preferred_to(example) and example.response)
    return rejected and connection.execute(asked, (example.id, example.round)).fetchone() is None


def _wrote(model: Mapping[str, Any]) -> str:
    return _named(model) + (f"\n{model['verify_weights']['text']}" if model["verify_weights"] else "")


def _trained(model: Mapping[str, Any]) -> str:
    return _named(model) + (f": dropped by {model['rule']}: {model['evidence']}" if model["rule"] else "")


def _reviewed(said: Mapping[str, Any]) -> str:
    texts = f"\nit was: {said['before']}\n→ {said['response']}".replace("\n", "\n  ") if said["verdict"] == "edited" else ""
    why = f": {said['reason']}" if said["reason"] else ""
    return f"{said['verdict']} by {said['by']}, {said['at']}{why}{texts}"


def _shown(demonstration: Mapping[str, Any]) -> str:
    near = "drawn at random" if demonstration["similarity"] is None else f"similarity {demonstration['similarity']:.3f}"
    texts = f"{demonstration['prompt']}\n→ {demonstration['response']}".replace("\n", "\n  ")
    return f"{demonstration['id']} (round {demonstration['round']}, {near})\n  {texts}"


def _where(sample: Mapping[str, Any]) -> str:
    near = "" if sample["similarity"] is None else f", similarity {sample['similarity']:.3f}"
    return f"{sample['id']} (for its {sample['part']}{near})"


def _example_ids(connection: sqlite3.Connection) -> str:
    found = connection.execute(
        "SELECT id FROM samples WHERE number IN (SELECT min(number) FROM samples UNION SELECT max(number) FROM samples)"
    )
    ids = [id for (id,) in found]
    return f": its samples are called like {' and '.join(ids)}" if ids else ": it has no samples yet"


def _demonstrations(connection: sqlite3.Connection, number: int, part: str) -> list[dict[str, Any]]:
    found = connection.execute(
        "SELECT d.id, similarity, d.round, d.prompt, d.response FROM demonstrations "
        "JOIN samples d ON d.number = demonstration WHERE sample = ? AND part = ? ORDER BY position",
        (number, part),
    )
    return [dict(zip(("id", "similarity", "round", "prompt", "response"), row, strict=True)) for row in found]


def _model(store: Store, connection: sqlite3.Connection, round: int) -> dict[str, Any] | None:
    found = model_rows.read(connection, store.folder, round)
    if found is None:
        return None
    return {"round": round, "base": found[0].base, "adapter": found[0].adapter, "hash": found[0].hash}


def _writer(store: Store, connection: sqlite3.Connection, round: int) -> dict[str, Any] | None:
    model = _model(store, connection, round)
    taken = [each for each in verifications(store).get(round, ()) if each["verdict"] in (VERIFIED, INDISTINCT)]
    return model and {**model, "verify_weights": taken[-1] if taken else None}


def _sampling(store: Store, example: Example, replay: bool) -> dict[str, Any]:
    identity = identity_of(store, example.round)
    if replay:
        return {"prompt": None, "response": identity["replay"]["sampling"], "seed": identity.get("seed")}
    is_given = example.metadata.get("source") == "given" or bool(preferred_to(example))
    asking = identity.get("second_turns" if example.history and not is_given else "proposer")
    asking = asking.get("own", asking) if isinstance(asking, dict) else asking
    return {
        "prompt": asking.get("sampling") if isinstance(asking, dict) and not is_given else None,
        "response": identity.get("sampling"),
        "seed": identity.get("seed"),
    }


def _prompt_texts(connection: sqlite3.Connection, example: Example) -> dict[str, str]:
    # Drafts read from one list share the request that asked for it.
    found = connection.execute(
        "SELECT stage, data FROM outputs WHERE round = ?1 AND (id = ?2 OR (id = ?3 AND stage = 'propose')) ORDER BY rowid",
        (example.round, example.id, example.metadata.get("request")),
    )
    texts = {stage: json.loads(data).get("prompt_text") for stage, data in found}
    return {stage: text for stage, text in texts.items() if text is not None}


def _shown_in(connection: sqlite3.Connection, number: int) -> dict[str, Any]:
    count = connection.execute("SELECT count(*) FROM demonstrations WHERE demonstration = ?", (number,)).fetchone()[0]
    found = connection.execute(
        "SELECT s.id, s.round, part, similarity FROM demonstrations JOIN samples s ON s.number = sample "
        "WHERE demonstration = ? ORDER BY sample, part LIMIT ?",
        (number, SHOWN_AT_MOST),
    )
    return {"count": count, "samples": [dict(zip(("id", "round", "part", "similarity"), row, strict=True)) for row in found]}
