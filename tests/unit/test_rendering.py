"""Rendering: the same ids wherever a pair is shown, the end trained, markers never taken for text."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfalign.errors import UserError
from selfalign.models.rendering import IGNORE, make_renderer, preflight
from selfalign.types import Example
from tests.tiny import CHATML, END, START, sentencepiece_tokenizer, tiny_tokenizer

PAIRS = tuple(Example(f"s{i}", f"Question {i}?", f"Answer {i}.") for i in range(3))

LLAMA2 = (
    "{{ '<|im_start|>' }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' <|im_end|>' }}{% endif %}{% endfor %}"
)
NO_END = "{% for m in messages %}{{ '### ' + m['role'] + ':\n' + m['content'] + '\n\n' }}{% endfor %}"
NO_END += "{% if add_generation_prompt %}{{ '### assistant:\n' }}{% endif %}"
UPPER = CHATML.replace("message['content']", "message['content'] | upper")
TWICE = CHATML.replace("message['content']", "message['content'] + message['content']")
RAISES = "{{ raise_exception('only system turns here') }}"


def test_chat_text_is_the_models_own_template() -> None:
    renderer = make_renderer(tiny_tokenizer())
    assert renderer.format == "chat"
    shown = f"{START}user\nQuestion 0?{END}\n{START}assistant\nAnswer 0.{END}\n{START}user\n"
    assert renderer.prompt_text(PAIRS[:1], None) == shown
    assert renderer.prompt_text(PAIRS[:1], "New?") == f"{shown}New?{END}\n{START}assistant\n"


def test_plain_text_is_lines_of_questions_and_answers() -> None:
    renderer = make_renderer(tiny_tokenizer(template=None))
    assert renderer.format == "plain"
    assert renderer.prompt_text(PAIRS[:1], None) == "Question: Question 0?\nAnswer: Answer 0.\n\nQuestion:"
    assert renderer.prompt_text(PAIRS[:1], "New?") == "Question: Question 0?\nAnswer: Answer 0.\n\nQuestion: New?\nAnswer:"


def test_isara_text_is_the_published_layout() -> None:
    renderer = make_renderer(tiny_tokenizer(), "isara")
    shown = "BEGINNING OF CONVERSATION: USER: Question 0? ASSISTANT: Answer 0. END OF CONVERSATION\n\n"
    assert renderer.prompt_text(PAIRS[:1], None) == f"{shown}BEGINNING OF CONVERSATION: USER:"
    assert renderer.prompt_text(PAIRS[:1], "New?") == f"{shown}BEGINNING OF CONVERSATION: USER: New? ASSISTANT:"


@pytest.mark.parametrize(
    ("template", "format"), [(CHATML, "auto"), (LLAMA2, "auto"), (NO_END, "chat"), (None, "auto"), (CHATML, "isara")]
)
@pytest.mark.parametrize("pad", ["own", "eos", "none"])
def test_labels_cover_the_response_and_its_end_token_and_nothing_else(template, format, pad) -> None:
    tokenizer = tiny_tokenizer(template=template, pad=pad)
    renderer = make_renderer(tokenizer, format)
    ids, labels = renderer.training_ids(" What? ", "This.\n")
    boundary = len(renderer.prompt_ids((), "What?"))
    assert ids[:boundary] == renderer.prompt_ids((), "What?")
    assert labels == [IGNORE] * boundary + ids[boundary:]
    assert ids[-1] == tokenizer.eos_token_id and ids[-1] in renderer.response_stops.ids
    assert tokenizer.decode(ids[boundary:], skip_special_tokens=True).strip().startswith("This.")


def test_a_demonstration_has_the_bytes_it_is_trained_with() -> None:
    for format in ("chat", "plain", "isara"):
        renderer = make_renderer(tiny_tokenizer(), format)
        ids, _ = renderer.training_ids(PAIRS[0].prompt, PAIRS[0].response)
        trained = renderer.tokenizer.decode(ids if renderer.end_id is None else ids[:-1], skip_special_tokens=False)
        assert renderer.prompt_text(PAIRS[:1], "New?").startswith(trained)


def test_the_template_of_two_turn_markers_opens_and_ends_turns() -> None:
    renderer = make_renderer(tiny_tokenizer(template=LLAMA2))
    assert renderer.prompt_text(PAIRS[:1], None).endswith("Answer 0. <|im_end|>[INST]")
    assert renderer.prompt_stops.strings == ("[/INST]",)
    assert renderer.clean("Is it so? [/INST] Yes") == "Is it so?"


def test_a_template_without_end_of_turn_gets_the_models_end_token() -> None:
    tokenizer = tiny_tokenizer(template=NO_END)
    renderer = make_renderer(tokenizer)
    assert renderer.end_id == tokenizer.eos_token_id
    with pytest.raises(UserError, match="no end token"):
        make_renderer(tiny_tokenizer(template=NO_END, eos=None, pad="none"))


@pytest.mark.parametrize("template", [UPPER, TWICE, RAISES])
def test_a_template_that_changes_texts_is_refused(template) -> None:
    with pytest.raises(UserError, match="template"):
        make_renderer(tiny_tokenizer(template=template))


def test_chat_without_a_template_is_refused() -> None:
    with pytest.raises(UserError, match="no chat template"):
        make_renderer(tiny_tokenizer(template=None), "chat")


def test_a_model_without_end_token_learns_to_write_the_marker() -> None:
    renderer = make_renderer(tiny_tokenizer(template=None, eos=None, pad="none"))
    ids = renderer.response_ids("Yes.")
    assert renderer.tokenizer.decode(ids) == " Yes.\n\nQuestion:"
    assert renderer.clean(renderer.tokenizer.decode(ids)) == "Yes."
    assert any("no end token" in note for note in preflight(renderer, PAIRS, 512))


@pytest.mark.parametrize("format", ["chat", "plain", "isara"])
@pytest.mark.parametrize("pad", ["own", "eos", "none"])
def test_preflight_passes_sound_examples(format, pad) -> None:
    assert preflight(make_renderer(tiny_tokenizer(pad=pad), format), PAIRS, 512) == []


def test_preflight_refuses_what_would_be_read_as_structure() -> None:
    chat, plain = (make_renderer(tiny_tokenizer(), format) for format in ("chat", "plain"))
    special = replace(PAIRS[1], response=f"It ends {END} here.")
    marked = replace(PAIRS[1], prompt="What follows here?\nAnswer: 1")
    with pytest.raises(UserError, match=r"s1: its response contains '<\|im_end\|>'.*take it out"):
        preflight(chat, [PAIRS[0], special], 512)
    with pytest.raises(UserError, match="s1: its prompt contains 'Answer:'"):
        preflight(plain, [PAIRS[0], marked], 512)
    assert preflight(chat, [marked], 512) == []
    assert preflight(plain, [special], 512) == []  # written out letter by letter, it is text like any other
    assert plain.tokenizer.eos_token_id not in plain.prompt_ids([special], "And?")


def test_preflight_names_the_example_that_is_longer_than_the_window() -> None:
    renderer = make_renderer(tiny_tokenizer())
    length = len(renderer.training_ids(PAIRS[2].prompt, PAIRS[2].response)[0])
    assert preflight(renderer, PAIRS, length) == []
    with pytest.raises(UserError, match=f"s0: .* {length} tokens .* {length - 1}; shorten it"):
        preflight(renderer, PAIRS, length - 1)


def test_preflight_finds_a_tokenizer_that_loses_text() -> None:
    from tokenizers import normalizers

    tokenizer = tiny_tokenizer(template=None)
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(UserError, match="does not give the text back"):
        preflight(make_renderer(tokenizer), PAIRS, 512)


def test_a_response_has_the_tokens_it_has_behind_its_prompt() -> None:
    renderer = make_renderer(sentencepiece_tokenizer())
    ids, labels = renderer.training_ids("What?", "This.")
    assert ids[:-1] == renderer.tokenizer("Question: What?\nAnswer: This.")["input_ids"]  # no second space in the middle
    assert labels[-8:] == [IGNORE, *ids[-7:]] and preflight(renderer, PAIRS, 512) == []


def test_a_token_over_the_boundary_is_told_and_the_prompt_keeps_its_own() -> None:
    renderer = make_renderer(sentencepiece_tokenizer((":", "\u2581")))
    ids, labels = renderer.training_ids("What?", "This.")
    asked = renderer.prompt_ids((), "What?")
    assert ids == asked + renderer.response_ids("This.") and labels == [IGNORE] * len(asked) + ids[len(asked) :]
    assert preflight(renderer, PAIRS, 512)[0].startswith("a token reaches over the boundary between prompt and response")


def test_clean_cuts_at_the_first_marker_and_takes_special_tokens_out() -> None:
    plain, isara = make_renderer(tiny_tokenizer(template=None)), make_renderer(tiny_tokenizer(), "isara")
    assert isara.clean(" Yes, it is. USER: and? END OF CONVERSATION") == "Yes, it is."
    assert plain.clean(" Yes.\n\nMy Answer: it is.\n\nQuestion: no") == "Yes.\n\nMy Answer: it is."
    assert plain.clean(" Answer: it is") == ""
    assert make_renderer(tiny_tokenizer()).clean(f"\n Yes{END} ") == "Yes"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.text(min_size=1, max_size=30), st.text(min_size=1, max_size=30)), max_size=3), st.text(max_size=30))
def test_any_text_comes_back_and_keeps_its_boundary(pairs, prompt) -> None:
    for renderer in RENDERERS:
        examples = [Example(f"e{at}", *(text.strip() for text in pair)) for at, pair in enumerate(pairs)]
        if any(renderer.markers_in(text) for pair in pairs for text in pair) or renderer.markers_in(prompt):
            continue
        preflight(renderer, [example for example in examples if example.response], 10_000)
        text = renderer.prompt_text(examples, prompt)
        assert renderer.tokenizer.decode(renderer.prompt_ids(examples, prompt), skip_special_tokens=False) == text


RENDERERS = [make_renderer(tiny_tokenizer(template=template, context=10_000)) for template in (CHATML, None)]
RENDERERS.append(make_renderer(tiny_tokenizer(context=10_000), "isara"))
