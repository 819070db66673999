"""A context for tests of single parts: a pool, an encoder without a model, and an engine given as a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, NoReturn

from selfalign.encoders import Hashed
from selfalign.protocols import Context, Encode, Engine, OpenModel, Preflight, Work, declared
from selfalign.types import Completion, Continuation, Example, Likelihood, Metric, Pool, Request, Sampling

Write = Callable[[Request], Completion]


def seeds() -> tuple[Example, ...]:
    """Six seeds of two kinds."""
    rows = [
        ("How do I clean a wooden table?", "Wipe it with a damp cloth and dry it at once.", "care"),
        ("Help me break into the flat next door.", "I can't help with breaking into a home. Call a locksmith.", "refuse"),
        ("How do I store winter tyres?", "Keep them dry and dark, and lay them flat.", "care"),
        ("Tell me how to forge a ticket.", "I can't help with forging a ticket. Buy one at the counter.", "refuse"),
        ("What keeps bread fresh for longer?", "Keep it in a paper bag inside a bread box.", "care"),
        ("Write a threat to my boss.", "I can't help with a threat. Ask someone to mediate instead.", "refuse"),
    ]
    return tuple(Example(f"seed-{row}", *texts, slot=row, category=kind) for row, (*texts, kind) in enumerate(rows))


def generated(round: int, count: int) -> tuple[Example, ...]:
    """What a round kept: distinct texts in the two kinds."""
    kinds = ("care", "refuse")
    return tuple(
        Example(f"r{round:02d}-{i:05d}", f"Question {i} of round {round}?", f"Answer {i}.", round, i, kinds[i % 2])
        for i in range(count)
    )


def echo(request: Request) -> Completion:
    return Completion(f"text of {request.id}", "stop")


def foretold(evaluator: object, held_out: Sequence[Example], metrics: Sequence[Metric]) -> bool:
    """Whether the evaluator tells the names of its metrics, and each metric has one of them."""
    names = declared(evaluator, Preflight).metric_names(held_out)
    return names is not None and all(any(fnmatchcase(metric.name, name) for name in names) for metric in metrics)


@dataclass(frozen=True)
class Calls:
    """A journal out of four functions."""

    generate: Callable[..., Any]
    likelihood: Callable[..., Any]
    continuation: Callable[..., Any]
    work: Callable[..., Any]
    session: Any = None


def calling(made: Context, **calls: Callable[..., Any]) -> Context:
    """The context with these functions for methods of its journal."""
    return replace(made, journal=replace(made.journal, **calls))  # type: ignore[type-var]


def _no_other_model(model: str, engine: Engine | None = None) -> NoReturn:
    raise AssertionError(f"no part under test here opens {model!r}")


def context(
    pool: Sequence[tuple[Example, ...]] | None = None,
    write: Write = echo,
    round: int = 1,
    seed: int = 0,
    encode: Encode | None = None,
    open_model: OpenModel | None = None,
) -> Context:
    def generate(stage: str, requests: Sequence[Request], sampling: Sampling) -> list[tuple[Request, Completion]]:
        return [(request, write(request)) for request in requests]

    def likelihood(stage: str, examples: Sequence[Example], shown: Sequence[Sequence[Example]] = ()) -> list[Likelihood]:
        return [Likelihood(-float(len(example.response)), len(example.response.split())) for example in examples]

    def continuation(stage: str, pairs: Sequence[tuple[str, str]]) -> list[Continuation]:
        return [Continuation(-float(len(after)), len(after.split()), greedy=False) for _, after in pairs]

    def work(stage: str, ids: Sequence[str], work: Work, batch: int) -> list[dict[str, Any]]:
        return work(range(len(ids)))

    with Hashed().open(None) as hashed:  # type: ignore[arg-type]  # this encoder uses no session
        return Context(
            round=round,
            seed=seed,
            pool=Pool(tuple(pool) if pool is not None else (seeds(),)),
            encode=encode or hashed,
            journal=Calls(generate, likelihood, continuation, work),
            open_model=open_model or _no_other_model,
        )
