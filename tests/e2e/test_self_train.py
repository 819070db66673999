"""The recipe self_train through the front door: its rounds, what agrees, a kill, given prompts, and how it stands in a study."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from selfalign import align
from selfalign.cli.main import main
from selfalign.encoders import Hashed
from selfalign.engines import Scripted
from selfalign.loop.align import Run
from selfalign.recipe import Recipe
from selfalign.recipes import self_train
from selfalign.record.status import warnings
from selfalign.record.store import Store
from selfalign.scorers import Agreement
from selfalign.trainers import NullTrainer
from selfalign.types import Example, ModelRef, Request
from tests.conftest import SCRIPTED
from tests.conftest import Run as Command
from tests.e2e.test_dpo import arms
from tests.e2e.test_kill import digest, hits
from tests.files import select, write_rows

THINGS = ("lamp", "stove", "roof", "violin", "kettle", "drum", "atlas", "fence", "radio", "ladder")
SEEDS = [Example(f"s{n}", f"Please mend the {thing} by Monday.", f'{{"thing": "{thing}"}}') for n, thing in enumerate(THINGS)]
ASKED = [
    Example(f"q{n}", f"{first} {last}", "")
    for n, (first, last) in enumerate(
        (first, last)
        for first in ("Somebody has broken", "We would like to have", "Can you take away", "Where do people buy")
        for last in ("nine blue chairs", "an ugly carpet", "some garden tools", "that heavy piano")
    )
]
Answer = Callable[[str, int], str]
"""From the prompt and the request's random seed."""


def trained(tmp_path: Path, answer: Answer, recipe: Recipe | None = None) -> tuple[Run, list[Request]]:
    """A run whose answers are scripted, and all its requests with a prompt."""
    asked: list[Request] = []

    def reply(model: ModelRef, request: Request) -> str:
        if request.prompt is None:
            return "nothing"
        asked.append(request)
        return answer(request.prompt, request.seed)

    recipe = (recipe or self_train()).with_prompts(ASKED)
    recipe = replace(recipe, engine=Scripted(replies=reply), encoder=Hashed(), trainer=NullTrainer(), per_round=8, evaluators=())
    return align(replace(recipe, validation_share=0.0), "any", SEEDS, tmp_path / "run"), asked


def asked_and_kept(run: Run, round: int) -> tuple[set[str], set[str]]:
    rows = select(run.folder, f"SELECT prompt, verdict FROM samples WHERE round = {round}")
    return {prompt for prompt, _ in rows}, {prompt for prompt, verdict in rows if verdict == "kept"}


def unsure_of_chairs(prompt: str, seed: int) -> str:
    """One answer in two spellings, but where it is about chairs, which are counted anew each time."""
    spelled = '{"n": 4.0, "what": "x"}' if seed % 2 else '{"what": "x", "n": 4}'
    return f'{{"n": {seed % 1009}}}' if "chairs" in prompt else spelled


def test_what_the_model_repeats_is_learned_by_the_start_model(tmp_path: Path) -> None:
    run, asked = trained(tmp_path, unsure_of_chairs)
    assert not any(request.demonstrations for request in asked), "the model that the seeds made is asked without them"
    (first, kept), (second, also) = asked_and_kept(run, 2), asked_and_kept(run, 3)
    assert asked_and_kept(run, 1)[0] == set() == first & second and first | second == {question.prompt for question in ASKED}
    assert kept | also == {question.prompt for question in ASKED if "chairs" not in question.prompt}
    dropped = select(run.folder, "SELECT rule, metadata, response FROM samples WHERE verdict = 'dropped'")
    assert {rule for rule, _, _ in dropped} == {"low_agreement"} and len(dropped) == 4
    assert all(json.loads(metadata)["other_answer"] not in ("", response) for _, metadata, response in dropped)
    taught = select(
        run.folder, "SELECT t.round, s.round, count(*) FROM training t JOIN samples s ON s.number = t.sample GROUP BY 1, 2"
    )
    assert taught == [(1, 0, 10), (2, 0, 10), (2, 2, 6), (3, 0, 10), (3, 2, 6), (3, 3, 6)], (
        "the seeds always, and all that was kept"
    )


@pytest.mark.parametrize(("marker", "kept"), [("", 0), ("####", 16)])
def test_results_agree_where_their_ways_differ(tmp_path: Path, marker: str, kept: int) -> None:
    def reasons(prompt: str, seed: int) -> str:
        return f"I count them in {seed % 1009} steps.\n#### 12"

    run, _ = trained(tmp_path, reasons, self_train(agreement=Agreement(marker=marker)))
    assert len(asked_and_kept(run, 2)[1] | asked_and_kept(run, 3)[1]) == kept
    assert kept or "kept 0 of 8" in run.stopped_because, (
        "nothing agrees: round 1's model is the run's, and the run says why it ends"
    )
    assert kept or run.best_round == 1
    with Store.read(run.folder) as store:
        assert not any("low_agreement" in text for text in warnings(store)), "to drop most is what the recipe is for"


def test_killed_or_not_it_writes_the_same_bytes(cli: Command, seeds_file: Path, tmp_path: Path) -> None:
    run = [
        "run",
        "self_train",
        str(seeds_file),
        *SCRIPTED,
        "--per_round",
        "12",
        "--filters.threshold.above",
        "0.1",
        "--quiet",
        "--out",
    ]
    points = Counter(hits(tmp_path, *run[1:], tmp_path / "whole"))
    scores = select(tmp_path / "whole", "SELECT round, count(*) FROM samples s JOIN scores c ON c.sample = s.number GROUP BY 1")
    assert [round for round, _ in scores] == [2, 3], "answers are compared in both rounds"
    for name in sorted(points)[::4]:
        killed = cli(*run, tmp_path / name, SELFALIGN_FAULT_AT=f"{name}:{points[name]}")
        assert killed.returncode == -signal.SIGKILL, name
        assert main([*run, str(tmp_path / name)]) == 0
        assert digest(tmp_path / name, cli) == digest(tmp_path / "whole", cli), name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--agreement.answers", "1"), "answers = 1 is out of range: at least 2"),
        (("--agreement.sampling.temperature", "0"), "every further answer would be the same"),
        (("--rounds", "1"), "rounds = 1, must be at least 2: round 1 is the seeds'"),
    ],
)
def test_wrong_options_are_named_in_one_line(
    seeds_file: Path, tmp_path: Path, options: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = ("--model", "scripted", "--engine", "Scripted", "--encoder", "Hashed", "--out", str(tmp_path / "out"))
    assert main(["run", "self_train", str(seeds_file), *plain, *options]) == 2
    said = capsys.readouterr().err
    assert words in said and len(said.strip().splitlines()) == 1 and not (tmp_path / "out").exists()


def test_check_says_where_answers_cannot_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(answer: str, *options: str) -> str:
        file = write_rows(
            tmp_path / "seeds.jsonl", [{"prompt": seed.prompt, "response": answer.format(seed.id)} for seed in SEEDS]
        )
        main(["check", "self_train", str(file), *map(str, SCRIPTED), *options])
        return next((line for line in capsys.readouterr().out.splitlines() if "agreement:" in line), "")

    free = "We are sorry that it broke, and shall send you somebody who mends it on Monday morning, {}."
    assert "10 of 10 seeds' answers are texts of more than 8 words" in said(free)
    assert (
        said('{{"what": "mend", "who": "{}"}}') == said("Part {}") == said(free + " #### 3", "--agreement.marker", "####") == ""
    )
    assert "10 of 10 seeds' answers have no ####" in said(free, "--agreement.marker", "####")


def test_as_an_arm_it_keeps_its_rounds_and_takes_the_prompts(seeds_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "asked.jsonl"
    file.write_text("".join(json.dumps({"prompt": each.prompt}) + "\n" for each in ASKED), encoding="utf-8")
    found = arms(seeds_file, "isara", "--rounds", "4", "--prompts", str(file), "--baselines", "self_train,sft")
    recipe = found["self_train"].recipe
    assert (recipe.rounds, recipe.train_seeds, recipe.start_from, recipe.train_on) == (3, "first", "base", "all")
    assert recipe.given and recipe.given.from_round == 2 and recipe.given.split(1, recipe.per_round) == (0, 0)
    assert (recipe.candidates(1), recipe.candidates(2)) == (0, 16)
    varied = ("--vary", "rounds=4", "per_round=8", "--vary=per_round=9")
    main_arm = arms(seeds_file, "self_train", "--prompts", str(file), "--baselines", "isara,sft", *varied)
    assert list(main_arm)[3:] == [f"self_train-{each}" for each in ("rounds=4", "per_round=8", "per_round=9")]
    assert main_arm["sft"].matched == "self_train" and main_arm["isara"].recipe.given.from_round == 1  # type: ignore[union-attr]
    for arm in (*found.values(), *main_arm.values()):
        arm.recipe.check()
