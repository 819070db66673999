"""Live progress bars: stage, share, rate, time left."""

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

from selfalign.loop.progress import per_second
from selfalign.text import printable


class Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(per_second(task.finished_speed or task.speed or 0.0))


class Bars:
    """`protocols.Progress` as one bar for the stage at hand; a stage that is done becomes a line above it."""

    def __init__(self, console: Console) -> None:
        self.live = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            Rate(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
        )
        self.task: TaskID | None = None
        self.stage, self.began, self.total = "", 0.0, 0

    def __enter__(self) -> Bars:
        self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.live.stop()

    def start(self, stage: str, total: int, done: int = 0) -> None:
        self.stage, self.began, self.total = printable(stage), time.monotonic(), total - done
        self.task = self.live.add_task(self.stage, total=total, completed=done, note="")

    def advance(self, count: int = 1, note: str = "") -> None:
        if self.task is not None:
            self.live.update(self.task, advance=count, note=printable(note))

    def finish(self) -> None:
        if self.task is not None:
            self.live.remove_task(self.task)
        self.task = None
        self.say(f"{self.stage}: {self.total} in {time.monotonic() - self.began:.1f} s")

    def say(self, text: str) -> None:
        self.live.console.print(printable(text), highlight=False, markup=False, soft_wrap=True)
