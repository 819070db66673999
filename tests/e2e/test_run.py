"""A run through the front door: what it writes, what it answers, what it refuses."""

from __future__ import annotations

import json
import textwrap
from contextlib import suppress
from pathlib import Path

import pytest

from selfalign.cli.main import main
from selfalign.errors import Interrupted, RunFailed
from selfalign.record.store import Store
from selfalign.types import ModelRef
from tests.conftest import SCRIPTED, Refused, Run, write_seeds
from tests.files import read_rows, succeeded

SMALL = ("--rounds", 2, "--per_round", 16, "--demonstrations", 4, "--min_yield", 0, "--quiet")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the same seeds, that all tests only read."""
    folder = tmp_path_factory.mktemp("finished")
    run = ("run", "isara", write_seeds(folder), *SCRIPTED, *SMALL, "--out", folder / "run")
    assert main([str(word) for word in run]) == 0
    return folder / "run"


def test_status_has_the_promised_shape(cli: Run, run_folder: Path) -> None:
    status = json.loads(cli("status", run_folder, "--json").stdout)
    assert set(status) == {"state", "stopped_because", "recipe", "best_round", "progress", "rounds", "guard"}
    assert (status["state"], status["recipe"]) == ("done", "isara")
    assert status["stopped_because"]
    assert [row["round"] for row in status["rounds"]] == list(range(len(status["rounds"])))
    for row in status["rounds"]:
        assert set(row) == {"round", "candidates", "kept", "dropped", "metrics", "model", "verify_weights", "seconds", "tokens"}
        assert row["verify_weights"] is None  # no server, so nothing to verify
        assert row["candidates"] == row["kept"] + sum(row["dropped"].values())
        assert set(row["tokens"]) == {"prompt", "generated", "trained"}
        for metric in row["metrics"].values():
            assert metric["low"] <= metric["value"] <= metric["high"]
    assert status["rounds"][1]["candidates"] == 16
    assert "validation_log_likelihood" in status["rounds"][0]["metrics"]


def test_export_holds_seeds_and_kept_samples(cli: Run, run_folder: Path, seeds_file: Path, tmp_path: Path) -> None:
    succeeded(cli("export", run_folder, "--data", tmp_path / "all.jsonl", "--dropped", tmp_path / "dropped.jsonl"))
    pairs, dropped = read_rows(tmp_path / "all.jsonl"), read_rows(tmp_path / "dropped.jsonl")
    assert all(set(row) >= {"id", "round", "category", "validation", "prompt", "response"} for row in pairs)
    assert [row["prompt"] for row in pairs if row["round"] == 0] == [row["prompt"] for row in read_rows(seeds_file)]
    status = json.loads(cli("status", run_folder, "--json").stdout)
    for number, row in enumerate(status["rounds"]):
        if number:
            assert sum(pair["round"] == number for pair in pairs) == row["kept"]
            assert sum(drop["round"] == number for drop in dropped) == sum(row["dropped"].values())
    assert all(drop["rule"] and drop["evidence"] for drop in dropped)
    again = cli("check", "isara", tmp_path / "all.jsonl", "--model", "scripted", "--engine", "Scripted", "--encoder", "Hashed")
    assert f"seeds: {len(pairs)} (" in again.stdout, again.stderr  # what a run made may be looked through and grown again
    for name, key in (("messages", "messages"), ("prompt-completion", "completion"), ("alpaca", "instruction")):
        assert cli("export", run_folder, "--data", tmp_path / name, "--format", name).returncode == 0
        assert key in read_rows(tmp_path / name)[0]


def test_show_tells_where_a_sample_came_from(cli: Run, run_folder: Path) -> None:
    kept = read_rows(run_folder / "round-01" / "kept.jsonl")[0]
    told = json.loads(cli("show", run_folder, kept["id"], "--json").stdout)
    assert told["verdict"] == "kept" and told["prompt"] == kept["prompt"]
    assert len(told["response_demonstrations"]) == 4
    assert all(-1 <= shown["similarity"] <= 1.001 for shown in told["response_demonstrations"])
    assert kept["prompt"] in told["prompt_texts"]["respond"]
    assert told["written_by"]["hash"] and told["trained_into"][0]["hash"]
    text = cli("show", run_folder, kept["id"]).stdout
    assert str(kept["prompt"]) in text
    dropped = read_rows(run_folder / "round-01" / "dropped.jsonl")[0]
    assert str(dropped["rule"]) in cli("show", run_folder, dropped["id"]).stdout
    assert cli("show", run_folder, "nobody").returncode == 2


def test_the_same_command_again_changes_nothing(cli: Run, run_folder: Path, seeds_file: Path) -> None:
    before = (run_folder / "round-01" / "kept.jsonl").read_bytes()
    again = cli("run", "isara", seeds_file, *SCRIPTED, *SMALL, "--out", run_folder, "--json")
    assert again.returncode == 0 and json.loads(again.stdout)["state"] == "done"
    assert (run_folder / "round-01" / "kept.jsonl").read_bytes() == before


def test_run_yaml_repeats_the_run(cli: Run, run_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "again"
    succeeded(cli("run", "--config", run_folder / "run.yaml", "--out", other, "--quiet"))
    assert (other / "round-02" / "kept.jsonl").read_bytes() == (run_folder / "round-02" / "kept.jsonl").read_bytes()


def test_another_seed_gives_other_samples(cli: Run, run_folder: Path, seeds_file: Path, tmp_path: Path) -> None:
    cli("run", "isara", seeds_file, *SCRIPTED, *SMALL, "--seed", 1, "--out", tmp_path / "other")
    assert (tmp_path / "other/round-01/kept.jsonl").read_bytes() != (run_folder / "round-01/kept.jsonl").read_bytes()


def test_other_options_on_the_same_folder_are_refused(cli: Run, run_folder: Path, seeds_file: Path) -> None:
    done = cli("run", "isara", seeds_file, *SCRIPTED, *SMALL[:4], "--demonstrations", 3, *SMALL[6:], "--out", run_folder)
    assert done.returncode == 2
    assert "4" in done.stderr and "3" in done.stderr and len(done.stderr.splitlines()) == 1


EXPECTED = '{"part":"selfalign.filters.expected.Expected","checks":["max_words:9"]}'
REPETITION = '{"part":"selfalign.filters.form.Repetition","max_share":0.2,"size":4,"learn":true}'


def test_other_examples_and_filters_on_the_same_folder_are_told_in_words(cli: Run, run_folder: Path, seeds_file: Path) -> None:
    held_out = seeds_file.with_name("held.jsonl")
    held_out.write_text('{"prompt": "Which river is long?", "response": "The Nile is."}\n')
    others = seeds_file.with_name("others.jsonl")
    others.write_text(seeds_file.read_text().replace("soft cloth", "hard cloth"))
    for seeds, more, said in (
        (others, (), "other seed examples than now"),
        (seeds_file, ("--held_out", held_out), "other held-out examples than now"),
        (seeds_file, ("--expect", "max_words:9"), f"filters[7] = not set, now {EXPECTED}"),
        (seeds_file, ("--without", "repetition"), f"filters[4] = {REPETITION}, now not set"),
    ):
        done = cli("run", "isara", seeds, *SCRIPTED, *SMALL, *more, "--out", run_folder)
        assert done.returncode == 2 and "hash" not in done.stderr
        assert f"was started with {said}: use another --out" in done.stderr


@pytest.mark.parametrize(
    ("ended", "told"),
    [
        (Interrupted(15), "interrupted by signal 15: the same command goes on from here"),
        (RunFailed("the server is gone"), "failed: the server is gone"),
        (None, "stopped without a word, as a killed process does: the same command goes on from here"),
    ],
)
def test_status_says_how_a_run_ended_and_what_to_do(
    ended: BaseException | None, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with suppress(Interrupted, RunFailed), Store.open(tmp_path / "run", {"name": "mine"}) as store:
        store.add_model(0, ModelRef("m"))
        if ended is not None:
            raise ended
    assert main(["status", str(tmp_path / "run")]) == 0
    assert " ".join(capsys.readouterr().out.split()).endswith(told)


def test_a_filter_that_loses_rows_stops_the_run(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    (tmp_path / "leaky.py").write_text(
        textwrap.dedent(
            """
            from dataclasses import dataclass, replace
            from selfalign.encoders import Hashed
            from selfalign.engines import Scripted
            from selfalign.recipes import isara
            from selfalign.trainers import NullTrainer
            from selfalign.types import FilterResult

            @dataclass(frozen=True)
            class Leaky:
                def apply(self, context, examples):
                    return FilterResult(tuple(examples)[:-1], ())

            def leaky(*, per_round: int = 8):
                recipe = replace(isara(), per_round=per_round, engine=Scripted(), encoder=Hashed(), trainer=NullTrainer())
                return replace(recipe, filters=(Leaky(),))
            """
        )
    )
    done = cli("run", "./leaky.py:leaky", seeds_file, "--model", "scripted", "--out", tmp_path / "out", "--quiet")
    assert done.returncode == 1
    assert "Leaky" in done.stderr and "candidates in" in done.stderr
    assert json.loads(cli("status", tmp_path / "out", "--json").stdout)["state"] == "failed"


def test_a_trainer_that_loses_rows_stops_the_run(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    (tmp_path / "forgetful.py").write_text(
        textwrap.dedent(
            """
            from dataclasses import dataclass, replace
            from selfalign.encoders import Hashed
            from selfalign.engines import Scripted
            from selfalign.recipes import isara
            from selfalign.trainers import NullTrainer

            @dataclass(frozen=True)
            class Forgetful:
                def train(self, job, progress):
                    result = NullTrainer().train(job, progress)
                    return replace(result, trained=result.trained[1:])

            def forgetful(*, per_round: int = 8):
                recipe = replace(isara(), per_round=per_round, min_yield=0, engine=Scripted(), encoder=Hashed())
                return replace(recipe, trainer=Forgetful())
            """
        )
    )
    done = cli("run", "./forgetful.py:forgetful", seeds_file, "--model", "scripted", "--out", tmp_path / "out", "--quiet")
    assert done.returncode == 1
    assert "training" in done.stderr and "lost" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "isra", "seeds.jsonl"), ("isra", "isara")),
        (("run", "isara", "seeds.jsonl", "--round", "2"), ("--round", "--rounds")),
        (("run", "isara", "seeds.jsonl", "--rounds", "two"), ("--rounds", "int", "two")),
        (("run", "isara", "seeds.jsonl", "--trainer.learning_rat", "1"), ("--trainer.learning_rate",)),
        (("run", "isara", "seeds.jsonl", "--start_from", "bse"), ("--start_from", "base", "previous")),
        (("run", "isara", "nowhere.jsonl", "--model", "m", "--out", "o"), ("nowhere.jsonl",)),
        (("run", "isara", "seeds.jsonl", "--out", "o"), ("--model",)),
        (("run", "isara", "seeds.jsonl", "--model", "m"), ("--out",)),
        (("run", "isara", "seeds.jsonl", *SCRIPTED, "--out", "o", "--min_yield", "7"), ("min_yield", "7")),
        (("stats", "o"), ("status",)),
        (("status", "nowhere"), ("nowhere",)),
    ],
)
def test_bad_options_get_one_line(refused: Refused, seeds_file: Path, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    line = refused(*arguments)
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import os\n\ndef mine(:\n    pass\n", ("mine.py, line 3", "invalid syntax", "def mine(:")),
        ("import os\nfrom no_such_package import thing\n", ("mine.py, line 2", "ModuleNotFoundError", "no_such_package")),
        ("import json\n\nSIZES = json.loads('{')\n", ("mine.py, line 3", "JSONDecodeError", "`python mine.py`")),
        ("from selfalign.seeds.read import read_seeds\nread_seeds('nowhere.jsonl')\n", ("nowhere.jsonl",)),
    ],
)
def test_a_recipe_file_that_does_not_import_gets_one_line(cli: Run, tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    (tmp_path / "mine.py").write_text(text)
    done = cli("run", "./mine.py:mine", "seeds.jsonl", "--model", "m", "--out", "o")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def test_a_bad_seed_file_is_told_before_a_model_loads(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"prompt": "What is it?", "response": "A thing."}\n{"prompt": 7, "response": "x"}\n')
    line = refused("run", "isara", "bad.jsonl", "--model", "no/such", "--out", "o")
    assert "bad.jsonl:2" in line and "prompt" in line


def test_check_says_what_can_be_known(cli: Run, seeds_file: Path, model_folder: Path) -> None:
    done = succeeded(cli("check", "isara", seeds_file, "--model", model_folder))
    assert "12" in done.stdout
    long = seeds_file.with_name("long.jsonl")
    long.write_text(json.dumps({"prompt": "Why?", "response": "word " * 900 + "end."}) + "\n" + seeds_file.read_text())
    refused = cli("check", "isara", long, "--model", model_folder, "--encoder", "Hashed")
    assert refused.returncode == 2 and "seed-0001" in refused.stderr and "window" in refused.stderr


def test_a_low_yield_ends_the_run(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    succeeded(cli("run", "isara", seeds_file, *SCRIPTED, "--per_round", 16, "--min_yield", 1, "--quiet", "--out", out))
    status = json.loads(cli("status", out, "--json").stdout)
    assert "min_yield" in status["stopped_because"] and status["best_round"] == 0


def test_the_published_recipe_runs_with_its_beams(cli: Run, seeds_file: Path, model_folder: Path, tmp_path: Path) -> None:
    small = ("--rounds", 1, "--per_round", 2, "--prompt_sampling.max_tokens", 6, "--sampling.max_tokens", 6)
    small = (*small, "--guard.parts", "none", "--quiet")
    out = tmp_path / "out"
    succeeded(cli("run", "isara_paper", seeds_file, "--model", model_folder, "--encoder", "Hashed", *small, "--out", out))
    status = json.loads(cli("status", out, "--json").stdout)
    assert status["rounds"][1]["candidates"] == 2
    told = json.loads(cli("show", out, "r01-00000", "--json").stdout)
    assert told["sampling"]["prompt"]["beams"] == 5
    assert len(told["prompt_demonstrations"]) == 8
    assert told["prompt_texts"]["propose"].startswith("BEGINNING OF CONVERSATION: USER:")


def test_one_is_told_in_the_singular(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    few = ("--rounds", 1, "--per_round", 1, "--min_yield", 0)
    checked = cli("check", "isara", seeds_file, *SCRIPTED, *few)
    assert "generated at most: 1 round of 1 candidate\n" in checked.stdout, checked.stderr
    options = ("--rounds", 1, "--per_round", 16, "--min_yield", 0, "--validation_share", 0, "--quiet")
    done = cli("run", "isara", seeds_file, *SCRIPTED, *options, "--out", tmp_path / "one")
    assert "done: the one round is done; the newest round is shipped unchecked" in done.stdout, done.stderr
    done = cli("run", "pretrained", seeds_file, *SCRIPTED[:4], "--out", tmp_path / "none", "--quiet")
    assert "done: no rounds to run\n" in done.stdout, done.stderr
    row = json.loads(seeds_file.read_text().splitlines()[0])
    (tmp_path / "alone.jsonl").write_text(json.dumps(row), encoding="utf-8")
    done = cli("run", "isara", tmp_path / "alone.jsonl", *SCRIPTED, "--out", tmp_path / "short")
    assert done.returncode == 2 and "1 seed example: at least 2 are needed" in done.stderr
