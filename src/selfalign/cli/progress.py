"""Progress bars: stage, share, rate, time left. On a terminal a live bar; elsewhere one line a stage."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from selfalign.text import printable


class Rate(ProgressColumn):
    """Items a second, or seconds an item where that is the larger number."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("–/s")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each")


class Bars:
    """`protocols.Progress` on standard error, so that standard output stays for tables and JSON."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.live = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            Rate(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task: TaskID | None = None
        self.stage, self.began, self.total = "", 0.0, 0

    def __enter__(self) -> Bars:
        self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.live.stop()

    def start(self, stage: str, total: int, done: int = 0) -> None:
        stage = printable(stage)
        self.stage, self.began, self.total = stage, time.monotonic(), total - done
        self.task = self.live.add_task(stage, total=total, completed=done, note="")

    def advance(self, count: int = 1, note: str = "") -> None:
        if self.task is not None:
            self.live.update(self.task, advance=count, note=printable(note))

    def finish(self) -> None:
        spent = time.monotonic() - self.began
        if not self.console.is_terminal:
            self.console.print(f"{self.stage}: {self.total} in {spent:.1f} s", highlight=False, markup=False)
        self.task = None
