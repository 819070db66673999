"""What the command line makes of options: those of one class of part are not those of another."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from selfalign.cli.main import main
from selfalign.cli.options import parse
from selfalign.cli.run import load_recipe, make_parser, part_options, resolved
from selfalign.engines import HF, OpenAI, Scripted
from selfalign.errors import UserError
from tests.conftest import SCRIPTED
from tests.files import write_rows

OWN = {"HF": HF().batch_size, "OpenAI": OpenAI().batch_size, "Scripted": Scripted().batch_size}


def options(*arguments: object, again: bool = False) -> Any:
    """As they would stand in run.yaml; `again`: whatever one command says is no other one's default."""
    make = load_recipe("isara")
    parser = make_parser(make, "run")
    given = [str(each) for each in ("isara", "safe_helpful", *arguments)]
    once = resolved(parser, parse(parser, given, part_options(make)))
    assert not again or resolved(parser, parse(parser, given, part_options(make))) == once
    return yaml.safe_load(once)


def engine(*arguments: object, again: bool = False) -> tuple[str, int]:
    found = options(*arguments, again=again)["engine"]
    return found["class_path"].rpartition(".")[2], found["init_args"]["batch_size"]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "options.yaml"
    path.write_text("rounds: 7\nengine:\n  class_path: OpenAI\n  init_args: {batch_size: 5, timeout: 9}\nencoder: Hashed\n")
    return path


def test_each_class_has_its_own_defaults(tmp_path: Path) -> None:
    assert len(set(OWN.values())) == 3
    for name, size in OWN.items():
        assert engine("--engine", name) == (name, size)
        assert engine("--engine", name, "--engine.batch_size", 7, again=True) == (name, 7)
        assert engine("--engine.batch_size=7", f"--engine={name}") == (name, 7)
        assert engine("--engine", json.dumps({"class_path": name})) == (name, size)
        (tmp_path / "c.yaml").write_text(f"engine: {name}\n")
        assert engine("--config", tmp_path / "c.yaml") == (name, size)
    assert engine() == ("HF", OWN["HF"])
    found = options("--trainer", "NullTrainer", "--encoder", "HiddenState", "--retriever", "Uniform")
    assert [found[slot].get("init_args") or {} for slot in ("trainer", "encoder")] == [{}, {}]
    assert options()["trainer"]["init_args"]["full_rate"] == 5e-5, "the recipe's own"


def test_a_yaml_file_speaks_of_the_class_it_names(config: Path) -> None:
    assert engine("--config", config, again=True) == ("OpenAI", 5)
    for given in (("--config", config), (f"--config={config}",)):
        found = options(*given, "--engine", "Scripted")
        assert found["engine"]["init_args"]["batch_size"] == OWN["Scripted"]
        assert found["rounds"] == 7 and found["encoder"]["class_path"].endswith("Hashed")
    assert engine("--engine", "Scripted", "--config", config) == ("OpenAI", 5)
    assert engine("--config", config, "--engine", "selfalign.engines.openai.OpenAI") == ("OpenAI", 5)
    repeated = config.with_name("run.yaml")
    repeated.write_text(yaml.safe_dump(options("--config", config)))
    assert engine("--config", repeated) == ("OpenAI", 5)
    assert engine("--config", repeated, "--engine", "HF") == ("HF", OWN["HF"])


def test_the_options_printed_are_those_of_the_class(capsys: pytest.CaptureFixture[str]) -> None:
    make = load_recipe("isara")
    with pytest.raises(SystemExit):
        parse(make_parser(make, "run"), ["isara", "--engine", "OpenAI", "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["engine"]["init_args"]["batch_size"] == OWN["OpenAI"]


def test_an_option_that_the_class_lacks_is_refused(config: Path) -> None:
    with pytest.raises(UserError, match=r"there is no option --engine\.device"):
        options("--engine", "Scripted", "--engine.device", "cpu")
    for given in (("--config", config, "--engine", "Nobody"), ("--engine", "Nobody")):
        with pytest.raises(UserError, match="no part named Nobody"):
            options(*given)
    for given in ("nowhere.Thing", "selfalign.nowhere.Thing", "selfalign.engines.hf.Thing"):
        with pytest.raises(UserError, match="option --engine: Does not validate"):
            options("--engine", given)
    config.write_text("engine: [")
    with pytest.raises(UserError, match="not valid YAML"):
        options("--config", config, "--engine", "Scripted")


@pytest.mark.parametrize(
    ("recipe", "option", "value", "must"),
    [
        ("isara", "demonstrations", "-1", "at least 0"),
        ("icl_knn", "demonstrations", "-1", "at least 0"),
        ("icl_random", "demonstrations", "-1", "at least 0"),
        ("isara", "prompt_filters.novelty.max_overlap", ".nan", "between 0 and 1"),
        ("isara", "prompt_filters.novelty.max_overlap", "-0.1", "between 0 and 1"),
        ("isara", "prompt_filters.novelty.max_overlap", "70", "between 0 and 1"),
        ("isara", "prompt_filters.near_duplicates.max_similarity", ".nan", "at least -1"),
    ],
)
def test_a_number_that_cannot_be_is_told_beforehand(
    recipe: str, option: str, value: str, must: str, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = ("--model", "scripted", "--engine", "Scripted", "--encoder", "Hashed")
    assert main(["check", recipe, "safe_helpful", *engine, f"--{option}", value]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{option.rpartition('.')[2]} = {value.removeprefix('.')}" in line and line.endswith(f"is out of range: {must}")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ("--alarms", "null"),
            "option --alarms: null is no YAML file of its options; name one, or give them one by one: --alarms.action …",
        ),
        (
            ("--sampling", "5"),
            "option --sampling: 5 is no YAML file of its options; name one, or give them one by one: --sampling.max_tokens …",
        ),
    ],
)
def test_a_group_of_options_is_a_file_or_is_given_one_by_one(given: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError) as told:
        options(*given)
    assert str(told.value) == said


def test_a_file_of_another_recipe_is_told_by_the_option_as_it_is_typed(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(options("--retriever", "Knn")))
    make = load_recipe("sft")
    with pytest.raises(UserError, match=r"^there is no option --[\w.]+; `selfalign run RECIPE --help-all` lists them$"):
        parse(make_parser(make, "run"), ["sft", "safe_helpful", "--config", str(path)], part_options(make))


def test_held_out_examples_that_are_seeds_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": f"What is number {row}?", "response": "It is that."} for row in range(3)]
    seeds, held_out = tmp_path / "seeds.jsonl", tmp_path / "held_out.jsonl"
    write_rows(seeds, rows)
    write_rows(held_out, rows[1:])
    engine = ("--model", "scripted", "--engine", "Scripted", "--encoder", "Hashed")
    assert main(["check", "isara", str(seeds), "--held_out", str(held_out), *engine]) == 2
    told = (
        "held-out example seed-0001 asks the same as seed seed-0002 (2 such examples): 'What is number 1?'; take one of them out"
    )
    assert capsys.readouterr().err == f"selfalign: {told}\n"
    write_rows(held_out, [{**row, "system": "You count in Roman numerals."} for row in rows[1:]])
    assert main(["check", "isara", str(seeds), "--held_out", str(held_out), *engine]) == 2
    assert "where another system prompt makes it another question, --allow_overlap true goes on" in capsys.readouterr().err


def test_a_file_of_options_is_of_the_recipe_that_is_run(
    tmp_path: Path, seeds_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(recipe: str, *arguments: object) -> tuple[int, str]:
        code = main(["check", recipe, str(seeds_file), *map(str, (*SCRIPTED, *arguments))])
        told = capsys.readouterr()
        return code, told.out + told.err

    path = tmp_path / "run.yaml"
    path.write_text("recipe: isara\nper_round: 7\n")
    for given in (("--config", path), (f"--config={path}",), ("--config", path, "--per_round", 3)):
        line = "selfalign: the file of --config is of the recipe isara, not one_shot: give one of one_shot, or run isara\n"
        assert check("one_shot", *given) == (2, line)
    code, told = check("isara", "--config", path)
    assert code == 0 and "2 rounds of 7 candidates" in told
    path.write_text("per_round: 7\n")
    assert check("one_shot", "--config", path)[0] == 0  # it names none
    (tmp_path / "mine.py").write_text("from selfalign.recipes.isara import isara as my\n")
    path.write_text("recipe: ./mine.py:my\nper_round: 7\n")
    monkeypatch.chdir(tmp_path.parent)
    assert check(f"{tmp_path}/mine.py:my", "--config", path)[0] == 0  # the same file, named from elsewhere
    assert check(f"{tmp_path}/mine.py:other", "--config", path)[0] == 2


def test_typed_seeds_win_over_those_of_a_file(tmp_path: Path, seeds_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("recipe: isara\nseeds: none.jsonl\nper_round: 7\n")
    for given in (("--config", path), ("--rounds", 3, f"--config={path}"), ("--config", path, "--rounds", 3)):
        assert main(["check", "isara", str(seeds_file), *map(str, (*SCRIPTED, *given))]) == 0, capsys.readouterr().err
        assert "seeds: 12 " in capsys.readouterr().out
    assert main(["check", "--config", str(path), *SCRIPTED]) == 2 and "none.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize(("missing", "extra"), [("torch", "hf"), ("transformers", "hf"), ("tokenizers", None)])
def test_a_bare_install_says_which_extra_helps(
    missing: str, extra: str | None, model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lacking(*_: object) -> None:
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.setattr("selfalign.engines._weights.tokenizer_and_config", lacking)
    arguments = ["check", "isara", "safe_helpful", "--model", str(model_folder), "--encoder", "Hashed"]
    if extra is None:
        with pytest.raises(ModuleNotFoundError):
            main(arguments)
        return
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"selfalign: check needs the package {missing}: pip install 'selfalign[{extra}]'\n"


def test_what_the_training_process_needs_is_missed_before_anything_is_generated(
    seeds_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["check", "isara", str(seeds_file), "--model", "scripted", "--engine", "Scripted", "--encoder", "Hashed"]
    for missing, given, code in (("accelerate", [], 2), ("peft", [], 0), ("peft", ["--trainer.lora_rank", "4"], 2)):
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, missing, None)
            assert main([*arguments, *given]) == code
        line = f"selfalign: training needs the package {missing}; install it with: pip install 'selfalign[hf]'\n"
        assert (line in capsys.readouterr().err) == bool(code)
