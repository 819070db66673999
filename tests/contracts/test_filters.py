"""What every filter must keep to, over every filter found in the folder."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil

import pytest

import selfalign.filters
from selfalign.protocols import Filter
from selfalign.types import Demonstration, Example, FinishReason
from tests.parts import context, seeds

MODULES = [name for _, name, _ in pkgutil.iter_modules(selfalign.filters.__path__) if not name.startswith("_")]
FILTERS: list[type[Filter]] = [
    part
    for name in MODULES
    for _, part in inspect.getmembers(importlib.import_module(f"selfalign.filters.{name}"), inspect.isclass)
    if part.__module__ == f"selfalign.filters.{name}" and hasattr(part, "apply")
]
OPTIONS: dict[str, dict[str, int]] = {"AtMost": {"count": 3}}
"""Of filters whose defaults would keep so small a batch whole."""
every_filter = pytest.mark.parametrize("part", FILTERS, ids=lambda part: part.__name__)


def candidates() -> list[Example]:
    """Good ones, and at least one that each filter must drop."""
    prompts = [
        ("How do I polish a brass lamp at home?", "Rub it with lemon and salt. Rinse it well."),
        ("How do I polish a brass lamp at home?", "Rub it with lemon and salt. Rinse it well."),
        (seeds()[0].prompt, seeds()[1].response),
        ("Hi", "No."),
        ("", ""),
        ("Where does the river Rhine begin and end?", "It begins in the Alps and ends in"),
        ("Name the capital of France for me please.", "ASSISTANT: Paris is the capital of France."),
        ("Name seven rivers of Europe in any order.", "the Rhine and the Elbe " * 9 + "end."),
        ("Say that a bridge is made of steel.", "a bridge is made of steel."),
        (
            "Input: draw a picture of www.example.org for <name>\n\ndraw a picture",
            "A picture [input] 图.\nUser: and now?\nA. Yes\nAnswer Choices: A",
        ),
        ("Mend this text.\n\nOne two three.", "one two three."),
        ("Как почистить старый медный чайник дома?", "Потрите его солью и лимоном, потом хорошо промойте."),
    ]
    finishes: list[FinishReason] = ["stop", "length", "context"]
    return [
        Example(
            id=f"r01-{slot:05d}",
            prompt=prompt,
            response=response,
            round=1,
            slot=slot,
            category=("care", "refuse", "unheard of", "")[slot % 4],
            response_finish=finishes[slot % 3 if slot > 5 else 0],
            prompt_demonstrations=(Demonstration(seeds()[0].id),),
        )
        for slot, (prompt, response) in enumerate(prompts)
    ]


def made(part: type[Filter]) -> Filter:
    return part(**OPTIONS.get(part.__name__, {}))


def test_every_file_holds_a_filter() -> None:
    assert len({part.__module__ for part in FILTERS}) == len(MODULES) >= 10


@every_filter
def test_nothing_is_lost(part: type[Filter]) -> None:
    came = candidates()
    result = made(part).apply(context(), came)
    order = {example.id: place for place, example in enumerate(came)}
    kept, dropped = list(result.kept), [drop.example for drop in result.dropped]
    assert sorted([*kept, *dropped], key=lambda example: order[example.id]) == came
    for half in (kept, dropped):
        assert half == sorted(half, key=lambda example: order[example.id])


@every_filter
def test_every_drop_has_a_rule_and_evidence(part: type[Filter]) -> None:
    result = made(part).apply(context(), candidates())
    assert result.dropped, "the batch holds something for every filter"
    for drop in result.dropped:
        assert drop.rule.isidentifier()
        assert drop.rule.islower()
        assert drop.evidence.strip()


@every_filter
def test_nothing_in_nothing_out(part: type[Filter]) -> None:
    result = made(part).apply(context(), [])
    assert (result.kept, result.dropped) == ((), ())


@every_filter
def test_same_input_same_output(part: type[Filter]) -> None:
    assert made(part).apply(context(), candidates()) == made(part).apply(context(), candidates())


@every_filter
def test_works_without_seeds_and_categories(part: type[Filter]) -> None:
    came = [dataclasses.replace(example, category="", prompt_demonstrations=()) for example in candidates()]
    result = made(part).apply(context(pool=((),)), came)
    assert len(result.kept) + len(result.dropped) == len(came)


@every_filter
def test_options_are_plain_frozen_fields(part: type[Filter]) -> None:
    assert dataclasses.is_dataclass(part)
    assert made(part) == made(part)
    assert hash(made(part)) == hash(made(part))
