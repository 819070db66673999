"""HumanEval, HumanEval+ and MBPP: programs that the model writes, run against their tests in a child that can do nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfalign.errors import UserError, refuse
from selfalign.evaluators import _confined
from selfalign.evaluators._answers import key, written
from selfalign.evaluators._metrics import share
from selfalign.evaluators._rows import read
from selfalign.protocols import Context
from selfalign.seeds.rows import kind, show
from selfalign.types import Completion, Example, Metric, Sampling

_NEXT = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""What ends a function's body that goes on from its head, as in HumanEval's paper (arXiv 2107.03374)."""


@dataclass(frozen=True)
class Code:
    """The share of problems whose first program passes all tests (pass@1, greedy). Runs what the model wrote, see `_confined`."""

    humaneval_file: str = ""
    """HumanEval's rows (HumanEval.jsonl.gz): task_id, prompt, entry_point, test."""
    humaneval_plus_file: str = ""
    """HumanEval+'s, in the same layout (evalplus/humanevalplus on the hub)."""
    mbpp_file: str = ""
    """MBPP's rows (mbpp.jsonl, or the sanitized ones): task_id, text or prompt, code, test_list; tasks 11 to 510 are asked."""
    unsafe_run_code: bool = False
    """Run code that a model wrote; without it nothing is measured but refused. On the command line --unsafe_run_code true."""
    chat: bool = False
    """Ask as a user would, in the run's own format, and run the first block of code of the reply, instead of letting the model go
    on from the head of a function or from MBPP's list of tasks."""
    mbpp_shots: int = 3
    """Of MBPP's tasks 2, 3 and 4 those shown before each task (three in its paper, arXiv 2108.07732); none with `chat`."""
    limit: int = 0
    """Only the first so many problems of each file; 0: all."""
    max_tokens: int = 512
    """New tokens at most; `:cut` says how many answers ran into them."""
    seconds: int = 10
    """Processor time of a program; it is killed after four times as long by the clock."""
    megabytes: int = 2048
    """Memory of a program."""

    def __post_init__(self) -> None:
        refuse(
            self,
            mbpp_shots=not 0 <= self.mbpp_shots <= 3,
            limit=self.limit < 0,
            max_tokens=self.max_tokens < 1,
            seconds=self.seconds < 1,
            megabytes=self.megabytes < 256,
        )

    def check(self) -> str:
        """The hash of the problems. Raises UserError: running code was not allowed, a file cannot be read, or this machine cannot
        confine a process."""
        if not (asked := self._problems()):
            return ""
        if not self.unsafe_run_code:
            raise UserError("this evaluation runs code that a model wrote; where you want that, say --unsafe_run_code true")
        if problem := _confined.confinement():
            raise UserError(problem)
        return key(asked, 64)

    def evaluate(self, context: Context, held_out: Sequence[Example]) -> list[Metric]:
        """For each file, over its problems, as shares with Wilson's interval: `humaneval:pass@1`, whose program passes all
        tests; `humaneval:cut`, whose answer ran into its length; `humaneval:stopped`, whose program ran out of time or memory.
        The same for `humaneval_plus` and `mbpp`. `held_out` is not looked at.

        Demonstrations of an in-context baseline stand before the question with `chat`; else the model is asked alone.

        Raises:
            UserError: as `check`; a problem that does not fit the model's window.
            RunFailed: no process could be started.
        """
        metrics: list[Metric] = []
        for name, asked in self._problems().items():
            if not self.unsafe_run_code:
                self.check()
            answers = self._write(context, name, asked)
            made = [
                problem.replied(answer.text) if self.chat else problem.continued(answer.text)
                for problem, answer in zip(asked, answers, strict=True)
            ]
            ids = [problem.id for problem in asked]
            ended = self._run(context, f"run_{name}_{key((made, self.seconds, self.megabytes))}", ids, made)
            metrics += [
                share(f"{name}:pass@1", ids, [each == "passed" for each in ended]),
                share(f"{name}:cut", ids, [answer.finish == "length" for answer in answers], better="lower"),
                share(f"{name}:stopped", ids, [each == "stopped" for each in ended], better="lower"),
            ]
        return metrics

    def metric_names(self, held_out: Sequence[Example]) -> Sequence[str]:
        return [f"{name}:{figure}" for name in self._files for figure in ("pass@1", "cut", "stopped")]

    def prompts(self, seeds: Sequence[Example]) -> Sequence[Example]:
        """As `Preflight.prompts`. Raises UserError: a file cannot be read."""
        return [Example(each.id, each.question, "") for asked in self._problems().values() for each in asked]

    @property
    def _files(self) -> dict[str, str]:
        named = {"humaneval": self.humaneval_file, "humaneval_plus": self.humaneval_plus_file, "mbpp": self.mbpp_file}
        return {name: file for name, file in named.items() if file}

    def _problems(self) -> dict[str, list[Problem]]:
        found = {
            name: mbpp(file, self.mbpp_shots, chat=self.chat) if name == "mbpp" else humaneval(file)
            for name, file in self._files.items()
        }
        return {name: asked[: self.limit or None] for name, asked in found.items()}

    def _write(self, context: Context, name: str, asked: Sequence[Problem]) -> list[Completion]:
        stops = ("\n[DONE]", "[DONE]") if name == "mbpp" else _NEXT
        sampling = Sampling(max_tokens=self.max_tokens, temperature=0.0, stop=() if self.chat else stops)
        prompts = [Example(each.id, each.question if self.chat else each.text, "") for each in asked]
        # Named by what is asked: HumanEval and HumanEval+ share their prompts, and so their answers.
        stage = f"code_{key(([each.prompt for each in prompts], sampling, self.chat))}"
        found = written(context, prompts, sampling, stage, chat=self.chat)
        for prompt, completion in zip(prompts, found, strict=True):
            if completion.finish == "context":
                room = f"does not fit the model's window with {self.max_tokens} new tokens; lower --code.max_tokens"
                raise UserError(f"{prompt.id}: {show(prompt.prompt)} {room}{' or mbpp_shots' if name == 'mbpp' else ''}")
        return found

    def _run(self, context: Context, stage: str, ids: Sequence[str], programs: Sequence[str]) -> list[str]:
        def work(places: Sequence[int]) -> list[dict[str, Any]]:
            chosen = [programs[place] for place in places]
            return [{"ended": each} for each in _confined.run_all(chosen, self.seconds, self.megabytes)]

        return [row["ended"] for row in context.journal.work(stage, ids, work, 64)]


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
    """Rows with task_id, text (or prompt) and test_list, and code where they are shown; tasks 11 to 510 are asked. Raises
    UserError: the file, or a row of it, with its place; the tasks to be shown are not there."""

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
        have = f"has {len(examples)} of the tasks 2, 3 and 4, and {shots} are to be shown"
        raise UserError(f"{path}: {have}; give the whole file of MBPP, or --code.mbpp_shots {len(examples)}")
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
