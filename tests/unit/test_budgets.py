"""Token budgets come from the seeds, whatever the recipe; a number that is given stays."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from selfalign.cli.main import main
from selfalign.encoders import Hashed, HiddenState, SentenceEncoder
from selfalign.engines import HF, Scripted
from selfalign.evaluators import HeldOut
from selfalign.loop.budgets import settled
from selfalign.loop.checkup import checkup
from selfalign.loop.fluency import spelled_out
from selfalign.models.names import resolve_model
from selfalign.recipe import Recipe
from selfalign.recipes import isara, isara_paper, isheep, pretrained, self_distill
from selfalign.seeds.read import read_seeds
from selfalign.types import Example, ModelRef, Sampling
from tests.conftest import SCRIPTED, Run
from tests.files import read_rows, select, succeeded, write_rows
from tests.tiny import START, tiny_model

LONG = "word " * 199 + "end."
SEEDS = tuple(Example(f"s{n}", f"Question number {n}?", LONG if n == 3 else "Short.", slot=n) for n in range(8))
CHINESE = tuple(Example(f"z{n}", f"怎样修理第{n}张桌子？", "先用软布擦一擦，再等一个小时。", slot=n) for n in range(8))
RUSSIAN = tuple(
    Example(f"r{n}", f"Как починить стол номер {n}?", "Сначала протрите его мягкой тряпкой.", slot=n) for n in range(8)
)


def test_answers_and_evaluation_have_room_for_the_longest_seed() -> None:
    recipe, _ = settled(replace(isara(), engine=Scripted(), encoder=Hashed()), "scripted", SEEDS, ())
    assert (recipe.sampling.max_tokens, recipe.eval_sampling.max_tokens) == (318, 318)  # 1.5 * (200 words + an end) + 16
    assert recipe.proposer.sampling.max_tokens == 22 and recipe.second_turns.sampling.max_tokens == 22  # type: ignore[attr-defined]
    assert recipe.sampling.temperature == 0.3


def test_a_long_seed_takes_no_room_from_the_prompts(cli: Run, tmp_path: Path) -> None:
    """One and a half times its 200 words would leave none of the window, and nothing would be asked or measured."""
    seeds = write_rows(tmp_path / "seeds.jsonl", [{"prompt": seed.prompt, "response": seed.response} for seed in SEEDS])
    checked = cli("check", "isara", seeds, *SCRIPTED, "--engine.window", 300)
    assert "at most prompt 22, response 201, evaluation 201" in checked.stdout
    given = ("--engine.window", 300, "--rounds", 1, "--per_round", 8, "--min_yield", 0, "--out", tmp_path / "out")
    succeeded(cli("run", "isara", seeds, *SCRIPTED, *given))
    rules = [row["rule"] for row in read_rows(tmp_path / "out" / "round-01" / "dropped.jsonl")]
    assert "no_room" not in rules


def test_a_number_that_is_given_stays() -> None:
    own = replace(
        isara(),
        engine=Scripted(),
        encoder=Hashed(),
        sampling=Sampling(max_tokens=7),
        evaluators=(HeldOut(sampling=Sampling(max_tokens=9)), HeldOut(sampling=Sampling(max_tokens=0))),
    )
    recipe, _ = settled(own, "scripted", SEEDS, ())
    assert recipe.sampling.max_tokens == 7 and [part.sampling.max_tokens for part in recipe.evaluators] == [9, 318]  # type: ignore[attr-defined]
    paper, _ = settled(replace(isara_paper(), engine=Scripted(), encoder=Hashed()), "scripted", SEEDS, ())
    assert (paper.sampling.max_tokens, paper.eval_sampling.max_tokens) == (100, 200), "published values"


def test_what_has_no_room_is_told() -> None:
    long = tuple(replace(seed, prompt=f"Sum up {n}: {LONG}") for n, seed in enumerate(SEEDS))
    listed, papers, own = isheep(select="nothing"), isara_paper(), replace(isara(), sampling=Sampling(max_tokens=20))
    cut = "as long as yours are on average takes {} tokens and may have {}, so that most are cut off: give --{}.max_tokens {}"
    for recipe, seeds, told in (
        (listed, long, f"a list of 10 new prompts {cut.format(2040, 600, 'prompt_sampling', 3060)}"),
        (listed, SEEDS, ""),
        (isara(), long, ""),
        (own, SEEDS, f"an answer {cut.format(27, 20, 'sampling', 41)}"),
        (papers, long, "a new prompt "),
    ):
        made = checkup(replace(recipe, engine=Scripted(), encoder=Hashed()), "scripted", seeds, ())
        found = "; ".join(text for text in made["warnings"] if "so that most are cut" in text)
        assert found.startswith(told) and bool(found) is bool(told), found


@pytest.mark.parametrize(
    ("answer", "recipe", "told"),
    [
        (
            "As your friendly shop assistant I say: {}.",
            self_distill(),
            "7 tokens, and the first 6 of an answer count 1, later ones 0.1",
        ),
        ("As your friendly shop assistant I say: {}.", isara(), ""),
        ("As your assistant: {}.", self_distill(), ""),
        ("word " * 40 + "{}.", self_distill(), "give --trainer.loss.first_tokens 46 --sampling.max_tokens 72"),
    ],
)
def test_openings_that_all_answers_have_are_told_where_the_first_tokens_teach(answer: str, recipe: Recipe, told: str) -> None:
    seeds = tuple(replace(seed, response=answer.format(f"{n} it is")) for n, seed in enumerate(SEEDS))
    made = checkup(replace(recipe, engine=Scripted(), encoder=Hashed()), "scripted", seeds, ())
    assert told in (found := "; ".join(text for text in made["warnings"] if "hardly taught" in text)) and bool(told) == bool(
        found
    )


def test_tokens_are_those_of_the_model(model_folder: Path) -> None:
    engine = HF()
    model = ModelRef(str(model_folder))
    assert engine.token_lengths(model, ["abc", "日本"]) == [4, 7], "a byte a token, and the end"
    recipe, _ = settled(replace(isara(), engine=engine, encoder=Hashed()), str(model_folder), SEEDS, ())
    assert recipe.sampling.max_tokens == 1516  # 1.5 * 1000 bytes and an end, rounded up, + 16


@pytest.mark.parametrize(("seeds", "swapped"), [(SEEDS, False), (CHINESE, True), (RUSSIAN, True)])
def test_an_encoder_that_cannot_read_the_seeds_gives_way_to_the_model_itself(seeds: tuple[Example, ...], swapped: bool) -> None:
    recipe, _ = settled(replace(isara(), engine=Scripted()), "scripted", seeds, ())
    assert isinstance(recipe.encoder, HiddenState if swapped else SentenceEncoder)
    idle, _ = settled(replace(pretrained(), engine=Scripted()), "scripted", seeds, ())
    assert isinstance(idle.encoder, SentenceEncoder), "nothing is embedded"


def test_a_language_that_the_models_tokens_spell_out_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    model = ModelRef(str(tiny_model(tmp_path / "model", context=512)))
    told = spelled_out(HF(), model, SEEDS)  # a byte a token
    assert caplog.text == "", "that all seeds' words together are longer than the window says nothing"
    assert told.startswith("the model's tokens hold 1.0 bytes of the seeds' words on average")
    assert spelled_out(Scripted(), ModelRef("scripted"), SEEDS) == ""  # a word a token
    assert spelled_out(HF(), model, SEEDS[:1]) == "", "too little text to tell"


def test_the_bundled_model_knows_english_and_spells_out_other_languages() -> None:
    engine, model = HF(), ModelRef(resolve_model("smollm2-135m"))
    assert spelled_out(engine, model, SEEDS) == "" != spelled_out(engine, model, CHINESE)
    examples = Path(__file__).parents[2] / "examples"
    told = {
        name: spelled_out(engine, model, read_seeds(examples / name / "seeds.jsonl")) for name in ("german", "json_extraction")
    }
    assert told["german"].startswith("the model's tokens hold 2.8 bytes") and told["json_extraction"] == ""


@pytest.mark.parametrize(("seeds", "said"), [("german", "the prompts are in de: --encoder.model"), ("json_extraction", "")])
def test_an_encoder_of_many_languages_is_suggested_where_the_bundled_one_learned_another(
    seeds: str, said: str, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check = ["check", "isara", str(Path(__file__).parents[2] / "examples" / seeds / "seeds.jsonl"), "--model", "scripted"]
    assert main([*check, "--engine", "Scripted"]) == 0
    shown = capsys.readouterr().out
    assert said in shown and ("the bundled encoder learned English" in shown) is bool(said)
    assert main([*check, "--engine", "Scripted", "--encoder.model", str(model_folder)]) == 0
    assert "the bundled encoder" not in capsys.readouterr().out


def begun(folder: Path) -> Path:
    """A model whose tokenizer begins texts with a token, as Llama's does: one more where no template writes it."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.bos_token = START
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, tokenizer.bos_token_id)]
    )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("format", "size"), [("chat", 384), ("plain", 385)])
def test_seeds_too_long_for_the_training_are_named_before_it(
    cli: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path, format: str, size: int
) -> None:
    model = begun(tiny_model(tmp_path / "model", context=2048))
    rows = [{"id": f"a{n}", "prompt": f"Say {n}", "response": f"yes {n} " * (60 if n in (2, 5) else 3)} for n in range(8)]
    seeds = write_rows(tmp_path / "seeds.jsonl", rows)
    given = ("--model", model, "--format", format, "--validation_share", 0, "--trainer.max_length")
    named = f"2 of 8 seeds to train on have more tokens than --trainer.max_length {size - 1}, and the training drops them"
    checked = cli("check", "sft", seeds, *given, size - 1)
    assert f"{named} as too_long: a2 ({size}), a5 ({size}); give --trainer.max_length {size}" in checked.stdout
    assert "drops them as too_long" not in cli("check", "sft", seeds, *given, size).stdout
    out = tmp_path / "out"
    done = cli("run", "sft", seeds, *given, size - 1, "--trainer.max_steps", 1, "--quiet", "--out", out)
    assert named in done.stderr
    lost = {evidence for (evidence,) in select(out, "SELECT evidence FROM training WHERE rule = 'too_long'")}
    assert lost == {f"{size} tokens, the limit is {size - 1}"}
    for command in (("check",), ("run", "--out", tmp_path / "none")):
        assert main([str(each) for each in (command[0], "sft", seeds, *given, 8, *command[1:])]) == 2
        line = capsys.readouterr().err
        assert "each of the 8 seeds to train on has more tokens than --trainer.max_length 8, so that none" in line
        assert f"a2 ({size}), a5 ({size})" in line
    assert not (tmp_path / "none").exists()


def test_a_category_too_small_to_be_validated_is_named(cli: Run, tmp_path: Path) -> None:
    said = "of the 13 validation seeds the category 'rare' with 4 of 64 seeds has 1: the round is chosen by the others"
    for few, warned in ((4, True), (16, False)):
        rows = [
            {"prompt": f"What is {n} and {n + n % 7}?", "response": f"That is {n}.", "category": "rare" if n < few else "often"}
            for n in range(64)
        ]
        seeds = write_rows(tmp_path / f"{few}.jsonl", rows)
        checked = cli("check", "isara", seeds, *SCRIPTED)
        done = cli("run", "isara", seeds, *SCRIPTED, "--per_round", 4, "--rounds", 1, "--quiet", "--out", tmp_path / f"out{few}")
        assert (said in checked.stdout) == (said in done.stderr) == warned, (checked.stdout, done.stderr)
