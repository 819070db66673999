"""The record of a run: what goes in comes out, all of it or none, whatever kills the writer."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selfalign.errors import Interrupted, RunFailed, UserError
from selfalign.export.data import export_data, export_dropped
from selfalign.protocols import TrainResult
from selfalign.record import schema, sums
from selfalign.record.checkpoints import read_manifest
from selfalign.record.exports import export_metrics, export_round
from selfalign.record.status import status, warnings
from selfalign.record.store import Store
from selfalign.types import Demonstration, Dropped, Example, Metric, ModelRef, Outcome
from tests.conftest import Run

IDENTITY: dict[str, Any] = {"name": "test", "rounds": 2, "sampling": {"temperature": 0.7, "stops": ["a", "b"]}}
SEEDS = tuple(Example(f"seed-{i}", f"prompt {i}", f"response {i}", slot=i, metadata={"when": "01.02.2003"}) for i in range(5))
BATCH = 4


def candidates(round: int, count: int = 8) -> list[Example]:
    shown = (Demonstration("seed-0"), Demonstration("seed-1", 0.1 + 0.2))
    return [
        Example(
            f"r{round}-{slot}",
            f"question {slot}",
            f"answer {slot}",
            round,
            slot,
            prompt_demonstrations=shown[:1],
            response_demonstrations=shown,
            scores={"length": 1 / (slot + 3)},
        )
        for slot in range(count)
    ]


def split(made: list[Example]) -> tuple[list[Example], list[Dropped]]:
    dropped = [Dropped(e, "novelty", f"ROUGE-L 0.9 to {e.prompt!r}") for e in made if e.slot % 3 == 0]
    return [e for e in made if e.slot % 3], dropped


def work(folder: Path) -> None:
    """A run of two rounds in small: goes on where it was, as the loop does."""
    with Store.open(folder, IDENTITY) as store:
        store.add_seeds(SEEDS[:4], SEEDS[4:])
        store.add_model(0, ModelRef("base", hash="h0"))
        for round in (1, 2):
            if store.stage(round, "filter") is None:
                done = store.done_batches(round, "respond")
                for first in range(0, 8, BATCH):
                    if first not in done:
                        slots = range(first, first + BATCH)
                        outputs = {i: {"id": f"r{round}-{i}", "text": "x", "generated_tokens": 3} for i in slots}
                        store.add_batch(round, "respond", first // BATCH, outputs, 0.5)
                assert sorted(store.done_batches(round, "respond")) == list(range(8))
                kept, dropped = split(candidates(round))
                store.finish_round_samples(round, kept, dropped, 8)
            export_round(store, round)
            if store.verified_model(round) is None:
                add_model(store, round)
            if store.stage(round, "evaluate") is None:
                store.finish_evaluation(round, [Metric("refusal", 0.5, 0.25, 0.75, 12)], 0.1)
            export_metrics(store, round)
        store.finish_run(2, "all rounds done")


def add_model(store: Store, round: int) -> Path:
    folder = store.round_folder(round) / "model"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * round)
    (folder / "config.json").write_text("{}")
    ref = ModelRef(str(folder), hash=f"h{round}")
    tokens = TrainResult(ref, ("seed-0", f"r{round}-1"), (), steps=3, tokens=99, seed_weight=0.5, losses=(1.0, 0.1 + 0.2))
    store.add_model(round, ref, read_manifest(folder), tokens, 1.0)
    return folder


def outcome(folder: Path, tmp: Path) -> list[bytes]:
    """All that a finished run shows, in bytes."""
    with Store.read(folder) as store:
        export_data(store, tmp / "data.jsonl")
        export_dropped(store, tmp / "dropped.jsonl")
        shown = json.dumps([[{**row, "model": None} for row in status(store)["rounds"]], status(store)["state"]])
    files = [*sorted(folder.glob("round-*/*.json*")), *sorted(folder.glob("round-*/model/*"))]
    assert len(files) == 10
    files += [tmp / "data.jsonl", tmp / "dropped.jsonl"]
    return [shown.encode(), *(path.name.encode() + path.read_bytes() for path in files)]


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    kept, dropped = split(candidates(1))
    with Store.open(tmp_path / "run", IDENTITY) as store:
        store.add_seeds(SEEDS[:4], SEEDS[4:])
        store.finish_round_samples(1, kept[::-1], dropped, 8)
        store.add_metrics(1, [Metric("b", math.nan, 0.1 + 0.2, math.inf, 3), Metric("a", 1.0, 0.0, 2.0, 3)])
        store.add_metrics(1, [Metric("b", 0.5, 0.0, 1.0, 4, unit="share", better="lower")])
    with Store.read(tmp_path / "run") as store:
        assert store.kept(1) == tuple(kept[::-1])
        assert store.dropped(1) == tuple(dropped)
        assert (store.seeds(), store.validation_seeds()) == (SEEDS[:4], SEEDS[4:])
        assert store.metrics(1) == [Metric("a", 1.0, 0.0, 2.0, 3), Metric("b", 0.5, 0.0, 1.0, 4, (), "share", "lower")]
        assert store.identity() == IDENTITY


texts = st.text(st.characters(exclude_categories=("Cs",)))
numbers = st.floats(allow_nan=False)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts, texts, texts, st.dictionaries(texts, numbers), st.dictionaries(texts, texts), numbers)
def test_any_text_and_number_is_kept_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory,
    prompt: str,
    response: str,
    category: str,
    scores: dict[str, float],
    metadata: dict[str, str],
    similarity: float,
) -> None:
    shown = (Demonstration("seed-0", similarity),)
    example = Example("x", prompt, response, 1, 0, category, "length", "context", (), shown, scores, metadata)
    with Store.open(tmp_path_factory.mktemp("any"), IDENTITY) as store:
        store.add_seeds(SEEDS, ())
        store.add_batch(1, "respond", 0, {0: {"id": "x", "text": response, "total": similarity}}, 0.0)
        store.finish_round_samples(1, [example], [], 1)
        assert store.kept(1) == (example,)
        assert store.done_batches(1, "respond") == {0: {"id": "x", "text": response, "total": similarity}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 1}, "rounds = 2, now 1 (rounds can be added to a run, not taken away)"),
        ({"sampling": {"temperature": 1.0, "stops": ["a", "b"]}}, "sampling.temperature = 0.7, now 1.0"),
        ({"sampling": {"temperature": 0.7, "stops": ["a", "c"]}}, 'sampling.stops[1] = "b", now "c"'),
        ({"sampling": {"temperature": 0.7}}, 'sampling.stops = ["a","b"], now not set'),
        ({"extra": None}, "extra = not set, now null"),
        ({"rounds": True}, "rounds = 2, now true"),
    ],
)
def test_other_options_are_refused_and_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    Store.open(tmp_path, IDENTITY).close()
    with pytest.raises(UserError) as caught:
        Store.open(tmp_path, {**IDENTITY, **changes})
    assert message in str(caught.value)
    Store.open(tmp_path, {**IDENTITY, "sampling": {"temperature": 0.7, "stops": ("a", "b")}}).close()


def _losing(kept: list[Example], dropped: list[Dropped]) -> tuple[list[Example], list[Dropped]]:
    return kept[1:], dropped


def _doubling(kept: list[Example], dropped: list[Dropped]) -> tuple[list[Example], list[Dropped]]:
    return [*kept[1:], replace(kept[1], id="again")], dropped


def _inventing(kept: list[Example], dropped: list[Dropped]) -> tuple[list[Example], list[Dropped]]:
    return [*kept[1:], replace(kept[0], round=2)], dropped


def _in_both(kept: list[Example], dropped: list[Dropped]) -> tuple[list[Example], list[Dropped]]:
    return kept, [*dropped[1:], Dropped(kept[0], "novelty", "")]


def _nameless(kept: list[Example], dropped: list[Dropped]) -> tuple[list[Example], list[Dropped]]:
    return kept, [*dropped[1:], replace(dropped[0], rule="")]


@pytest.mark.parametrize("corrupt", [_losing, _doubling, _inventing, _in_both, _nameless])
def test_rows_that_do_not_balance_stop_the_run(tmp_path: Path, corrupt: Any) -> None:
    kept, dropped = corrupt(*split(candidates(1)))
    with Store.open(tmp_path, IDENTITY) as store:
        store.add_seeds(SEEDS, ())
        with pytest.raises(RunFailed, match="round 1, stage filter"):
            store.finish_round_samples(1, kept, dropped, 8)
        assert store.kept(1) == () and store.dropped(1) == () and store.stage(1, "filter") is None


def test_a_demonstration_that_is_no_sample_stops_the_run(tmp_path: Path) -> None:
    with Store.open(tmp_path, IDENTITY) as store:
        store.add_seeds(SEEDS, ())
        stranger = replace(candidates(1)[0], prompt_demonstrations=(Demonstration("nobody"),))
        with pytest.raises(RunFailed, match="nobody"):
            store.finish_round_samples(1, [stranger], [], 1)
        assert store.kept(1) == ()


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    with Store.open(tmp_path, IDENTITY) as store:
        with pytest.raises(ZeroDivisionError), store.transaction("outer"):
            store.add_metrics(1, [Metric("a", 1.0, 1.0, 1.0, 1)])
            store.add_batch(1, "respond", 0, {0: {"text": "x"}}, 1.0)
            raise ZeroDivisionError
        assert store.metrics(1) == [] and store.done_batches(1, "respond") == {}


def _die_at(folder: Path, point: str, log: str) -> None:
    os.environ.update({"SELFALIGN_FAULT_AT": point} if point else {"SELFALIGN_FAULT_LOG": log})
    work(folder)


def test_killed_at_every_point_of_the_store(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("forkserver")
    fork.set_forkserver_preload(["selfalign.record.store", "selfalign.record.exports", __name__])

    def run(folder: Path, point: str = "") -> int | None:
        process = fork.Process(target=_die_at, args=(folder, point, str(tmp_path / "log")))
        process.start()
        process.join(60)
        return process.exitcode

    assert run(tmp_path / "whole") == 0
    points = (tmp_path / "log").read_text().split()
    assert {"open.before-commit", "batch.after-commit", "filter.before-commit", "model.after-commit"} <= set(points)
    assert {"export.before-sync", "export.before-rename", "export.after-rename", "conclude.after-commit"} <= set(points)
    wanted = outcome(tmp_path / "whole", tmp_path)
    first_and_last = sorted(
        {place for name in points for place in (points.index(name), len(points) - points[::-1].index(name) - 1)}
    )
    for number, name in ((place + 1, points[place]) for place in first_and_last):
        folder = tmp_path / f"run-{number}"
        assert run(folder, f"#{number}") == -signal.SIGKILL, name
        assert run(folder) == 0, name
        assert outcome(folder, tmp_path) == wanted, name


def _write_rounds(folder: Path) -> None:
    with Store.open(folder, IDENTITY) as store:
        store.add_seeds(SEEDS, ())
        for round in range(1, 61):
            store.add_batch(round, "respond", 0, {i: {"text": "x"} for i in range(BATCH)}, 0.1)
            kept, dropped = split(candidates(round, 40))
            store.finish_round_samples(round, kept, dropped, 40)


def test_a_reader_beside_the_writer_never_sees_half_a_round(tmp_path: Path) -> None:
    Store.open(tmp_path, IDENTITY).close()
    writer = multiprocessing.get_context("forkserver").Process(target=_write_rounds, args=(tmp_path,))
    writer.start()
    seen: set[int] = set()
    while writer.is_alive():
        with Store.read(tmp_path) as store:
            found = [row for row in status(store)["rounds"] if row["round"]]
            assert all(row["candidates"] in (0, 40) for row in found)
            with store.snapshot():
                before = len(store.kept(len(found)))
                assert len(store.kept(len(found))) == before
            seen.add(len(found))
    writer.join()
    assert writer.exitcode == 0
    assert len(seen) > 2, "the reader came too late to see anything"


TOLD = 7


def _fill(folder: Path, acknowledged: Path, limit: int | None) -> None:
    """Writes until the disk is full; exits with TOLD if that is told as it should be."""
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        with Store.open(folder, IDENTITY) as store:
            for batch in range(100_000):
                store.add_batch(1, "respond", batch, {batch * BATCH + i: {"text": "x" * 2000} for i in range(BATCH)}, 0.0)
                acknowledged.write_text(str(batch + 1))
    except RunFailed as error:
        os._exit(TOLD if str(folder) in str(error) and "\n" not in str(error) else 3)


def _fill_and_go_on(folder: Path, acknowledged: Path, limit: int | None, make_room: Callable[[], object]) -> None:
    """Nothing acknowledged is lost, the record can be read while the disk is full, and the run goes on after."""
    process = multiprocessing.get_context("forkserver").Process(target=_fill, args=(folder, acknowledged, limit))
    process.start()
    process.join(60)
    assert process.exitcode == TOLD
    with Store.read(folder) as store:
        done = len(store.done_batches(1, "respond")) // BATCH
        assert done >= int(acknowledged.read_text()) > 10
        assert status(store)["state"] in ("failed", "stopped")
    make_room()
    with Store.open(folder, IDENTITY) as store:
        store.add_batch(1, "respond", done, {done * BATCH: {"text": "more"}}, 0.0)
        assert len(store.done_batches(1, "respond")) == done * BATCH + 1


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    _fill_and_go_on(tmp_path / "run", tmp_path / "acknowledged", 1_000_000, lambda: None)


@pytest.mark.parametrize("mebibytes", [3, 6])
def test_a_full_disk(tmp_path: Path, mebibytes: int) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small file system; test_a_file_that_may_not_grow does without")
    remount = ["mount", "-o", "remount,size=64m", str(disk)]
    try:
        _fill_and_go_on(disk / "run", tmp_path / "acknowledged", None, lambda: subprocess.run(remount, check=True))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [_truncate, _flip, Path.unlink])
def test_a_damaged_model_is_moved_aside_and_named(tmp_path: Path, damage: Any) -> None:
    work(tmp_path)
    with Store.open(tmp_path, IDENTITY) as store:
        assert store.verified_model(1) == ModelRef(str(tmp_path / "round-01" / "model"), hash="h1")
        damage(tmp_path / "round-01" / "model" / "model.safetensors")
        assert store.verified_model(1) is None
        assert store.stage(1, "train") is None
        kind, data = store.events()[-1][1:]
        assert kind == "damaged-model" and "model.safetensors" in data["text"]
        assert not (tmp_path / "round-01" / "model").exists() and (tmp_path / "round-01" / "damaged-1" / "config.json").exists()
        add_model(store, 1)
        assert store.verified_model(1) is not None
        assert store.training(1)["losses"] == [1.0, 0.1 + 0.2]


def test_a_run_folder_can_be_moved(tmp_path: Path) -> None:
    work(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    with Store.read(tmp_path / "there") as store:
        assert store.model(2).base == str(tmp_path / "there" / "round-02" / "model")
        assert store.model_problems(2) == []
        assert store.model(0) == ModelRef("base", hash="h0")


def test_folders_that_are_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    with pytest.raises(UserError, match=r"chapter\.tex"):
        Store.open(tmp_path / "thesis", IDENTITY)
    with pytest.raises(UserError, match="not a run folder"):
        Store.read(tmp_path / "thesis")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot use"):
        Store.open(tmp_path / "file", IDENTITY)
    with pytest.raises(UserError, match="cannot use"):
        Store.open(tmp_path / ("x" * 4096), IDENTITY)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "run.sqlite").write_bytes(b"not a database" * 100)
    for opening in (lambda: Store.read(tmp_path / "odd"), lambda: Store.open(tmp_path / "odd", IDENTITY)):
        with pytest.raises(UserError, match=r"run\.sqlite is damaged or not the record"):
            opening()
    (tmp_path / "odd" / "run.sqlite").write_bytes(b"")
    with pytest.raises(UserError, match="not a run folder yet"):
        Store.read(tmp_path / "odd")
    Store.open(tmp_path / "odd", IDENTITY).close()


def test_a_damaged_record_is_told_in_one_line(tmp_path: Path) -> None:
    work(tmp_path)
    content = bytearray((tmp_path / "run.sqlite").read_bytes())
    content[8192:] = os.urandom(len(content) - 8192)
    (tmp_path / "run.sqlite").write_bytes(content)
    with pytest.raises((RunFailed, UserError), match="damaged"), Store.read(tmp_path) as store:
        status(store)


def test_another_database_and_a_newer_record_are_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "run.sqlite") as other:
        other.execute("CREATE TABLE mine (x)")
    for opening in (lambda: Store.open(tmp_path, IDENTITY), lambda: Store.read(tmp_path)):
        with pytest.raises(UserError, match="another program"):
            opening()
    Store.open(tmp_path / "run", IDENTITY).close()
    with sqlite3.connect(tmp_path / "run" / "run.sqlite") as record:
        record.execute("PRAGMA user_version = 99")
    for opening in (lambda: Store.open(tmp_path / "run", IDENTITY), lambda: Store.read(tmp_path / "run")):
        with pytest.raises(UserError, match="newer selfalign"):
            opening()


@pytest.mark.parametrize(
    ("error", "state", "because"),
    [
        (RunFailed("loss is not finite"), "failed", "loss is not finite"),
        (ZeroDivisionError("oh"), "failed", "ZeroDivisionError: oh"),
        (Interrupted(signal.SIGTERM), "interrupted", "interrupted by signal 15"),
    ],
)
def test_how_a_run_ended_is_told(tmp_path: Path, error: BaseException, state: str, because: str) -> None:
    with pytest.raises(type(error)), Store.open(tmp_path, IDENTITY):
        raise error
    with Store.read(tmp_path) as store:
        assert (status(store)["state"], status(store)["stopped_because"]) == (state, because)
    with Store.open(tmp_path, IDENTITY):
        assert status(Store.read(tmp_path))["state"] == "running"
    assert status(Store.read(tmp_path))["state"] == "stopped"
    work(tmp_path)
    with pytest.raises(type(error)), Store.open(tmp_path, IDENTITY):
        raise error
    assert (status(Store.read(tmp_path))["state"], status(Store.read(tmp_path))["best_round"]) == ("done", 2)
    with Store.open(tmp_path, IDENTITY):
        assert (status(Store.read(tmp_path))["state"], status(Store.read(tmp_path))["stopped_because"]) == ("running", None)


def test_outcomes_stay_with_their_metric(tmp_path: Path) -> None:
    first = (Outcome("p2", 1.0), Outcome("p1", 0.1 + 0.2, "harmless"))
    with Store.open(tmp_path / "run", IDENTITY) as store:
        store.add_metrics(1, [Metric("a", 1.0, 0.0, 2.0, 2, first)])
        assert store.outcomes(1, "a") == first[::-1]
        store.add_metrics(1, [Metric("a", 1.0, 0.0, 2.0, 1, (Outcome("p3", math.nan),))])
        (one,) = store.outcomes(1, "a")
        assert one.id == "p3" and math.isnan(one.value)
        assert store.outcomes(0, "a") == () and store.outcomes(1, "b") == ()
        with pytest.raises(RunFailed, match="two outcomes"):
            store.add_metrics(1, [Metric("b", 1.0, 0.0, 2.0, 2, (Outcome("p", 1.0), Outcome("p", 0.0)))])


def test_a_record_from_before_there_was_replay_is_gone_on_with(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "run.sqlite", isolation_level=None)
    sums.prepare(connection)
    schema.create(connection, schema.TABLES_4)
    connection.execute("PRAGMA user_version = 4")
    connection.close()
    with Store.open(tmp_path, IDENTITY) as store:
        store.add_seeds((Example("a", "Why?", "So."),), ())
    with Store.read(tmp_path) as store:
        assert [seed.id for seed in store.seeds()] == ["a"] and "replay" not in status(store)


@pytest.mark.parametrize("older", [1, 2])
def test_a_record_of_an_older_version_is_refused(tmp_path: Path, older: int) -> None:
    with Store.open(tmp_path / "run", IDENTITY):
        pass
    connection = sqlite3.connect(tmp_path / "run" / "run.sqlite")
    connection.execute(f"PRAGMA user_version = {older}")
    connection.close()
    with pytest.raises(UserError, match="older selfalign"):
        Store.read(tmp_path / "run")


def test_a_record_in_which_a_letter_was_changed_is_damaged(tmp_path: Path, cli: Run) -> None:
    work(tmp_path / "run")
    file = tmp_path / "run" / "run.sqlite"
    with Store.read(tmp_path / "run") as store:
        text = store.kept(1)[0].response.encode()
    raw = file.read_bytes()
    assert raw.count(text) >= 1
    changed = text[:-2] + bytes([text[-2] ^ 1]) + text[-1:]
    file.write_bytes(raw.replace(text, changed, 1))
    for command in ("status", "report", "export"):
        done = cli(command, tmp_path / "run", *(("--data", tmp_path / "x.jsonl") if command == "export" else ()))
        assert done.returncode == 2 and "is damaged" in done.stderr and done.stderr.count("\n") == 1, done.stderr
    with pytest.raises(UserError, match="is damaged"):
        Store.open(tmp_path / "run", IDENTITY)


def test_an_emptied_record_is_not_begun_anew(tmp_path: Path) -> None:
    work(tmp_path / "run")
    for path in (tmp_path / "run").glob("run.sqlite*"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="it is empty"):
        Store.open(tmp_path / "run", IDENTITY)


@pytest.mark.parametrize("gone", [shutil.rmtree, lambda folder: folder.rename(folder.with_name("elsewhere"))])
def test_a_folder_that_goes_while_the_run_works_is_one_line(tmp_path: Path, gone: Callable[[Path], object]) -> None:
    for task in (lambda store: store.event("x", {}), lambda store: (store.folder / "run.yaml").write_text("a")):
        folder = tmp_path / "run"
        with pytest.raises(RunFailed, match="was removed or renamed"), Store.open(folder, IDENTITY) as store:
            gone(folder)
            task(store)
        shutil.rmtree(tmp_path / "elsewhere", ignore_errors=True)


def test_other_software_is_said_and_refused_where_it_changes_bytes(tmp_path: Path) -> None:
    begun = {"selfalign": "0.1.0", "torch": "2.13.0+cpu", "python": "3.11.7", "files": {"mine.py": "aa"}}
    Store.open(tmp_path, IDENTITY, begun).close()
    Store.open(tmp_path, IDENTITY, {**begun, "torch": "2.13.1+cpu", "python": "3.12.1"}).close()
    for now in ({**begun, "torch": "2.14.0+cpu"}, {**begun, "torch": "2.13.1+cu128"}, {**begun, "files": {"mine.py": "bb"}}):
        with pytest.raises(UserError, match=r"begun with .*(torch 2\.13\.1|another content of mine\.py).*--allow_other_versions"):
            Store.open(tmp_path, IDENTITY, now)
    Store.open(tmp_path, {**IDENTITY, "allow_other_versions": True}, {**begun, "torch": "2.14.0+cpu"}).close()
    with Store.read(tmp_path) as store:
        said = [data["text"] for _, kind, data in store.events() if kind == "software"]
        assert len(said) == 2 and "torch 2.13.0+cpu, now 2.13.1+cpu" in said[0] and "now 2.14.0+cpu" in said[1]
        assert sum("software" in text for text in warnings(store)) == 2


def test_what_several_rounds_have_alike_is_one_warning(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run", IDENTITY) as store:
        for round, (exact, near) in enumerate([(0, 9), (0, 12), (1, 3), (0, 7)]):
            store.event("overlap", {"round": round, "exact": exact, "near": near, "text": f"round {round}: {exact} and {near}"})
        assert warnings(store) == [
            "overlap: rounds 0, 1, 3: no training row asks the same as a held-out prompt, 7 to 12 pairs nearly so",
            "overlap: round 2: 1 and 3",
        ]
    with Store.open(tmp_path / "alarms", IDENTITY) as store:
        for round, (name, value) in enumerate([("words", 4.0), ("spread", 0.4), ("words", 2.0)], 1):
            store.event(
                "alarm", {"name": name, "round": round, "value": value, "threshold": 5.0, "text": f"round {round}: {value}"}
            )
        assert warnings(store) == ["alarm: rounds 1, 3, worst in round 3: 2.0", "alarm: round 2: 0.4"]


def test_a_run_whose_training_ran_out_of_memory_is_gone_on_with(tmp_path: Path) -> None:
    trainer = {"part": "selfalign.trainers.sft.SFT", "micro_batch": 8, "gradient_checkpointing": False, "epochs": 2}
    less = {"micro_batch": 2, "gradient_checkpointing": True}
    Store.open(tmp_path, {**IDENTITY, "trainer": trainer}).close()
    with Store.open(tmp_path, {**IDENTITY, "trainer": {**trainer, **less}}) as store:
        assert [data["text"] for _, kind, data in store.events() if kind == "granted"] == ["trainer.micro_batch = 8, now 2"]
    with pytest.raises(UserError, match=r"started with trainer\.epochs = 2, now 3"):
        Store.open(tmp_path, {**IDENTITY, "trainer": {**trainer, **less, "epochs": 3}})
    other = tmp_path / "other"
    Store.open(other, {**IDENTITY, "trainer": {**trainer, "part": "mine.Mine"}}).close()
    with pytest.raises(UserError, match=r"started with trainer\.micro_batch = 8, now 2"):  # what it does there is not known
        Store.open(other, {**IDENTITY, "trainer": {**trainer, **less, "part": "mine.Mine"}})
