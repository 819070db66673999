"""IFEval with the checkers of lm-evaluation-harness, on rows of a local file."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from selfalign.errors import UserError
from selfalign.evaluators._answers import answers
from selfalign.evaluators._metrics import outcomes, share
from selfalign.proof.stats import mean_interval
from selfalign.protocols import Context
from selfalign.seeds.files import read_rows
from selfalign.seeds.rows import Problem, Row, kind, listed, show
from selfalign.types import Example, Metric, Sampling

_log = logging.getLogger(__name__)

_PROBE = "A first sentence. A second one."


@dataclass(frozen=True)
class Asked:
    """A row of the file."""

    id: str
    prompt: str
    instructions: tuple[str, ...]
    kwargs: tuple[Mapping[str, Any], ...]
    """For each instruction the options of its checker."""


class Followed(NamedTuple):
    """Whether an answer follows one instruction."""

    strict: bool
    loose: bool


def measure(context: Context, rows: Sequence[Asked], max_tokens: int, name: str) -> list[Metric]:
    """The metrics of `LmEval.evaluate` for IFEval.

    Raises:
        UserError: a prompt does not fit the model's window beside `max_tokens`; `name` is the file's, for the message.
    """
    # The journal knows a stage by its name alone: other prompts must not get these answers.
    key = hashlib.sha256(repr([(row.id, row.prompt) for row in rows]).encode("utf-8", "surrogatepass")).hexdigest()[:8]
    asked = [Example(row.id, row.prompt, "") for row in rows]
    completions = answers(context, asked, Sampling(max_tokens=max_tokens, temperature=0.0), f"ifeval_{key}")
    for row, completion in zip(rows, completions, strict=True):
        if completion.finish == "context":
            room = f"does not fit the model's window beside {max_tokens} new tokens"
            raise UserError(f"{name}: {show(row.prompt)} {room}; lower LmEval.max_tokens")
    verdicts = judge(rows, [completion.text for completion in completions])
    cut = [completion.finish == "length" for completion in completions]
    return [*_figures(rows, verdicts), share("ifeval:cut", [row.id for row in rows], cut, better="lower")]


def judge(rows: Sequence[Asked], texts: Sequence[str]) -> list[list[Followed | None]]:
    """For each answer and instruction whether it is followed; None where its checker cannot decide.

    What it cannot decide for lack of data it cannot decide for any answer, an empty one included: the prompts behind a metric
    must be the same for every model.
    """
    utils, lacking, broken = _checkers(), lacking_data(rows), list[str]()
    verdicts: list[list[Followed | None]] = []
    for row, text in zip(rows, texts, strict=True):
        found: list[Followed | None] = []
        for id, kwargs in zip(row.instructions, row.kwargs, strict=True):
            one: Followed | None = None
            if id not in lacking:
                try:
                    one = _followed(utils, row, id, kwargs, text)
                except Exception as error:  # a checker's own fault on a model's text, such as JSON nested too deeply
                    broken.append(f"{id} on {row.id}: {type(error).__name__}")
            found.append(one)
        verdicts.append(found)
    if broken:
        _log.warning("IFEval: %d instructions are unscored because their checker failed: %s", len(broken), listed(broken))
    return verdicts


def lacking_data(rows: Sequence[Asked], warn: bool = False) -> list[str]:
    """The instructions among those asked whose checkers need data that is not on this machine, sorted."""
    utils, known = _checkers(), dict[str, bool]()
    for row in rows:
        for id, kwargs in zip(row.instructions, row.kwargs, strict=True):
            if id not in known:
                try:
                    _followed(utils, row, id, kwargs, _PROBE)
                    known[id] = True
                except LookupError:  # NLTK's, where it finds no data
                    known[id] = False
    lacking = sorted(id for id, works in known.items() if not works)
    if lacking and warn:
        count = sum(id in lacking for row in rows for id in row.instructions)
        remedy = "get it with: python -m nltk.downloader punkt_tab"
        _log.warning("IFEval: %d instructions need data of NLTK and are left out (%s); %s", count, listed(lacking), remedy)
    return lacking


def _followed(utils: Any, row: Asked, id: str, kwargs: Mapping[str, Any], text: str) -> Followed:
    """By one instruction at a time, so that a checker that fails does not take the prompt's others with it."""
    one = utils.InputExample(key=row.id, instruction_id_list=[id], prompt=row.prompt, kwargs=[dict(kwargs)])
    strict = utils.test_instruction_following_strict(one, text).follow_instruction_list[0]
    loose = utils.test_instruction_following_loose(one, text).follow_instruction_list[0]
    return Followed(bool(strict), bool(loose))


def _figures(rows: Sequence[Asked], verdicts: Sequence[Sequence[Followed | None]]) -> Iterator[Metric]:
    scored = [(row.id, [one for one in each if one is not None]) for row, each in zip(rows, verdicts, strict=True)]
    whole = [(id, each) for (id, each), row in zip(scored, rows, strict=True) if len(each) == len(row.instructions)]
    some = [(id, each) for id, each in scored if each]
    for way in Followed._fields:
        if whole:
            all_followed = [all(getattr(verdict, way) for verdict in each) for _, each in whole]
            yield share(f"ifeval:prompt_{way}", [id for id, _ in whole], all_followed)
        yield from _by_instruction(way, some)
    yield share("ifeval:unscored", [row.id for row in rows], [None in each for each in verdicts], better="lower")


def _by_instruction(way: str, some: Sequence[tuple[str, Sequence[Followed]]]) -> Iterator[Metric]:
    """The share of all instructions as a ratio of sums over prompts, its interval from the ratio's linear form.

    A prompt's outcome is its followed instructions by the mean number of instructions, so that outcomes have the share as mean.
    """
    if len(some) < 2:
        return
    kept = [sum(getattr(verdict, way) for verdict in each) for _, each in some]
    asked = [len(each) for _, each in some]
    ratio, size = sum(kept) / sum(asked), sum(asked) / len(asked)
    spread = mean_interval([ratio + (good - ratio * of) / size for good, of in zip(kept, asked, strict=True)])
    low, high = max(spread.low, 0.0), min(spread.high, 1.0)
    each = outcomes([id for id, _ in some], [good / size for good in kept])
    yield Metric(f"ifeval:inst_{way}", ratio, low, high, n=len(some), outcomes=each, unit="share")


@cache
def _checkers() -> Any:
    """The harness's module for IFEval, with its checkers. Its import would download NLTK's data on a main process: not here."""
    rank = os.environ.get("LOCAL_RANK")
    os.environ["LOCAL_RANK"] = "-1"
    try:
        from langdetect import DetectorFactory
        from lm_eval.tasks.ifeval import utils
    except ImportError as error:
        raise UserError(f"IFEval needs the package {error.name}; install it with: pip install 'selfalign[eval]'") from error
    finally:
        if rank is None:
            del os.environ["LOCAL_RANK"]
        else:
            os.environ["LOCAL_RANK"] = rank
    DetectorFactory.seed = 0  # without one, the language found in a short text is a matter of chance
    return utils


def read_rows_of(path: str, limit: int = 0) -> list[Asked]:
    """The rows of a file in IFEval's format, or the first `limit` of them; all are checked.

    Raises:
        UserError: no such file, a malformed row, an unknown instruction, or one without the options of its checker, which the
            harness would draw at random; with file and line.
    """
    if not path.lower().endswith((".jsonl", ".ndjson")):
        raise UserError(f"{path}: is not a .jsonl file; give IFEval's rows, one JSON object a line")
    rows: dict[str, tuple[Asked, str]] = {}
    for item in read_rows(path):
        if isinstance(item, Problem):
            raise UserError(f"{item.where}: {item.what}")
        try:
            row = _row(item)
        except _Wrong as error:
            raise UserError(f"{item.where}: {error}") from None
        if row.id in rows:
            raise UserError(f"{item.where}: the key is that of {rows[row.id][1]}; change one")
        rows[row.id] = row, item.where
    if not rows:
        raise UserError(f"{path}: has no rows; it must hold at least one prompt")
    return [row for row, _ in rows.values()][: limit or None]


class _Wrong(Exception):
    """What is wrong with a row."""


def _row(item: Row) -> Asked:
    fields = item.fields
    if missing := [name for name in ("key", "prompt", "instruction_id_list", "kwargs") if name not in fields]:
        raise _Wrong(f"has no field {listed(missing)}; add it (IFEval's format)")
    key, prompt, ids, kwargs = (fields[name] for name in ("key", "prompt", "instruction_id_list", "kwargs"))
    if not (isinstance(key, (int, float)) or (isinstance(key, str) and key.strip())):
        raise _Wrong(f'"key" is {kind(key)}; make it a number or a text')
    if not (isinstance(prompt, str) and prompt.strip()):
        raise _Wrong(f'"prompt" is {"empty" if isinstance(prompt, str) else kind(prompt)}; make it a text')
    if not (isinstance(ids, list) and ids):
        raise _Wrong(f'"instruction_id_list" is {"empty" if ids == [] else kind(ids)}; list at least one instruction')
    if not isinstance(kwargs, list) or len(kwargs) != len(ids):
        has = f"has {len(kwargs)} items" if isinstance(kwargs, list) else f"is {kind(kwargs)}"
        raise _Wrong(f'"kwargs" {has}; give one object for each of the {len(ids)} instructions')
    options = tuple(_options(id, given) for id, given in zip(ids, kwargs, strict=True))
    return Asked(f"ifeval/{key}", prompt, tuple(ids), options)


def _options(id: Any, given: Any) -> dict[str, Any]:
    """An instruction's options, without those that are null."""
    known = _checkers().instructions_registry.INSTRUCTION_DICT
    if not isinstance(id, str) or id not in known:
        named = show(id) if isinstance(id, str) else kind(id)
        raise _Wrong(f"{named} is no instruction of the harness; it has {listed(sorted(known), 30)}")
    if not isinstance(given, dict):
        raise _Wrong(f"kwargs of {id} are {kind(given)}; make them an object")
    options = {name: value for name, value in given.items() if value is not None}
    checker = known[id](id)
    try:
        checker.build_description(**options)
    except Exception as error:  # whatever a checker makes of options it does not expect
        raise _Wrong(f"{id} cannot use the kwargs {show(json.dumps(options))} ({error}); mend them") from error
    # The harness takes what is 0 or empty for not given, too.
    if lacking := [name for name in checker.get_instruction_args_keys() if not options.get(name)]:
        raise _Wrong(f"{id} lacks {listed(lacking)} in its kwargs, and would be checked by a random one; add it")
    return options
