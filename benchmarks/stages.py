"""Where the wall time of a finished run went, by stage and round, as its record tells.

    python benchmarks/stages.py RUN_FOLDER

Wall time is from the first to the last event of the record, which are in whole seconds; what the command does before it opens
the folder is not in it. Three do the work:

- engine: the journaled batches (propose, respond, validation, those of evaluators and scorers), with the rendering of prompts.
  A model loads, and is converted where it must be, within the first batch that needs it. So below the table stands by how much
  first batches were longer than the median of their stage's others, where there are two or more: a hint at loading and
  conversion, no measure of them, as rows differ in length.
- trainer: the training process from its start to the model on the disk, loading included.
- outside: filter (what proposing, retrieval, scores and filters take beside their batches), guards, evaluate and calibrate beside
  their batches, and the rest, which no stage books. The encoder loads and works within these and its seconds are not
  recorded by themselves: the share outside engine, encoder and trainer is at most the one that is given.
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from selfalign.errors import UserError
from selfalign.record.store import Store

Rounds = dict[int, float]


def read(folder: Path) -> tuple[Rounds, dict[tuple[str, str], Rounds], list[str]]:
    """The wall seconds of each round; by who works and stage those booked; what first batches took above the others."""
    booked: dict[tuple[str, str], Rounds] = {}
    batches: dict[tuple[int, str], list[float]] = {}

    def book(who: str, stage: str, round: int, seconds: float) -> None:
        rounds = booked.setdefault((who, stage), {})
        rounds[round] = rounds.get(round, 0.0) + seconds

    with Store.read(folder) as store, store.snapshot() as connection:
        opened, done = ends(folder, [(at, kind) for at, kind, _ in store.events()])
        for round, stage, seconds in connection.execute(
            "SELECT round, stage, seconds FROM batches WHERE batch >= 0 ORDER BY rowid"
        ):
            name = re.sub(r"(_[0-9a-f]{6,8})+$", "", stage)  # hashes of what a stage depends on
            book("engine", name, round, seconds)
            batches.setdefault((round, name), []).append(seconds)
        marks = [(0, opened)]
        for round, stage, seconds, at in connection.execute("SELECT round, stage, seconds, done_at FROM stages ORDER BY rowid"):
            marks.append((round, datetime.fromisoformat(at)))
            if seconds:
                book("trainer" if stage == "train" else "outside", stage, round, seconds)
    marks.append((marks[-1][0], done))
    # A span counts for the round of the stage that ends it.
    walls = {round: 0.0 for round, _ in marks}
    for (_, before), (round, after) in pairwise(marks):
        walls[round] += (after - before).total_seconds()
    if 1 in walls:  # round 0 scores its validation seeds and finishes no stage with it: that came into the first span of round 1
        late = booked.get(("engine", "validation"), {}).get(0, 0.0)
        walls = {**walls, 0: walls[0] + late, 1: walls[1] - late}
    return walls, booked, list(first_batches(batches))


def ends(folder: Path, events: list[tuple[str, str]]) -> tuple[datetime, datetime]:
    """When a run was opened and when it was done."""
    kinds = [kind for _, kind in events]
    if "done" not in kinds:
        raise SystemExit(f"{folder}: this run is not done; let it finish first")
    done = kinds.index("done")
    if Counter(kinds[:done])["opened"] != 1 or "adopted" in kinds:
        raise SystemExit(f"{folder}: made in several goes or with another run's work, so its record does not tell its wall time")
    return datetime.fromisoformat(events[0][0]), datetime.fromisoformat(events[done][0])


def first_batches(batches: dict[tuple[int, str], list[float]]) -> Iterator[str]:
    for (round, stage), (first, *others) in sorted(batches.items()):
        if len(others) > 1 and (more := first - statistics.median(others)) > 0.5:
            yield f"{stage} of round {round} {more:.1f} s"


def show(walls: Rounds, booked: dict[tuple[str, str], Rounds]) -> None:
    whole = sum(walls.values())
    print(f"| stage | by | seconds | share | {' | '.join(f'round {round}' for round in sorted(walls))} |")
    print("|" + "---|" * (4 + len(walls)))

    def line(stage: str, who: str, rounds: Rounds) -> None:
        total = sum(rounds.values())
        cells = (f"{total:.1f}", f"{total / whole:.1%}", *(f"{rounds.get(round, 0.0):.1f}" for round in sorted(walls)))
        print(f"| {stage} | {who} | {' | '.join(cells)} |")

    def added(*names: str) -> Rounds:
        return {round: sum(one.get(round, 0.0) for (who, _), one in booked.items() if who in names) for round in walls}

    for who in ("engine", "trainer", "outside"):
        for (by, stage), rounds in booked.items():
            if by == who:
                line(stage, who, rounds)
    everything, inside = added("engine", "trainer", "outside"), added("engine", "trainer")
    line("rest", "outside", {round: walls[round] - everything[round] for round in walls})
    line("**all**", "", walls)
    for who in ("engine", "trainer"):
        line(f"**{who}**", "", added(who))
    line("**outside, encoder included**", "", {round: walls[round] - inside[round] for round in walls})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN_FOLDER")
    try:
        walls, booked, first = read(parser.parse_args().run)
    except UserError as error:
        raise SystemExit(str(error)) from error
    if not sum(walls.values()):
        raise SystemExit("the run took less than a second: too short for a record in whole seconds")
    show(walls, booked)
    if first:
        print(f"\nfirst batches longer than the median of the others: {', '.join(first)}")


if __name__ == "__main__":
    main()
