"""A copy of a run as if some of its samples had been dropped by the filters: un-training by training again.

Our own choice, and the only exact one: whatever was trained on a sample, or written by a model that had been, is left out of the
copy and made again. The run itself stays as it is.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from selfalign.errors import UserError
from selfalign.record import model_rows, rows, schema
from selfalign.record.disk import reporting, require_space, whole_folder
from selfalign.record.faults import fault_point
from selfalign.record.plain import dumps
from selfalign.record.review import Decision, after_review
from selfalign.record.store import Store
from selfalign.text import counted
from selfalign.types import Dropped

RULE = "forgotten"
KEPT_STAGES = "('seed_rules', 'calibrate', 'filter', 'review')"
"""What stands of a round before its model is trained."""


@dataclass(frozen=True)
class Forgotten:
    """What a copy was made without."""

    ids: tuple[str, ...]
    followers: tuple[str, ...]
    """Second turns and rejected answers that go with them."""
    round: int
    """The first round that was trained on one of them: it is trained again, and all rounds after it are made anew."""
    remade: int
    """How many later candidates are made anew, as models had written them that were trained on one of them."""


def forget(folder: str | Path, ids: Sequence[str], out: str | Path) -> Forgotten:
    """Writes to `out` the run of `folder` up to where a model was first trained on one of the samples, and without them.

    The copy stands there whole or not at all, and goes on with the options of the run.

    Args:
        ids: of kept samples; those of later rounds than the first of them are made anew anyway.
        out: a folder that is not there yet.

    Raises:
        UserError: no such run, a sample that no model was trained on, a seed, or a folder that is taken. Nothing was written.
        RunFailed: the disk is full.
    """
    folder, out = Path(folder), Path(out)
    if out.exists():
        raise UserError(f"--out {out} is there already; give the run without the samples a folder of its own")
    with Store.read(folder) as store:
        found, round = _chosen(store, ids)
        rejected = after_review(store.kept(round), {id: Decision(id, "rejected") for id in found}, None).dropped
        why = ("it follows on one that was", "asked for")
        gone = [Dropped(drop.example, RULE, why[drop.example.id in found]) for drop in rejected]
        with store.snapshot() as connection:
            later = "SELECT count(*) FROM samples WHERE round > ?"
            remade = int(connection.execute(later, (round,)).fetchone()[0])
        identity = store.identity()
    named = [drop.example.id for drop in gone]
    made = Forgotten(tuple(found), tuple(id for id in named if id not in found), round, remade)
    with whole_folder(out, "use another --out") as part:
        _copy(folder, part, round)
        with Store.open(part, identity) as copy, copy.transaction("forget") as connection:
            _truncate(connection, round)
            _without_weights(connection, copy, round)
            _drop(connection, round, gone)
            copy.event(RULE, {"round": round, "ids": named, "run": folder.name, "text": in_words(made, folder.name)})
        fault_point("forget.before-rename")
    return made


def in_words(made: Forgotten, name: str) -> str:
    more = f" and {counted(len(made.followers), 'sample')} that go with them" if made.followers else ""
    what = f"{counted(len(made.ids), 'sample')}{more} of the run {name}"
    after = f", and {counted(made.remade, 'candidate')} of later rounds are made anew" if made.remade else ""
    return f"{what} forgotten: round {made.round} is trained again without them{after}"


def _chosen(store: Store, ids: Sequence[str]) -> tuple[list[str], int]:
    """The ids, each once, and the first round that one of them is of. Raises UserError: one that is no kept sample; the message
    says what it is."""
    ids = list(dict.fromkeys(ids))
    if not ids:
        raise UserError("which samples? give their ids: selfalign forget DIR r01-00007 --out NEW")
    rounds = []
    for id in ids:
        with store.snapshot() as connection:
            query = "SELECT round, verdict, rule FROM samples WHERE id = ?"
            known = connection.execute(query, (id,)).fetchone()
        if known is None:
            raise UserError(f"{store.folder} has no sample {id!r}; selfalign show and the exported data give the ids")
        round, verdict, rule = known
        if verdict == "seed":
            raise UserError(
                f"{id} is a seed, and every round was trained on it or shown it: take it out of the seed file and begin"
                " a run with another --out"
            )
        if verdict != "kept":
            why = f"it was dropped by {rule}" if rule else f"it is a row of kind {verdict}"
            raise UserError(f"no model was trained on {id}: {why}")
        rounds.append(int(round))
    return ids, min(rounds)


def _copy(folder: Path, part: Path, round: int) -> None:
    """The record, the run's options, and the models of the rounds before."""
    models = [path for path in (folder / f"round-{before:02d}" / "model" for before in range(1, round)) if path.is_dir()]
    files = [each for path in models for each in path.rglob("*") if each.is_file()]
    require_space(part, (folder / schema.NAME).stat().st_size + sum(each.stat().st_size for each in files))
    with reporting(part):
        with closing(schema.connect_reading(folder)) as old, closing(sqlite3.connect(part / schema.NAME)) as new:
            old.backup(new)
        if (options := folder / "run.yaml").is_file():
            shutil.copyfile(options, part / "run.yaml")
        for path in models:
            shutil.copytree(path, part / path.relative_to(folder))


def _truncate(connection: sqlite3.Connection, round: int) -> None:
    """Takes out what was made after the round's candidates were filtered."""
    later, at = "round > :r", "round = :r"
    asked = "json_extract(metadata, '$.request')"  # drafts read from one list share the request that asked for it
    of_candidates = f"SELECT id FROM samples WHERE {at} UNION SELECT {asked} FROM samples WHERE {at} AND {asked} IS NOT NULL"
    samples = f"SELECT number FROM samples WHERE {later}"
    for statement in (
        "DELETE FROM training WHERE round >= :r",
        "DELETE FROM models WHERE round >= :r",
        f"DELETE FROM demonstrations WHERE sample IN ({samples})",
        f"DELETE FROM scores WHERE sample IN ({samples})",
        f"DELETE FROM samples WHERE {later}",
        f"DELETE FROM outputs WHERE {later} OR ({at} AND (id IS NULL OR id NOT IN ({of_candidates})))",
        f"DELETE FROM batches WHERE {later} OR ({at} AND NOT EXISTS (SELECT 1 FROM outputs o"
        " WHERE o.round = batches.round AND o.stage = batches.stage AND o.batch = batches.batch))",
        f"DELETE FROM stages WHERE {later} OR ({at} AND stage NOT IN {KEPT_STAGES})",
        "DELETE FROM metrics WHERE round >= :r",  # and their outcomes
        "DELETE FROM events WHERE kind = 'oscillation' OR kind NOT IN ('joined', 'review', 'review_done', 'forgotten')"
        " AND json_extract(data, '$.round') >= :r",
        "DELETE FROM events WHERE kind IN ('review', 'review_done') AND json_extract(data, '$.round') > :r",
        "UPDATE meta SET value = '{}' WHERE key = 'state'",
    ):
        connection.execute(statement, {"r": round})


def _without_weights(connection: sqlite3.Connection, copy: Store, round: int) -> None:
    """Has the models trained again that the round starts from and whose weights were removed (`removed.remove_weights`)."""
    if copy.identity().get("start_from") == "base":
        return
    for before in range(round - 1, 0, -1):
        found = model_rows.read(connection, copy.folder, before)
        if found is None or model_rows.place(found[0]).is_dir():
            return
        model_rows.delete(connection, before)


def _drop(connection: sqlite3.Connection, round: int, gone: Sequence[Dropped]) -> None:
    rows.rewrite(connection, rows.verdicts((), gone))
    counts = "SELECT sum(verdict = 'kept'), sum(verdict = 'dropped') FROM samples WHERE round = ?"
    kept, dropped = connection.execute(counts, (round,)).fetchone()
    for stage in ("filter", "review"):
        query = "UPDATE stages SET data = json_patch(data, ?) WHERE round = ? AND stage = ?"
        connection.execute(query, (dumps({"kept": kept, "dropped": dropped}), round, stage))
