"""`--engine auto`: which engine it takes and says, and that a run stays with the one it was begun with."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from selfalign.cli import engine
from selfalign.cli.main import main
from selfalign.engines import HF, OpenVINO, _openvino_model
from selfalign.record.store import Store
from tests.tiny import tiny_model, tiny_tokenizer

Told = Callable[..., str]


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor alone, with OpenVINO, whatever the tests run on."""
    monkeypatch.setattr(engine, "choose_device", lambda name: torch.device("cpu"))
    monkeypatch.setattr(_openvino_model, "installed", lambda: True)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is not there: nothing can import it, and the question is asked in earnest."""
    monkeypatch.undo()
    monkeypatch.setattr(engine, "choose_device", lambda name: torch.device("cpu"))
    monkeypatch.setitem(sys.modules, "openvino_genai", None)


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """Runs a command in this process; its exit code must be the one given. What it says on stderr."""

    def run(*arguments: object, code: int = 0) -> str:
        capsys.readouterr()
        found = main([str(each) for each in arguments])
        said = capsys.readouterr().err
        assert found == code, said
        return said

    return run


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a kind that OpenVINO does not run here."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder, size = tmp_path_factory.mktemp("gpt2"), len(tiny_tokenizer())
    GPT2LMHeadModel(GPT2Config(vocab_size=size, n_positions=512, n_embd=32, n_layer=1, n_head=4)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def check(seeds: Path, model: Path, *more: object, recipe: str = "isara") -> tuple[object, ...]:
    encoder = () if ":" in recipe else ("--encoder", "Hashed")  # that of the recipes is a model, which takes a second
    return ("check", recipe, seeds, "--model", model, "--engine", "auto", *encoder, *more)


def recorded(folder: Path) -> dict[str, Any]:
    with Store.read(folder) as store:
        found: dict[str, Any] = store.identity()["engine"]
        return found


def test_openvino_where_it_can_do_the_work(model_folder: Path, seeds_file: Path, told: Told) -> None:
    line = "selfalign: engine OpenVINO (--engine auto: there is no GPU, and it runs this)\n"
    assert told(*check(seeds_file, model_folder)) == line
    asked = ("check", "isara", seeds_file, "--model", model_folder, "--encoder", "Hashed")
    assert told(*asked, "--engine=auto") == line
    assert told(*asked, "--engine", "auto", "--engine", "HF") == ""
    assert told(*asked) == "", "HF stays the default"


@pytest.mark.usefixtures("bare")
def test_hf_where_openvino_is_not_installed(model_folder: Path, seeds_file: Path, told: Told) -> None:
    assert "engine HF (--engine auto: OpenVINO is not installed; pip install 'selfalign[cpu]')" in told(
        *check(seeds_file, model_folder)
    )


def test_vllm_on_a_gpu_where_it_can_do_the_work(
    model_folder: Path, seeds_file: Path, told: Told, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(engine, "choose_device", lambda name: torch.device("mps"))
    assert "engine HF (--engine auto: there is a GPU, mps)" in told(*check(seeds_file, model_folder)), "not Apple's"
    monkeypatch.setattr(engine, "choose_device", lambda name: torch.device("cuda"))
    why = "there is a GPU, cuda; vLLM is not installed; pip install 'selfalign[vllm]'"
    assert f"engine HF (--engine auto: {why}" in told(*check(seeds_file, model_folder))
    request.getfixturevalue("fake_vllm")
    line = "selfalign: engine VLLM (--engine auto: there is a GPU, cuda, and vLLM)\n"
    assert told(*check(seeds_file, model_folder)) == line
    why = "engine HF (--engine auto: there is a GPU, cuda; vLLM does not decode with beams)"
    assert why in told(*check(seeds_file, model_folder, recipe="isara_paper"))


@pytest.mark.parametrize(
    ("recipe", "options", "name"),
    [
        ("isara_paper", (), "beams"),
        ("isara", ("--prompt_sampling.beams", "2"), "beams"),
        ("isara", ("--sampling.no_repeat_ngram", "4"), "no_repeat_ngram"),
        ("isara", ("--second_turns.share", "0.5", "--second_turns.sampling.repetition_penalty", "1.1"), "repetition_penalty"),
        ("isheep", ("--judge.sampling.length_decay", "[3,1.5]"), "length_decay"),
        ("isara", ("--sampling.rules", "transformers-4.31"), "rules transformers-4.31"),
    ],
)
def test_hf_where_some_part_decodes_as_openvino_cannot(
    recipe: str, options: tuple[str, ...], name: str, model_folder: Path, seeds_file: Path, told: Told
) -> None:
    said = told(*check(seeds_file, model_folder, *options, recipe=recipe))
    assert f"engine HF (--engine auto: OpenVINO does not decode with {name})" in said


def test_a_decoding_that_the_engine_has_not_is_refused_before_anything_is_looked_for(seeds_file: Path, told: Told) -> None:
    def asked(recipe: str, *options: object) -> str:
        return told("check", recipe, seeds_file, "--model", "/nowhere", *options, code=2)

    line = "recipe isara_paper, proposer.sampling: engine OpenVINO does not decode with beams; leave it out, or use --engine HF\n"
    assert asked("isara_paper", "--engine", "OpenVINO") == f"selfalign: {line}"
    server = asked("isara_paper", "--engine", "OpenAI")
    assert "recipe isara_paper, proposer.sampling: a server cannot be asked for beams; leave it out" in server
    judge = asked("isheep", "--engine", "OpenVINO", "--judge.sampling.no_repeat_ngram", 3)
    assert "recipe isheep, scorers.Judge.sampling: engine OpenVINO does not decode with no_repeat_ngram" in judge
    for fine in (("--engine", "HF"), ("--engine", "OpenVINO", "--per_round", 0)):  # on the seeds alone nothing is sampled so
        assert "/nowhere" in asked("isara_paper", *fine)


def test_hf_for_another_kind_of_model_or_judge(model_folder: Path, gpt2: Path, seeds_file: Path, told: Told) -> None:
    why = f"engine HF (--engine auto: model '{gpt2}' is of the kind 'gpt2', engine OpenVINO runs llama, opt, qwen2, qwen3)"
    assert why in told(*check(seeds_file, gpt2))
    assert why in told(*check(seeds_file, model_folder, "--win_rate.judge", gpt2))
    assert why in told(*check(seeds_file, model_folder, "--judge.model", gpt2, recipe="isheep"))


def test_a_recipe_of_ones_own_is_taken_at_its_word(model_folder: Path, seeds_file: Path, tmp_path: Path, told: Told) -> None:
    text = """
from selfalign.engines import HF
from selfalign.engines import OpenAI
from selfalign.engines import Scripted
from selfalign.recipe import Recipe
from dataclasses import replace
from selfalign.recipes import pretrained

def mine(*, engine: {} | Scripted = {}()) -> Recipe:
    return replace(pretrained(), engine=engine)
"""
    for name in ("HF", "OpenAI"):
        (tmp_path / f"{name}.py").write_text(text.format(name, name))
    offered = told(*check(seeds_file, model_folder, recipe=f"{tmp_path / 'HF.py'}:mine"))
    assert "engine HF (--engine auto: this recipe does not offer OpenVINO)" in offered
    refused = told(*check(seeds_file, model_folder, recipe=f"{tmp_path / 'OpenAI.py'}:mine"), code=2)
    assert "no part named auto; there are OpenAI, Scripted" in refused


def test_hf_for_another_kind_of_model_that_a_part_of_ones_own_asks(
    model_folder: Path, gpt2: Path, seeds_file: Path, tmp_path: Path, told: Told
) -> None:
    (tmp_path / "asking.py").write_text(
        "from dataclasses import dataclass, replace\n"
        "from selfalign.engines.hf import HF\n"
        "from selfalign.engines.openvino import OpenVINO\n"
        "from selfalign.recipes.isara import isara\n\n"
        "@dataclass(frozen=True)\nclass Asking:\n    other_model: str\n\n"
        "    def evaluate(self, context, held_out):\n        return []\n\n"
        "def asking(*, judge: str, engine: HF | OpenVINO = HF()):\n"
        "    return replace(isara(), engine=engine, evaluators=(Asking(judge),))\n"
    )
    given = {"recipe": f"{tmp_path / 'asking.py'}:asking"}
    assert "engine OpenVINO" in told(*check(seeds_file, model_folder, "--judge", "base", **given))
    assert "is of the kind 'gpt2'" in told(*check(seeds_file, model_folder, "--judge", gpt2, **given))


def test_the_run_records_the_engine_and_not_auto(model_folder: Path, seeds_file: Path, tmp_path: Path, told: Told) -> None:
    told("run", "pretrained", seeds_file, "--model", model_folder, "--out", tmp_path / "run", "--engine", "auto", "--quiet")
    assert recorded(tmp_path / "run")["part"].endswith(".OpenVINO")
    options = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    assert options["engine"]["class_path"].endswith(".OpenVINO") and options["engine"]["init_args"]["batch_size"] == 64
    repeated = told("run", "--config", tmp_path / "run" / "run.yaml", "--quiet")
    assert repeated == "", "goes on as it began, without a choice"


@pytest.mark.usefixtures("bare")
def test_a_run_stays_with_the_engine_it_was_begun_with(
    model_folder: Path, seeds_file: Path, tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ("run", "pretrained", seeds_file, "--model", model_folder, "--quiet", "--out")
    told(*run, tmp_path / "hf", "--engine", "auto")
    told(*run, tmp_path / "own", "--engine", "HF", "--engine.batch_size", "3")
    monkeypatch.setattr(_openvino_model, "installed", lambda: True)
    for name in ("hf", "own"):
        assert f"engine HF (--engine auto: {tmp_path / name} was begun with it)" in told(
            *run, tmp_path / name, "--engine", "auto"
        )
    assert recorded(tmp_path / "own")["batch_size"] == 3


@pytest.mark.usefixtures("bare")
def test_a_run_begun_with_openvino_asks_for_it_again(
    model_folder: Path, seeds_file: Path, tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ("run", "pretrained", seeds_file, "--model", model_folder, "--quiet", "--out", tmp_path / "run", "--engine", "auto")
    with monkeypatch.context() as patch:  # nothing is generated, so that the package itself is not needed
        patch.setattr(_openvino_model, "installed", lambda: True)
        assert "engine OpenVINO" in told(*run)
    said = told(*run, code=2)
    assert "was begun with it" in said and "needs the package openvino-genai" in said


def test_auto_in_a_file_of_options(model_folder: Path, gpt2: Path, seeds_file: Path, tmp_path: Path, told: Told) -> None:
    config, out = tmp_path / "options.yaml", tmp_path / "run"
    options = {"recipe": "icl_knn", "seeds": str(seeds_file), "model": str(gpt2), "out": str(out), "engine": "auto"}
    config.write_text(yaml.safe_dump({**options, "demonstrations": 2, "encoder": "Hashed", "quiet": True}))
    assert "engine HF (--engine auto: model" in told("run", "--config", config)
    assert recorded(out)["part"].endswith(".HF")
    with Store.read(out) as store:
        identity = store.identity()
    assert identity["eval_retriever"]["demonstrations"] == 2 and identity["encoder"]["part"].endswith(".Hashed")
    asked = ("check", "icl_knn", seeds_file, "--model", model_folder, "--out", tmp_path / "other")
    assert told(*asked, "--config", config, "--engine", "HF") == ""
    other = ("--model", model_folder, "--out", tmp_path / "other")
    assert "engine OpenVINO" in told("run", f"--config={config}", *other)
    assert recorded(tmp_path / "other")["batch_size"] == OpenVINO().batch_size != HF().batch_size, "its own, not the default's"


def test_options_of_an_engine_need_its_name(model_folder: Path, seeds_file: Path, told: Told) -> None:
    said = told(*check(seeds_file, model_folder, "--engine.threads", "2"), code=2)
    why = "--engine auto chooses the engine, with its own options; give --engine HF, VLLM or OpenVINO"
    assert said == f"selfalign: --engine.threads: {why}\n"


def test_what_is_missing_or_wrong_is_told_as_ever(seeds_file: Path, tmp_path: Path, told: Told) -> None:
    assert told("check", "isara", seeds_file, "--engine", "auto", code=2).startswith("selfalign: which model?")
    assert "there is no such folder" in told(*check(seeds_file, tmp_path / "nowhere"), code=2)
    assert "no part named atuo" in told("check", "isara", seeds_file, "--model", tmp_path, "--engine", "atuo", code=2)


def test_the_arms_of_a_study_share_one_engine(
    model_folder: Path, gpt2: Path, seeds_file: Path, tmp_path: Path, told: Told
) -> None:
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text("".join(json.dumps({"prompt": f"What is {each}?", "response": "A word."}) + "\n" for each in "ab"))
    study = ("study", "icl_random", seeds_file, "--model", model_folder, "--held_out", held_out, "--quiet", "--repeats", 1)
    study = (*study, "--encoder", "Hashed", "--demonstrations", 1, "--engine", "auto", "--out", tmp_path / "study")
    assert "model" in told(*study, "--baselines", "", "--vary", f"model={gpt2}").partition("(--engine auto: ")[2]
    runs = [recorded(path.parent)["part"] for path in (tmp_path / "study").rglob("run.sqlite")]
    assert len(runs) == 2 and all(part.endswith(".HF") for part in runs)
    more = told(*study, "--baselines", "pretrained")
    assert f"engine HF (--engine auto: {tmp_path / 'study' / 'icl_random' / 'seed-0'} was begun with it)" in more
    assert yaml.safe_load((tmp_path / "study" / "study.yaml").read_text())["engine"]["class_path"].endswith(".HF")
    bare = ("study", "isara", seeds_file, "--model", model_folder, "--engine", "auto", "--out", tmp_path / "other")
    assert "does not decode with beams" in told(*bare, "--baselines", "isara_paper", code=2)


def test_both_sides_of_an_evaluation_share_one_engine(
    model_folder: Path, gpt2: Path, seeds_file: Path, tmp_path: Path, told: Told
) -> None:
    asked = ("eval", model_folder, "--held_out", seeds_file, "--engine", "auto", "--encoder", "Hashed", "--quiet")
    assert "(--engine auto: model" in told(*asked, "--compare", gpt2, "--out", tmp_path / "both")
    assert {recorded(path.parent)["part"] for path in (tmp_path / "both").rglob("run.sqlite")} == {"selfalign.engines.hf.HF"}
    assert "was begun with it" in told(*asked, "--compare", gpt2, "--out", tmp_path / "both")
    done = ("eval", tmp_path / "both", "--engine", "auto")
    assert told(*done) == "", "nothing to run, nothing to choose"


def test_help_says_that_there_is_a_choice(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["run", "isara", "--help-all"], ["study", "isara", "--help-all"], ["eval", "m", "--help"]):
        with suppress(SystemExit):  # the parser's own way to end with help
            main(arguments)
        assert "auto: VLLM on a GPU, OpenVINO on a processor" in " ".join(capsys.readouterr().out.split())


def test_an_adapter_is_chosen_for_by_its_base(tmp_path: Path, seeds_file: Path, gpt2: Path, told: Told) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = tiny_model(tmp_path / "base")
    for name, source in (("llama", base), ("gpt2", gpt2)):
        adapted = get_peft_model(
            AutoModelForCausalLM.from_pretrained(source), LoraConfig(r=2, task_type="CAUSAL_LM", fan_in_fan_out=name == "gpt2")
        )
        adapted.save_pretrained(tmp_path / name)
        tiny_tokenizer().save_pretrained(tmp_path / name)
    assert "engine OpenVINO" in told(*check(seeds_file, tmp_path / "llama"))
    assert "is of the kind 'gpt2'" in told(*check(seeds_file, tmp_path / "gpt2"))
