"""Seed files in the format of Self-Instruct's seed tasks: an instruction with a list of instances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from selfalign.errors import SeedError
from selfalign.seeds.read import read_seeds
from selfalign.text import join_task, split_task
from tests.files import write_rows


def row(**changes: Any) -> dict[str, Any]:
    task = {
        "id": "task-1",
        "name": "tyres",
        "instruction": "Say how long the tyres will last.",
        "instances": [{"input": "Driven 40 km a day.", "output": "About four years."}],
        "is_classification": False,
    }
    return {name: value for name, value in {**task, **changes}.items() if value is not ...}


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "tasks.jsonl"
    return write_rows(path, rows)


def refusal(path: Path) -> str:
    with pytest.raises(SeedError) as caught:
        read_seeds(path)
    return str(caught.value).removeprefix(str(path))


def test_instruction_and_input_become_the_prompt(tmp_path: Path) -> None:
    (example,) = read_seeds(write(tmp_path, row()))
    assert example.id == "task-1"
    assert example.prompt == "Say how long the tyres will last.\n\nDriven 40 km a day."
    assert split_task(example.prompt) == ("Say how long the tyres will last.", "Driven 40 km a day.")
    assert example.response == "About four years."
    assert example.metadata == {"name": "tyres", "is_classification": "false"}


@pytest.mark.parametrize("input", ["", None, ...])
def test_a_task_without_input_is_its_instruction(tmp_path: Path, input: Any) -> None:
    instance = {name: value for name, value in {"input": input, "output": "Yes."}.items() if value is not ...}
    (example,) = read_seeds(write(tmp_path, row(instances=[instance])))
    assert example.prompt == "Say how long the tyres will last."


def test_every_instance_is_an_example(tmp_path: Path) -> None:
    several = [{"input": f"Driven {km} km a day.", "output": f"For {km} km: long."} for km in (10, 20, 30)]
    read = read_seeds(write(tmp_path, row(instances=several), row(id=..., instruction="Name a tyre maker.")))
    assert [example.id for example in read] == ["task-1.1", "task-1.2", "task-1.3", "seed-0004"]
    assert [example.slot for example in read] == [0, 1, 2, 3]
    assert read[1].response == "For 20 km: long."


def test_texts_stay_as_they_stand(tmp_path: Path) -> None:
    (example,) = read_seeds(write(tmp_path, row(instances=[{"input": " - one\n- two ", "output": " Füße \n"}])))
    assert example.prompt.endswith("\n\n - one\n- two ") and example.response == " Füße \n"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"instances": "none"}, (":1:", "'instances'", "text", "not a list")),
        ({"instances": []}, (":1:", "'instances'", "empty")),
        ({"instances": ["x"]}, (":1:", "'instances[1]'", "text", "object")),
        ({"instances": [{"input": "x"}]}, (":1:", "'output'", "missing")),
        ({"instances": [{"input": 7, "output": "x"}]}, (":1:", "'input'", "number 7")),
        ({"instances": [{"input": "", "output": "a"}, {"input": "x", "output": " "}]}, (":1, instance 2:", "'output'", "empty")),
        ({"instances": [{"input": "x", "output": "a"}] * 2}, (":1, instance 2:", "same", "instance 1")),
        ({"instances": [{"output": "a", "name": "x"}]}, (":1:", "'name'", "keep one")),
        ({"output": "x"}, (":1:", "mixes", "'instances'", "'output'")),
        ({"instruction": ..., "instances": [{"output": "a"}]}, (":1:", "no prompt")),
        ({"instruction": "  "}, (":1:", "'instruction'", "empty")),
    ],
)
def test_malformed_rows_are_refused_with_place_and_remedy(
    tmp_path: Path, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    message = refusal(write(tmp_path, row(**changes)))
    assert all(word in message for word in words), message


def test_a_column_called_instances_of_another_form_stays_metadata(tmp_path: Path) -> None:
    path = write(tmp_path, {"prompt": "Why?", "response": "So.", "instances": [1, 2]})
    assert read_seeds(path)[0].metadata == {"instances": "[1,2]"}


@pytest.mark.parametrize(
    "prompt", ["One line.", "Sum up.\n\nA text.", "Sum up.\n\nA text.\n\nMore.", "", "Ends in one.\n\n", "\n\n"]
)
def test_a_prompt_is_its_parts_joined(prompt: str) -> None:
    assert join_task(*split_task(prompt)) == prompt
