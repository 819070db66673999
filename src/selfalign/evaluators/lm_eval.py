"""Tasks of EleutherAI's lm-evaluation-harness and IFEval on the model in memory: did it keep what it knew, does it obey?"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from selfalign.errors import UserError, refuse
from selfalign.evaluators._answers import key
from selfalign.protocols import Context
from selfalign.types import Example, Metric

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LmEval:
    """The knowledge and instruction probe, before training and after each round. Needs `pip install 'selfalign[eval]'`.

    Prompts, few-shot examples and scoring are the harness's own; the model runs through the recipe's engine and the run's
    journal, so nothing is loaded twice and an interrupted evaluation goes on where it stopped.
    """

    tasks: tuple[str, ...] = ()
    """Names of the harness's tasks, groups and tags (their data come from the hub), NAME=FILE for a task of the harness on a
    local file of its data set's layout (.csv, .json, .jsonl, .parquet; truthfulqa_mc1=multiple_choice.parquet), files of a task
    (.yaml; its data may be a local file), or folders of such files. A group is one figure over all of its prompts."""
    ifeval_file: str = ""
    """Rows in IFEval's format, one JSON object a line: prompt, instruction_id_list, kwargs; asked as the harness's task `ifeval`,
    and measured instruction by instruction."""
    limit: int = 0
    """Only the first so many prompts of each task and of IFEval; 0: all."""
    num_fewshot: int | None = None
    """Examples shown by the harness before each question; null: as the task says. Tasks that fix none keep none."""
    max_tokens: int = 1280
    """New tokens at most (a task's own smaller limit holds). 1,280 is IFEval's; fewer are faster, and `ifeval:cut` says how
    many answers they cut."""
    chat: bool = False
    """Ask generation tasks as a user would, in the run's own format, instead of as text to go on from. Tasks by
    log-likelihood are always raw text (the harness's default), IFEval is always asked as a user would."""

    def __post_init__(self) -> None:
        refuse(
            self,
            tasks=len(set(self.tasks)) < len(self.tasks) or not all(self.tasks),
            limit=self.limit < 0,
            num_fewshot=self.num_fewshot is not None and self.num_fewshot < 0,
            max_tokens=self.max_tokens < 1,
        )

    def check(self) -> str:
        """The hash of everything asked, the harness's version, and which instructions this machine can check.

        Reads (and where they come from the hub, downloads) the tasks' data; naming a task of the harness takes some seconds
        for its index.

        Raises:
            UserError: the harness is not installed; a task is unknown, cannot be loaded, or asks for what is not supported
                (pictures, running code that the model wrote, other decoding); a malformed row, with file and line.
        """
        if not self._measures:
            return ""
        harness, asked = self._loaded()
        if self.ifeval_file and (text := harness.ifeval.lacking(asked["ifeval"]["ifeval"])):
            _log.warning(text)
        return key((version("lm_eval"), harness.fingerprint(asked, self.limit, self.max_tokens)), 64)

    def evaluate(self, context: Context, held_out: Sequence[Example]) -> list[Metric]:
        """`TASK:METRIC` (`TASK:METRIC:FILTER` where a task filters its answers in several ways) for every metric of a task, and
        `TASK:cut`, the share of prompts to which an answer ran into its length, where a task has answers written.

        A metric that is a mean over prompts carries their outcomes: a share with Wilson's interval, another mean with a t
        interval. One that is not (perplexity, F1 over the corpus …) has value ± 1.96 bootstrap standard errors, as the
        harness reports them, and no outcomes. Every metric but a share is left out below two prompts.

        For IFEval (Zhou et al. 2023) `ifeval:prompt_strict` and `ifeval:prompt_loose`, shares of prompts with all
        instructions followed, and `ifeval:inst_strict` and `ifeval:inst_loose`, shares of instructions (t interval over
        prompts, since the instructions of one prompt are not independent; loose: in any of 8 variants without first line,
        last line, asterisks). `ifeval:unscored` is the share of prompts with an instruction whose checker cannot decide;
        such prompts are no part of the two prompt metrics, such instructions none of the other two. The checkers that split
        sentences need NLTK's data: `python -m nltk.downloader punkt_tab`, once; nothing is downloaded here. Empty answers
        follow nothing.

        Greedy, unless a task samples. Few-shot examples are drawn as by the harness. A text too long for log-likelihood loses its
        beginning, as there (a warning says how often); a prompt that does not fit with its answer stops the run instead.
        Unlike the harness's, generated texts come without the spaces around them. Demonstrations of an in-context baseline
        stand before IFEval's prompts, and before those of tasks with `chat`; other tasks ask the model alone.
        `held_out` is not looked at.

        Raises:
            UserError: as `check`; a prompt that does not fit the model's window, or a text of a perplexity task.
            RunFailed: a task's score is not a finite number.
        """
        if not self._measures:
            return []
        harness, asked = self._loaded()
        metrics: list[Metric] = harness.measure(context, asked, self.limit, self.max_tokens, self.chat)
        return metrics

    def prompts(self, seeds: Sequence[Example]) -> Sequence[Example]:
        """As `Preflight.prompts`: the prompts of tasks and of IFEval as they stand without few-shot examples. Raises UserError:
        as `check`."""
        if not self._measures:
            return []
        harness, asked = self._loaded()
        found: list[Example] = harness.prompts(asked, self.limit)
        return found

    def metric_names(self, held_out: Sequence[Example]) -> Sequence[str]:
        """As `Preflight.metric_names`; the harness's tasks give theirs with their data alone."""
        figures = ("prompt_strict", "inst_strict", "prompt_loose", "inst_loose", "unscored", "cut")
        return (*(("*:*",) if self.tasks else ()), *(f"ifeval:{name}" for name in figures if self.ifeval_file))

    @property
    def _measures(self) -> bool:
        return bool(self.tasks or self.ifeval_file)

    def _loaded(self) -> tuple[Any, Any]:
        """The module about the harness, which is only imported where it is used, and the tasks with their data."""
        try:
            version("lm_eval")
        except PackageNotFoundError:
            raise UserError("LmEval needs the package lm_eval; install it with: pip install 'selfalign[eval]'") from None
        from selfalign.evaluators import _harness_tasks

        return _harness_tasks, _harness_tasks.load(self.tasks, self.ifeval_file, self.num_fewshot)
