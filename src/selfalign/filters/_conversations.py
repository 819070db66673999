"""What is compared with what, where seeds ask the same in several conversations: "Why?" is another question in another one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from selfalign.filters._shared import Field, split, text_of
from selfalign.text import TENTH, normalise
from selfalign.types import Example, FilterResult, Turns

Apart = dict[tuple[str, Turns], list[Example]]


def repeated(seeds: Sequence[Example], field: Field) -> bool:
    """Whether more than a tenth of the seeds have the field in common with another one."""
    return len({normalise(text_of(seed, field)) for seed in seeds}) < (1.0 - TENTH) * len(seeds)


def by_conversation(
    examples: Sequence[Example],
    pool: Sequence[Example],
    judge: Callable[[Sequence[Example], Sequence[Example]], FilterResult],
) -> FilterResult:
    """What becomes of examples, each compared with those alone before which the same was said, and with the earlier turns of its
    own conversation.

    Args:
        judge: of some of the examples and what they are compared with.
    """
    known, asked = _apart(pool), _apart(examples)
    results = [judge(some, [*known[before], *_earlier(known, *before)]) for before, some in asked.items()]
    dropped = {drop.example.id: (drop.rule, drop.evidence) for result in results for drop in result.dropped}
    return split(examples, lambda example: dropped.get(example.id))


def _apart(examples: Sequence[Example]) -> Apart:
    found: Apart = defaultdict(list)
    for example in examples:
        found[example.system, example.history].append(example)
    return found


def _earlier(known: Apart, system: str, history: Turns) -> list[Example]:
    turns = enumerate(prompt for prompt, _ in history)
    return [one for place, prompt in turns for one in known[system, history[:place]] if one.prompt == prompt]
