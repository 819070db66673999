"""The tables of `run.sqlite`, the record of a run, and how the file is opened."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from selfalign.errors import UserError
from selfalign.record import sums
from selfalign.record.file_system import network_file_system
from selfalign.record.lock import is_locked
from selfalign.text import one_line

NAME = "run.sqlite"
VERSION, OLDEST = 5, 4
"""Of the tables that are made, and of the oldest ones that can be read and gone on with: those of 4 know no replay rows."""
APPLICATION = 0x5E1FA119

TABLES = """
-- Values are JSON.
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE events (id INTEGER PRIMARY KEY, at TEXT NOT NULL, kind TEXT NOT NULL, data TEXT NOT NULL);

-- Seeds (round 0) and candidates; replay rows (round 0), with a rule where they are dropped. `number` gives the order of writing.
-- history: [[prompt, response], …]; of a sample with a system text {"system": …, "turns": [[prompt, response], …]}.
CREATE TABLE samples (
  number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, round INTEGER NOT NULL, slot INTEGER NOT NULL,
  verdict TEXT NOT NULL CHECK (verdict IN ('seed', 'validation', 'kept', 'dropped', 'replay')), rule TEXT, evidence TEXT,
  prompt TEXT NOT NULL, response TEXT NOT NULL, category TEXT NOT NULL,
  prompt_finish TEXT NOT NULL, response_finish TEXT NOT NULL, metadata TEXT NOT NULL, history TEXT NOT NULL,
  CHECK ((verdict IN ('seed', 'validation', 'replay')) = (round = 0)),
  CHECK (verdict = 'replay' OR (verdict = 'dropped') = (rule IS NOT NULL)));
CREATE INDEX samples_by_round ON samples (round, verdict, rule);
CREATE UNIQUE INDEX one_candidate_per_slot ON samples (round, slot) WHERE round > 0;
CREATE TABLE demonstrations (
  sample INTEGER NOT NULL REFERENCES samples, part TEXT NOT NULL CHECK (part IN ('prompt', 'response')),
  position INTEGER NOT NULL, demonstration INTEGER NOT NULL REFERENCES samples, similarity REAL,
  PRIMARY KEY (sample, part, position)) WITHOUT ROWID;
CREATE INDEX shown_in ON demonstrations (demonstration);
CREATE TABLE scores (
  sample INTEGER NOT NULL REFERENCES samples, name TEXT NOT NULL, value REAL, PRIMARY KEY (sample, name)) WITHOUT ROWID;

-- The journal: raw engine outputs, one transaction for each planned batch.
CREATE TABLE batches (
  round INTEGER NOT NULL, stage TEXT NOT NULL, batch INTEGER NOT NULL, seconds REAL NOT NULL,
  prompt_tokens INTEGER NOT NULL, generated_tokens INTEGER NOT NULL, PRIMARY KEY (round, stage, batch));
CREATE TABLE outputs (
  round INTEGER NOT NULL, stage TEXT NOT NULL, slot INTEGER NOT NULL, batch INTEGER NOT NULL, id TEXT, data TEXT NOT NULL,
  PRIMARY KEY (round, stage, slot), FOREIGN KEY (round, stage, batch) REFERENCES batches);
CREATE INDEX outputs_by_id ON outputs (id);

CREATE TABLE stages (
  round INTEGER NOT NULL, stage TEXT NOT NULL, seconds REAL NOT NULL, done_at TEXT NOT NULL, data TEXT NOT NULL,
  PRIMARY KEY (round, stage));
CREATE TABLE metrics (
  round INTEGER NOT NULL, name TEXT NOT NULL, value REAL, low REAL, high REAL, n INTEGER NOT NULL,
  unit TEXT NOT NULL, better TEXT NOT NULL, PRIMARY KEY (round, name));
-- A metric prompt by prompt: its value is the sum over the strata of the mean of their outcomes.
CREATE TABLE outcomes (
  round INTEGER NOT NULL, metric TEXT NOT NULL, prompt TEXT NOT NULL, stratum TEXT NOT NULL, value REAL,
  PRIMARY KEY (round, metric, prompt), FOREIGN KEY (round, metric) REFERENCES metrics ON DELETE CASCADE) WITHOUT ROWID;

-- Round 0 is the base model. A path inside the run folder is written "run:round-01/model", so the folder can move.
CREATE TABLE models (
  round INTEGER PRIMARY KEY, base TEXT NOT NULL, adapter TEXT, hash TEXT NOT NULL,
  manifest TEXT NOT NULL, training TEXT NOT NULL);
-- What the training of a round did with each row: trained on (rule NULL) or dropped by a rule.
CREATE TABLE training (
  round INTEGER NOT NULL REFERENCES models, sample INTEGER NOT NULL REFERENCES samples, rule TEXT, evidence TEXT,
  PRIMARY KEY (round, sample)) WITHOUT ROWID;
CREATE INDEX trained_into ON training (sample);
"""
TABLES_4 = TABLES.replace(", 'replay'", "").replace(
    " = (round = 0)),\n  CHECK (verdict = 'replay' OR ", " = (round = 0)), CHECK ("
)


_CLOSED = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH)


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        sums.pass_on_interruption(error)
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):  # a full disk while writing is reported elsewhere
            raise
        if code in _CLOSED:
            raise UserError(f"{folder / NAME} cannot be opened ({error}): check permissions and free space") from error
        raise _damaged(folder, str(error)) from error
    except (UnicodeError, ValueError) as error:  # a text that is none any more
        raise _damaged(folder, str(error)) from error


def _damaged(folder: Path, what: str) -> UserError:
    said = one_line(what)[:200]
    return UserError(f"{folder / NAME} is damaged or not the record of a run ({said}): bring back a copy, or use another --out")


def connect(folder: Path) -> sqlite3.Connection:
    """The record opened for writing, created where there is none; the caller holds the folder's lock.

    WAL with synchronous=FULL: a committed transaction survives a kill and a power cut, and readers never block it. On a
    network's file system, where a WAL does not work, a rollback journal: it survives the same, and waits for readers.

    Raises:
        UserError: the file is no record of a run, or one of a newer version.
    """
    with ExitStack() as stack, _readable(folder):
        connection = sqlite3.connect(folder / NAME, timeout=30, isolation_level=None)
        stack.callback(connection.close)
        empty = version(connection, folder) == 0
        if empty and (rest := [*folder.glob("round-*"), *folder.glob("run.yaml")]):
            raise _damaged(folder, f"it is empty, and {rest[0].name} is there")
        sums.prepare(connection)
        if not empty:
            _check(connection, folder)
        connection.execute(f"PRAGMA journal_mode = {'DELETE' if network_file_system(folder) else 'WAL'}")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        # Kept small: a killed run must not leave a folder twice its size.
        connection.execute("PRAGMA journal_size_limit = 4194304")
        if empty:
            create(connection)
        stack.pop_all()
        return connection


def connect_reading(folder: Path) -> sqlite3.Connection:
    """The record opened for reading; works next to a writer, and on a folder that cannot be written to.

    Raises:
        UserError: no run folder, one whose run has just begun, or one of a newer version.
    """
    path = folder / NAME
    if not path.is_file():
        raise _begun(folder) if is_locked(folder) else UserError(f"{folder} is not a run folder: {_instead(folder)}")
    with ExitStack() as stack, _readable(folder):
        connection = _open_reading(path)
        stack.callback(connection.close)
        if not (empty := version(connection, folder) == 0):
            sums.prepare(connection)
            _check(connection, folder)
            empty = connection.execute("SELECT 1 FROM meta WHERE key = 'identity'").fetchone() is None
        if empty:
            stopped = UserError(f"{folder} is not a run folder yet: its run was stopped before anything was recorded")
            raise _begun(folder) if is_locked(folder) else stopped
        stack.pop_all()
        return connection


def _begun(folder: Path) -> UserError:
    return UserError(f"{folder}: its run has just begun, and nothing is recorded yet: ask again in a moment")


def _instead(folder: Path) -> str:
    """What stands where a run folder was looked for."""
    if not folder.is_dir():
        return "it is a file" if folder.exists() else "there is no such folder"
    runs = sorted(str(path.parent.relative_to(folder)) for depth in ("*", "*/*") for path in folder.glob(f"{depth}/{NAME}"))
    named = ", ".join(runs[:3]) + (" …" if runs[3:] else "")
    return f"it holds those of several runs ({named}): name one" if runs else f"it has no {NAME}"


def version(connection: sqlite3.Connection, folder: Path) -> int:
    """The schema's version; 0 for an empty file. Raises UserError: not ours, or newer than this program."""
    found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    application = int(connection.execute("PRAGMA application_id").fetchone()[0])
    tables = int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    if tables and application != APPLICATION:
        raise UserError(f"{folder / NAME} is a database of another program: use another --out")
    if 0 < found < OLDEST:
        raise UserError(f"{folder} was written by an older selfalign (record version {found}, here {VERSION}): use another --out")
    if found > VERSION:
        raise UserError(f"{folder} was written by a newer selfalign (record version {found}, here {VERSION}): update selfalign")
    return found


def create(connection: sqlite3.Connection, tables: str = TABLES) -> None:
    """All tables in one transaction: after a crash there are all of them or none."""
    connection.execute("BEGIN IMMEDIATE")
    for statement in tables.split(";\n"):
        if statement.strip():
            connection.execute(statement)
    for statement in [*sums.statements(connection)]:
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


def _check(connection: sqlite3.Connection, folder: Path) -> None:
    """Raises UserError: the record is not as it was written."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as model:
        sums.prepare(model)
        create(model, TABLES if version(connection, folder) == VERSION else TABLES_4)
        schema = sums.sql_of(model)
    connection.execute("BEGIN")  # all of it as it stands at one moment, whatever a writer does
    try:
        if what := sums.damage(connection, schema):
            raise _damaged(folder, what)
    finally:
        connection.execute("ROLLBACK")


def _open_reading(path: Path) -> sqlite3.Connection:
    uri = path.resolve().as_uri()
    connection = sqlite3.connect(f"{uri}?mode=ro", uri=True, timeout=30, isolation_level=None)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.DatabaseError:
        connection.close()
        # A finished run on a medium that cannot be written to: no writer, no log, so the file alone is the whole record.
        log = path.with_name(path.name + "-wal")
        if os.access(path.parent, os.W_OK) or (log.exists() and log.stat().st_size):
            raise
        connection = sqlite3.connect(f"{uri}?mode=ro&immutable=1", uri=True, isolation_level=None)
    return connection
