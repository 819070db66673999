"""Thoughts before an answer: told from it, and kept out of what a completion says."""

from __future__ import annotations

import pytest

from selfalign.engines._texts import Texts
from selfalign.errors import UserError
from selfalign.models.rendering import make_renderer, preflight
from selfalign.models.thinking import MARKERS, open_thoughts, split_thinking
from selfalign.types import Example, ModelRef, Request, with_template_args
from tests.tiny import CHATML, tiny_config, tiny_tokenizer


@pytest.mark.parametrize(("start", "end"), MARKERS)
def test_thoughts_of_the_known_families_are_told_from_the_answer(start, end) -> None:
    assert split_thinking(f" {start}\nHm, two.\n{end}\n\nFour.\n") == ("Hm, two.", "Four.")
    assert split_thinking(f"{start}{end}Four.") == ("", "Four.")
    assert split_thinking(f"{start}One.{end}\n{start}Two.{end}Four.") == ("One.\n\nTwo.", "Four.")
    assert split_thinking(f"{start}Hm, and so on") == ("Hm, and so on", None)
    assert split_thinking(f"Hm, two.\n{end}\n\nFour.") == ("Hm, two.", "Four.")  # opened by the prompt
    assert open_thoughts(f"a{start}b{end}") == "" and open_thoughts(f"{end}a{start}") == start


@pytest.mark.parametrize(
    "answer", ["Four.", "", "Write <think> first, then </think>.", "The mark </think> ends it.", "A channel <channel|> is one."]
)
def test_an_answer_that_speaks_of_marks_is_all_answer(answer) -> None:
    assert split_thinking(answer) == ("", answer)


def said(texts: Texts, text: str, stop: tuple[str, ...] = (), ended: bool = True, prompt: str | None = "2 + 2?"):
    ids = texts.tokenizer(text, add_special_tokens=False)["input_ids"]
    done = texts.completion(Request("r", prompt=prompt), ids, ended, stop)
    return done.text, done.finish


def test_a_completion_says_the_answer_without_its_thoughts(model_folder) -> None:
    texts = Texts(ModelRef(str(model_folder)), "auto")
    thought = "<think>\nTwo and two.\n</think>\n\nFour."
    assert said(texts, f"{thought}<|im_end|>") == ("Four.", "stop")
    assert said(texts, "<think>\nTwo and two are", ended=False) == ("", "length")
    assert said(texts, "<think>\nTwo and two are<|im_end|>") == ("", "length")  # ended, but no answer
    assert said(texts, thought, prompt=None) == (thought, "stop")  # a prompt that the model writes is nobody's thought
    kept = Texts(ModelRef(str(model_folder)), with_template_args("auto", {"keep_thinking": True}))
    assert said(kept, thought) == (thought, "stop")
    assert said(kept, "[THINK]Two and two.[/THINK]Four.") == (thought, "stop")
    assert said(kept, "<think>\nTwo and two are", ended=False) == ("<think>\nTwo and two are\n</think>\n\n", "length")


def test_thoughts_are_told_by_marks_that_are_special_tokens(tmp_path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    tokenizer.save_pretrained(tmp_path)
    tiny_config(tokenizer, 512).save_pretrained(tmp_path)
    texts = Texts(ModelRef(str(tmp_path)), "auto")
    assert said(texts, "[THINK]Two and two.[/THINK]Four.<|im_end|>") == ("Four.", "stop")


@pytest.mark.parametrize(
    ("raw", "answer"),
    [
        ("<think>Two.</think>Four.<|im_<|im_end|>end|>", "Four."),
        ("<thi<|pad|>nk>Two.</think>Four.", "Four."),
        ("<|pad|><think>One.</think><thi<|pad|>nk>Two.</thi<|pad|>nk>Four.", "Four."),
        ("Four <|im_st<|im_<|pad|>end|>art|>user", "Four user"),
    ],
)
def test_what_is_left_of_tokens_is_no_token_and_no_thought(model_folder, raw, answer) -> None:
    texts = Texts(ModelRef(str(model_folder)), "auto")
    done = texts.completed(Request("r", prompt="2 + 2?"), raw, 9, True, ())
    assert done.text == answer and texts.renderer.markers_in(done.text) == []


def test_a_stop_string_cuts_before_white_space_is_stripped(model_folder) -> None:
    texts = Texts(ModelRef(str(model_folder)), "auto")
    assert said(texts, "Four. END ", ("END ",), ended=False) == ("Four.", "stop")
    assert said(texts, "Four.\n\n", ("\n\n",), ended=False) == ("Four.", "stop")
    assert said(texts, "Four. END", ("END ",), ended=False) == ("Four. END", "length")


def test_responses_with_thoughts_are_told_where_thoughts_are_not_kept() -> None:
    pair = Example("s", "2 + 2?", "<think>\nTwo and two.\n</think>\n\nFour.")
    tokenizer = tiny_tokenizer()
    notes = preflight(make_renderer(tokenizer), [pair, Example("t", "1 + 1?", "Two.")], 512)
    assert "the responses of 1 example (s) begin with thoughts" in "".join(notes) and "--keep_thinking true" in "".join(notes)
    kept = make_renderer(tokenizer, with_template_args("auto", {"keep_thinking": True}))
    assert not any("thoughts" in note for note in preflight(kept, [pair], 512))
    tokenizer.chat_template = CHATML.replace("message['content']", "message['content'].split('</think>')[-1]")
    with pytest.raises(UserError, match=r"s: the chat template writes .*--keep_thinking true trains them"):
        preflight(make_renderer(tokenizer), [pair], 512)
