"""The run folder: `run.sqlite` is the only record of a run; files next to it are exports that can be written again.

Every write is one transaction, and whatever is committed survives a kill at any moment. A stage is done when its row
stands; a batch of engine outputs is in the journal whole or not at all; a model exists once its manifest is committed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from selfalign.errors import Interrupted, RunFailed, UserError, reason
from selfalign.protocols import TrainResult
from selfalign.record import model_rows, rows, schema, sums
from selfalign.record.checkpoints import Manifest, verify
from selfalign.record.disk import reporting, usable_folder
from selfalign.record.faults import fault_point
from selfalign.record.lock import NAME as LOCK
from selfalign.record.lock import locked
from selfalign.record.plain import changes, difference, dumps, granted, in_words, news, raised
from selfalign.types import Dropped, Example, Metric, ModelRef, Outcome

_log = logging.getLogger(__name__)


class Store:
    """A run folder, opened with `Store.open` to work on it or with `Store.read` to look at it; a context manager.

    Leaving the block with an error records how the run ended, unless it was done: failed, or interrupted by a signal.
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection, stack: ExitStack, writes: bool) -> None:
        self.folder = folder
        self._connection = connection
        self._stack = stack
        self._writes = writes
        self._journaled: dict[int, float] = {}
        self._file = _number(folder / schema.NAME)

    @classmethod
    def open(cls, folder: str | Path, identity: Mapping[str, Any], software: Mapping[str, Any] | None = None) -> Store:
        """The folder locked and opened for work: a new run, or the one that stands there.

        `identity` is plain data (as JSON knows it) that must be equal for a run to be gone on with, but for what it permits now
        and for rounds that it adds.
        `software` is what the work is done with (`loop.versions.software`): a change is recorded, and one that changes what is
        written is refused, unless the identity has `allow_other_versions`.

        Raises:
            UserError: another process works on it, it holds something else, or it was started with other options or versions.
            RunFailed: the disk is full.
        """
        folder = Path(folder)
        with ExitStack() as stack, usable_folder(folder, (schema.NAME, LOCK, "run.yaml")):
            stack.enter_context(locked(folder))
            connection = stack.enter_context(contextlib.closing(schema.connect(folder)))
            store = cls(folder, connection, ExitStack(), writes=True)
            with store.transaction("open"):
                store._identify(json.loads(dumps(identity)))
                store._work_with(software or {}, bool(identity.get("allow_other_versions")))
                if store.state().get("state") in ("failed", "interrupted"):
                    store._set("state", {})
                store.event("opened", {"pid": os.getpid(), "host": socket.gethostname()})
            store._stack = stack.pop_all()
            return store

    @classmethod
    def read(cls, folder: str | Path) -> Store:
        """The folder opened for reading, also while a run works on it; the writer is never held up.

        Raises:
            UserError: no run folder, or one of a newer version.
        """
        stack = ExitStack()
        connection = stack.enter_context(contextlib.closing(schema.connect_reading(Path(folder))))
        return cls(Path(folder), connection, stack, writes=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is not None and self._writes and not isinstance(error, (Interrupted, KeyboardInterrupt)):
                self._require_folder(error)
            if error is not None and self._writes and self.state().get("state") != "done":
                with contextlib.suppress(RunFailed):  # the disk may be full: then the run simply counts as stopped
                    interrupted = isinstance(error, (Interrupted, KeyboardInterrupt))
                    self._conclude("interrupted" if interrupted else "failed", reason(error))
        finally:
            self.close()

    def close(self) -> None:
        self._stack.close()

    @contextmanager
    def transaction(self, name: str) -> Iterator[sqlite3.Connection]:
        """All of the block is committed or none of it; inside another transaction it becomes part of that one.

        Raises:
            RunFailed: the disk is full or failing.
        """
        if self._connection.in_transaction:
            yield self._connection
            return
        with reporting(self.folder):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                fault_point(f"{name}.before-commit")
                self._require_folder()
                self._connection.execute("COMMIT")
            except BaseException as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                sums.pass_on_interruption(error)
                raise
        fault_point(f"{name}.after-commit")

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """All reads of the block see the record as it stands at its first one, whatever a writer commits meanwhile."""
        if self._connection.in_transaction:
            yield self._connection
            return
        with reporting(self.folder):
            self._connection.execute("BEGIN")
            try:
                yield self._connection
            finally:
                self._connection.execute("ROLLBACK")

    # The run

    def identity(self) -> dict[str, Any]:
        """What the run was started with."""
        return self._get("identity") or {}

    def state(self) -> dict[str, Any]:
        """{"state": "done" | "failed" | "interrupted", "stopped_because", "best_round"}; empty while nothing has ended it."""
        return self._get("state") or {}

    def finish_run(self, best_round: int, stopped_because: str) -> None:
        """The run is done; `best_round` is the one to ship."""
        self._conclude("done", stopped_because, best_round)

    def event(self, kind: str, data: Mapping[str, Any]) -> None:
        """Something worth reporting later (opened, damaged model …), with the time."""
        with self.transaction("event") as connection:
            connection.execute("INSERT INTO events (at, kind, data) VALUES (?, ?, ?)", (_now(), kind, dumps(data)))

    def events(self, kind: str = "") -> list[tuple[str, str, dict[str, Any]]]:
        """(time, kind, data) of everything reported, or of what is of this kind, oldest first."""
        found = self._connection.execute("SELECT at, kind, data FROM events WHERE ?1 IN ('', kind) ORDER BY id", (kind,))
        return [(at, kind, json.loads(data)) for at, kind, data in found]

    def round_folder(self, round: int) -> Path:
        """`DIR/round-01`, made if it is not there."""
        folder = self.folder / f"round-{round:02d}"
        with reporting(self.folder):
            folder.mkdir(exist_ok=True)
        return folder

    # The journal of raw outputs

    def done_batches(self, round: int, stage: str) -> dict[int, Any]:
        """Slot to output of every batch committed so far."""
        query = "SELECT slot, data FROM outputs WHERE round = ? AND stage = ? ORDER BY slot"
        found = self._connection.execute(query, (round, stage))
        return {slot: json.loads(data) for slot, data in found}

    def add_batch(self, round: int, stage: str, batch: int, outputs: Mapping[int, Mapping[str, Any]], seconds: float) -> None:
        """Commits one planned batch: slot to output. Counts its tokens by the keys `prompt_tokens`, `generated_tokens`
        and, for likelihoods, `tokens` (read, not generated); the key `id` finds the output in a sample's lineage."""
        with self.transaction("batch") as connection:
            read = sum(int(row.get("prompt_tokens", 0)) + int(row.get("tokens", 0)) for row in outputs.values())
            generated = sum(int(row.get("generated_tokens", 0)) for row in outputs.values())
            connection.execute("INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?)", (round, stage, batch, seconds, read, generated))
            connection.executemany(
                "INSERT INTO outputs VALUES (?, ?, ?, ?, ?, ?)",
                ((round, stage, slot, batch, row.get("id"), dumps(row)) for slot, row in outputs.items()),
            )
        self._journaled[round] = self.seconds(round) + seconds

    def seconds(self, round: int) -> float:
        """Seconds of the batches this process has journaled for the round since a stage of the round was last finished.

        A stage's own seconds are its wall time less these: the journal has already booked them.
        """
        return self._journaled.get(round, 0.0)

    # Stages

    def stage(self, round: int, name: str) -> dict[str, Any] | None:
        """What a finished stage has left, None where it is not finished."""
        found = self._connection.execute("SELECT data FROM stages WHERE round = ? AND stage = ?", (round, name)).fetchone()
        return None if found is None else json.loads(found[0])

    def finish_stage(self, round: int, name: str, data: Mapping[str, Any], seconds: float) -> None:
        """`seconds` are those outside the stage's journaled batches."""
        with self.transaction(name) as connection:
            values = (round, name, max(seconds, 0.0), _now(), dumps(data))
            connection.execute("INSERT INTO stages (round, stage, seconds, done_at, data) VALUES (?, ?, ?, ?, ?)", values)
        self._journaled.pop(round, None)

    # Samples

    def add_seeds(self, train: Sequence[Example], validation: Sequence[Example]) -> None:
        """Written once; the run's identity vouches that they are the same when it is gone on with."""
        if self.stage(0, "seeds") is not None:
            return
        with self.transaction("seeds") as connection:
            rows.insert(connection, [*rows.verdicts(train, (), "seed"), *rows.verdicts(validation, (), "validation")])
            self.finish_stage(0, "seeds", {"train": len(train), "validation": len(validation)}, 0.0)

    def finish_round_samples(
        self, round: int, kept: Sequence[Example], dropped: Sequence[Dropped], candidates: int, seconds: float = 0.0
    ) -> None:
        """All candidates of a round, each in its one bucket, and the stage `filter`, in one transaction.

        Raises:
            RunFailed: kept and dropped together are not the round's candidates, each slot once.
        """
        rows.conserve(round, candidates, kept, dropped)
        with self.transaction("filter") as connection:
            rows.insert(connection, rows.verdicts(kept, dropped))
            self.finish_stage(round, "filter", {"candidates": candidates, "kept": len(kept), "dropped": len(dropped)}, seconds)

    def seeds(self) -> tuple[Example, ...]:
        """The seeds shown and trained on, in the order they were given."""
        return tuple(example for example, _, _ in self.samples("verdict = 'seed'"))

    def validation_seeds(self) -> tuple[Example, ...]:
        return tuple(example for example, _, _ in self.samples("verdict = 'validation'"))

    def kept(self, round: int) -> tuple[Example, ...]:
        """What a round kept, equal to what was written, in the same order."""
        return tuple(example for example, _, _ in self.samples("round = ? AND verdict = 'kept'", round))

    def dropped(self, round: int) -> tuple[Dropped, ...]:
        return tuple(Dropped(*each) for each in self.samples("round = ? AND verdict = 'dropped'", round))

    # Metrics

    def add_metrics(self, round: int, metrics: Iterable[Metric]) -> None:
        with self.transaction("metrics") as connection:
            rows.insert_metrics(connection, round, metrics)

    def finish_evaluation(self, round: int, metrics: Sequence[Metric], seconds: float) -> None:
        with self.transaction("evaluate"):
            self.add_metrics(round, metrics)
            self.finish_stage(round, "evaluate", {"metrics": len(metrics)}, seconds)

    def metrics(self, round: int) -> list[Metric]:
        """In the order they were written; without their outcomes, which are many."""
        return rows.read_metrics(self._connection, round)

    def outcomes(self, round: int, metric: str) -> tuple[Outcome, ...]:
        """A metric prompt by prompt, in the order of the prompts' ids."""
        return rows.read_outcomes(self._connection, round, metric)

    # Models

    def add_model(
        self, round: int, model: ModelRef, files: Manifest | None = None, result: TrainResult | None = None, seconds: float = 0.0
    ) -> None:
        """From here on the round has a model: its files as the manifest says, what it was trained on, and the stage `train`.

        Round 0, the base model, is written once; later calls change nothing.
        """
        if round == 0 and model_rows.read(self._connection, self.folder, 0) is not None:
            return
        with self.transaction("model") as connection:
            model_rows.insert(connection, self.folder, round, model, files or {}, result)
            if result is not None:
                self.finish_stage(round, "train", {"steps": result.steps, "tokens": result.tokens}, seconds)

    def model(self, round: int) -> ModelRef:
        """Raises UserError: the round has no model."""
        return self._model(round)[0]

    def model_problems(self, round: int) -> list[str]:
        """What is wrong with the files of a round's model, one line per file (size and SHA-256 against the manifest)."""
        model, manifest = self._model(round)
        return model_rows.problems(self.folder, round, model, manifest)

    def verified_model(self, round: int) -> ModelRef | None:
        """The model of a round if it is there and whole; None where it has to be trained (again).

        A damaged one is moved aside as `damaged-N`, an event names the file, and the round counts as not trained.
        """
        if (found := model_rows.read(self._connection, self.folder, round)) is None:
            return None
        model, manifest = found
        if not (problems := verify(model_rows.place(model), manifest)):
            return model
        aside = model_rows.set_aside(self.folder, model_rows.place(model))
        with self.transaction("damaged-model") as connection:
            model_rows.delete(connection, round)
            self._set("state", {})
            text = f"the model of round {round} is trained again: {problems[0]}"
            self.event("damaged-model", {"round": round, "hash": model.hash, "moved_to": aside, "text": text})
        return None

    def training(self, round: int) -> dict[str, Any]:
        """{"steps", "tokens", "seed_weight", "losses"} of a round's training; empty where none took place."""
        return model_rows.figures(self._connection, round)

    def samples(self, where: str, *values: Any) -> list[rows.Written]:
        """Those that meet a condition in SQL, each with its rule and evidence."""
        with self.snapshot() as connection:
            return list(rows.read(connection, where, values))

    def _model(self, round: int) -> tuple[ModelRef, Manifest]:
        if (found := model_rows.read(self._connection, self.folder, round)) is None:
            raise UserError(f"round {round} of {self.folder} has no model")
        return found

    def _identify(self, identity: Mapping[str, Any]) -> None:
        known = self._get("identity")
        if known is None:
            self._set("identity", identity)
        elif change := difference(raised(granted(known, identity), identity), identity):
            problem = f"{self.folder}: this run folder was started with {in_words(change)}"
            raise UserError(f"{problem}: use another --out, or the same options and files")
        elif difference(known, identity):
            for kind, text in news(known, identity, self.state()):
                self.event(kind, {"text": text})
            self._set("identity", identity)
            self._set("state", {})  # it may have ended for want of just this

    def _work_with(self, software: Mapping[str, Any], allowed: bool) -> None:
        known = self._get("software")
        if not software or self.state().get("state") == "done":  # nothing is written any more
            return
        grave, slight = changes(known, software) if known is not None else ([], [])
        if grave and not allowed:
            raise UserError(
                f"{self.folder}: this run folder was begun with {', '.join(grave)}: bring that back, use another --out, or give"
                " --allow_other_versions true to go on (the record will say so)"
            )
        if known is None or grave or slight:
            self._set("software", software)
        if text := ", ".join((*grave, *slight)):
            _log.warning("gone on with other software: begun with %s", text)
            self.event("software", {"text": f"gone on with other software: begun with {text}"})

    def _require_folder(self, cause: BaseException | None = None) -> None:
        """A file that was removed, or moved with its folder, can be written to all the same: into nothing, or for nobody here.
        Raises RunFailed: the record does not stand where it was opened."""
        if _number(self.folder / schema.NAME) != self._file:
            raise RunFailed(
                f"{self.folder} was removed or renamed while the run worked on it: bring it back under this name, and give the"
                " same command again; what was committed before is in it"
            ) from cause

    def _conclude(self, state: str, because: str, best_round: int | None = None) -> None:
        with self.transaction("conclude"):
            self._set("state", {"state": state, "stopped_because": because, "best_round": best_round})
            self.event(state, {"because": because})

    def _get(self, key: str) -> dict[str, Any] | None:
        found = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if found is None else json.loads(found[0])

    def _set(self, key: str, value: Mapping[str, Any]) -> None:
        query = "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
        self._connection.execute(query, (key, dumps(value)))


def _number(path: Path) -> tuple[int, int] | None:
    """Which file stands there; None for none."""
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_dev, found.st_ino
    return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
