"""The questions of MT-Bench with their reference answers, from files as its authors publish them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from selfalign.evaluators._rows import read
from selfalign.seeds.rows import kind, show, text_of

TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
"""How a question of a category is answered, as in its authors' scripts; others at their default, 0.7."""
REFERENCED = ("math", "reasoning", "coding")
"""Categories that are judged beside a reference answer."""


@dataclass(frozen=True)
class Question:
    id: str
    category: str
    turns: tuple[str, str]
    temperature: float
    references: tuple[str, ...] = ()
    """One for each turn, or none."""

    @property
    def referenced(self) -> tuple[str, ...]:
        """The reference answers that its judge is shown."""
        return self.references if self.category in REFERENCED else ()


def read_questions(path: str, references: str = "") -> list[Question]:
    """Rows with question_id, category, turns (two texts) and, if they are there, reference (two texts) and required_temperature.

    Args:
        references: rows with question_id and choices, whose first one has two turns (reference_answer/gpt-4.jsonl); they stand in
            front of those of the questions.

    Raises:
        UserError: a file, or a row of it, with its place; a question twice.
    """
    found: dict[str, Question] = {}

    def add(fields: Mapping[str, Any]) -> None:
        question = _question(fields)
        if found.setdefault(question.id, question) is not question:
            raise ValueError(f"question_id {question.id} is there twice; remove one")

    def answer(fields: Mapping[str, Any]) -> None:
        if (id := _id(fields)) in found:
            choices = fields.get("choices")
            first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], Mapping) else {}
            found[id] = replace(found[id], references=_two(first, "turns", "choices[0]."))

    read(path, add)
    if references:
        read(references, answer)
    return list(found.values())


def _question(fields: Mapping[str, Any]) -> Question:
    id, temperature, category = _id(fields), fields.get("required_temperature"), text_of(fields, "category")
    if temperature is not None and (isinstance(temperature, bool) or not isinstance(temperature, int | float) or temperature < 0):
        raise ValueError(f"required_temperature is {kind(temperature)}; write a number of at least 0")
    own = TEMPERATURES.get(category, 0.7) if temperature is None else float(temperature)
    references = _two(fields, "reference") if fields.get("reference") else ()
    turns = _two(fields, "turns")
    return Question(id, category, (turns[0], turns[1]), own, references)


def _id(fields: Mapping[str, Any]) -> str:
    id = fields.get("question_id", fields.get("prompt_id"))
    if isinstance(id, bool) or not isinstance(id, int | str):
        raise ValueError(f"question_id is {'missing' if id is None else kind(id)}; a number or text must stand there")
    return f"mt_bench/{id}"


def _two(fields: Mapping[str, Any], name: str, inside: str = "") -> tuple[str, ...]:
    value = fields.get(name, fields.get("prompt") if name == "turns" else None)
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(each, str) and each.strip() for each in value):
        raise ValueError(f"{show(inside + name)} must be a list of two texts, one for each turn")
    return tuple(value)
