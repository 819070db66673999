"""Invented data for I-SHEEP's tables at `--scale tiny`, in the public layouts."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from papers.isheep._benchmarks import ALPACA as ALPACA

_THINGS = ("a train timetable", "a shopping list", "a short poem", "a letter")
_VERBS = ("Describe", "Sort", "Compare", "Rewrite")


def _rows(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def seed_tasks(file: Path) -> None:
    """Sixteen, every other one with an input."""
    tasks = [(verb, thing) for verb in _VERBS for thing in _THINGS]
    _rows(
        file,
        (
            {
                "id": f"seed_task_{at}",
                "name": thing,
                "instruction": f"{verb} {thing} in a way that number {at} understands.",
                "instances": [{"input": f"{thing} of day {at}" if at % 2 else "", "output": f"It is number {at}."}],
                "is_classification": False,
            }
            for at, (verb, thing) in enumerate(tasks)
        ),
    )


def questions(file: Path) -> None:
    """Two of each of four categories."""
    kinds = ("writing", "math", "coding", "stem")
    _rows(
        file,
        (
            {"question_id": 81 + at, "category": kinds[at % 4], "turns": [f"What about {at}?", f"And about {at + 1}?"]}
            for at in range(8)
        ),
    )


def references(file: Path) -> None:
    turns = ["It is so.", "It is otherwise."]
    _rows(file, ({"question_id": 81 + at, "choices": [{"index": 0, "turns": turns}]} for at in range(8) if at % 4 in (1, 2)))


def ifeval(file: Path) -> None:
    """Prompts whose instructions need no data of NLTK."""
    ids = ("punctuation:no_comma", "change_case:english_lowercase")
    _rows(
        file,
        (
            {"key": at, "prompt": f"Say something about {at}.", "instruction_id_list": [ids[at % 2]], "kwargs": [{}]}
            for at in range(8)
        ),
    )


def _functions() -> list[dict[str, Any]]:
    return [
        {
            "task_id": f"HumanEval/{at}",
            "prompt": f'def add_{at}(x):\n    """x and {at}."""\n',
            "entry_point": f"add_{at}",
            "canonical_solution": f"    return x + {at}\n",
            "test": f"def check(candidate):\n    assert candidate(1) == {at + 1}\n",
        }
        for at in range(4)
    ]


def humaneval(file: Path) -> None:
    with gzip.open(file, "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in _functions())


def mbpp(file: Path) -> None:
    _rows(
        file,
        (
            {
                "task_id": number,
                "text": f"Write a function that adds {number}.",
                "code": f"def add(x):\n  return x + {number}",
                "test_list": [f"assert add(1) == {number + 1}"],
                "test_setup_code": "",
            }
            for number in (2, 3, 4, 11, 12, 13)
        ),
    )


def triviaqa(file: Path) -> None:
    _rows(
        file,
        ({"question": f"Who was number {at}", "answer": {"value": "Nobody", "aliases": ["Nobody", "No one"]}} for at in range(8)),
    )


MAKERS: Mapping[str, Callable[[Path], None]] = {
    "seed_tasks.jsonl": seed_tasks,
    "mt_bench_questions.jsonl": questions,
    "mt_bench_references.jsonl": references,
    "ifeval.jsonl": ifeval,
    "HumanEval.jsonl.gz": humaneval,
    "HumanEvalPlus.jsonl": lambda file: _rows(file, _functions()),
    "mbpp.jsonl": mbpp,
    "triviaqa.jsonl": triviaqa,
}
