"""Requests that ask for a list: which slots each of them fills, and the drafts that come of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple, Protocol

import numpy as np

from selfalign.proposers._drafts import draft, drawn, links, request
from selfalign.protocols import Context
from selfalign.text import join_task, languages, one_line
from selfalign.types import Completion, Example, Request, Sampling, derive_seed


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


def english_around(seeds: Sequence[Example]) -> str:
    """As `proof.seed_rules.Voidable`, of a proposer whose own words are English; "" where some prompts of the seeds are too."""
    spoken = languages([seed.prompt for seed in seeds])
    if not spoken or "en" in spoken:
        return ""
    return (
        f"asks in English, around your examples in {', '.join(spoken)}: a small model may go on in English; look at"
        " `selfalign preview`, or take isara, which adds no words of its own, or isheep, which asks for the seeds' language"
    )


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
        chosen = [each for part, size in parts for each in drawn(part, size, random)]
        shown = tuple(chosen[place] for place in random.permutation(len(chosen)))
        found.append(Block(range(start, min(start + per_request, count)), shown))
    return found


class Read(Protocol):
    """Reads a list."""

    def __call__(self, text: str, first: int, count: int, *, cut: bool) -> list[Task]:
        """`count` tasks of a text that stands behind the number `first`; with `cut` it ran into max_tokens."""
        ...


def ask(
    context: Context, wanted: Sequence[Block], per_request: int, sampling: Sampling, written: Callable[[Block], str], read: Read
) -> list[Example]:
    """The drafts of all blocks, in slot order; the stage is `propose`.

    Args:
        sampling: the number behind a request's last task ends the text too.
        written: the text of a block, up to the number of the first task to be written.
    """
    # All requests show as many examples: the pool is the same for all of them.
    last = len(wanted[0].shown) + per_request if wanted else 0
    sampling = replace(sampling, stop=(*sampling.stop, f"\n{last + 1}."))
    # Each has the id of its block's first draft; the demonstrations are for the lineage.
    requests = [request(context, block.slots[0], block.shown, text=written(block)) for block in wanted]
    found: list[Example] = []
    for block, (sent, done) in zip(wanted, context.generate("propose", requests, sampling), strict=True):
        tasks = read(done.text, len(block.shown) + 1, len(block.slots), cut=done.finish == "length")
        found += _drafts(context, block, sent, done, tasks)
    return found


def numbered(items: Sequence[str], first: int, count: int, read: Callable[[str, int], Task], *, cut: bool) -> list[Task]:
    """The `count` tasks of a list's items, each read with the number it should have; see `Read`.

    Items beyond `count` are nobody's; a place without an item is a task without text, by its problem.
    """
    tasks = [read(item, first + place) for place, item in enumerate(items[:count])]
    if cut and len(items) <= count:  # the last item is half a one
        tasks[-1] = Task(problem=f"task {first + len(items) - 1} is cut off at max_tokens: {tail(items[-1])}")
    ended = Task(problem=f"the list ends after {len(items)} tasks, {count} were asked for")
    return tasks + [ended] * (count - len(tasks))


def tail(item: str) -> str:
    """An item as evidence."""
    item = one_line(item)
    return item if len(item) <= 200 else f"{item[:200]}…"


def _drafts(context: Context, block: Block, sent: Request, completion: Completion, tasks: Sequence[Task]) -> list[Example]:
    """A draft for each slot of the block. One without a task has an empty prompt; its metadata says why (`problem`).

    `request` in the metadata is the id under which the journal holds the list, that of the block's first draft.
    """
    return [
        draft(
            context,
            slot,
            join_task(task.instruction, task.input),
            # A task with a text is whole, whatever became of the rest of its list.
            prompt_finish="stop" if task.instruction else completion.finish,
            prompt_demonstrations=links(sent),
            metadata={"request": sent.id, **({"problem": task.problem} if task.problem else {})},
        )
        for slot, task in zip(block.slots, tasks, strict=True)
    ]
