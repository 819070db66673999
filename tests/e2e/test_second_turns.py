"""Second turns through the front door: killed between the two turns, and trained into a real model."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

from selfalign.loop.align import align
from selfalign.recipe import SecondTurns
from selfalign.record.store import Store
from selfalign.seeds.read import read_seeds
from tests.conftest import SCRIPTED, Run
from tests.e2e.test_kill import digest, hits
from tests.e2e.tiny_recipe import tiny
from tests.files import succeeded

SMALL = ("--rounds", 1, "--per_round", 16, "--min_yield", 0, "--engine.batch_size", 4, "--second_turns.share", 1, "--quiet")


def test_a_run_killed_among_second_turns_goes_on_to_the_same_bytes(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    options = ("isara", seeds_file, *SCRIPTED, *SMALL)
    points = hits(tmp_path, *options, "--out", tmp_path / "whole")
    wanted = digest(tmp_path / "whole", cli)
    assert '"history": [[' in (tmp_path / "whole" / "round-01" / "kept.jsonl").read_text()
    with Store.read(tmp_path / "whole") as store, store.snapshot() as connection:
        stages = [name for (name,) in connection.execute("SELECT stage FROM batches ORDER BY rowid")]
    last = {stage: len(stages) - stages[::-1].index(stage) for stage in ("propose_second_turn", "respond_second_turn")}
    assert points.count("batch.after-commit") == len(stages)
    for stage, number in last.items():
        run = ("run", *options, "--out", tmp_path / stage)
        assert cli(*run, SELFALIGN_FAULT_AT=f"batch.after-commit:{number}").returncode == -signal.SIGKILL
        done = succeeded(cli(*run, "--json"))
        assert digest(tmp_path / stage, cli) == wanted, stage
    (row,) = json.loads(done.stdout)["rounds"][1:]
    assert row["candidates"] == row["kept"] + sum(row["dropped"].values()) > 16


def test_a_real_model_is_trained_on_both_turns(seeds_file: Path, model_folder: Path, tmp_path: Path) -> None:
    recipe = replace(tiny(rounds=1, epochs=1), second_turns=SecondTurns(share=1.0))
    align(recipe, str(model_folder), read_seeds(seeds_file), tmp_path / "out")
    with Store.read(tmp_path / "out") as store, store.snapshot() as connection:
        query = "SELECT s.id FROM training t JOIN samples s ON s.number = t.sample WHERE t.rule IS NULL"
        trained = {id for (id,) in connection.execute(query)}
        later = {example.id for example in store.kept(1) if example.history}
    assert later and later <= trained
