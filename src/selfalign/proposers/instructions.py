"""I-SHEEP's prompts: a model is shown a few numbered tasks below a list of requirements and goes on with the list."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from selfalign.proposers._drafts import at_least
from selfalign.proposers._lists import Block, Task, ask, blocks, english_around, numbered, tail
from selfalign.protocols import Context
from selfalign.text import NO_INPUT, languages, one_line, split_task
from selfalign.types import Example, Request, Sampling

META_PROMPT = """This is a collection of {count} varied tasks for testing a language model. Every task keeps to these rules:
1. No two tasks begin with the same verb.
2. The wording varies: some tasks are questions, others are orders.
3. The kinds of task vary: explaining, rewriting, sorting, solving, inventing, summing up and many more.
4. A model that only reads and writes text can do it. Nothing has to be seen, heard, shown or carried out.
5. {language}
6. The instruction has one or two sentences.
7. The input is what the instruction works on: real material instead of a place to fill in, and at most 100 words.
8. A task that needs no input has the input {no_input}.
9. A good answer stays below 100 words.

The {count} tasks:

"""
"""Our own wording of the nine requirements that I-SHEEP's scripts take from Alpaca."""
ENGLISH = "Everything is in English."
_AS_SHOWN = "Everything is in the language of the first tasks."
_SEVERAL = "Every task is in one of the languages of the first tasks."

_SEPARATOR = "###\n"
_ITEM = re.compile(r"(?:^|\n)[#\s]*(?=\d+\s*\.\s*Instruction\s*:)")
_HEAD = re.compile(r"\d+\s*\.\s*Instruction\s*:")
_INPUT, _OUTPUT = (re.compile(rf"\n\s*(?:\d+\s*\.\s*)?{label}\s*:") for label in ("Input", "Output"))
_END = re.compile(r"\s*#{2,}[\s#]*$")
"""What is left of the separator behind the last item; one # alone may be part of the text."""


@dataclass(frozen=True)
class Instructions:
    """I-SHEEP's prompt step: seeds drawn uniformly as numbered tasks, the list goes on with the next number.

    A request of theirs shows 5 seeds and gives up to 10 tasks; so does ours, and each of its 10 slots comes back, those
    without a task as drafts with an empty prompt and the reason. Tasks generated earlier are not shown, as in the scripts'
    active path (their samplers by perplexity and cluster are bypassed there).
    """

    human: int = 5
    """Seeds shown in a request."""
    generated: int = 0
    """Examples that earlier rounds kept, shown with them."""
    per_request: int = 10
    """Tasks read from one completion, and so the slots that a request fills."""
    form: Literal["text", "turn", "auto"] = "text"
    """text: the list as it stands; turn: inside an opened user's turn of the model's format; auto: text in the first round
    and turn afterwards, as the scripts do once the model is trained on a chat format."""
    input_needed: bool = True
    """An item without `Input:`, or with nothing behind it, is no task, as in the scripts. False takes it as one that needs no
    input, and passes over an `Output:`: small models write that instead (our own choice: SmolLM2-135M lost most items so)."""
    language: Literal["seeds", "English"] = "seeds"
    """What the list's fifth rule asks for: the language of the seeds, or English, as in the scripts."""
    sampling: Sampling = field(default_factory=lambda: Sampling(max_tokens=1000, temperature=1.0, top_p=0.95))
    """Theirs. The number behind a request's last task ends the text too."""

    def __post_init__(self) -> None:
        at_least(self, human=1, generated=0, per_request=1)

    def propose(self, context: Context, count: int) -> list[Example]:
        """`count` drafts in slot order. Metadata: `request`, the id under which the journal holds the list, that of the first
        draft read from it; `problem`, why a draft has no prompt."""
        wanted = blocks(context, count, self.per_request, self.human, self.generated)
        read = partial(read_tasks, input_needed=self.input_needed)
        language = ENGLISH if self.language == "English" else language_line(context.pool.seeds)
        return ask(context, wanted, self.per_request, self.sampling, lambda block: self._text(context, block, language), read)

    def shown(self, seeds: Sequence[Example], categories: Collection[str]) -> tuple[int, int]:
        """As `SeedUse.shown`; seeds stand in for what no round has kept yet."""
        return (asked := self.human + self.generated), min(asked, len(seeds))

    def void(self, seeds: Sequence[Example]) -> str:
        """As `proof.seed_rules.Voidable`."""
        return english_around(seeds) if self.language == "English" else ""

    def _text(self, context: Context, block: Block, language: str) -> str:
        text = list_text(block.shown, max(20, len(block.shown) + self.per_request), language)
        if self.form == "turn" or (self.form == "auto" and context.round > 1):
            # The whole conversation cut off behind the list: whatever the format puts before it is there, and nothing behind.
            whole = context.session.render(Request("", prompt=text))
            text = whole[: whole.rindex(text) + len(text)]
        return text


def language_line(seeds: Sequence[Example]) -> str:
    """The rule about the language of tasks: that of the seeds, which the tasks shown are in; English where it is theirs alone.

    Seeds whose language cannot be told (few, or short) are as good as any: the rule then points at the tasks shown too.
    """
    found = languages([seed.prompt for seed in seeds])
    if set(found) == {"en"}:
        return ENGLISH
    return _SEVERAL if len(found) > 1 else _AS_SHOWN


def list_text(shown: Sequence[Example], count: int, language: str = ENGLISH) -> str:
    """The rules, the tasks shown, and the number of the first task to be written."""
    head = META_PROMPT.format(count=count, no_input=NO_INPUT, language=language)
    for number, example in enumerate(shown, start=1):
        instruction, input = split_task(example.prompt)
        head += f"{_SEPARATOR}{number}. Instruction: {one_line(instruction)}\n{number}. Input:\n{input.strip() or NO_INPUT}\n"
    return f"{head}{_SEPARATOR}{len(shown) + 1}. Instruction:"


def read_tasks(text: str, first: int, count: int, *, cut: bool, input_needed: bool = True) -> list[Task]:
    """The `count` tasks that a list gives, whose text begins behind "`first`. Instruction:".

    An item counts where it carries the number it should have and, after its instruction, `Input:` with the same number and
    something behind it (`<noinput>` for none); with `input_needed` false also with nothing there, or without any `Input:`.
    All others are tasks without text, by their problem. With `cut` the list ran into max_tokens, so its last item is half a
    one. Items beyond `count` are nobody's.
    """
    items = [item for item in _ITEM.split(f"{first}. Instruction: {text}") if _HEAD.match(item)]
    return numbered(items, first, count, partial(_read_task, input_needed=input_needed), cut=cut)


def _read_task(item: str, number: int, input_needed: bool) -> Task:
    item, own = _END.sub("", item), rf"{number}\s*\.\s*"
    if found := re.fullmatch(rf"{own}Instruction\s*:(.*?)\n\s*{own}Input\s*:(.*)", item, re.DOTALL):
        instruction, input = one_line(found[1]), found[2].strip()
    elif not input_needed and not _INPUT.search(item) and (head := re.match(rf"{own}Instruction\s*:", item)):
        instruction, input = one_line(_OUTPUT.split(item[head.end() :])[0]), ""
    else:
        return Task(problem=f"task {number} is not written as instruction and input: {tail(item)}")
    for name, part, needed in (("instruction", instruction, True), ("input", input, input_needed)):
        if needed and not part:
            return Task(problem=f"task {number} has no {name}: {tail(item)}")
    return Task(instruction, "" if input.casefold() == NO_INPUT else input)
