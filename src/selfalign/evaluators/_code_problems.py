"""The problems of HumanEval, HumanEval+ and MBPP, from files in the layouts in which they are published."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from selfalign.errors import UserError
from selfalign.evaluators._rows import read
from selfalign.seeds.rows import kind, show

_TEST_SPLIT = range(11, 511)
_SHOWN = (2, 3, 4)
"""MBPP's own split: its paper asks tasks 11 to 510 and shows tasks 2, 3 and 4."""
_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class Problem:
    """What a model is asked, and what makes its answer a program."""

    id: str
    text: str
    """What a model goes on from."""
    question: str
    """What it is asked as a user would."""
    before: str
    """Code in front of the answer, for an answer that goes on from `text`."""
    tests: str
    entry: str = ""
    """The function that is to be written, where its head stands in `before`."""

    def continued(self, answer: str) -> str:
        """The program of an answer that goes on from `text`. An engine takes the spaces around a text away: the indentation of
        a function's first line is put back."""
        return f"{self.before}{'    ' if self.entry else ''}{answer}\n{self.tests}\n"

    def replied(self, answer: str) -> str:
        """The program of an answer to `question`: its first block of code, or all of it where it has none."""
        code = found[1] if (found := _BLOCK.search(answer)) else answer
        if self.entry and not re.search(rf"^\s*def\s+{re.escape(self.entry)}\b", code, re.MULTILINE):
            return self.continued(code.strip())
        return f"{self.before}\n{code}\n{self.tests}\n"


def humaneval(path: str) -> list[Problem]:
    """Rows with task_id, prompt (head and docstring of a function), entry_point and test, which defines `check`.

    HumanEval+ has the same fields with more in `test` (evalplus/humanevalplus on the hub).

    Raises:
        UserError: the file, or a row of it, with its place.
    """

    def problem(fields: Mapping[str, Any]) -> Problem:
        id, prompt, entry, test = (_text(fields, name) for name in ("task_id", "prompt", "entry_point", "test"))
        if not re.search(rf"^def\s+{re.escape(entry)}\b", prompt, re.MULTILINE):
            raise ValueError(f"the prompt does not define {show(entry)}, its entry_point")
        if fields.get("plus_input") is not None:
            raise ValueError("has plus_input, whose tests are not in test; take the rows of evalplus/humanevalplus on the hub")
        wish = "Complete this Python function. Reply with the whole function in one block of code."
        question = f"{wish}\n\n```python\n{prompt.rstrip()}\n```"
        return Problem(id, prompt, question, prompt, f"{test}\n\ncheck({entry})", entry)

    return read(path, problem)


def mbpp(path: str, shots: int, *, chat: bool) -> list[Problem]:
    """Rows with task_id, text (or prompt) and test_list, and code where they are shown; tasks 11 to 510 are asked.

    Raises:
        UserError: the file, or a row of it, with its place; the tasks to be shown are not there.
    """

    def number(fields: Mapping[str, Any]) -> int:
        if not isinstance(id := fields.get("task_id"), int):
            raise ValueError(f"task_id is {kind(id)} where a whole number must stand")
        return id

    def problem(fields: Mapping[str, Any]) -> Problem:
        task = _text(fields, "text" if "text" in fields else "prompt")
        tests, imports = (_texts(fields, name) for name in ("test_list", "test_imports"))
        if not tests:
            raise ValueError("test_list is empty")
        question = f"You are an expert Python programmer, and here is your task: {task} Your code should pass these tests:\n\n"
        question += "\n".join(tests)
        setup = [*imports, fields.get("test_setup_code") or "", *tests]
        return Problem(f"mbpp/{number(fields)}", f"{question}\n[BEGIN]\n", question, "", "\n".join(setup))

    def shown(fields: Mapping[str, Any]) -> str:
        return f"{problem(fields).text}{_text(fields, 'code')}\n[DONE]\n\n"

    found = read(path, lambda fields: (number(fields), problem(fields), shown(fields) if number(fields) in _SHOWN else ""))
    asked = [each for id, each, _ in found if id in _TEST_SPLIT]
    if not asked:
        raise UserError(f"{path}: has none of MBPP's test tasks, 11 to 510")
    examples = [text for id, _, text in sorted(found, key=lambda each: each[0]) if text][:shots]
    if chat or not shots:
        return asked
    if len(examples) < shots:
        have = f"has {len(examples)} of the tasks 2, 3 and 4"
        raise UserError(
            f"{path}: {have}, and {shots} are to be shown; give the whole file of MBPP, or --code.mbpp_shots {len(examples)}"
        )
    before = "".join(examples)
    return [Problem(each.id, before + each.text, each.question, each.before, each.tests) for each in asked]


def _text(fields: Mapping[str, Any], name: str) -> str:
    """A text as it stands, of any length: the tests of HumanEval+ are long."""
    value = fields.get(name)
    if not isinstance(value, str) or not value.strip():
        what = "missing" if value is None else "empty" if isinstance(value, str) else kind(value)
        raise ValueError(f"field {show(name)} is {what}; a text must stand there")
    return value


def _texts(fields: Mapping[str, Any], name: str) -> list[str]:
    value = fields.get(name) or []
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"field {show(name)} is no list of texts")
    return value
