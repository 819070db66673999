"""Tasks of lm-evaluation-harness: loading them, what they ask, and their scores as metrics."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import io
import random
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from selfalign.errors import RunFailed, UserError
from selfalign.evaluators import _harness_ifeval as ifeval
from selfalign.evaluators._metrics import mean, outcomes, share
from selfalign.proof.stats import mean_interval
from selfalign.protocols import Context
from selfalign.seeds.rows import listed
from selfalign.types import Better, Example, Metric

_RESAMPLES = 200

Units = Mapping[str, Mapping[str, Any]]
"""What is reported as one thing, by name: a task alone, or the tasks of a group; the harness's task objects by their names."""


@dataclass(frozen=True)
class Scores:
    """A metric's value for each prompt, in order, and what makes one figure of them."""

    ids: list[str]
    values: list[Any]
    """Numbers, or whatever else `aggregate` understands."""
    aggregate: Callable[[list[Any]], Any]
    better: Better

    @property
    def is_mean(self) -> bool:
        from lm_eval.api.metrics import mean as plain

        return self.aggregate is plain and all(isinstance(value, int | float | np.number | np.bool_) for value in self.values)


def load(specs: Sequence[str], ifeval_file: str, num_fewshot: int | None) -> Units:
    """The tasks with their data, ready to ask. Raises UserError: an unknown name, a file that is missing or no task, data out of
    reach, a task named twice, one that wants pictures or runs code the model wrote."""
    units: dict[str, dict[str, Any]] = {}
    for spec in (*specs, *([""] if ifeval_file else ())):
        with _explained(spec or ifeval_file), _seeded(), _silent():
            for unit, tasks in _load(spec) if spec else [(ifeval.TASK, {ifeval.TASK: ifeval.task(ifeval_file)})]:
                taken = {*units, *(name for each in units.values() for name in each)}
                if twice := sorted(taken & {unit, *tasks}):
                    raise UserError(f"LmEval.tasks: {listed(twice)} of {spec or ifeval_file!r} is named twice; name it once")
                units[unit] = tasks
                for name, task in tasks.items():
                    _prepare(name, task, num_fewshot)
    return units


def _load(spec: str) -> Iterator[tuple[str, dict[str, Any]]]:
    from lm_eval.tasks import TaskManager

    path, (known, _, data) = Path(spec).expanduser(), spec.partition("=")
    if data and not path.exists():
        yield known, _on(known, Path(data).expanduser())
        return
    if path.is_dir():
        manager = TaskManager(include_path=str(path), include_defaults=False)
        names = _outermost(manager)
        if not names:
            raise UserError(f"LmEval.tasks: {spec}: the folder holds no file of a task (.yaml with the key task)")
    elif path.is_file():
        if re.search(r"^group\s*:", path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE):
            raise UserError(f"LmEval.tasks: {spec}: is the file of a group; name its folder instead")
        manager, names = TaskManager(include_defaults=False), [str(path)]
    elif path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise UserError(f"LmEval.tasks: {spec}: no such file; check the path")
    else:
        manager, names = _known(spec), [spec]
    for name in names:
        loaded = manager.load([name])
        if loaded["groups"]:
            yield next(iter(loaded["groups"])), loaded["tasks"]
        else:
            yield from ((task, {task: loaded["tasks"][task]}) for task in loaded["tasks"])


def _known(name: str) -> Any:
    """The harness's own tasks, this one among them."""
    manager = _every_task()
    if name not in manager.task_index:
        near = difflib.get_close_matches(name, manager.all_tasks, 3)
        hint = f"did you mean {listed(near)}?" if near else "list them with: lm_eval ls tasks"
        raise UserError(f"LmEval.tasks: {name!r} is no task of lm-evaluation-harness; {hint}")
    return manager


def _on(name: str, data: Path) -> dict[str, Any]:
    """A task of the harness on a local file of its data set's layout, which stands for all of its splits."""
    kind = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}.get(data.suffix.lower())
    if kind is None or not data.is_file():
        what = "no such file; check the path" if kind else "name a .csv, .json, .jsonl or .parquet file"
        raise UserError(f"LmEval.tasks: {name}={data}: {what}")
    splits: dict[str, Any] = {"test_split": "test", "validation_split": None, "training_split": None, "fewshot_split": None}
    local = {"dataset_path": kind, "dataset_name": None, "dataset_kwargs": {"data_files": {"test": str(data)}}, **splits}
    # Options of a task by another's are given where a group names it.
    tasks: dict[str, Any] = _known(name).load([{"group": "local", "task": [{"task": name, **local}]}])["tasks"]
    return tasks


def _outermost(manager: Any) -> list[str]:
    """A folder's groups that are in no other one, and its tasks that are in none."""
    inner = {
        child for group in manager.all_groups for children in manager.load([group])["group_map"].values() for child in children
    }
    return [name for name in (*manager.all_groups, *manager.all_subtasks) if name not in inner]


@cache
def _every_task() -> Any:
    """The harness's own tasks: reading 14,000 files takes seconds, once."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _prepare(name: str, task: Any, num_fewshot: int | None) -> None:
    from lm_eval.defaults import DEFAULT_OTHER_SEED

    for what, asks, hint in (("run code that the model wrote", "UNSAFE_CODE", "; see --code"), ("see or hear", "MULTIMODAL", "")):
        if getattr(task, asks, False):
            raise UserError(f"LmEval.tasks: {name} needs to {what}, which is not supported; leave it out{hint}")
    own = task.get_config("num_fewshot")
    if own is None or (num_fewshot is not None and own != 0):
        task.set_config("num_fewshot", num_fewshot or 0)
    task.set_fewshot_seed(DEFAULT_OTHER_SEED)


def fingerprint(units: Units, limit: int, max_tokens: int) -> str:
    """The hash of every request with its reference. Raises UserError: a request cannot be made (few-shot examples are not there
    …), or asks for unsupported decoding."""
    from selfalign.evaluators._harness_model import sampling_of

    digest = hashlib.sha256()
    with _seeded(), _silent():
        for unit, name, task in ((unit, name, task) for unit, tasks in units.items() for name, task in tasks.items()):
            with _explained(name):
                task.build_all_requests(limit=limit or None)
                for instance in task.instances:
                    if instance.request_type == "generate_until":
                        sampling_of(name, instance.args[1], max_tokens)
                    row = (unit, name, instance.request_type, instance.args, task.doc_to_target(instance.doc))
                    digest.update(repr(row).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def prompts(units: Units, limit: int) -> list[Example]:
    """The questions of all tasks without few-shot examples, or a perplexity task's texts; none of a task that asks otherwise."""
    found = []
    for name, task in ((name, task) for tasks in units.values() for name, task in tasks.items()):
        with _explained(name), _seeded(), _silent():
            texts = [task.doc_to_text(doc) or task.doc_to_target(doc) for doc in islice(task.eval_docs, limit or None)]
        found += [Example(f"{name}/{place}", text.strip(), "") for place, text in enumerate(texts) if isinstance(text, str)]
    return [example for example in found if example.prompt]


def measure(context: Context, units: Units, limit: int, max_tokens: int, chat: bool) -> list[Metric]:
    """Every metric of every unit (see `LmEval.evaluate`).

    Raises:
        UserError: a prompt that does not fit the model's window.
        RunFailed: a score is not a finite number.
    """
    from lm_eval.evaluator import evaluate

    from selfalign.evaluators._harness_model import ContextModel

    tasks = {name: task for members in units.values() for name, task in members.items()}
    shown = sys.stdout, sys.stderr
    with _seeded(), _silent():
        model = ContextModel(context, max_tokens, chat, shown)
        found = evaluate(lm=model, task_dict={"tasks": tasks}, limit=limit or None, bootstrap_iters=0, log_samples=True)
    metrics: list[Metric] = []
    for unit, members in units.items():
        every = {name: _scores(task, found["samples"][name], model.cut) for name, task in members.items()}
        pooled = _pooled(every)
        for name, scores in ({unit: pooled} if pooled else every).items():
            for label, one in scores.items():
                metrics += _metric(f"{name}:{label}", one)
    return metrics


def _scores(task: Any, samples: Sequence[Mapping[str, Any]], cut: Mapping[tuple[str, int], bool]) -> dict[str, Scores]:
    from lm_eval.api.metrics import mean as plain

    several = len({sample["filter"] for sample in samples}) > 1
    sides: dict[bool | None, Better] = {True: "higher", False: "lower"}
    scores: dict[str, Scores] = {}
    for sample in samples:
        for metric in sample["metrics"]:
            label = f"{metric}:{sample['filter']}" if several else metric
            side = sides.get(task.higher_is_better().get(metric), "neither")
            one = scores.setdefault(label, Scores([], [], task.aggregation().get(metric, plain), side))
            one.ids.append(f"{task.task_name}/{sample['doc_id']}")
            one.values.append(sample[metric])
    if ids := [doc for name, doc in cut if name == task.task_name]:
        values = [cut[task.task_name, doc] for doc in ids]
        scores["cut"] = Scores([f"{task.task_name}/{doc}" for doc in ids], values, plain, "lower")
    return scores


def _pooled(every: Mapping[str, dict[str, Scores]]) -> dict[str, Scores]:
    """The prompts of all tasks together; nothing where their metrics differ or are no means, so that each stands alone."""
    first, *others = every.values()
    sides = {label: one.better for label, one in first.items()}
    if any({label: one.better for label, one in scores.items()} != sides for scores in others):
        return {}
    if not all(one.is_mean for scores in every.values() for one in scores.values()):
        return {}
    return {
        label: Scores(
            [id for scores in every.values() for id in scores[label].ids],
            [value for scores in every.values() for value in scores[label].values],
            first[label].aggregate,
            first[label].better,
        )
        for label in first
    }


def _metric(name: str, scores: Scores) -> Iterator[Metric]:
    """The harness says which side is better, but no unit: scores of 0 and 1 are a share, all others plain numbers."""
    if all(isinstance(value, list) for value in scores.values):
        yield from _of_parts(name, scores)
    elif not scores.is_mean:
        yield from _resampled(name, scores)
    elif not np.isfinite([float(value) for value in scores.values]).all():
        raise RunFailed(f"{name}: the task gives a score that is no finite number")
    elif all(value in (0, 1) for value in scores.values):
        yield share(name, scores.ids, [bool(value) for value in scores.values], scores.better)
    else:
        yield from mean(name, scores.ids, [float(value) for value in scores.values], better=scores.better)


def _of_parts(name: str, scores: Scores) -> Iterator[Metric]:
    """A share of parts (IFEval's instructions), as a ratio of sums over prompts; its interval from the ratio's linear form.

    A prompt's outcome is its good parts by the mean number of parts, so that outcomes have the share as mean.
    """
    good, sizes = [sum(value) for value in scores.values], [len(value) for value in scores.values]
    if len(good) < 2:
        return
    ratio, size = sum(good) / sum(sizes), sum(sizes) / len(sizes)
    spread = mean_interval([ratio + (right - ratio * of) / size for right, of in zip(good, sizes, strict=True)])
    each = outcomes(scores.ids, [right / size for right in good])
    yield Metric(name, ratio, max(spread.low, 0.0), min(spread.high, 1.0), len(good), each, "share", scores.better)


def _resampled(name: str, scores: Scores) -> Iterator[Metric]:
    """A figure that is no mean over prompts, with its bootstrap standard error, always by the same draws."""
    count = len(scores.values)
    if count < 2:
        return
    draw = np.random.default_rng(0)
    with _silent():
        value = float(scores.aggregate(scores.values))
        again = [
            float(scores.aggregate([scores.values[place] for place in draw.integers(count, size=count)]))
            for _ in range(_RESAMPLES)
        ]
    half = 1.96 * float(np.std(again, ddof=1))
    if not np.isfinite([value, half]).all():
        raise RunFailed(f"{name}: the task gives a score that is no finite number")
    yield Metric(name, value, value - half, value + half, n=count, better=scores.better)


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """Some tasks shuffle by the global random streams: let them do it the same way each time, and leave no trace."""
    from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED

    states = random.getstate(), np.random.get_state()
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """The harness draws progress bars of its own and prints."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Whatever goes wrong while a task is read (its file, its code, its data, the hub) as one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        said = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {said[0]}" if said else type(error).__name__
        what = f"LmEval.tasks: {name!r} cannot be loaded ({reason})"
        raise UserError(f"{what}; check its file and whether its data are there") from error
