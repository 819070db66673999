"""Texts that hold a whole conversation: with the names of its speakers in it, with the marks of a chat template, or as JSON.

Only what cannot be mistaken: whatever stands before the first mark, or a mark inside a turn, leaves the text as it is.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from selfalign.seeds.rows import list_in

MARKS = re.compile(
    r"\[/?INST\]|### ?(?:Instruction|Response):|<\|(?:im_start|start_header_id|user|assistant)\|>|<start_of_turn>"
    r"|(?s:\A\s*(?:User|Human|Q): .*\n(?:Assistant|Bot|A): )"
)
"""What a text that holds prompt and response has where it is none of the forms below."""
_ROLES = {
    **dict.fromkeys(("human", "user", "q", "question", "instruction", "input", "[inst]"), "user"),
    **dict.fromkeys(("assistant", "a", "answer", "response", "output", "model", "bot", "[/inst]"), "assistant"),
    "system": "system",
}
_ALPACA = "Below is an instruction that describes a task"
"""How Alpaca's own frame begins, which is no part of what is asked."""
_ENDS = re.compile(r"(?:\s*(?:</s>|<\|(?:im_end|eot_id|end|endoftext|end_of_text)\|>|<end_of_turn>|<eos>))+\s*\Z")
_BEGINS = re.compile(r"\A\s*(?:<s>|<bos>|<\|begin_of_text\|>|<\|endoftext\|>)\s*")
_LLAMA_SYSTEM = re.compile(r"\A\s*<<SYS>>(.*?)<</SYS>>(.*)\Z", re.S)
_SYSTEM_BEFORE = re.compile(r"\AA chat between [^\n]{1,400}\Z")
"""Vicuna's system text, which stands before the first turn without a mark."""


class _Form(NamedTuple):
    marks: re.Pattern[str]
    """What begins a turn; its group names the speaker."""
    tags: bool
    """Whether the marks are those of a template, which no text has otherwise, so that such a one inside a turn is another's."""
    sure: bool = True
    """Whether no answer begins so by itself."""
    alone: bool = False
    """Whether two marks are one pair, and more of them no conversation."""


_FORMS = (
    _Form(re.compile(r"(?:\A|\n\r?\n)(Human|Assistant):"), False),  # Anthropic's HH-RLHF
    _Form(re.compile(r"### ?(Human|Assistant):"), False),  # Guanaco
    _Form(re.compile(r"<\|im_start\|>(user|assistant|system)\n"), True),  # ChatML
    _Form(re.compile(r"<\|start_header_id\|>(user|assistant|system)<\|end_header_id\|>"), True),  # Llama 3
    _Form(re.compile(r"<start_of_turn>(user|model)\n"), True),  # Gemma
    _Form(re.compile(r"<\|(user|assistant|system)\|>"), True),  # Zephyr, Phi
    _Form(re.compile(r"(?:<s>\s*)?(\[/?INST\])"), True),  # Llama 2, Mistral
    _Form(re.compile(r"(?:\A|\n)### ?(Instruction|Input|Response|System|User|Assistant):"), False, sure=False),  # Alpaca
    _Form(re.compile(r"(?:\A|\s)(USER|ASSISTANT):"), False, sure=False),  # Vicuna
    _Form(re.compile(r"(?:\A|\n)(User|Human|Assistant|Bot):"), False, sure=False),
    _Form(re.compile(r"(?:\A|\n)(Question|Answer|Q|A):"), False, sure=False, alone=True),
)
_JSON_TURNS = re.compile(r"""\[\s*\{\s*["'](?:role|from|content|value)["']:""")
"""How a list of turns begins where a table holds it as text."""


def turns_in(text: str, *, only_sure: bool = False) -> list[dict[str, Any]]:
    """The turns that one text holds, the user (or a system text) first; none of any other text.

    Args:
        only_sure: where the text may also be an answer, which can begin with "Question:" itself.
    """
    found = list_in(text) if _JSON_TURNS.match(text) else None
    if found and all(isinstance(turn, dict) for turn in found):
        return found
    text = _BEGINS.sub("", text.strip())
    return next((turns for form in _FORMS if (form.sure or not only_sure) and (turns := _spoken(form, text))), [])


def _spoken(form: _Form, text: str) -> list[dict[str, str]]:
    found = list(form.marks.finditer(text))
    roles = [_ROLES[match[1].lower()] for match in found]
    if "assistant" not in roles or roles[0] == "assistant" or (form.alone and roles != ["user", "assistant"]):
        return []
    asked = [role for match, role in zip(found, roles, strict=True) if match[1] != "Input"]
    asked = asked[1:] if asked[0] == "system" else asked
    if not form.sure and asked != [("user", "assistant")[at % 2] for at in range(len(asked) // 2 * 2)]:
        return []
    before = text[: found[0].start()].strip()
    if before and not (before.startswith(_ALPACA) or (found[0][1] == "USER" and _SYSTEM_BEFORE.match(before))):
        return []
    ends = [match.start() for match in found[1:]] + [len(text)]
    said = [text[match.end() : end].strip() for match, end in zip(found, ends, strict=True)]
    said = [_ENDS.sub("", each).strip() for each in said] if form.tags or not form.sure else said
    turns = [{"role": role, "content": each} for role, each in zip(roles, said, strict=True)]
    if before and not before.startswith(_ALPACA):
        turns.insert(0, {"role": "system", "content": before})
    if system := _LLAMA_SYSTEM.match(said[0]):
        turns[:1] = [{"role": "system", "content": system[1].strip()}, {"role": "user", "content": system[2].strip()}]
    if form.tags and any(MARKS.search(each) or "<|im_end|>" in each for each in said):
        return []
    return turns[:-1] if not said[-1] else turns
