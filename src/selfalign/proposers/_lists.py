"""Requests that ask for a list: which slots each of them fills, and the drafts that come of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np

from selfalign.protocols import Context
from selfalign.tasks import join_task
from selfalign.types import Completion, Demonstration, Example, Request, derive_seed


class Task(NamedTuple):
    """One item of a list: an instruction with its input, or the reason why there is none."""

    instruction: str = ""
    input: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Block:
    """One request: the slots its list fills and the examples shown in it."""

    slots: range
    shown: tuple[Example, ...]


def blocks(context: Context, count: int, per_request: int, human: int, generated: int) -> list[Block]:
    """Slots 0 … count-1 in runs of `per_request` (the last may be shorter), each with examples drawn for it.

    `human` seeds and, of all that earlier rounds kept, `generated` more, without replacement, in an order drawn too. Where
    the rounds have fewer, seeds take their place.
    """
    made = tuple(chain.from_iterable(context.pool.parts[1:]))
    machine = min(generated, len(made))
    parts = ((context.pool.seeds, min(human + generated - machine, len(context.pool.seeds))), (made, machine))
    found = []
    for start in range(0, count, per_request):
        random = np.random.default_rng(derive_seed(context.seed, context.round, "propose", start))
        drawn = [part[place] for part, size in parts for place in random.choice(len(part), size=size, replace=False)]
        shown = tuple(drawn[place] for place in random.permutation(len(drawn)))
        found.append(Block(range(start, min(start + per_request, count)), shown))
    return found


def request(context: Context, block: Block, text: str) -> Request:
    """The request of a block; its id is that of its first draft, its demonstrations are told for the lineage."""
    slot = block.slots[0]
    seed = derive_seed(context.seed, context.round, "propose-draw", slot)
    return Request(draft_id(context, slot), block.shown, seed=seed, text=text)


def draft_id(context: Context, slot: int) -> str:
    return f"r{context.round:02d}-{slot:05d}"


def drafts(context: Context, block: Block, sent: Request, completion: Completion, tasks: Sequence[Task]) -> list[Example]:
    """A draft for each slot of the block. One without a task has an empty prompt; its metadata says why (`problem`).

    `request` in the metadata is the id under which the journal holds the list, that of the block's first draft.
    """
    shown = tuple(Demonstration(example.id) for example in sent.demonstrations)
    return [
        Example(
            id=draft_id(context, slot),
            prompt=join_task(task.instruction, task.input),
            response="",
            round=context.round,
            slot=slot,
            # A task with a text is whole, whatever became of the rest of its list.
            prompt_finish="stop" if task.instruction else completion.finish,
            prompt_demonstrations=shown,
            metadata={"request": sent.id, **({"problem": task.problem} if task.problem else {})},
        )
        for slot, task in zip(block.slots, tasks, strict=True)
    ]
