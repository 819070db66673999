"""The recipe self_distill through the front door: what it asks and marks, what it exports, which options it refuses."""

from __future__ import annotations

import json
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

from selfalign.encoders import Hashed
from selfalign.engines import HF
from selfalign.loop.align import align
from selfalign.recipes import self_distill
from selfalign.record.replay import replayed
from selfalign.record.store import Store
from selfalign.seeds.read import read_seeds
from selfalign.trainers import SFT, Distill
from selfalign.types import Example, Sampling
from tests.conftest import SCRIPTED, Refused, Run
from tests.e2e.test_kill import digest
from tests.files import succeeded, write_rows

SMALL = ("--rounds", 3, "--per_round", 24, "--min_yield", 0, "--engine.batch_size", 4, "--validation_share", 0, "--quiet")


def test_answers_are_written_bare_shown_to_the_teacher_and_never_imitated(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = ("run", "self_distill", seeds_file, *SCRIPTED, *SMALL, "--own_share", 0.5, "--out", out)
    assert cli(*run, SELFALIGN_FAULT_AT="batch.after-commit:5").returncode == -signal.SIGKILL
    done = succeeded(cli(*run, "--json"))
    rounds = json.loads(done.stdout)["rounds"][1:-1]
    assert all(row["candidates"] == row["kept"] + sum(row["dropped"].values()) == 24 for row in rounds)
    with Store.read(out) as store:
        seeds, kept, dropped = {seed.id: seed for seed in store.seeds()}, store.kept(2), store.dropped(2)
    own = [row for row in kept if len(row.prompt_demonstrations) == 1]
    assert sorted(row.prompt for row in own) == sorted(seed.prompt for seed in seeds.values()), "each once, though not new"
    assert len(kept) > len(own) and dropped and not any(drop.example.response for drop in dropped)
    for row in kept:
        shown = [seeds[each.id] for each in row.response_demonstrations]
        assert {seed.category for seed in shown} == {row.category} and row.metadata == {"rollout": "true"}
        assert row.prompt not in [seed.prompt for seed in shown] and len(shown) == 4
    said = cli("show", out, own[0].id).stdout
    asked = said[said.index("the model was given (respond)") :]
    assert "shown to the teacher" in said and f"USER: {own[0].prompt}\n" in asked and asked.count("USER:") == 1
    made = sum(row["kept"] for row in rounds)
    said = cli("export", out, "--data", tmp_path / "data.jsonl", "--card").stdout
    assert "12 pairs" in said and f"left out: {made} answers that a teacher corrected" in said
    assert (tmp_path / "data.jsonl").read_text().count("\n") == 12

    assert cli(*run[:-1], tmp_path / "whole").returncode == 0
    assert digest(out, cli) == digest(tmp_path / "whole", cli)


def test_a_run_ends_with_the_seeds_alone_and_no_round_follows(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    out, most = tmp_path / "out", (*SMALL[2:], "--rounds")
    run = ("run", "self_distill", seeds_file, *SCRIPTED, *most)
    done = succeeded(cli(*run, 3, "--json", "--out", out))
    assert [row["candidates"] for row in json.loads(done.stdout)["rounds"]] == [0, 24, 24, 0]
    with Store.read(out) as store:  # 12 seeds: each is asked twice before a new prompt is
        asked = Counter(row.prompt for row in store.kept(1))
        assert asked == {seed.prompt: 2 for seed in store.seeds()}
    longer = cli(*run, 4, "--out", out)
    assert longer.returncode == 2 and "rounds = 3, now 4" in longer.stderr and "train_seeds = last" in longer.stderr
    more = tmp_path / "more.jsonl"
    more.write_text('{"prompt": "How do I oil a hinge of brass?", "response": "With one drop of oil.", "category": "harmless"}\n')
    extended = cli("extend", out, more)
    assert extended.returncode == 2 and "(train_seeds = last), so that no round can follow; begin a new one" in extended.stderr
    one = cli(*run, 1, "--out", tmp_path / "one")
    assert one.returncode == 2 and "rounds = 1, must be at least 2" in one.stderr
    both = cli(*run, 3, "--train_seeds", "true", "--out", tmp_path / "both")
    assert both.returncode == 0 and cli(*run, 4, "--train_seeds", "true", "--out", tmp_path / "both").returncode == 0, both.stderr


def test_seeds_of_a_category_each_have_nobody_to_show(refused: Refused, tmp_path: Path) -> None:
    rows = [{"prompt": f"How do I {do} it?", "response": "With patience.", "category": do} for do in ("mend", "paint", "oil")]
    seeds = write_rows(tmp_path / "seeds.jsonl", rows)
    said = refused("run", "self_distill", seeds, *SCRIPTED, "--validation_share", 0, "--out", tmp_path / "out", "--quiet")
    assert "each of the 3 seeds to show has a category of its own" in said and not (tmp_path / "out").exists()


def test_with_train_seeds_last_the_last_round_learns_no_other_rounds_answers(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    run = ("run", "self_distill", seeds_file, *SCRIPTED, *SMALL, "--train_on", "all", "--out", tmp_path / "out")
    succeeded(cli(*run))
    with Store.read(tmp_path / "out") as store, store.snapshot() as connection:
        query = "SELECT t.round, s.round, count(*) FROM training t JOIN samples s ON s.number = t.sample GROUP BY 1, 2"
        read = {(round, of): count for round, of, count in connection.execute(query)}
    assert read == {(1, 1): 24, (2, 1): 24, (2, 2): 24, (3, 0): 12}


def test_a_real_model_is_taught_in_two_rounds_and_ends_with_the_seeds_each_with_replay(
    seeds_file: Path, model_folder: Path, tmp_path: Path
) -> None:
    recipe = replace(
        self_distill(demonstrations=2),
        rounds=3,
        per_round=8,
        validation_share=0.0,
        prompt_filters=(),
        sampling=Sampling(max_tokens=8),
        engine=HF(batch_size=4, dtype="float32"),
        encoder=Hashed(),
        trainer=SFT(learning_rate=1e-3, epochs=1, batch_size=12, lora_rank=2, loss=Distill()),
        evaluators=(),
    )
    general = [Example(f"g{i}", f"What is {i} and {i}?", "") for i in range(9)]
    recipe = recipe.with_replay(9, general)
    align(recipe, str(model_folder), read_seeds(seeds_file), tmp_path / "out")
    with Store.read(tmp_path / "out") as store, store.snapshot() as connection:
        query = "SELECT t.round, s.id, t.rule FROM training t JOIN samples s ON s.number = t.sample"
        met = [tuple(row) for row in connection.execute(query)]
        rows = {row.id: row for row in replayed(store)}
        again, finishes = rows.keys(), {row.response_finish for row in rows.values()}
        assert len(again) == 9 and "length" in finishes, "an answer's beginning, as long as the others', is enough"
        for round in (1, 2):
            kept = {row.id for row in store.kept(round)}
            assert len(kept) == 8 and {(id, rule) for at, id, rule in met if at == round} == {(id, None) for id in kept | again}
        own = {seed.id for seed in store.seeds()}
        assert not store.kept(3) and {(id, rule) for at, id, rule in met if at == 3} == {(id, None) for id in own | again}
        assert store.training(3)["seed_weight"] == len(own) / len(own | again), "each answer counts the same there"
