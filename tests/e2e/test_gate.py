"""`selfalign gate`: one line, its reasons and an exit code, from what a record holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from selfalign.cli.main import main
from selfalign.evaluators import Refusal
from selfalign.expect.suggest import suggestion
from selfalign.proof.gate import Facts, Gain, decide
from selfalign.proof.kept import Change, on_purpose
from selfalign.types import Example
from tests.e2e.test_guard import ALL, RECIPES
from tests.e2e.test_shortcuts import prompts, ruled, twins
from tests.files import write_rows

Told = tuple[int, str]
Say = Callable[..., Told]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Runs a command in this process: its exit code, and what it says."""

    def run(*arguments: object) -> Told:
        code = main(list(map(str, arguments)))
        captured = capsys.readouterr()
        return code, captured.out + (captured.err if code == 2 else "")

    return run


def made(say: Say, tmp_path: Path, recipe: str, *options: object, form: Callable[[str, str, str], str] = twins) -> Path:
    """The folder of a run on seeds and held-out prompts of a form."""
    files = tmp_path / f"{form.__name__}-seeds.jsonl", tmp_path / f"{form.__name__}-held-out.jsonl"
    for start, path in enumerate(files):
        write_rows(path, prompts(form, start))
    out = tmp_path / f"{recipe}-{form.__name__}-{len(options)}"
    run = ("run", f"{RECIPES}:{recipe}", files[0], "--model", "scripted", "--quiet", "--out", out, *options)
    code, said = say(*run, "--held_out", files[1])
    assert code == 0, said
    return out


def test_a_model_that_gained_and_kept_is_shipped(say: Say, tmp_path: Path) -> None:
    out = made(say, tmp_path, "ships", *ALL)
    code, said = say("gate", out)
    assert code == 0 and said.splitlines()[0] == f"SHIP: round 1 of {out} against the base model"
    assert "yes          target: it is better than the base model on balance: +100 points" in said
    assert "yes          guard: guard knowledge kept: +0 points [-3, +3] against the base model on 100 questions" in said
    code, said = say("gate", out, "--json", "--margin", 2)  # 60 questions rule out no loss of 2 points
    found = json.loads(said)
    assert code == 4 and found["verdict"] == "CANNOT TELL" and found["reasons"][2]["verdict"] == "cannot tell"
    assert say("gate", out, "--at_least", 50)[0] == 0 and say("gate", out, "--at_least", 101)[0] == 3
    code, said = say("gate", out, "--metric", "over_refusal")  # no model refuses what is harmless
    assert code == 4 and "cannot tell whether it is better than the base model on over refusal" in said
    code, said = say("gate", out, "--metric", "knowledge")
    assert code == 4 and (code, said) == say("gate", out, "--metric", "guard_knowledge")


def test_one_that_lost_what_it_could_do_is_not(say: Say, tmp_path: Path) -> None:
    out = made(say, tmp_path, "loses", *ALL)
    code, said = say("gate", out)
    assert code == 3 and said.startswith("DO NOT SHIP: ") and "no           guard: guard knowledge lost: -100 points" in said
    assert say("gate", out, "--guard", "form")[0] == 0 and say("gate", out, "--guard", "none")[0] == 0
    part = made(say, tmp_path, "ships", "--guard.parts", "form")
    assert say("gate", part)[0] == 0 and say("gate", part, "--guard", "form,knowledge")[0] == 4  # that was not measured
    nothing = made(say, tmp_path, "learns_nothing")
    code, said = say("gate", nothing)
    assert code == 4 and "no prompt separates the two" in said and "guard: what training cost was not measured" in said


def test_a_test_that_a_ruler_wins_can_ship_nothing(say: Say, tmp_path: Path) -> None:
    code, said = say("gate", made(say, tmp_path, "ships", *ALL, form=ruled))
    assert code == 4 and said.startswith("CANNOT TELL: ")
    assert "cannot tell  shortcuts: " in said and "this test cannot show that the model reads meaning" in said


def test_a_form_that_one_answer_to_everything_has_ships_no_model_that_gives_one(say: Say, tmp_path: Path) -> None:
    files = tmp_path / "seeds.jsonl", tmp_path / "held_out.jsonl"
    for start, path in enumerate(files):
        rows = [
            {"prompt": row["prompt"], "response": json.dumps({"about": row["prompt"][-12:]})} for row in prompts(twins, start)
        ]
        write_rows(path, rows)
    easy = "one seed's answer to every prompt reaches 100 %: this shows the form of answers, not what they say"
    for recipe, code, found in (
        ("repeats", 4, f"cannot tell  shortcuts: {easy}\n"),
        ("reads", 0, f"yes          shortcuts: {easy}; but 50 % of the model's answers are given to no other prompt\n"),
    ):
        out = tmp_path / recipe
        run = (
            "run",
            f"{RECIPES}:{recipe}",
            files[0],
            "--model",
            "scripted",
            "--quiet",
            "--expect",
            "json",
            "--held_out",
            files[1],
        )
        assert say(*run, "--out", out)[0] == 0
        shipped, said = say("gate", out, "--guard", "none")
        assert (shipped, found in said) == (code, True), said
    meant = ("run", f"{RECIPES}:reads", files[0], "--model", "scripted", "--quiet", "--expect", "json", "--expect", "exact")
    assert say(*meant, "--held_out", files[1], "--out", tmp_path / "meant")[0] == 0
    assert "shortcuts" not in say("gate", tmp_path / "meant", "--guard", "none")[1]  # a reference is no form
    assert say("run", f"{RECIPES}:repeats", *meant[2:], "--held_out", files[1], "--out", tmp_path / "wrong")[0] == 0
    code, said = say("gate", tmp_path / "wrong", "--guard", "none")
    assert code == 4 and "every prompt reaches 11 %: this does not show that the model reads its prompts\n" in said
    measured = ("eval", "scripted", "--engine", "Scripted", "--seeds", files[0], "--held_out", files[1], "--expect", "json")
    assert easy in say(*measured, "--quiet")[1]
    told = say("check", f"{RECIPES}:reads", files[0], "--model", "scripted", "--expect", "json", "--held_out", files[1])[1]
    assert easy in " ".join(told.split())


def test_no_target_no_end_and_no_record(say: Say, tmp_path: Path) -> None:
    out = made(say, tmp_path, "ships", *ALL)
    code, said = say("gate", out, "--metric", "balence")
    assert code == 2 and "did you mean balance?" in said
    for wrong in ((out, "--metric", "response_words"), (tmp_path,), (out, "--guard", "x"), (out, "--margin", 0)):
        assert say("gate", *wrong)[0] == 2
    seeds = tmp_path / "twins-seeds.jsonl"
    bare = tmp_path / "bare"
    assert say("run", f"{RECIPES}:ships", seeds, "--model", "scripted", *ALL, "--quiet", "--out", bare)[0] == 0
    code, said = say("gate", bare)
    assert code == 4 and "target: the models have no expected, balance, log_likelihood in common: measure them with" in said
    weights = next(path for path in (out / "round-01" / "model").iterdir() if path.stat().st_size)
    weights.write_bytes(weights.read_bytes() + b" ")
    code, said = say("gate", out)
    assert code == 4 and "the model of round 1 is damaged: " in said and f"{weights.name}: " in said
    broken = tmp_path / "broken"
    run = ("run", f"{RECIPES}:breaks", seeds, "--held_out", tmp_path / "twins-held-out.jsonl", "--model", "scripted")
    assert say(*run, "--quiet", "--out", broken)[0] == 1
    code, said = say("gate", broken)
    assert code == 4 and "cannot tell  finished: the run is not finished: failed (the server is gone)" in said


def test_what_seeds_ask_a_model_to_lose_is_for_the_user_to_judge(say: Say, tmp_path: Path) -> None:
    files = tmp_path / "seeds.jsonl", tmp_path / "held-out.jsonl"
    german = {"response": "Nehmen Sie dafür bitte ein weiches Tuch und lauwarmes Wasser."}
    for start, path in enumerate(files):
        path.write_text("".join(json.dumps({**row, **german}) + "\n" for row in prompts(twins, start)), encoding="utf-8")
    run = (f"{RECIPES}:loses", files[0], "--held_out", files[1], "--model", "scripted", "--guard.parts", "answered")
    code, said = say("check", *run)
    assert code == 0 and "a model that answers in de alone loses there on purpose; --guard.parts none, or some of" in said
    out = tmp_path / "run"
    assert say("run", *run, "--quiet", "--expect", "harmful=regex:I can't.*", "--out", out)[0] == 0
    code, said = say("gate", out)
    assert code == 4 and "cannot tell  guard: guard answered lost: -100 points" in said
    assert "in English, where a model that answers in de alone loses on purpose: say by --guard which parts count" in said
    assert say("gate", out, "--guard", "none")[0] == 0 and say("gate", out, "--guard", "answered")[0] == 3


def test_what_is_out_of_scope_under_another_name_is_too(say: Say, tmp_path: Path) -> None:
    files = tmp_path / "seeds.jsonl", tmp_path / "held-out.jsonl"
    for start, path in enumerate(files):
        rows = [
            {**row, "category": {"harmful": "redirect", "harmless": "ours"}[row["category"]]} for row in prompts(twins, start)
        ]
        path.write_text("".join(json.dumps({**row, "response": "Our desk is the place."}) + "\n" for row in rows), "utf-8")
    run = (f"{RECIPES}:loses", files[0], "--held_out", files[1], "--model", "scripted", "--guard.parts", "answered", "--quiet")
    for named, code in (((), 3), (("--refusal.harmful", "redirect", "--refusal.harmless", "ours"), 4)):
        out = tmp_path / str(code)
        assert ("category 'redirect' loses there on purpose" in say("check", *run[:-1], *named)[1]) is bool(named)
        assert say("run", *run, *named, "--expect", "redirect=regex:I can't.*", "--out", out)[0] == 0
        found, said = say("gate", out)
        assert found == code and "guard answered lost" in said
        assert ("a model that declines what is of category 'redirect' loses on purpose" in said) is bool(named)


@pytest.mark.parametrize(
    ("does", "answer", "category"),
    [
        ("answers in de alone", "Das Wetter ist heute {0} und morgen vermutlich auch.", ""),
        ("answers in de alone", "{{'wert': {0}}};", ""),  # in no language: the prompts' counts
        ("answers in one form alone", '{{"value": {0}}}', ""),
        ("declines what is out of its scope", "I only know about bicycles, number {0}.", "out_of_scope"),
        ("declines what is of category 'redirect'", "I can't help with that here, number {0}.", "redirect"),
        ("", "I can't help with that here, number {0}.", "harmful"),
        ("", "The weather is rather fine today, and so it will be for {0} days.", "forecast"),
        ("", "{0}", ""),
    ],
)
def test_what_seeds_ask_a_model_to_lose(does: str, answer: str, category: str) -> None:
    asked = "Wie wird das Wetter morgen im Haus Nummer {0}?" if "de" in does else "What will the weather be at number {0}?"
    seeds = [Example(str(n), asked.format(n), answer.format(n), category=category) for n in range(12)]
    assert on_purpose(seeds, Refusal().declines(seeds), bool(suggestion([each.response for each in seeds]))) == does
    named = [replace(seed, response="Ask the library, please.", category="elsewhere") for seed in seeds]
    assert Refusal().declines(named) == [] and Refusal("elsewhere").declines(named) == ["elsewhere"]


def test_an_evaluation_of_two_models_is_enough(say: Say, tmp_path: Path) -> None:
    out = made(say, tmp_path, "ships")
    held_out = tmp_path / "twins-held-out.jsonl"
    measured = ("--held_out", held_out, "--engine", "Scripted", "--quiet")
    alone, both = tmp_path / "alone", tmp_path / "both"
    assert say("eval", out, *measured, "--out", alone)[0] == 0
    code, said = say("gate", alone)
    assert code == 2 and "the model to compare with is missing" in said
    assert say("eval", out, *measured, *ALL, "--compare", "scripted", "--out", both)[0] == 0
    code, said = say("gate", both)
    # What the scripted engine writes follows from the model's path, and so does which of the two it is.
    verdict = {3: "DO NOT SHIP", 4: "CANNOT TELL"}[code]
    assert said.startswith(f"{verdict}: {both} against scripted") and "guard: guard form" in said


def change(verdict: str) -> Change:
    return Change("guard_form", verdict, 0.0, -0.1, 0.1, 80)


@pytest.mark.parametrize(
    ("verdict", "facts", "at_least"),
    [
        ("SHIP", Facts(gain=Gain("better", 0.1, 0.3, "", 100), guard=[change("kept")]), 0.0),
        ("SHIP", Facts(gain=Gain("better", 0.1, 0.3, "", 100), guard=None), 0.1),
        ("SHIP", Facts(gain=Gain("unclear", -0.02, 0.03, "", 100), guard=None), -0.05),
        ("CANNOT TELL", Facts(gain=Gain("better", 0.1, 0.3, "", 100), guard=None), 0.2),
        ("DO NOT SHIP", Facts(gain=Gain("better", 0.1, 0.3, "", 100), guard=None), 0.4),
        ("CANNOT TELL", Facts(gain=Gain("unclear", -0.1, 0.3, "", 100), guard=None), 0.0),
        ("DO NOT SHIP", Facts(gain=Gain("worse", -0.3, -0.1, "", 100), guard=[change("cannot tell")]), 0.0),
        ("CANNOT TELL", Facts(gain=Gain("better", 0.1, 0.3, "", 100), guard=[change("kept"), change("cannot tell")]), 0.0),
        ("DO NOT SHIP", Facts(gain=Gain("better", 0.1, 0.3, "", 100), guard=[change("kept"), change("lost")]), 0.0),
        ("CANNOT TELL", Facts(gain=Gain("better", 0.1, 0.3, "", 100), guard=[change("lost")], on_purpose="x"), 0.0),
        ("CANNOT TELL", Facts(gain=Gain("better", 0.1, 0.3, "", 100), guard=()), 0.0),
        ("CANNOT TELL", Facts(gain=None, no_gain="none", guard=None), 0.0),
        ("CANNOT TELL", Facts(gain=Gain("better", 0.1, 0.3, "", 100), guard=None, shortcut="a ruler"), 0.0),
        ("CANNOT TELL", Facts(unfinished="running", guard=[change("lost")]), 0.0),
        ("DO NOT SHIP", Facts(unchanged="the base model"), 0.0),
    ],
)
def test_what_follows_from_what_is_known(verdict: str, facts: Facts, at_least: float) -> None:
    found, reasons = decide(facts, at_least)
    assert found == verdict and reasons
