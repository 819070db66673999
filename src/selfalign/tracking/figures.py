"""`--report_to`: a run's figures to experiment trackers, read from its record and each sent once.

Nothing in the loop knows of it: whenever a stage begins, what the record has gained since goes out. `DIR/tracking.json` notes
what each tracker has, so a run that is gone on with, or finished long ago, sends just the rest. A kill between sending and
noting sends one group of figures twice, with the same values at the same steps.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from selfalign.errors import UserError
from selfalign.loop.progress import Quiet, say
from selfalign.protocols import Progress
from selfalign.record.checkpoints import write_synced
from selfalign.record.plain import flat, portable
from selfalign.record.review import waiting
from selfalign.record.store import Store
from selfalign.text import printable
from selfalign.tracking.trackers import TRACKERS, Point, Tracker

NOTE = "tracking.json"
LONGEST = 500
"""Characters of an option's value that are sent: mlflow refuses longer ones. What is cut ends with an ellipsis."""


@contextmanager
def reporting(
    folder: str | Path, trackers: Sequence[str], progress: Progress | None = None, name: str = ""
) -> Iterator[Progress | None]:
    """Gives the progress to hand to `align` on this run folder; what the record gains in the block goes to the trackers.

    Args:
        folder: the run folder; need not exist yet.
        trackers: as `check_trackers` gives them; without any, `progress` comes back as it is.
        progress: hears of stages and batches as before.
        name: of the run, for people; the folder's without it.

    A tracker that fails is reported on standard error and left alone until the next call; the run goes on.
    """
    if not trackers:
        yield progress
        return
    reporter = _Reporter(Path(folder), trackers, name or Path(folder).resolve().name)
    try:
        # After an error nothing is sent any more: it may be that the folder is another run's, or that a person waits for us.
        yield _Watched(progress or Quiet(), reporter.send)
        reporter.send()
        reporter.done = True
    finally:
        reporter.close()


def figures(store: Store) -> dict[str, list[Point]]:
    """All that the record has to report so far, in groups that appear whole: group to points.

    Figures that are no finite number (a bound of an interval from one prompt) are left out.
    """
    found: dict[str, list[Point]] = {}
    with store.snapshot() as connection:
        rounds = [round for (round,) in connection.execute("SELECT DISTINCT round FROM stages ORDER BY round")]
        steps = 0
        for round in rounds:
            if (counts := store.stage(round, "filter")) is not None and round != waiting(store):
                counts |= store.stage(round, "review") or {}
                query = "SELECT rule, count(*) FROM samples WHERE round = ? AND verdict = 'dropped' GROUP BY rule ORDER BY rule"
                found[f"round {round}: samples"] = _samples(round, counts, dict(connection.execute(query, (round,))))
            if training := store.training(round):
                losses = [Point("training/loss", "step", steps + at, loss) for at, loss in enumerate(training["losses"], 1)]
                figure = [Point(f"training/{name}", "round", round, float(training[name])) for name in ("steps", "tokens")]
                found[f"round {round}: training"] = losses + figure
                steps += int(training["steps"])
            for metric in store.metrics(round):
                values = (("", metric.value), ("_low", metric.low), ("_high", metric.high))
                points = [Point(f"metrics/{metric.name}{end}", "round", round, value) for end, value in values]
                found[f"round {round}: metric {metric.name}"] = points
        if (best := store.state().get("best_round")) is not None:
            last = max(rounds, default=0)
            found[f"best round of {last}"] = [Point("best_round", "round", last, float(best))]  # chosen anew with rounds added
    return {group: [point for point in points if math.isfinite(point.value)] for group, points in found.items()}


def shareable(identity: Mapping[str, Any]) -> dict[str, str]:
    """The options that make a run what it is, flat (name with dots to text), as they may be passed on (`plain.portable`).

    Values end after `LONGEST` characters.
    """
    found = {name: _text(value) for name, value in flat(portable(identity))}
    return {name: text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…" for name, text in found.items()}


def _text(value: Any) -> str:
    return f"[{', '.join(map(_text, value))}]" if isinstance(value, list) else str(value)


class _Reporter:
    """Sends what a tracker does not have yet, and notes it."""

    def __init__(self, folder: Path, names: Sequence[str], run_name: str) -> None:
        self.folder, self.run_name, self.done = folder, run_name, False
        self._notes = _read_notes(folder)
        self._names = list(names)
        self._open: dict[str, Tracker] = {}

    def send(self) -> None:
        with Store.read(self.folder) as store:
            groups, options = figures(store), shareable(store.identity())
        for name in tuple(self._names):
            note = self._notes.setdefault(name, {"run": "", "sent": []})
            if due := {group: points for group, points in groups.items() if group not in note["sent"]}:
                with self._guarded(name):
                    self._opened(name, note, options).log([point for points in due.values() for point in points])
                    note["sent"] += due
                    self._write_notes()

    def close(self) -> None:
        for name, tracker in tuple(self._open.items()):
            with self._guarded(name):
                tracker.close(self.done)

    def _opened(self, name: str, note: dict[str, Any], options: Mapping[str, str]) -> Tracker:
        if name not in self._open:
            self._open[name] = TRACKERS[name][0](self.folder, self.run_name, note["run"], options)
            note["run"] = self._open[name].id
            self._write_notes()
        return self._open[name]

    def _write_notes(self) -> None:
        write_synced(self.folder / NOTE, (json.dumps(self._notes, indent=1, ensure_ascii=False) + "\n").encode())

    @contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        """No error of a tracker or its server ends a run of hours: it is reported once, and the tracker left alone.

        What it prints goes to standard error: standard output is for our tables and JSON.
        """
        try:
            with redirect_stdout(sys.stderr):
                yield
        except Exception as error:
            self._names = [other for other in self._names if other != name]
            self._open.pop(name, None)
            reason = printable(f"{type(error).__name__}: {' '.join(str(error).split())}")[:300]
            sys.stderr.write(
                f"selfalign: --report_to {name} failed ({reason}); the run goes on, and the same command sends what is missing\n"
            )


class _Watched:
    """Progress that sends before each stage: what the stages before it have left stands in the record by then."""

    def __init__(self, progress: Progress, send: Callable[[], None]) -> None:
        self._progress, self._send = progress, send
        self.advance, self.finish = progress.advance, progress.finish

    def start(self, stage: str, total: int, done: int = 0) -> None:
        self._send()
        self._progress.start(stage, total, done)

    def say(self, text: str) -> None:
        say(self._progress, text)


def _samples(round: int, counts: Mapping[str, int], dropped: Mapping[str, int]) -> list[Point]:
    share = counts["kept"] / counts["candidates"] if counts["candidates"] else math.nan
    values = {"candidates": counts["candidates"], "kept": counts["kept"], "dropped": counts["dropped"], "kept_share": share}
    values |= {f"dropped_by_{rule}": count for rule, count in dropped.items()}
    return [Point(f"samples/{name}", "round", round, float(value)) for name, value in values.items()]


def _read_notes(folder: Path) -> dict[str, Any]:
    path = folder / NOTE
    if not path.exists():
        return {}
    try:
        notes = json.loads(path.read_text("utf-8"))
        return {name: {"run": str(note["run"]), "sent": list(note["sent"])} for name, note in notes.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it to have all of the run reported again") from error
