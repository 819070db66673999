"""A judge on another engine than the recipe's: chosen by options, checked before anything loads, closed whatever happens."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from selfalign.cli.main import main
from selfalign.encoders import Hashed
from selfalign.engines import HF, OpenAI, Scripted
from selfalign.engines.scripted import ScriptedSession
from selfalign.errors import RunFailed, UserError
from selfalign.evaluators import MTBench, WinRate
from selfalign.loop.align import align
from selfalign.protocols import Engine
from selfalign.recipe import Recipe
from selfalign.recipes import isara
from selfalign.record.store import Store
from selfalign.scorers import Judge
from selfalign.seeds.read import read_seeds
from selfalign.trainers import NullTrainer
from selfalign.types import Completion, Example, Format, ModelRef, Request, Sampling
from tests.files import select, write_rows
from tests.server import model_server


@dataclass(frozen=True)
class Rater(Scripted):
    """A judge's engine, which notes what it opens and closes."""

    refused: str = ""
    """The field of a sampling that it does not offer."""
    log: ClassVar[list[str]] = []
    fails_at: ClassVar[int] = 0
    """The batch at which it fails."""

    def check_sampling(self, sampling: Sampling) -> None:
        if self.refused and getattr(sampling, self.refused) != getattr(Sampling(), self.refused):
            raise UserError(f"Rater does not decode with {self.refused}")

    @contextmanager
    def open(self, model: ModelRef, format: Format) -> Iterator[RaterSession]:
        self.log.append(f"opened {model.base}")
        try:
            yield RaterSession(self, model)
        finally:
            self.log.append("closed")


@dataclass(frozen=True)
class RaterSession(ScriptedSession):
    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        Rater.log.append("batch")
        if Rater.log.count("batch") == Rater.fails_at:
            raise KeyboardInterrupt
        return [Completion(f"Rating: [[{1 + len(f'{each.prompt}{each.text}') % 10}]]", "stop") for each in requests]


@pytest.fixture(autouse=True)
def fresh() -> None:
    Rater.log.clear()
    Rater.fails_at = 0


@pytest.fixture
def questions(tmp_path: Path) -> str:
    path = tmp_path / "questions.jsonl"
    rows = [{"question_id": n, "category": "writing", "turns": [f"Write {n} lines.", "Rhyme."]} for n in range(5)]
    write_rows(path, rows)
    return str(path)


def small(**parts: Any) -> Recipe:
    plain = {"engine": Scripted(), "encoder": Hashed(), "trainer": NullTrainer(), "prompt_filters": (), "filters": ()}
    return replace(isara(demonstrations=3), rounds=1, per_round=6, min_yield=0.0, **{**plain, "evaluators": (), **parts})


RECORD = (
    "SELECT round, stage, slot, batch, id, data FROM outputs ORDER BY 1, 2, 3",
    "SELECT round, stage, batch, prompt_tokens, generated_tokens FROM batches ORDER BY 1, 2, 3",
    "SELECT round, name, value, low, high FROM metrics ORDER BY 1, 2",
    "SELECT round, metric, prompt, value FROM outcomes ORDER BY 1, 2, 3",
    "SELECT sample, name, value FROM scores ORDER BY 1, 2",
)


def judged(questions: str, engine: Scripted) -> Recipe:
    """MT-Bench by a model of the other engine, scores by the base model on it."""
    judge = Judge(model="base", method="parsed", engine=engine)
    return small(evaluators=(MTBench(questions, "a-judge", engine=engine),), scorers=(judge,), ignore_calibration=True)


def test_interrupted_judging_closes_the_judge_and_goes_on_to_the_same_record(
    seeds_file: Path, questions: str, tmp_path: Path
) -> None:
    seeds, recipe = read_seeds(seeds_file), judged(questions, Rater(batch_size=3))
    align(recipe, "scripted", seeds, tmp_path / "whole")
    assert [each for each in Rater.log if each != "batch"][:4] == ["opened a-judge", "closed", "opened scripted", "closed"]
    assert Rater.log.count("closed") == sum(each.startswith("opened") for each in Rater.log)
    sizes = "SELECT count(*) FROM outputs WHERE stage LIKE 'mt_bench_judge%' GROUP BY round, batch"
    assert max(select(tmp_path / "whole", sizes)) == (3,)
    for place in (2, 7):  # among MT-Bench's ratings; among the scores of candidates
        Rater.log.clear()
        Rater.fails_at = place
        with pytest.raises(KeyboardInterrupt):
            align(recipe, "scripted", seeds, tmp_path / "broken")
        assert Rater.log[-2:] == ["batch", "closed"]
    Rater.fails_at = 0
    align(recipe, "scripted", seeds, tmp_path / "broken")
    assert [select(tmp_path / "broken", query) for query in RECORD] == [select(tmp_path / "whole", query) for query in RECORD]
    with pytest.raises(UserError, match=r"scorers\[0\]\.engine\.batch_size = 3, now 4"):
        align(judged(questions, Rater(batch_size=4)), "scripted", seeds, tmp_path / "broken")


def test_each_engine_is_asked_for_what_it_has_to_decode_before_anything_loads(
    seeds_file: Path, questions: str, tmp_path: Path
) -> None:
    """The recipe's engine decodes no beams, and the judge's no other temperature: each is asked about its own alone."""
    seeds = read_seeds(seeds_file)
    judge = MTBench(questions, "a-judge", judging=Sampling(temperature=0.0, beams=2))
    with pytest.raises(UserError, match=r"evaluators\.MTBench\.judging: Rater does not decode with beams"):
        align(small(engine=Rater(refused="beams"), evaluators=(judge,)), "scripted", seeds, tmp_path / "one")
    with pytest.raises(UserError, match=r"MTBench\.engine: Rater does not decode with beams"):
        align(small(evaluators=(replace(judge, engine=Rater(refused="beams")),)), "scripted", seeds, tmp_path / "one")
    with pytest.raises(ValueError, match="engine is for another model"):
        Judge(engine=Rater())
    assert not Rater.log and not (tmp_path / "one").exists()
    align(
        small(engine=Rater(refused="beams"), evaluators=(replace(judge, engine=Scripted()),)), "scripted", seeds, tmp_path / "two"
    )


def test_the_command_line_gives_a_judge_its_engine(
    seeds_file: Path, questions: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: object) -> tuple[int, str]:
        code = main([str(each) for each in arguments])
        return code, capsys.readouterr()[code != 0]

    small = ("--encoder", "Hashed", "--trainer", "NullTrainer", "--quiet", "--rounds", 0, "--engine", "Scripted")
    run = (
        "run",
        "isara",
        seeds_file,
        "--model",
        "scripted",
        *small,
        "--mt_bench.file",
        questions,
        "--mt_bench.judge",
        "any-name",
    )
    own = ("--mt_bench.engine", "Scripted", "--mt_bench.engine.window", 100, "--mt_bench.engine.batch_size", 77)
    out, wrong = tmp_path / "out", tmp_path / "wrong"
    code, status = said(*run, *own, "--out", out, "--json")
    assert code == 0 and json.loads(status)["rounds"][0]["metrics"]["mt_bench_unrated"]["value"] == 1.0  # by its window
    again = ("run", "--config", out / "run.yaml")
    assert said(*again)[0] == 0  # the same run
    code, text = said(*again, "--mt_bench.engine", "HF", "--out", wrong)  # it is the judge's engine that looks for the judge
    assert code == 2 and "any-name" in text and len(text.splitlines()) == 1
    code, text = said(*again, "--mt_bench.engine", "OpenAI", "--mt_bench.judge", "base", "--out", wrong)
    assert code == 2 and "scripted" in text  # its tokenizer is asked for before any server
    given, config = tmp_path / "given", tmp_path / "config.yaml"
    config.write_text("mt_bench:\n  engine:\n    class_path: OpenAI\n    init_args:\n      batch_size: 3\n")
    assert said(*run, "--config", config, "--mt_bench.engine", "Scripted", "--out", given)[0] == 0
    with Store.read(given) as store:  # of another class, nothing that the file says of this one
        assert store.identity()["evaluators"][-1]["engine"]["batch_size"] == 8
    for options, message in (
        (("--mt_bench.engine", "vLLM"), "no part named vLLM; there are HF, VLLM, OpenAI, OpenVINO, Ray, Scripted, null"),
        (("--mt_bench.engine", "OpenAI", "--mt_bench.engine.urls", "x"), "there is no option --mt_bench.engine.urls"),
        (("--win_rate.judge", "x", "--win_rate.kind", "reward", "--win_rate.engine", "HF"), "a reward model runs without one"),
    ):
        code, text = said(*run, *options, "--out", wrong)
        assert code == 2 and message in text and not wrong.exists()


def test_a_judge_behind_a_server_says_what_it_says_here(seeds_file: Path, model_folder: Path, tmp_path: Path) -> None:
    asked = [Example(f"{n}", f"Is {n} even?", "Yes, it is.") for n in range(3)]

    def scores(name: str, engine: Engine | None) -> list[float]:
        judge = WinRate(judge=str(model_folder), engine=engine)
        recipe = replace(small(engine=HF(dtype="float32"), evaluators=(judge,)), rounds=0, eval_sampling=Sampling(max_tokens=4))
        align(recipe, str(model_folder), read_seeds(seeds_file), tmp_path / name, held_out=asked)
        found = select(tmp_path / name, "SELECT data FROM outputs WHERE stage LIKE 'win_rate%' ORDER BY slot")
        return [float(json.loads(data)["total"]) for (data,) in found]

    here = scores("here", None)
    with model_server(model_folder, seconds=300) as server:
        assert scores("there", OpenAI(url=server.url)) == pytest.approx(here, abs=1e-3) and len(here) == 3 * 4 * 2
    with pytest.raises(RunFailed, match=re.escape(server.url)):
        scores("gone", OpenAI(url=server.url, patience=0.5))
