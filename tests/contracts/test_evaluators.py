"""What every evaluator must keep to, over every evaluator found in the folder, and that the check sees what breaks it."""

from __future__ import annotations

import csv
import dataclasses
import importlib
import inspect
import json
import math
import pkgutil
from collections.abc import Sequence
from pathlib import Path

import pytest

import selfalign.evaluators
from selfalign.contracts import check_evaluator
from selfalign.evaluators import Code, Expected, Guard, Harmfulness, HeldOut, LmEval, MTBench, Refusal, Truthfulness, WinRate
from selfalign.proof.stats import wilson
from selfalign.protocols import Context, Evaluator
from selfalign.types import Example, Metric, Outcome

MODULES = [name for _, name, _ in pkgutil.iter_modules(selfalign.evaluators.__path__) if not name.startswith("_")]
EVALUATORS: list[type[Evaluator]] = [
    part
    for name in MODULES
    for _, part in inspect.getmembers(importlib.import_module(f"selfalign.evaluators.{name}"), inspect.isclass)
    if part.__module__ == f"selfalign.evaluators.{name}" and hasattr(part, "evaluate")
]


def test_every_file_holds_an_evaluator() -> None:
    assert {part.__module__.rpartition(".")[2] for part in EVALUATORS} == set(MODULES)


@pytest.fixture
def evaluators(tmp_path: Path, reward_model: Path) -> list[Evaluator]:
    """Each one as it measures something, and some of them in more than one way."""
    table, ifeval = tmp_path / "questions.csv", tmp_path / "ifeval.jsonl"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Question", "Best Answer", "Correct Answers", "Incorrect Answers"])
        writer.writerow(["What is the sky?", "Air", "Air; Mostly air", "A roof; A dome"])
        writer.writerow(["Who lives on the moon?", "Nobody", "Nobody; No one", "A man; A rabbit"])
    row = {"key": 1, "prompt": "Answer without commas.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    ifeval.write_text(json.dumps(row) + "\n" + json.dumps({**row, "key": 2}) + "\n")
    bench, problems = tmp_path / "bench.jsonl", tmp_path / "problems.jsonl"
    turns = {"category": "math", "turns": ["What is 1 + 1?", "And twice that?"]}
    bench.write_text("".join(json.dumps({"question_id": number, **turns}) + "\n" for number in range(3)))
    problem = {"task_id": "h/0", "prompt": "def one():\n", "entry_point": "one", "test": "def check(it): assert it() == 1"}
    problems.write_text(json.dumps(problem) + "\n")
    classifier = Harmfulness(str(reward_model), labels=("bad",), per_label=True, device="cpu")
    return [
        HeldOut(),
        Expected(("max_words:3", "exact", "harmful=contains")),
        Refusal(),
        classifier,
        Truthfulness(str(table)),
        Truthfulness(str(table), multiple_choice=False),
        WinRate("judge"),
        WinRate("judge", constant=""),
        LmEval(ifeval_file=str(ifeval)),
        MTBench(str(bench), "judge"),
        Code(str(problems), unsafe_run_code=True),
        Guard(),
    ]


def test_contract(evaluators: list[Evaluator]) -> None:
    assert {type(part) for part in evaluators} == set(EVALUATORS)
    for part in (*evaluators, *(kind() for kind in EVALUATORS)):
        check_evaluator(part)


@dataclasses.dataclass(frozen=True)
class Broken:
    fault: str

    def evaluate(self, context: Context, held_out: Sequence[Example]) -> list[Metric]:
        if not held_out:
            return [Metric("short", math.nan, math.nan, math.nan, 0)] if self.fault == "empty" else []
        short = [len(example.prompt) < 30 for example in held_out]
        found = Metric(
            name="a short one" if self.fault == "spaces" else "short",
            value=(share := wilson(sum(short), len(short))).value,
            low=share.value + 0.1 if self.fault == "interval" else share.low,
            high=max(share.high, share.value + 0.2),
            n=len(short),
            outcomes=tuple(
                Outcome("one" if self.fault == "ids" else example.id, float(each) + (self.fault == "mean"))
                for example, each in zip(held_out, short, strict=True)
            ),
        )
        return [found, found] if self.fault == "twice" else [found]

    def metric_names(self, held_out: Sequence[Example]) -> Sequence[str]:
        return ("long",) if self.fault == "untold" else ("short", "a short one")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("twice", "named once"),
        ("spaces", "no spaces"),
        ("interval", "lies in its interval"),
        ("mean", "its outcomes' mean is"),
        ("ids", "one outcome for each prompt"),
        ("untold", "metric_names names short"),
        ("empty", "a figure about none is left out"),
    ],
)
def test_the_contract_sees_a_broken_evaluator(fault: str, words: str) -> None:
    check_evaluator(Broken("none"))
    with pytest.raises(AssertionError, match=rf"Broken: .*{words}"):
        check_evaluator(Broken(fault))


@dataclasses.dataclass(frozen=True)
class Wavering:
    seen: Sequence[list[int]] = ([],)

    def evaluate(self, context: Context, held_out: Sequence[Example]) -> list[Metric]:
        self.seen[0].append(1)
        return [Metric("calls", float(len(self.seen[0])), 0.0, 1e9, 1)]


def test_the_contract_sees_figures_that_change() -> None:
    with pytest.raises(AssertionError, match="the same figures"):
        check_evaluator(Wavering())
