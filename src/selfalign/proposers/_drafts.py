"""Drafts that ask the prompt of an example once more."""

from __future__ import annotations

from selfalign.protocols import Context
from selfalign.types import Demonstration, Example


def once_more(context: Context, slot: int, asked: Example) -> Example:
    """A draft of an example's own prompt, which names it as the one demonstration of that."""
    return Example(
        id=f"r{context.round:02d}-{slot:05d}",
        prompt=asked.prompt,
        response="",
        round=context.round,
        slot=slot,
        category=asked.category,
        prompt_demonstrations=(Demonstration(asked.id),),
        history=asked.history,
        system=asked.system,
    )
