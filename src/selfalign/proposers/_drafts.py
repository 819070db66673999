"""What proposers have in common: requests and drafts with the id of their slot, examples drawn for them, numbers in range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from selfalign.protocols import Context
from selfalign.types import Completion, Demonstration, Example, Request, derive_seed


def draft(context: Context, slot: int, prompt: str, **more: Any) -> Example:
    return Example(_id(context, slot), prompt, "", round=context.round, slot=slot, **more)


def once_more(context: Context, slot: int, asked: Example) -> Example:
    """A draft of an example's own prompt, which names it as the one demonstration of that."""
    said = {"category": asked.category, "history": asked.history, "system": asked.system}
    return draft(context, slot, asked.prompt, prompt_demonstrations=(Demonstration(asked.id),), **said)


def request(context: Context, slot: int, shown: Sequence[Example], **more: Any) -> Request:
    return Request(_id(context, slot), tuple(shown), seed=derive_seed(context.seed, context.round, "propose-draw", slot), **more)


def written(context: Context, slot: int, sent: Request, done: Completion, **more: Any) -> Example:
    """The draft whose prompt a model wrote."""
    found = Example(
        id=sent.id,
        prompt=done.text,
        response="",
        round=context.round,
        slot=slot,
        prompt_finish=done.finish,
        prompt_demonstrations=links(sent),
        history=sent.history,
        system=sent.system,
    )
    return replace(found, **more)


def links(sent: Request) -> tuple[Demonstration, ...]:
    return tuple(Demonstration(example.id) for example in sent.demonstrations)


def drawn(examples: Sequence[Example], count: int, random: np.random.Generator) -> list[Example]:
    """So many of them, without replacement, in the order in which they were drawn."""
    return [examples[place] for place in random.choice(len(examples), size=count, replace=False)]


def drawn_in_order(examples: Sequence[Example], count: int, random: np.random.Generator) -> list[Example]:
    return [examples[place] for place in sorted(random.choice(len(examples), size=count, replace=False))]


def at_least(part: object, **least: int) -> None:
    """Raises ValueError: one of these numbers of a proposer is below what it must be."""
    for name, low in least.items():
        if (value := getattr(part, name)) < low:
            raise ValueError(f"{type(part).__name__}: {name} = {value} is out of range: at least {low}")


def _id(context: Context, slot: int) -> str:
    return f"r{context.round:02d}-{slot:05d}"
