"""Chat templates of every kind: what is trained is what the template itself would write, or it is refused with a reason."""

from __future__ import annotations

import os
import re
import resource
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfalign.errors import UserError
from selfalign.models.names import quiet
from selfalign.models.rendering import IGNORE, make_renderer, preflight
from selfalign.types import Example, with_template_args
from tests.conftest import Refused
from tests.tiny import CHATML, END, START, tiny_model, tiny_tokenizer

TWICE = "{% for i in range(99999) %}{% for j in range(99999) %}BODY{% endfor %}{% endfor %}"
GREEDY = {
    "loops": TWICE.replace("BODY", "{% set x = i %}"),
    "loops where there is an answer": "{% if messages|length > 1 %}" + TWICE.replace("BODY", "x") + "{% endif %}",
    "a text repeated": "{{ 'x' * 10**10 }}",
    "a text doubled": "{% set n = namespace(s='xx') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}",
    "a text of ten millions": "{{ 'x' * 10**7 }}",
    "a macro without end": "{% macro f(n) %}{{ f(n+1) }}{% endmacro %}{{ f(0) }}",
}

PAIRS = (
    Example("s1", "What is the capital of France?", "Paris is the capital."),
    Example("s2", "Name a colour, please.", "Blue is a colour.\n\nIt is nice."),
)
LATER = Example("s3", "And of Spain?", "Madrid.", history=(("What is the capital of France?", "Paris."),))

ASK = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
OFF = "{% if enable_thinking is defined and not enable_thinking %}"
TURN = "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
SAID = "{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' + m.content + '<|im_end|>\n' }}"


def each(user: str, assistant: str, ask: str = "", system: str = "") -> str:
    """A template of what it writes for a turn of each role, and to ask for an answer."""
    other = f"{{% elif m.role == 'system' %}}{system}" if system else ""
    turn = f"{{% if m.role == 'user' %}}{user}{other}{{% else %}}{assistant}{{% endif %}}"
    return f"{{% for m in messages %}}{turn}{{% endfor %}}{ask}"


KINDS = {
    "an empty block of thoughts, in the generation prompt only where thinking is off": each(
        TURN, SAID, ASK.replace("{% endif %}", OFF + "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"), TURN
    ),
    "an empty block of thoughts before the last answer alone": each(
        TURN, "{% if loop.last %}" + SAID + "{% else %}" + TURN + "{% endif %}", ASK, TURN
    ),
    "thoughts open in the generation prompt, answers without them": each(
        TURN, TURN, ASK.replace("assistant\n", "assistant\n<think>\n")
    ),
    "thinking on unless told": each(
        TURN,
        TURN.replace("'\n' +", "'\n<think></think>' +"),
        ASK.replace("' }}", "<think>' + ('\n' if enable_thinking | default(true) else '</think>') }}"),
    ),
    "a channel before the answer": each(
        "{{ '<|start|>user<|message|>' + m.content + '<|end|>' }}",
        "{{ '<|start|>assistant<|channel|>final<|message|>' + m.content + ('<|return|>' if loop.last else '<|end|>') }}",
        "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}",
    ),
    "a space before the answer": each("{{ '[INST] ' + m.content + ' [/INST]' }}", "{{ ' ' + m.content + eos_token }}"),
    "a space after a colon, no end": each(
        "{{ 'User: ' + m.content + '\n' }}",
        "{{ 'Assistant: ' + m.content + '\n' }}",
        "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}",
    ),
    "a line break before the answer, no end": each(
        "{{ '<|user|>\n' + m.content }}",
        "{{ '<|assistant|>\n<think></think>\n' + m.content }}",
        "{% if add_generation_prompt %}{{ '<|assistant|>\n<think></think>' }}{% endif %}",
    ),
    "a word behind every prompt": each(TURN.replace("m.content", "m.content + ' /no_think'"), TURN, ASK),
    "no notice of add_generation_prompt": each(TURN, TURN),
    "a generation prompt always": each(TURN, TURN) + "{{ '<|im_start|>assistant\n' }}",
    "an end that is no token": each("{{ '### Q\n' + m.content + '\n' }}", "{{ '### A\n' + m.content + '\n### End\n' }}"),
    "a system prompt on the last user turn alone": each(
        TURN.replace("m.content", "(messages[0].content if loop.last and messages[0].role == 'system' else '') + m.content"),
        TURN,
        ASK,
        "{{ '' }}",
    ),
    "no place for a system prompt": each(TURN, TURN, ASK, "{{ raise_exception('no system') }}"),
    "a system prompt swallowed": each(TURN, TURN, ASK, "{{ '' }}"),
    "two end tokens": each(TURN, TURN, ASK.replace("{% endif %}", "{% else %}<|endoftext|>{% endif %}")),
}


def tokenizer_of(template: str) -> Any:
    """The bytes, and whatever in a template looks like a token; marks of thoughts are no special tokens, as with Qwen."""
    made = tiny_tokenizer(template=template, context=10_000)
    found = set(re.findall(r"<[|｜][^|｜<>\s{}']+[|｜]>|<(?:start|end)_of_turn>|</?s>|<bos>|<eos>|\[/?INST\]", template))
    made.add_special_tokens({"additional_special_tokens": sorted(found - {START, END})})
    return made


def own_text(tokenizer: Any, *texts: str, system: str = "", **arguments: Any) -> str:
    """What the template writes for a whole conversation with thinking off."""
    turns = [{"role": "assistant" if at % 2 else "user", "content": text} for at, text in enumerate(texts)]
    turns = [{"role": "system", "content": system}, *turns] if system else turns
    return str(tokenizer.apply_chat_template(turns, tokenize=False, **{"enable_thinking": False, **arguments}))


def prove(template: str) -> None:
    """Alone, behind a history and behind demonstrations: prompt and answer are the template's own text, to the token."""
    tokenizer = tokenizer_of(template)
    renderer = make_renderer(tokenizer)
    preflight(renderer, (*PAIRS, LATER), 10_000)
    for shown in ((), PAIRS[:1], PAIRS):
        for pair in (*PAIRS, LATER):
            before = [text for each in (*((one.prompt, one.response) for one in shown), *pair.history) for text in each]
            own = own_text(tokenizer, *before, pair.prompt, pair.response)
            ours = renderer.pair_text(pair.prompt, pair.response, pair.history, "", shown)
            assert own.startswith(ours)
            assert renderer.end_id is None or not own[len(ours) :].strip()
            ids, labels = renderer.pair_ids(pair.prompt, pair.response, pair.history, "", shown)
            written = ids if renderer.end_id is None else ids[:-1]
            assert written == tokenizer(own, add_special_tokens=False)["input_ids"][: len(written)]
            asked = renderer.prompt_ids(shown, pair.prompt, pair.history)
            assert ids[: len(asked)] == asked and labels == [IGNORE] * len(asked) + ids[len(asked) :]
            assert tokenizer.decode(ids[len(asked) :], skip_special_tokens=True).strip().startswith(pair.response)
            assert ids[-1] in renderer.response_stops.ids or renderer.response_stops.strings
        opened = renderer.prompt_text(shown, None)
        said = [text for one in shown for text in (one.prompt, one.response)]
        assert own_text(tokenizer, *said, "And now?").startswith(opened) and not opened.endswith(" ")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_trained_is_what_the_template_writes(kind) -> None:
    prove(KINDS[kind])


@pytest.mark.skipif("SELFALIGN_TEMPLATES" not in os.environ, reason="SELFALIGN_TEMPLATES names no folder of *.jinja")
def test_real_templates_are_trained_as_they_write_or_refused_with_a_remedy() -> None:
    found, wrong = sorted(Path(os.environ["SELFALIGN_TEMPLATES"]).glob("*.jinja")), {}
    assert found
    for path in found:
        try:
            prove(path.read_text(encoding="utf-8"))
        except UserError as error:
            if "use format plain" not in str(error):
                wrong[path.stem] = f"refused without a remedy: {error}"
        except AssertionError as error:
            wrong[path.stem] = str(error)
    assert not wrong


def test_white_space_before_an_answer_is_the_models_to_write() -> None:
    kinds = ("a space before the answer", "a line break before the answer, no end")
    space, line = (make_renderer(tokenizer_of(KINDS[kind])) for kind in kinds)
    assert space.prompt_text((), "Why?") == "[INST] Why? [/INST]" and space.response_text("So.") == f" So.{END}"
    assert line.prompt_text((), "Why?") == "<|user|>\nWhy?<|assistant|>\n<think></think>" and line.response_text("So.") == "\nSo."


def test_what_the_template_writes_behind_a_prompt_ends_one() -> None:
    word = make_renderer(tokenizer_of(KINDS["a word behind every prompt"]))
    assert word.prompt_stops.strings == ("/no_think",) and word.clean("Is it so? /no_think") == "Is it so?"
    plain = make_renderer(tokenizer_of(KINDS["a space after a colon, no end"]))
    assert plain.prompt_stops.strings == ("\nAssistant:",) and plain.response_stops.strings == ("\nUser:",)
    assert plain.clean("My Assistant: it is.\nAssistant: so") == "My Assistant: it is."
    channel = make_renderer(tokenizer_of(KINDS["a channel before the answer"]))
    ends = {"<|return|>", "<|end|>", "<|start|>"}
    assert ends <= {token for token, place in channel.special.items() if place in channel.response_stops.ids}


def test_thinking_is_off_where_the_template_can_and_on_where_it_is_told() -> None:
    tokenizer = tokenizer_of(KINDS["an empty block of thoughts, in the generation prompt only where thinking is off"])
    asked = f"{START}user\nWhy?{END}\n{START}assistant\n"
    assert make_renderer(tokenizer).prompt_text((), "Why?") == f"{asked}<think>\n\n</think>\n\n"
    notes = preflight(make_renderer(tokenizer), PAIRS, 10_000)
    assert notes == [
        "the chat template can have the model think first: thinking is off (enable_thinking=false); template_args changes that"
    ]
    told = make_renderer(tokenizer, with_template_args("auto", {"enable_thinking": True}))
    assert "prompts end with '<think>\\n\\n</think>\\n\\n'" in preflight(told, PAIRS, 10_000)[0]
    carried = make_renderer(tokenizer, with_template_args("auto", {"enable_thinking": True, "taste": 1}))
    assert carried.style.arguments == {"enable_thinking": True, "taste": 1}
    assert "does not read the argument 'taste'" in preflight(carried, PAIRS, 10_000)[0]


def test_kept_thoughts_are_trained_as_the_template_writes_them() -> None:
    thinks = (
        "{{ '<|im_start|>assistant\n<think>\n' + (m.reasoning_content or '') + '\n</think>\n\n' + m.content + '<|im_end|>\n' }}"
    )
    renderer = make_renderer(tokenizer_of(each(TURN, thinks, ASK)), with_template_args("auto", {"keep_thinking": True}))
    answer = "<think>Two and two.</think>Four."
    assert renderer.pair_text("2 + 2?", answer) == (
        f"{START}user\n2 + 2?{END}\n{START}assistant\n<think>\nTwo and two.\n</think>\n\nFour.{END}"
    )
    ids, labels = renderer.training_ids("2 + 2?", answer)
    learned = renderer.tokenizer.decode([token for token, label in zip(ids, labels, strict=True) if label != IGNORE])
    assert learned == f"<think>\nTwo and two.\n</think>\n\nFour.{END}"
    assert preflight(renderer, [*PAIRS, Example("t", "2 + 2?", answer)], 10_000) == []
    inside = make_renderer(tokenizer_of(CHATML), with_template_args("auto", {"keep_thinking": True}))
    assert inside.pair_text("2 + 2?", answer).endswith(f"{START}assistant\n{answer}{END}")
    forgets = tokenizer_of(each(TURN, TURN.replace("m.content", "m.content.split('</think>')[-1]"), ASK))
    with pytest.raises(UserError, match="leaves the thoughts before an answer away; take keep_thinking out"):
        make_renderer(forgets, with_template_args("auto", {"keep_thinking": True})).training_ids("2 + 2?", answer)
    opened = KINDS["thoughts open in the generation prompt, answers without them"]
    with pytest.raises(UserError, match="thoughts cannot be kept"):
        make_renderer(tokenizer_of(opened), with_template_args("auto", {"keep_thinking": True}))


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (
            each(TURN, TURN.replace("'\n' +", "'\n<think>\n' +"), ASK),
            "answers inside an open <think>, as thoughts; use format plain",
        ),
        (each("", TURN, ASK), "does not show each turn's text once, unchanged; use format plain"),
        (each(TURN, "{% for c in m.content %}{{ c.text }}{% endfor %}", ASK), "does not show each turn's text once"),
        ("{{ raise_exception('First message must be system') }}", "First message must be system.*use format plain"),
    ],
)
def test_a_template_that_cannot_be_trained_is_refused(template, said) -> None:
    with pytest.raises(UserError, match=said):
        make_renderer(tokenizer_of(template))


def test_a_template_that_changes_an_answer_is_refused_at_the_example() -> None:
    tokenizer = tokenizer_of(each(TURN, TURN.replace("m.content", "m.content.replace('\n\n', '\n')"), ASK))
    renderer = make_renderer(tokenizer)
    assert preflight(renderer, PAIRS[:1], 10_000) == []
    with pytest.raises(UserError, match=r"^s2: the chat template writes 'It is nice.*take that out, or use format plain"):
        preflight(renderer, PAIRS, 10_000)
    assert renderer.pair_ids(PAIRS[1].prompt, PAIRS[1].response)  # what was generated can be scored all the same
    asking = tokenizer_of(each(TURN.replace("m.content", "m.content.replace('\n\n', '\n')"), TURN, ASK))
    assert preflight(make_renderer(asking), [replace(PAIRS[0], prompt="So:\n\nwhat?")], 10_000) == [
        "the chat template changes texts of prompts"
    ]


def test_what_is_unusual_about_a_template_is_named() -> None:
    def notes(template: str, *pairs: Example) -> list[str]:
        return preflight(make_renderer(tokenizer_of(template)), pairs or PAIRS, 10_000)

    assert notes(CHATML) == []
    assert "ignores add_generation_prompt" in notes(KINDS["no notice of add_generation_prompt"])[0]
    opened = notes(KINDS["thoughts open in the generation prompt, answers without them"])
    assert opened[0].endswith("not with its '<|im_end|>\\n<|im_start|>assistant\\n<think>\\n'")
    assert "'<|channel|>final<|message|>'" in notes(KINDS["a channel before the answer"])[0]
    assert "'<|endoftext|>' too, which is not trained" in notes(KINDS["two end tokens"])[0]
    spoken = "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nBe good.<|im_end|>\n' }}{% endif %}" + CHATML
    assert notes(spoken) == [
        "the chat template begins every conversation without a system prompt with a text of its own: 'Be good.'"
    ]
    dated = spoken.replace("Be good.", "' + (date_string or strftime_now('%d %b %Y')) + '")
    assert "crosses midnight" in notes(dated)[0] and "date_string" in notes(dated)[0]
    fixed = make_renderer(tokenizer_of(dated), with_template_args("auto", {"date_string": "26 Jul 2024"}))
    assert "26 Jul 2024" in fixed.prompt_text((), "Hi") and time.strftime("%Y") not in fixed.prompt_text((), "Hi")
    assert not any("midnight" in note for note in preflight(fixed, PAIRS, 10_000))


@pytest.mark.parametrize("wrong", [{"tokenize": True}, {"messages": []}, {"add_generation_prompt": False}])
def test_arguments_that_are_not_the_templates_are_refused(wrong) -> None:
    with pytest.raises(UserError, match=f"template_args: '{next(iter(wrong))}' is set by selfalign itself"):
        make_renderer(tiny_tokenizer(), with_template_args("chat", wrong))
    with pytest.raises(UserError, match="no chat template to read taste"):
        make_renderer(tiny_tokenizer(), with_template_args("plain", {"taste": 1}))
    with pytest.raises(UserError, match="are no JSON"):
        make_renderer(tiny_tokenizer(), "auto {taste: 1}")


SYSTEM = replace(PAIRS[0], system="Be brief.")


def test_a_system_prompt_stands_where_the_template_puts_it() -> None:
    tokenizer = tokenizer_of(CHATML)
    renderer, said = make_renderer(tokenizer), (PAIRS[1].prompt, PAIRS[1].response)
    assert preflight(renderer, [SYSTEM], 10_000) == []
    own = own_text(tokenizer, *said, "New?", system="Be brief.", add_generation_prompt=True)
    assert renderer.prompt_text(PAIRS[1:], "New?", (), "Be brief.") == own
    ids, _ = renderer.training_ids(SYSTEM.prompt, SYSTEM.response, (), SYSTEM.system)
    own = own_text(tokenizer, SYSTEM.prompt, SYSTEM.response, system="Be brief.")
    assert tokenizer.decode(ids) == own.strip()
    with pytest.raises(UserError, match=r"s1: its system prompt contains '<\|im_end\|>'"):
        preflight(renderer, [replace(SYSTEM, system=f"Be{END}")], 10_000)


@pytest.mark.parametrize("kind", ["no place for a system prompt", "a system prompt swallowed"])
def test_without_a_place_for_it_a_system_prompt_stands_before_the_first_user_turn(kind) -> None:
    tokenizer = tokenizer_of(KINDS[kind])
    renderer = make_renderer(tokenizer)
    assert preflight(renderer, [SYSTEM], 10_000)[-1].endswith(
        "no place for a system prompt: it stands in front of the first user turn"
    )
    own = own_text(tokenizer, f"Be brief.\n\n{PAIRS[1].prompt}", PAIRS[1].response, "New?", add_generation_prompt=True)
    assert renderer.prompt_text(PAIRS[1:], "New?", (), "Be brief.") == own
    assert renderer.prompt_text((), None, (), "Be brief.").endswith("user\nBe brief.\n\n")


APART = "{% set s = messages[0].content if messages[0].role == 'system' else '' %}{% for m in messages if m.role != 'system' %}"
INSTRUCT = (
    f"{APART}{{% if m.role == 'user' %}}{{{{ '[INST] ' }}}}{{% if s and PLACE %}}{{{{ '(' + s + ') ' }}}}{{% endif %}}"
    "{{ m.content + ' [/INST]' }}{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("place", "turns", "into"),
    [
        ("loop.index0 >= loop.length - 2", (1,), "the last"),
        ("loop.last", (1,), "the last"),  # while an answer is asked for alone, as Mistral's
        ("true", (0, 1), "every"),
    ],
)
def test_a_system_prompt_in_a_user_turn_is_learned_as_the_template_asks(place: str, turns: tuple[int, ...], into: str) -> None:
    tokenizer = tokenizer_of(INSTRUCT.replace("PLACE", place))
    renderer = make_renderer(tokenizer)
    assert preflight(renderer, [SYSTEM], 10_000)[-1].endswith(f"into {into} user turn, and it is learned there")
    own = own_text(tokenizer, PAIRS[1].prompt, PAIRS[1].response, "New?", system="Be brief.", add_generation_prompt=True)
    assert renderer.prompt_text(PAIRS[1:], "New?", (), "Be brief.") == own
    assert renderer.prompt_text((), "New?", (), "Be brief.") == "[INST] (Be brief.) New? [/INST]"
    asked = [f"(Be brief.) {text}" if at in turns else text for at, text in enumerate(("Hi.", "Why?"))]
    learned = renderer.pair_text("Why?", "So.", (("Hi.", "Yes?"),), "Be brief.")
    assert learned == own_text(tokenizer, asked[0], "Yes?", asked[1], "So.")


@pytest.mark.parametrize("last", [2, 6, 20])
def test_a_template_that_leaves_out_earlier_turns_is_refused(
    last: int, tmp_path: Path, refused: Refused, seeds_file: Path
) -> None:
    """Examples before a prompt would be lost, and a history."""
    with quiet():
        folder = tiny_model(tmp_path / "model", template=CHATML.replace("in messages", f"in messages[-{last}:]"))
    said = refused("check", "isara", seeds_file, "--model", folder, "--encoder", "Hashed")
    assert f"the chat template leaves out {41 - last} of 41 turns of a conversation" in said and "use format plain" in said


def test_words_that_a_template_leaves_out_of_a_prompt_are_told() -> None:
    cut = CHATML.replace("message['content']", "(message['content'][:40] if message['role'] == 'user' else message['content'])")
    long = Example("s4", "Is there a way to get from here to the station by Wednesday?", "By bus.")
    notes = preflight(make_renderer(tokenizer_of(cut)), [*PAIRS, long], 10_000)
    assert notes[-1] == "the chat template leaves out or rewrites 3 words of prompts, such as 'station' of s4"


def test_dates_are_told_in_any_form_and_the_time_of_day_is_refused() -> None:
    dated = "{{ 'It is ' + strftime_now('%d %B') + '.' }}"
    assert "today's date into every prompt:" in preflight(make_renderer(tokenizer_of(dated + CHATML)), PAIRS, 10_000)[0]
    under = "{% if messages[0].role == 'system' %}" + dated + "{% endif %}" + CHATML
    assert "into every prompt with a system prompt:" in preflight(make_renderer(tokenizer_of(under)), PAIRS, 10_000)[0]
    with pytest.raises(UserError, match="writes the time of day into prompts"):
        make_renderer(tokenizer_of(dated.replace("%d %B", "%d %B, %H:%M") + CHATML))


@pytest.mark.parametrize("format", ["chat", "plain", "isara"])
def test_a_demonstration_under_another_system_prompt_brings_its_own(format) -> None:
    renderer = make_renderer(tokenizer_of(CHATML), format)
    alike = renderer.prompt_text([SYSTEM], "New?", (), "Be brief.")
    assert alike.count("Be brief.") == 1 and alike.index("Be brief.") < alike.index(SYSTEM.prompt)
    other = renderer.prompt_text([SYSTEM], "New?", (), "Be kind.")
    assert other.index("Be kind.") < other.index(f"Be brief.\n\n{SYSTEM.prompt}")
    assert f"Be brief.\n\n{SYSTEM.prompt}" in renderer.prompt_text([SYSTEM], "New?")
    assert "Be brief." not in renderer.prompt_text([SYSTEM, PAIRS[1]], None)


def test_plain_text_begins_with_the_system_prompt() -> None:
    renderer = make_renderer(tiny_tokenizer(template=None))
    assert renderer.prompt_text((), "New?", (), "Be brief.") == "Be brief.\n\nQuestion: New?\nAnswer:"
    assert preflight(renderer, [SYSTEM], 10_000) == []


@pytest.mark.parametrize("kind", GREEDY)
def test_a_template_is_ended_before_it_takes_all_time_or_memory(kind: str) -> None:
    limits, began = resource.getrlimit(resource.RLIMIT_AS), time.process_time()
    with pytest.raises(UserError, match=r"chat template fails on . turns") as caught:
        make_renderer(tiny_tokenizer(template=GREEDY[kind] + CHATML), "chat")
    assert "\n" not in str(caught.value)
    assert time.process_time() - began < 20
    assert resource.getrlimit(resource.RLIMIT_AS) == limits
