"""A Modelfile for Ollama, whose template is proven to write what the run has trained the model on.

Ollama reads no Jinja: it wants a Go template. Ours is not chosen from a list by a model's name. What stands around the texts is
found out from conversations rendered as the run renders them, put together, rendered again by `go_template`, and compared: only
a template that writes each conversation to the letter is written.

What Ollama hands to a template: `.System`, all system texts of a conversation, and `.Messages`, its turns in order, each with
`.Role` and `.Content`, neighbours of one role joined. It lets llama.cpp put the beginning-of-text token in front where the model
file asks for that, so that the template must not write one then. (Ollama's documentation and sources of 2026.)
"""

from __future__ import annotations

import json
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from selfalign.errors import UserError
from selfalign.export.go_template import render
from selfalign.text import printable
from selfalign.types import Example, Turns

Write = Callable[[str, Turns, str], str]
"""(system text, earlier turns, prompt) to the text up to where the model answers."""


class Conversation(NamedTuple):
    """What stands before an answer."""

    system: str
    history: Turns
    prompt: str

    @classmethod
    def of(cls, example: Example) -> Conversation:
        """As Ollama hands on its texts: without white space at their ends."""
        history = tuple((prompt.strip(), response.strip()) for prompt, response in example.history)
        return cls(example.system.strip(), history, example.prompt.strip())


_S, _U, _A, _V = "qzv7system7vzq", "qzv7first7vzq", "qzv7answer7vzq", "qzv7second7vzq"
_PROBES = (
    Conversation("", (), "Hello there"),
    Conversation("Be brief.", (), "Why?"),
    Conversation("", (("One?", "Two."),), "Three?"),
    Conversation("Be brief.", (("One?", "Two."), ("Three?", "Four.\n\nFive.")), "Six & <seven>?"),
    Conversation("", (("a", "b"), ("c", "d"), ("e", "f")), "g"),
)
"""Compared beside the run's own conversations, which may have no history or no system text."""


class _Around(NamedTuple):
    """What stands around the texts: head (or before, system, behind), user, asked, [answer, after, user, asked]…"""

    head: str
    before: str
    behind: str
    asked: str
    answers: str
    after: str


def go_template(write: Write, begin: str, end: str, conversations: Iterable[Conversation]) -> str:
    """The Go template that writes what `write` does.

    Args:
        begin: the text that llama.cpp itself puts in front of a prompt (of the beginning-of-text token); "" for none.
        end: the text that closes an answer; it only decides where the template's lines are cut.

    Raises:
        UserError: there is none of our form; the message says what would be written otherwise.
    """

    def bare(system: str, history: Turns, prompt: str) -> str:
        return write(system, history, prompt).removeprefix(begin)

    template = _compose(_look(bare), end)
    for one in (*_PROBES, *conversations):
        _compare(template, one, bare(*one))
    return template


def refuse_dates(source: str, text: str) -> None:
    """Raises UserError: the chat template (its `source`) has written today's date into `text`; a Modelfile's would stay."""
    if "strftime_now" in source and time.strftime("%Y") in text:
        remedy = "; a run with the argument date_string in --template_args has a fixed one" if "date_string" in source else ""
        raise UserError(f"its chat template writes today's date into every prompt, a Modelfile's would be that of today{remedy}")


def values(conversation: Conversation) -> dict[str, Any]:
    """What Ollama hands to a template for a conversation."""
    system, history, prompt = conversation
    texts = [*(text for turn in history for text in turn), prompt]
    said = [("user", text) if place % 2 == 0 else ("assistant", text) for place, text in enumerate(texts)]
    turns = [*([("system", system)] if system else []), *said]
    return {"System": system, "Messages": [{"Role": role, "Content": text} for role, text in turns]}


def modelfile(
    file: str, template: str, *, system: str, stops: Sequence[str], generation: Mapping[str, Any], notes: Sequence[str]
) -> str:
    """The text of a Modelfile.

    Args:
        file: the model's file, next to the Modelfile.
        system: the system text where a conversation has none; "" for none.
        stops: texts that end an answer.
        generation: the model's generation configuration.
        notes: lines of comment.

    Raises:
        UserError: a text that a Modelfile cannot hold.
    """
    parameters = [("stop", _quoted(stop, "a stop text")) for stop in stops]
    parameters += [(name, f"{value:g}") for name, value in decoding(generation).items()]
    lines = [f"# {' '.join(note.split())}" for note in notes]
    lines += [f"FROM ./{file}", f"TEMPLATE {_quoted(template, 'the template')}"]
    lines += [f"SYSTEM {_quoted(system, 'the system text of the seeds')}"] if system else []
    return "\n".join([*lines, *(f"PARAMETER {name} {value}" for name, value in parameters)]) + "\n"


def decoding(generation: Mapping[str, Any]) -> dict[str, float]:
    """Ollama's parameters from a generation configuration.

    Where that says nothing, repetition is not punished, as the run punishes none and Ollama has done so by itself.
    """
    names = ("temperature", "top_p", "top_k", "min_p")
    given = {name: generation[name] for name in names if isinstance(generation.get(name), int | float)}
    if generation.get("do_sample") is False:
        given = {"temperature": 0}
    penalty = generation.get("repetition_penalty")
    return {**given, "repeat_penalty": penalty if isinstance(penalty, int | float) else 1.0}


def _look(write: Write) -> _Around:
    head, asked = _split(write("", (), _U), _U)
    before, behind, _ = _split(write(_S, (), _U), _S, _U)
    first, answers, after, again = _split(write("", ((_U, _A),), _V), _U, _A, _V)
    if first != head or again != asked:
        raise UserError("its chat template writes the turns of a longer conversation otherwise than those of a short one")
    return _Around(head, before, behind, asked, answers, after)


def _split(text: str, *marks: str) -> list[str]:
    parts = list[str]()
    for mark in marks:
        if text.count(mark) != 1:
            raise UserError("its chat template does not write a conversation's texts in their order, each once")
        before, _, text = text.partition(mark)
        parts.append(before)
    return [*parts, text]


def _compose(a: _Around, end: str) -> str:
    opening = _common(*(text[::-1] for text in (a.head, a.behind, a.after)))[::-1]  # of a user's turn: what all end with
    if end and opening.startswith(end):  # what closes a turn belongs to the turn before
        rest = opening.removeprefix(end)
        opening = rest.lstrip("\n")
    system, other = a.behind.removesuffix(opening), a.head.removesuffix(opening)
    close = a.after.removesuffix(opening)
    if a.asked == a.answers:
        reply = _literal(a.asked)
    else:
        same = _common(a.asked, a.answers)
        last, earlier = (_literal(text[len(same) :]) for text in (a.asked, a.answers))
        # A prompt is the last one also where an answer to go on with stands behind it.
        choice = f"{{{{ if le (len (slice $.Messages $i)) 2 }}}}{last}{{{{ else }}}}{earlier}{{{{ end }}}}"
        reply = _literal(same) + choice
    without = f"{{{{ else }}}}{_literal(other)}" if other else ""
    return (
        f"{{{{ if .System }}}}{_literal(a.before)}{{{{ .System }}}}{_literal(system)}{without}{{{{ end }}}}"
        '{{ range $i, $m := .Messages }}{{ if eq $m.Role "user" }}'
        f"{_literal(opening)}{{{{ $m.Content }}}}{reply}"
        '{{ else if eq $m.Role "assistant" }}{{ $m.Content }}'
        f"{{{{ if gt (len (slice $.Messages $i)) 1 }}}}{_literal(close)}{{{{ end }}}}"
        "{{ end }}{{ end }}"
    )


def _common(*texts: str) -> str:
    """What all begin with."""
    first, last = min(texts), max(texts)  # all others lie between them
    return first[: next((at for at, letter in enumerate(first) if last[at : at + 1] != letter), len(first))]


def _literal(text: str) -> str:
    """A text as a template writes it: also one that would open an action, or of which Ollama's reader would drop characters."""
    spelled = "".join(letter if _kept(letter) and letter != "{" else f'{{{{ "{_escaped(letter)}" }}}}' for letter in text)
    return spelled.replace('"""', '"{{ "\\u0022" }}"')


def _compare(template: str, conversation: Conversation, wanted: str) -> None:
    try:
        written = render(template, values(conversation))
    except (ValueError, KeyError) as error:
        raise UserError(f"its chat template writes what a Go template of ours cannot hold ({error})") from error
    if written != wanted:
        at = len(_common(written, wanted))
        ours, theirs = (printable(text[max(0, at - 20) : at + 40]) for text in (written, wanted))
        raise UserError(f"a Go template of ours would write {ours!r} where the model was trained on {theirs!r}")


def _quoted(text: str, what: str) -> str:
    """Raises UserError: Ollama's reader would take it for something else."""
    if '"""' in text or (bad := next((letter for letter in text if not _kept(letter)), "")):
        said = "three quotation marks" if '"""' in text else f"U+{ord(bad):04X}"
        raise UserError(f"{what} contains {said}, which a Modelfile cannot hold")
    return f'"""{text}"""'


def _kept(letter: str) -> bool:
    """Whether Ollama's reader of Modelfiles keeps a character: what Go calls printable, and spaces, tabs and line breaks."""
    return letter in " \t\n" or unicodedata.category(letter)[0] in "LMNPS"


def _escaped(letter: str) -> str:
    return json.dumps(letter)[1:-1] if ord(letter) < 0x10000 else f"\\U{ord(letter):08x}"
