"""lm-evaluation-harness's task `ifeval` on the rows of a local file, instruction by instruction."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from selfalign.errors import UserError
from selfalign.evaluators._rows import read
from selfalign.seeds.rows import listed, show
from selfalign.text import counted

TASK = "ifeval"
_PROBE = "A first sentence. A second one."
_FIELDS = {"prompt": str, "instruction_id_list": list, "kwargs": list}

Instruction = tuple[str, dict[str, Any], bool]
"""Its id, the options of its checker, and whether this machine has the data that the checker needs."""


def task(path: str) -> Any:
    """The task over the file's rows; its metrics are those of `LmEval.evaluate`. Raises UserError: no such file, a malformed
    row, an unknown instruction, or one without the options of its checker, which the harness would draw at random; with file
    and line."""
    from datasets import Dataset
    from lm_eval.tasks import TaskManager

    utils = checkers()
    rows = read(path, _row)
    flag = {"aggregation": "mean", "higher_is_better": True}
    parts = {**flag, "aggregation": utils.agg_inst_level_acc}
    metrics = {"prompt_strict": flag, "inst_strict": parts, "prompt_loose": flag, "inst_loose": parts}
    own = {
        "custom_dataset": lambda **_: {"train": Dataset.from_list(rows)},
        "doc_to_target": "instructions",  # what the hash of all that is asked must cover
        "process_results": judge,
        "metric_list": [
            *({"metric": name, **options} for name, options in metrics.items()),
            {"metric": "unscored", "aggregation": "mean", "higher_is_better": False},
        ],
    }
    manager = TaskManager(include_path=str(Path(utils.__file__).parent), include_defaults=False)
    # Options of a task by another's are given where a group names it.
    return manager.load([{"group": "local", "task": [{"task": TASK, **own}]}])["tasks"][TASK]


def judge(row: Mapping[str, str], results: Sequence[str]) -> dict[str, Any]:
    """The metrics of an answer; those that need all instructions only where all can be checked.

    What a checker cannot decide for lack of data it cannot decide for any answer, an empty one included: the prompts behind a
    metric must be the same for every model.
    """
    utils, instructions, found = checkers(), json.loads(row["instructions"]), list[tuple[bool, bool]]()
    for id, options, checkable in instructions:
        # One instruction at a time, so that a checker that fails does not take the prompt's others with it.
        one = utils.InputExample(key=0, instruction_id_list=[id], prompt=row["prompt"], kwargs=[options])
        ways = utils.test_instruction_following_strict, utils.test_instruction_following_loose
        if not checkable:
            continue
        try:
            strict, loose = (bool(way(one, results[0]).follow_instruction_list[0]) for way in ways)
            found.append((strict, loose))
        except Exception:  # a checker's own fault on a model's text, such as JSON nested too deeply
            continue
    whole = len(found) == len(instructions)
    metrics: dict[str, Any] = {}
    for place, way in enumerate(("strict", "loose")):
        followed = [each[place] for each in found]
        metrics |= {f"prompt_{way}": all(followed)} if whole else {}
        metrics |= {f"inst_{way}": followed} if followed else {}
    return {**metrics, "unscored": not whole}


def lacking(task: Any) -> str:
    """Which instructions of the task this machine has no data to check, and how to get it; "" where it has."""
    every = [each for row in task.eval_docs for each in json.loads(row["instructions"])]
    if not (names := [id for id, _, checkable in every if not checkable]):
        return ""
    what = f"{counted(len(names), 'instruction')} cannot be checked without data of NLTK ({listed(sorted(set(names)))})"
    return f"IFEval: {what}; get it with: python -m nltk.downloader punkt_tab"


@cache
def checkers() -> Any:
    """The harness's module for IFEval, with its checkers. Its import would download NLTK's data on a main process: not here."""
    rank = os.environ.get("LOCAL_RANK")
    os.environ["LOCAL_RANK"] = "-1"
    try:
        from langdetect import DetectorFactory
        from lm_eval.tasks.ifeval import utils
    except ImportError as error:
        raise UserError(f"IFEval needs the package {error.name}; install it with: pip install 'selfalign[eval]'") from error
    finally:
        del os.environ["LOCAL_RANK"]
        os.environ.update({} if rank is None else {"LOCAL_RANK": rank})
    DetectorFactory.seed = 0  # without one, the language found in a short text is a matter of chance
    return utils


def _row(row: Mapping[str, Any]) -> dict[str, str]:
    """The prompt with its `Instruction`s as JSON: the file's own options differ in form from row to row. Raises ValueError: what
    is wrong with the row."""
    for name, kind in _FIELDS.items():
        if name not in row:
            raise ValueError(f"has no field {name!r}; add it (IFEval's format)")
        if not isinstance(row[name], kind) or not (row[name].strip() if kind is str else row[name]):
            raise ValueError(f'"{name}" must be a {"text" if kind is str else "list"} that is not empty; mend it')
    ids, given = row["instruction_id_list"], row["kwargs"]
    if len(ids) != len(given):
        raise ValueError(f'"kwargs" has {len(given)} items; give one object for each of the {len(ids)} instructions')
    instructions = [_instruction(*each) for each in zip(ids, given, strict=True)]
    return {"prompt": row["prompt"], "instructions": json.dumps(instructions)}


def _instruction(id: Any, given: Any) -> Instruction:
    known = checkers().instructions_registry.INSTRUCTION_DICT
    if not isinstance(id, str) or id not in known:
        raise ValueError(f"{show(str(id))} is no instruction of the harness; it has {listed(sorted(known), 30)}")
    if not isinstance(given, dict):
        raise ValueError(f"kwargs of {id} are no object; make them one")
    options, checker = {name: value for name, value in given.items() if value is not None}, known[id](id)
    try:
        checker.build_description(**options)
    except Exception as error:  # whatever a checker makes of options it does not expect
        raise ValueError(f"{id} cannot use the kwargs {show(json.dumps(options))} ({error}); mend them") from error
    # The harness takes what is 0 or empty for not given, too.
    if lacking := [name for name in checker.get_instruction_args_keys() if not options.get(name)]:
        raise ValueError(f"{id} lacks {listed(lacking)} in its kwargs, and would be checked by a random one; add it")
    try:
        checker.check_following(_PROBE)
    except LookupError:  # NLTK's, where it finds no data
        return id, options, False
    return id, options, True
