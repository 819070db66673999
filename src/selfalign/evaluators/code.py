"""HumanEval, HumanEval+ and MBPP: programs that the model writes, run against their tests in a child that can do nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfalign.errors import UserError
from selfalign.evaluators import _code_problems as problems
from selfalign.evaluators import _confined
from selfalign.evaluators._answers import key, written
from selfalign.evaluators._code_problems import Problem
from selfalign.evaluators._metrics import share
from selfalign.protocols import Context
from selfalign.seeds.rows import show
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
        for name, wrong in (
            ("mbpp_shots", not 0 <= self.mbpp_shots <= 3),
            ("limit", self.limit < 0),
            ("max_tokens", self.max_tokens < 1),
            ("seconds", self.seconds < 1),
            ("megabytes", self.megabytes < 256),
        ):
            if wrong:
                raise ValueError(f"Code: {name} = {getattr(self, name)!r} is out of range")

    def check(self) -> str:
        """The hash of the problems.

        Raises:
            UserError: running code was not allowed, a file cannot be read, or this machine cannot confine a process.
        """
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
        files = {"humaneval": self.humaneval_file, "humaneval_plus": self.humaneval_plus_file, "mbpp": self.mbpp_file}
        return [f"{name}:{figure}" for name, file in files.items() if file for figure in ("pass@1", "cut", "stopped")]

    def prompts(self, seeds: Sequence[Example]) -> Sequence[Example]:
        """As `Preflight.prompts`.

        Raises:
            UserError: a file cannot be read.
        """
        return [Example(each.id, each.question, "") for asked in self._problems().values() for each in asked]

    def _problems(self) -> Mapping[str, list[Problem]]:
        found: dict[str, list[Problem]] = {}
        if self.humaneval_file:
            found["humaneval"] = problems.humaneval(self.humaneval_file)
        if self.humaneval_plus_file:
            found["humaneval_plus"] = problems.humaneval(self.humaneval_plus_file)
        if self.mbpp_file:
            found["mbpp"] = problems.mbpp(self.mbpp_file, self.mbpp_shots, chat=self.chat)
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
