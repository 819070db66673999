"""Parts that rewrite, reorder, lose or make up what they are given, or give what cannot be: named, and nothing of it recorded."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selfalign.encoders import Hashed
from selfalign.engines import Scripted
from selfalign.errors import RunFailed
from selfalign.loop.align import align
from selfalign.proposers import FewShot
from selfalign.protocols import Context, TrainJob
from selfalign.recipe import Recipe
from selfalign.recipes import icl_random
from selfalign.recipes import isara as make
from selfalign.record.status import status
from selfalign.record.store import Store
from selfalign.retrievers import Uniform
from selfalign.trainers import NullTrainer
from selfalign.types import Dropped, Example, FilterResult, Metric, Outcome, Sampling, with_score
from tests.conftest import SCRIPTED, Run
from tests.parts import seeds

HELD_OUT = (Example("ask-1", "What is one?", "One."), Example("ask-2", "What is two?", "Two."))
Work = Callable[..., Any]


@dataclass(frozen=True)
class Tampering:
    """A part of any kind, made of one function."""

    work: Work

    def apply(self, context: Context, examples: Sequence[Example]) -> Any:
        return self.work(context, examples)

    score = evaluate = retrieve = apply


@dataclass(frozen=True)
class Proposing:
    work: Work

    def propose(self, context: Context, count: int) -> Any:
        return self.work(FewShot(4, sampling=Sampling(max_tokens=24)).propose(context, count))


@dataclass(frozen=True)
class Training(NullTrainer):
    work: Work = print

    def train(self, job: TrainJob, progress: Any) -> Any:
        return self.work(job, NullTrainer.train(self, job, progress))


@dataclass(frozen=True)
class Encoding:
    work: Work

    @contextmanager
    def open(self, session: Any) -> Iterator[Any]:
        with Hashed().open(session) as encode:
            yield lambda texts: self.work(encode(texts))


def recipe(**parts: Any) -> Recipe:
    few = replace(make(demonstrations=4), engine=Scripted(), encoder=Hashed(), trainer=NullTrainer(), rounds=1, per_round=8)
    return replace(few, **{"min_yield": 0.0, "prompt_filters": (), "filters": (), "evaluators": (), **parts})


def refused(out: Path, made: Recipe) -> str:
    """The message; nothing of the round is in the record, which says the same."""
    with pytest.raises(RunFailed) as error:
        align(made, "scripted", seeds(), out, held_out=HELD_OUT)
    with Store.read(out) as store:
        assert store.state()["state"] == "failed" and status(store)["stopped_because"] == str(error.value)
        assert not store.kept(1) or "training" in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def keep(examples: Sequence[Example]) -> FilterResult:
    return FilterResult(tuple(examples), ())


def in_place(example: Example, **values: Any) -> Example:
    for name, value in values.items():
        object.__setattr__(example, name, value)
    return example


FILTERS: dict[str, Work] = {
    "rewrites a response": lambda c, e: keep([replace(e[0], response="Mended."), *e[1:]]) if e else keep(e),
    "rewrites a prompt": lambda c, e: keep([*e[:-1], replace(e[-1], prompt=e[-1].prompt + " ")]),
    "rewrites a category": lambda c, e: keep([replace(each, category="other") for each in e]),
    "rewrites what it drops": lambda c, e: FilterResult(tuple(e[1:]), (Dropped(replace(e[0], response="x"), "rule", "why"),)),
    "forges a demonstration": lambda c, e: keep([replace(each, prompt_demonstrations=()) for each in e]),
    "gives a score": lambda c, e: keep([with_score(each, "mine", 1.0) for each in e]),
    "turns the order": lambda c, e: keep(e[::-1]),
    "drops in another order": lambda c, e: FilterResult((), tuple(Dropped(each, "rule", "why") for each in e[::-1])),
    "swaps two texts": lambda c, e: keep([replace(e[0], prompt=e[1].prompt), replace(e[1], prompt=e[0].prompt), *e[2:]]),
    "loses one": lambda c, e: keep(e[1:]),
    "keeps one twice": lambda c, e: keep([e[0], e[0], *e[2:]]),
    "writes into one": lambda c, e: keep([in_place(e[0], response="Mended."), *e[1:]]),
    "writes into a mapping": lambda c, e: keep([e[0].metadata.update(note="mine") or e[0], *e[1:]]),
    "writes into a seed": lambda c, e: in_place(c.pool.seeds[0], response="Mended.") and keep(e),
    "has a rule that is no text": lambda c, e: FilterResult(tuple(e[1:]), (Dropped(e[0], ("rule",), "why"),)),
    "gives the kept alone": lambda c, e: list(e),
}


@pytest.mark.parametrize("slot", ["prompt_filters", "pair_filters", "filters"])
@pytest.mark.parametrize("kind", FILTERS)
def test_a_filter_keeps_or_drops_and_changes_nothing(tmp_path: Path, slot: str, kind: str) -> None:
    tried = recipe(**{slot: (Tampering(lambda c, e: FILTERS[kind](c, e) if c.pool.seeds and len(e) > 1 else keep(e)),)})
    found = refused(tmp_path / "run", replace(tried, ignore_seed_rules=True))
    assert "filter Tampering" in found


SCORERS: dict[str, Work] = {
    "rewrites": lambda c, e: [replace(each, response=each.response.upper()) for each in e],
    "turns the order": lambda c, e: list(e)[::-1],
    "loses one": lambda c, e: list(e)[1:],
    "gives NaN": lambda c, e: [replace(each, scores={"mine": math.nan}) for each in e],
    "gives a text": lambda c, e: [replace(each, scores={"mine": "high"}) for each in e],
    "names it in brackets": lambda c, e: [replace(each, scores={"[red]": 1.0}) for each in e],
    "takes over a score": lambda c, e: [replace(each, scores={"first": 2.0}) for each in e],
    "writes into a mapping": lambda c, e: [each.scores.update(first=2.0) or each for each in e],
    "drops the metadata": lambda c, e: [replace(each, metadata={}) for each in e],
    "ends the program": lambda c, e: sys.exit(0),
    "gives no mapping": lambda c, e: [replace(each, scores=None) for each in e],
    "gives a generator": lambda c, e: (each for each in e),
}


@pytest.mark.parametrize("kind", SCORERS)
def test_a_scorer_adds_scores_and_changes_nothing(tmp_path: Path, kind: str) -> None:
    first = Tampering(lambda c, e: [replace(with_score(each, "first", 1.0), metadata={"from": "here"}) for each in e])
    assert "scorer Tampering" in refused(tmp_path / "run", recipe(scorers=(first, Tampering(SCORERS[kind]))))


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "fewer drafts": ({"proposer": Proposing(lambda drafts: drafts[1:])}, "proposer Proposing"),
    "a slot twice": ({"proposer": Proposing(lambda d: [replace(d[0], slot=1, id="mine"), *d[1:]])}, "proposer Proposing"),
    "the id of a seed": ({"proposer": Proposing(lambda d: [replace(d[0], id="seed-1"), *d[1:]])}, "proposer Proposing"),
    "another round": ({"proposer": Proposing(lambda d: [replace(each, round=7) for each in d])}, "proposer Proposing"),
    "a prompt that is no text": ({"proposer": Proposing(lambda d: [replace(d[0], prompt=b"x"), *d[1:]])}, "proposer Proposing"),
    "shows a text of its own": (
        {"retriever": Tampering(lambda c, e: [((replace(c.pool.seeds[0], response="Mine."), None),) for _ in e])},
        "retriever Tampering: rewrites seed-0",
    ),
    "shows a stranger": ({"retriever": Tampering(lambda c, e: [((Example("x", "a", "b"), None),) for _ in e])}, "no example of"),
    "shows to fewer": ({"retriever": Tampering(lambda c, e: [() for _ in e][1:])}, "retriever Tampering"),
    "trains on a rewritten seed": (
        {"trainer": Training(work=lambda job, result: in_place(job.seeds[0], response="Mended.") and result)},
        "training by Training",
    ),
    "trains on a stranger": (
        {"trainer": Training(work=lambda job, result: replace(result, trained=(*result.trained, "ghost")))},
        "'ghost', which it was not given",
    ),
    "ends the program in training": ({"trainer": Training(work=lambda job, result: sys.exit(0))}, "ends the program"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_parts_give_what_they_were_asked_for(tmp_path: Path, kind: str) -> None:
    parts, said = OTHERS[kind]
    assert said in refused(tmp_path / "run", recipe(**parts))


def test_a_retriever_of_an_evaluation_is_held_too(tmp_path: Path) -> None:
    made = replace(icl_random(), engine=Scripted(), encoder=Hashed())
    forging = Tampering(lambda c, e: [((replace(c.pool.seeds[0], response="Mine."), None),) for _ in e])
    assert "retriever Tampering: rewrites seed-0" in refused(tmp_path / "run", replace(made, eval_retriever=forging))


VECTORS: dict[str, tuple[Work, str]] = {
    "NaN": (lambda rows: rows * np.nan, "not finite"),
    "infinity": (lambda rows: rows / 0.0, "not finite"),
    "zeros": (lambda rows: rows * 0, "length 0"),
    "complex": (lambda rows: rows.astype(complex), "complex128"),
    "twice as long": (lambda rows: rows * 2, "length 2"),
    "objects": (lambda rows: rows.astype(object), "object"),
    "one row too few": (lambda rows: rows[1:], "shape"),
    "a row alone": (lambda rows: rows[0], "shape"),
    "one in the middle": (lambda rows: np.where(np.arange(len(rows))[:, None] == 2, np.nan, rows), "not finite"),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("kind", VECTORS)
def test_what_is_no_vector_is_named_with_its_encoder(tmp_path: Path, kind: str) -> None:
    spoil, said = VECTORS[kind]
    found = refused(tmp_path / "run", recipe(encoder=Encoding(spoil)))
    assert "encoder Encoding" in found and said in found


FIGURES: dict[str, tuple[Metric, str]] = {
    "low above high": (Metric("m", 0.5, 0.9, 0.1, 2), "interval"),
    "value outside": (Metric("m", 0.5, 0.6, 0.9, 2), "interval"),
    "infinite": (Metric("m", math.inf, 0.0, math.inf, 2), "interval"),
    "n below 0": (Metric("m", 0.5, 0.0, 1.0, -1), "n = -1"),
    "n of none": (Metric("m", 0.5, 0.0, 1.0, 0), "n = 0"),
    "n in halves": (Metric("m", 0.5, 0.0, 1.0, 2.5), "n = 2.5"),  # type: ignore[arg-type]
    "no number": (Metric("m", 0.5, None, 1.0, 2), "no number"),  # type: ignore[arg-type]
    "an unknown prompt": (Metric("m", 1.0, 0.0, 1.0, 1, (Outcome("ghost", 1.0),)), "'ghost'"),
    "a wrong mean": (Metric("m", 0.5, 0.0, 1.0, 1, (Outcome("ask-1", 1.0),)), "mean of its outcomes"),
    "an outcome of NaN": (Metric("m", 0.5, 0.0, 1.0, 1, (Outcome("ask-1", math.nan),)), "no finite number"),
    "a name of two lines": (Metric("a\nb", 0.5, 0.0, 1.0, 1), "name"),
}


@pytest.mark.parametrize("kind", FIGURES)
def test_figures_that_cannot_be_are_named_with_their_evaluator(tmp_path: Path, kind: str) -> None:
    metric, said = FIGURES[kind]
    found = refused(tmp_path / "run", recipe(evaluators=(Tampering(lambda c, e: [metric]),)))
    assert "evaluator Tampering" in found and said in found


def test_honest_parts_pass(tmp_path: Path) -> None:
    counted = Tampering(lambda c, e: [with_score(each, "letters", float(len(each.response))) for each in e])
    halved = Tampering(
        lambda c, e: FilterResult(tuple(e[::2]), tuple(Dropped(each, "every_second", "of two") for each in e[1::2]))
    )
    unknown = Tampering(
        lambda c, e: [Metric("nothing", math.nan, math.nan, math.nan, 2), Metric("wide", 1.0, -math.inf, math.inf, 1)]
    )
    made = recipe(scorers=(counted,), filters=(halved,), evaluators=(unknown,), retriever=Uniform(2), ignore_seed_rules=True)
    align(made, "scripted", seeds(), tmp_path / "run", held_out=HELD_OUT)
    with Store.read(tmp_path / "run") as store:
        assert store.state()["state"] == "done" and store.kept(1)


@pytest.mark.parametrize("where", ["module", "recipe", "options", "filter", "encoder"])
def test_a_part_that_ends_the_program_is_a_failed_run(cli: Run, seeds_file: Path, tmp_path: Path, where: str) -> None:
    last = "    sys.exit(0)" if where == "recipe" else ""
    calls = {name: "sys.exit(0)" if where == name else "pass" for name in ("options", "filter", "encoder", "module")}
    (tmp_path / "mine.py").write_text(
        f"""import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from selfalign.encoders import Hashed
from selfalign.recipes import isara
from selfalign.types import FilterResult
@dataclass(frozen=True)
class Mine:
    def __post_init__(self):
        {calls["options"]}
    def apply(self, context, examples):
        {calls["filter"]}
        return FilterResult(tuple(examples), ())
@dataclass(frozen=True)
class Vectors:
    @contextmanager
    def open(self, session):
        {calls["encoder"]}
        with Hashed().open(session) as encode:
            yield encode
{calls["module"]}
def mine():
{last}
    return replace(isara(), filters=(Mine(),), encoder=Vectors())
"""
    )
    done = cli("run", "./mine.py:mine", seeds_file, *SCRIPTED[:4], "--out", tmp_path / "out", "--quiet")
    assert done.returncode in (1, 2), done.stderr
    assert "ends the program in mine.py, line" in done.stderr and "Traceback" not in done.stderr
