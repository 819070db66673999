"""Go templates that write what Jinja templates do, Modelfiles as Ollama reads them, and what is refused."""

from __future__ import annotations

import pytest
from jinja2 import Environment

from selfalign.errors import UserError
from selfalign.export.go_template import render
from selfalign.export.ollama import Conversation, Write, go_template, modelfile, refuse_dates, values
from selfalign.types import Turns
from tests.tiny import CHATML

LLAMA = (
    "<bos>{% for m in messages %}[head]{{ m['role'] }}[/head]\n\n{{ m['content'] | trim }}[eot]{% endfor %}"
    "{% if add_generation_prompt %}[head]assistant[/head]\n\n{% endif %}"
)
GEMMA = (
    "<bos>{% set first = namespace(text='') %}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{% set first.text = m['content'] + '\n\n' %}{% else %}[turn]{{ 'model' if m['role'] == 'assistant' else 'user' }}\n"
    "{{ first.text }}{{ m['content'] }}[end]\n{% set first.text = '' %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[turn]model\n{% endif %}"
)
INST = (
    "<bos>{% for m in messages %}{% if m['role'] == 'system' %}[SYS]{{ m['content'] }}[/SYS]{% elif m['role'] == 'user' %}"
    "[INST] {{ m['content'] }} [/INST]{% else %} {{ m['content'] }}</s>{% endif %}{% endfor %}"
)
THOUGHTS = CHATML.replace("'<|im_start|>assistant\n' }}", "'<|im_start|>assistant\n<think>\n\n</think>\n\n' }}")
ODD = "You help. {{ '{{ x }}' }}\u00a0\"\"\" {{ '{' }}"
DEFAULT = f"{{% if messages[0]['role'] != 'system' %}}<|im_start|>system\n{ODD}<|im_end|>\n{{% endif %}}{CHATML}"
NUMBERED = CHATML.replace("message['role']", "message['role'] + loop.index | string")
SAID = [Conversation('Say\t""".', (("a {{ b }}", "c\n\nd"),), "é 🙂 {{ .System }}"), Conversation("", (), "One")]


def writing(jinja: str) -> Write:
    template = Environment().from_string(jinja)

    def write(system: str, history: Turns, prompt: str) -> str:
        turns = [("user", text) if at % 2 == 0 else ("assistant", text) for at, text in enumerate([*sum(history, ()), prompt])]
        said = [*([("system", system)] if system else []), *turns]
        messages = [{"role": role, "content": text} for role, text in said]
        return str(template.render(messages=messages, add_generation_prompt=True))

    return write


@pytest.mark.parametrize("jinja", [CHATML, LLAMA, GEMMA, INST, THOUGHTS, DEFAULT])
@pytest.mark.parametrize("end", ["", "<|im_end|>", "[eot]"])
@pytest.mark.parametrize("begin", ["", "<bos>"])
def test_a_go_template_writes_what_the_chat_template_does(jinja: str, end: str, begin: str) -> None:
    write = writing(jinja)
    template = go_template(write, begin, end, SAID)
    for one in SAID:
        assert render(template, values(one)) == write(*one).removeprefix(begin)
    assert f'TEMPLATE """{template}"""\n' in modelfile("m", template, system="", stops=(), generation={}, notes=())


def test_it_reads_as_people_write_them() -> None:
    assert go_template(writing(CHATML), "", "<|im_end|>", ()) == (
        "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}"
        '{{ range $i, $m := .Messages }}{{ if eq $m.Role "user" }}<|im_start|>user\n'
        "{{ $m.Content }}<|im_end|>\n<|im_start|>assistant\n"
        '{{ else if eq $m.Role "assistant" }}{{ $m.Content }}{{ if gt (len (slice $.Messages $i)) 1 }}<|im_end|>\n'
        "{{ end }}{{ end }}{{ end }}"
    )


def test_an_answer_to_go_on_with_stays_open() -> None:
    for jinja in (CHATML, THOUGHTS):
        template = go_template(writing(jinja), "", "<|im_end|>", ())
        given = values(Conversation("", (), "Why?"))
        given["Messages"].append({"Role": "assistant", "Content": "Because"})
        assert render(template, given) == writing(jinja)("", (), "Why?") + "Because"


@pytest.mark.parametrize(
    ("jinja", "said"),
    [
        (NUMBERED, "user3.* where the model was trained on .*user4"),
        (CHATML.replace("message['content']", "message['content'] | upper"), "each once"),
        (CHATML.replace("message['content']", "message['content'] | replace('\n\n', '\n')"), "would write .* where the model"),
        (
            CHATML + "{% if messages | length > 4 %}Long!{% endif %}",
            "would write '.*' where the model was trained on '.*Long!'",
        ),
    ],
)
def test_what_no_go_template_of_ours_writes_is_refused(jinja: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        go_template(writing(jinja), "", "<|im_end|>", ())


def test_a_date_of_today_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfalign.export.ollama.time.strftime", lambda form: "2031")
    refuse_dates("{{ strftime_now('%Y') }}", "Today is in 2030.")
    with pytest.raises(UserError, match="today's date"):
        refuse_dates("{{ strftime_now('%Y') }}", "Today is in 2031.")


def test_what_ollama_would_read_otherwise_is_refused() -> None:
    for system, said in (('""" said she', "three quotation marks"), ("a\u200bb", r"U\+200B")):
        with pytest.raises(UserError, match=f"the system text of the seeds contains {said}"):
            modelfile("m.gguf", "t", system=system, stops=(), generation={}, notes=())


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        ({}, {"repeat_penalty": "1"}),
        ({"do_sample": False, "temperature": 0.7}, {"temperature": "0", "repeat_penalty": "1"}),
        ({"temperature": 0.6, "top_p": 0.9, "top_k": 50, "repetition_penalty": 1.1, "min_p": None, "eos_token_id": 2},
         {"temperature": "0.6", "top_p": "0.9", "top_k": "50", "repeat_penalty": "1.1"}),
    ],
)  # fmt: skip
def test_parameters_are_those_of_the_generation_configuration(generation: dict[str, object], expected: dict[str, str]) -> None:
    text = modelfile(
        "m.gguf", "t", system="", stops=["<|im_end|>", "\nQuestion:"], generation=generation, notes=["made by us\nX"]
    )
    assert text.startswith("# made by us X\nFROM ./m.gguf\n")
    assert 'PARAMETER stop """<|im_end|>"""\nPARAMETER stop """\nQuestion:"""\n' in text
    given = dict(line.split()[1:] for line in text.splitlines() if line.startswith("PARAMETER ") and "stop" not in line)
    assert given == expected


@pytest.mark.parametrize(
    "template",
    ["{{ .X", "{{ if .System }}", "{{ end }}", "{{ foo }}", "{{- .System }}", "{{ .System | trim }}", "{{ range .Messages }}"],
)
def test_what_is_not_in_our_part_of_go_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r"understood|without its end|nothing to end"):
        render(template, {"System": "s", "Messages": []})
