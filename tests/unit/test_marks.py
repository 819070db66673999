"""The text that a chat template writes around turns: a marker in seeds, and a word to models of other templates."""

from __future__ import annotations

from dataclasses import replace

import pytest

from selfalign.errors import UserError
from selfalign.models.rendering import make_renderer, preflight
from selfalign.types import Example
from tests.tiny import CHATML, tiny_tokenizer

TURNS = "{% for m in messages %}{{ names[m['role']] + m['content'] + ends[m['role']] }}{% endfor %}"
TURNS += "{% if add_generation_prompt %}{{ names['assistant'].rstrip() }}{% endif %}"


def turns(system: str, user: str, assistant: str, behind: tuple[str, str, str], head: str = "") -> str:
    """A template that writes these names before texts, and `behind` system, user and assistant texts."""
    names = dict(zip(("system", "user", "assistant"), (system, user, assistant), strict=True))
    ends = dict(zip(("system", "user", "assistant"), behind, strict=True))
    return f"{{% set names = {names!r} %}}{{% set ends = {ends!r} %}}{head}" + TURNS


END = "<|im_end|>"
TEMPLATES = {
    "llama-2": turns("[INST] <<SYS>>\n", "[INST] ", " ", ("\n<</SYS>>\n\n", " [/INST]", f" {END}")),
    "zephyr": turns("<|system|>\n", "<|user|>\n", "<|assistant|>\n", (f"{END}\n",) * 3),
    "vicuna": turns("", "USER: ", "ASSISTANT: ", ("\n\n", " ", END), "A chat with an assistant who gives polite answers. "),
    "alpaca": turns("", "### Instruction:\n", "### Response:\n", ("\n\n", "\n\n", f"{END}\n\n"), "Below is an instruction.\n\n"),
    "falcon": turns("System: ", "User: ", "Falcon: ", ("\n", "\n", f"{END}\n")),
    "isara": turns("", "BEGINNING OF CONVERSATION: USER: ", "ASSISTANT: ", ("", " ", f" END OF CONVERSATION{END}")),
}
SAID = {
    "llama-2": ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"],
    "zephyr": ["<|user|>", "<|assistant|>", "<|system|>"],
    "vicuna": ["USER:", "ASSISTANT:"],
    "alpaca": ["### Instruction:", "### Response:"],
    "falcon": ["User:", "Falcon:"],
    "isara": ["BEGINNING OF CONVERSATION:", "END OF CONVERSATION", "ASSISTANT:"],
}
SEED = Example("row-7", "How do I clean a pan?", "Wipe it with a cloth.", history=(("Hello!", "Hello."),), system="Be brief.")
CASES = [(name, mark) for name, marks in SAID.items() for mark in marks]


@pytest.mark.parametrize(("name", "mark"), CASES)
@pytest.mark.parametrize("field", ["prompt", "response", "history", "system"])
def test_the_text_around_turns_is_a_marker_and_said_with_the_row(name: str, mark: str, field: str) -> None:
    renderer = make_renderer(tiny_tokenizer(template=TEMPLATES[name]))
    preflight(renderer, [SEED], 2048)
    text = f"Wipe it.\n{mark} And then?"
    changed = replace(SEED, **{field: (("Hello!", text),) if field == "history" else text})
    with pytest.raises(UserError, match=r"^row-7: its (system )?\w+ contains ") as error:
        preflight(renderer, [SEED, changed], 2048)
    assert mark in str(error.value) or "ASSISTANT" in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "It prints `user: me` and A: yes, Q: no.",
        "Use |> or <s> and </s>.",
        "[INST] is a tag, <|user|> too.",
        "USER: me\nASSISTANT: I",
        "### Instruction:\nRun it.",
        "<<SYS>> is one, END OF CONVERSATION too.",
    ],
)
def test_what_no_template_writes_is_a_word(text: str) -> None:
    tokenizer = tiny_tokenizer(template=CHATML)
    preflight(make_renderer(tokenizer), [replace(SEED, response=text)], 2048)
    assert make_renderer(tokenizer, "plain").marks_in(text) == []


def test_a_name_is_one_where_the_template_writes_it() -> None:
    falcon = make_renderer(tiny_tokenizer(template=TEMPLATES["falcon"]))
    assert falcon.marks_in("The field User: is empty.") == [] and falcon.marks_in("Yes.\nUser: And?") == ["User:"]
    vicuna = make_renderer(tiny_tokenizer(template=TEMPLATES["vicuna"]))
    assert vicuna.marks_in("Yes. USER: And?") == ["USER:"] and vicuna.marks_in("SUPERUSER: root, user: me") == []


@pytest.mark.parametrize("name", TEMPLATES)
def test_words_that_a_template_begins_with_are_none(name: str) -> None:
    renderer = make_renderer(tiny_tokenizer(template=TEMPLATES[name]))
    assert renderer.marks_in("Below is an instruction. A chat with an assistant who gives polite answers: [1], (a) and <5.") == []


def test_a_benchmark_may_ask_about_a_mark() -> None:
    renderer = make_renderer(tiny_tokenizer(template=TEMPLATES["zephyr"]))
    assert "<|user|> mean" in renderer.prompt_text((), "What does <|user|> mean?")
