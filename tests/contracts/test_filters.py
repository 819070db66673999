"""What every filter must keep to, over every filter found in the folder."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import random
from collections.abc import Sequence
from typing import Any

import pytest

import selfalign.filters
from selfalign.contracts import check_filter
from selfalign.protocols import Context, Filter
from selfalign.types import PREFERRED, Demonstration, Dropped, Example, FilterResult, FinishReason
from tests.parts import context, seeds

MODULES = [name for _, name, _ in pkgutil.iter_modules(selfalign.filters.__path__) if not name.startswith("_")]
FILTERS: list[type[Filter]] = [
    part
    for name in MODULES
    for _, part in inspect.getmembers(importlib.import_module(f"selfalign.filters.{name}"), inspect.isclass)
    if part.__module__ == f"selfalign.filters.{name}" and hasattr(part, "apply")
]
OPTIONS: dict[str, dict[str, Any]] = {
    "AtMost": {"count": 3},
    "CategoryAgreement": {"learn": False},
    "Expected": {"checks": ("max_words:8",)},
}
"""Of filters whose defaults would keep so small a batch whole, or learn from so few seeds to rest."""
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
        ("I can't help with this old kettle, can you?", "It needs a new lid first, and then a good clean."),
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
            metadata={PREFERRED: seeds()[1].id} if response == seeds()[1].response else {},
        )
        for slot, (prompt, response) in enumerate(prompts)
    ]


def made(part: type[Filter]) -> Filter:
    return part(**OPTIONS.get(part.__name__, {}))


def test_every_file_holds_a_filter() -> None:
    assert len({part.__module__ for part in FILTERS}) == len(MODULES) >= 7


@every_filter
def test_contract(part: type[Filter]) -> None:
    check_filter(made(part))
    check_filter(made(part), candidates(), context())


@every_filter
def test_the_batch_holds_something_for_every_filter(part: type[Filter]) -> None:
    alike = tuple(seed for seed in seeds() if seed.category == "refuse")  # whose responses have a beginning in common
    pool = (alike if part.__name__ == "AnswerLike" else seeds(),)
    assert made(part).apply(context(pool=pool), candidates()).dropped


@dataclasses.dataclass(frozen=True)
class Broken:
    fault: str

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        kept, rest = tuple(examples[::2]), tuple(examples[1::2])
        rule = {"rule": "no good", "nameless": ""}.get(self.fault, "odd")
        dropped = tuple(Dropped(example, rule, " " if self.fault == "evidence" else "it is odd") for example in rest)
        if self.fault == "loses":
            return FilterResult(kept[1:], dropped)
        if self.fault == "doubles":
            return FilterResult((*kept, *rest), dropped)
        if self.fault == "order":
            return FilterResult(kept[::-1], dropped)
        if self.fault == "rewrites":
            return FilterResult(tuple(dataclasses.replace(example, response="Mine.") for example in kept), dropped)
        if self.fault == "wavers":
            return FilterResult(kept, tuple(Dropped(example, "odd", f"drawn: {random.random()}") for example in rest))
        if self.fault == "wants seeds" and not context.pool.seeds:
            return FilterResult((), ())
        return FilterResult(kept, dropped)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("rule", "not 'no good'"),
        ("nameless", "not ''"),
        ("evidence", "has evidence"),
        ("loses", r"once: lost \['r01-00000'\]"),
        ("doubles", r"once: lost \[\], twice"),
        ("order", "kept ones are in the order"),
        ("rewrites", "unchanged: r01-00000"),
        ("wavers", "same verdicts again"),
        ("wants seeds", "without seeds"),
    ],
)
def test_the_contract_sees_a_broken_filter(fault: str, words: str) -> None:
    check_filter(Broken("none"))
    with pytest.raises(AssertionError, match=rf"Broken: .*{words}"):
        check_filter(Broken(fault))
