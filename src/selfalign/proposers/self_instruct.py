"""Self-Instruct's prompts: new instructions from a numbered list, then an input for each, or a label and then an input."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from selfalign.proposers._drafts import at_least, drawn, links
from selfalign.proposers._lists import Block, Task, ask, blocks, english_around, numbered, tail
from selfalign.protocols import Context
from selfalign.text import NO_INPUT, join_task, one_line, split_task
from selfalign.types import Completion, Example, Request, Sampling, derive_seed

FLAG = "is_classification"
"""Metadata of a seed, true or false, as Self-Instruct's seed file has it."""

_ITEM = re.compile(r"(?:^|\n)\s*(?=\d+\.\s)")
_QUESTION = "Can this be answered with one of a few fixed labels?"


@dataclass(frozen=True)
class SelfInstruct:
    """Three steps, as in Self-Instruct (arXiv 2212.10560), with prompts of our own wording.

    1. Instructions: a numbered list of `human` seeds' and `generated` earlier rounds' instructions, in a drawn order, is gone
       on with. The first round has no generated ones and shows seeds in their place.
    2. Is it a classification task? Judged from examples, by which of Yes and No is likelier (theirs generates the word).
       Where the window is too small for all the examples, the first ones are left out.
    3. Input-first where it is none: tasks with their inputs are shown and the input is written; the answer is left to the
       loop. Output-first where it is one: tasks with label and input are shown and the label is written before the input,
       because a model that begins with the input writes inputs of one label. Such a draft brings its label as its response.

    Steps 2 and 3 show seeds alone, those marked `is_classification` in their metadata and the others. Where either kind is
    missing there is no step 2, and all tasks go input-first.
    """

    human: int = 6
    """Instructions of seeds in a list."""
    generated: int = 2
    """Instructions of earlier rounds in a list."""
    per_request: int = 8
    """Instructions read from one list, and so the slots that a request fills."""
    examples: int = 8
    """Seeds shown at most in step 2 (half of each kind) and in step 3."""
    sampling: Sampling = field(default_factory=lambda: Sampling(max_tokens=512, temperature=0.7, top_p=0.5))
    """Of the instructions: theirs, but for a presence penalty of 2. The number behind the last one ends the text too."""
    input_sampling: Sampling = field(default_factory=lambda: Sampling(max_tokens=300, temperature=0.0))
    """Of inputs and labels: greedy, as theirs."""

    def __post_init__(self) -> None:
        at_least(self, human=1, generated=0, per_request=1, examples=2)

    def propose(self, context: Context, count: int) -> list[Example]:
        """`count` drafts in slot order. Metadata: `request` and `problem` as for `Instructions`, `is_classification`."""
        wanted = blocks(context, count, self.per_request, self.human, self.generated)
        found = ask(context, wanted, self.per_request, self.sampling, _list_text, read_list)
        named = self._classify(context, [draft for draft in found if draft.prompt])
        whole = {}
        for labels in (False, True):
            kind = [draft for draft in named if (draft.metadata.get(FLAG) == "true") is labels]
            whole.update({draft.id: draft for draft in self._instances(context, kind, labels)})
        return [whole.get(draft.id, draft) for draft in found]

    def shown(self, seeds: Sequence[Example], categories: Collection[str]) -> tuple[int, int]:
        """As `SeedUse.shown`; seeds stand in for what no round has kept yet."""
        return (asked := self.human + self.generated), min(asked, len(seeds))

    def void(self, seeds: Sequence[Example]) -> str:
        """As `proof.seed_rules.Voidable`."""
        return english_around(seeds)

    def _classify(self, context: Context, named: Sequence[Example]) -> list[Example]:
        yes, no = _of_kind(context, labels=True), _of_kind(context, labels=False)
        if not yes or not no:
            return list(named)
        pairs = []
        for draft in named:
            random = np.random.default_rng(derive_seed(context.seed, context.round, "classify", draft.slot))
            half = self.examples // 2
            shown = [_asked(seed, word) for kind, word in ((yes, " Yes"), (no, " No")) for seed in _some(kind, half, random)]
            text = "\n\n".join([*(shown[place] for place in random.permutation(len(shown))), _asked(draft)])
            pairs += [(text, " Yes"), (text, " No")]
        scores = [each.total for each in context.continuation("classify", pairs)]
        flags = ["true" if first > second else "false" for first, second in zip(scores[::2], scores[1::2], strict=True)]
        return [replace(each, metadata={**each.metadata, FLAG: flag}) for each, flag in zip(named, flags, strict=True)]

    def _instances(self, context: Context, named: Sequence[Example], labels: bool) -> list[Example]:
        stage, lead = ("label", "Label:") if labels else ("input", "Input:")
        seeds = _of_kind(context, labels) or context.pool.seeds
        sampling = replace(self.input_sampling, stop=(*self.input_sampling.stop, "\nTask:", f"\n{lead}"))
        requests = []
        for draft in named:
            random = np.random.default_rng(derive_seed(context.seed, context.round, stage, draft.slot))
            shown = _some(seeds, self.examples, random)
            text = "\n\n".join([*(_instance(seed, labels) for seed in shown), f"Task: {draft.prompt}\n{lead}"])
            seed = derive_seed(context.seed, context.round, f"{stage}-draw", draft.slot)
            requests.append(Request(draft.id, tuple(shown), seed=seed, text=text))
        answers = context.generate(stage, requests, sampling)
        read = _with_label if labels else _with_input
        return [_complete(draft, sent, done, read) for draft, (sent, done) in zip(named, answers, strict=True)]


def read_list(text: str, first: int, count: int, *, cut: bool) -> list[Task]:
    """The `count` instructions that a list gives, whose text begins behind "`first`.".

    An item counts where it carries the number it should have and has a text. All others are tasks without text, by their
    problem. With `cut` the list ran into max_tokens, so its last item is half a one. Items beyond `count` are nobody's.
    """
    items = [one_line(item) for item in _ITEM.split(f"{first}. {text}") if item]
    return numbered(items, first, count, _read_item, cut=cut)


def _read_item(item: str, number: int) -> Task:
    head, _, instruction = item.partition(".")
    if head != str(number) or not instruction.strip():
        return Task(problem=f"task {number} is not in its place: {tail(item)}")
    return Task(instruction.strip())


def _list_text(block: Block) -> str:
    lines = [f"{number}. {one_line(split_task(shown.prompt)[0])}" for number, shown in enumerate(block.shown, start=1)]
    return "\n".join(["Many different tasks for a text-only assistant:", "", *lines, f"{len(lines) + 1}."])


def _of_kind(context: Context, labels: bool) -> tuple[Example, ...]:
    return tuple(seed for seed in context.pool.seeds if seed.metadata.get(FLAG) == ("true" if labels else "false"))


def _some(seeds: Sequence[Example], count: int, random: np.random.Generator) -> list[Example]:
    return drawn(seeds, min(count, len(seeds)), random)


def _asked(example: Example, answer: str = "") -> str:
    return f"Task: {one_line(split_task(example.prompt)[0])}\n{_QUESTION}{answer}"


def _instance(seed: Example, labels: bool) -> str:
    instruction, input = split_task(seed.prompt)
    label = f"Label: {one_line(seed.response)}\n" if labels else ""
    return f"Task: {one_line(instruction)}\n{label}Input: {input.strip() or NO_INPUT}"


def _complete(draft: Example, sent: Request, done: Completion, read: Callable[[Example, str], Example | str]) -> Example:
    """The draft with what was written for it; without a prompt where that is no use, the reason in its metadata."""
    draft = replace(draft, prompt_demonstrations=(*draft.prompt_demonstrations, *links(sent)), prompt_finish=done.finish)
    found = f"ran into max_tokens: {done.text[-200:]}" if done.finish == "length" else read(draft, done.text.strip())
    if not isinstance(found, str):
        return found
    return replace(draft, prompt="", metadata={**draft.metadata, "problem": f"{draft.prompt}: {found}"})


def _with_input(draft: Example, text: str) -> Example | str:
    """The draft with its input, or what is wrong."""
    if not text:
        return "no input is written"
    return replace(draft, prompt=join_task(draft.prompt, "" if text.casefold() == NO_INPUT else text))


def _with_label(draft: Example, text: str) -> Example | str:
    """The draft with its label as response and its input, or what is wrong."""
    label, marker, input = text.partition("\nInput:")
    if not label.strip() or not marker or not input.strip():
        return f"no label with an input behind it: {text[:200]}"
    found = _with_input(draft, input.strip())
    return found if isinstance(found, str) else replace(found, response=one_line(label))
