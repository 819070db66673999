"""What a model's chat template writes around the texts of a conversation, found out from its own renderings.

Prompts end where the template's own answers begin: at its generation prompt and whatever it writes between that and the text of
an answer (an empty block of thoughts, the name of a channel). So what is trained is what the template itself would write.
"""

from __future__ import annotations

import inspect
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from selfalign.errors import UserError
from selfalign.models.layouts import Stops, Tokenizer, fold
from selfalign.models.limits import bounded, check_length
from selfalign.models.marks import turn_marks
from selfalign.models.thinking import MARKERS, open_thoughts, split_thinking
from selfalign.types import Turns

_ASKED, _ANSWERED, _SYSTEM = "qzv7asked7vzq", "qzv7answered7vzq", "qzv7system7vzq"
_PLAIN = "use format plain"
_LONG = 41
"""Turns of a conversation as long as twenty examples before a prompt make it."""
_TURNS = {"last": slice(-1, None), "first": slice(0, 1), "every": slice(None, None, 2)}
"""User turns into which templates write a system prompt, by their place among all turns."""


@dataclass(frozen=True)
class Template:
    """One chat template, called with these arguments; made by `read_template`."""

    tokenizer: Tokenizer
    arguments: Mapping[str, Any]
    thoughts: bool
    """Whether the model may think: prompts then end with the template's generation prompt alone."""
    system_role: bool
    """Whether the template puts a system prompt at the beginning; if not, it stands in a user turn (`folded`)."""
    folded: str
    """How a system prompt and a user turn's text stand in that turn, with the marks that stand for the two."""
    into: str
    """Into which user turn the template itself writes it: last, first, every; "" where it has no place for one at all."""
    lead: str
    """White space that the template writes between its generation prompt and an answer: the answer's first token holds it."""
    end: str
    """The text that closes an answer, up to and including the template's end-of-turn token where it has one."""
    end_id: int | None
    """The end token put behind `end`, where that does not finish with a special token itself."""
    prompt_stops: Stops
    response_stops: Stops
    notes: tuple[str, ...]
    marks: tuple[re.Pattern[str], ...]
    """What finds the plain text that the template writes around turns."""

    def ask(self, system: str, turns: Turns, prompt: str | None) -> str:
        """The text up to where the model writes; see `Layout.ask`.

        Raises:
            UserError: the template cannot render this conversation.
        """
        if prompt is None:
            return self._before(self.messages(system, turns, _ASKED), _ASKED).rstrip(" ")
        messages = self.messages(system, turns, prompt)
        if self.thoughts:
            return self._write(messages, generate=True)
        return self._before([*messages, _turn("assistant", _ANSWERED)], _ANSWERED).removesuffix(self.lead)

    def whole(self, system: str, turns: Turns, prompt: str, response: str) -> str:
        """The template's own text of a conversation with its answer."""
        thoughts, answer = split_thinking(response) if self.thoughts else ("", response)
        messages = self.messages(system, turns, prompt)
        if thoughts:  # most templates have a field for them, to others they are a part of the text
            own = self._write([*messages, _turn("assistant", answer or "", reasoning_content=thoughts)])
            if thoughts in own:
                return own
        return self._write([*messages, _turn("assistant", response)])

    def _before(self, messages: Sequence[Mapping[str, str]], last: str) -> str:
        return _cut(self._write(messages), last, sum(message["content"].count(last) for message in messages))[0]

    def messages(self, system: str, turns: Turns, prompt: str) -> list[dict[str, str]]:
        """What the template is given to write, up to the prompt."""
        texts = [*(text for turn in turns for text in turn), prompt]
        if system.strip() and not self.system_role:
            place = _TURNS[self.into or "first"]
            texts[place] = [_folded(self.folded, system, text) for text in texts[place]]
        return _conversation(system if self.system_role else "", *texts)

    def _write(self, messages: Sequence[Mapping[str, str]], generate: bool = False) -> str:
        return _write(self.tokenizer, self.arguments, messages, generate)


def read_template(tokenizer: Tokenizer, special: Mapping[str, int], given: Mapping[str, Any], thoughts: bool) -> Template:
    """What is to know of a tokenizer's chat template.

    Args:
        special: the tokenizer's special tokens by their text.
        given: arguments of the template; thinking is switched off where it has such an argument and none is given.
        thoughts: leave thinking as the template has it.

    Raises:
        UserError: it cannot show plain conversations, or never ends an answer.
    """
    _refuse_reserved(tokenizer, given)
    off = {} if thoughts else _thinking_off(tokenizer, given)
    arguments = {**off, **given}
    seen = _look(tokenizer, arguments)
    _check_all_shown(tokenizer, arguments)
    if not thoughts and (mark := open_thoughts(seen.own)):
        raise UserError(f"the chat template writes answers inside an open {mark}, as thoughts; {_PLAIN}, or change the template")
    if thoughts and not seen.own.startswith(seen.asked):
        raise UserError(
            f"thoughts cannot be kept: behind a prompt the chat template writes {seen.asked!r}, but before an answer {seen.own!r}"
        )
    closing, eos = _first(special, seen.after), tokenizer.eos_token_id
    end = seen.after.rstrip() if closing is None else seen.after[: seen.after.index(closing) + len(closing)]
    if not end and eos is None:
        raise UserError(f"the chat template closes no response and the model has no end token; {_PLAIN}")
    # A model that opens a turn instead of closing its own turn has finished too.
    turns = {special[token] for token in _structure(special, seen.asked + seen.own + seen.after + seen.between)}
    ids = frozenset(turns if eos is None else {*turns, eos})
    turn = _first(special, seen.own)
    opens, answers = _line(seen.between, -1), _line(seen.own[: seen.own.index(turn)] if turn else seen.own, 0)
    into, folded = _folding(tokenizer, arguments)
    return Template(
        tokenizer=tokenizer,
        arguments=arguments,
        thoughts=thoughts,
        system_role=_has_system_role(tokenizer, arguments),
        folded=folded,
        into=into,
        lead=_lead(seen),
        end=end,
        end_id=eos if closing is None else None,
        prompt_stops=Stops(ids, (answers,) if answers else ()),
        response_stops=Stops(ids, () if closing else tuple(mark for mark in (end.strip(), opens) if mark)),
        notes=(
            *_argument_notes(tokenizer, off, given),
            *_notes(tokenizer, arguments, special, seen),
            *(() if thoughts else _boundary_notes(seen, end)),
        ),
        marks=turn_marks(*_around(tokenizer, arguments, seen), special),
    )


class _Seen(NamedTuple):
    """What the template writes around texts."""

    header: str
    """Before the first user turn's text."""
    asked: str
    """Behind it, with the generation prompt."""
    bare: str
    """Behind it, without one."""
    own: str
    """Between it and an answer's text."""
    between: str
    """Between an answer and the next user turn's text."""
    after: str
    """Behind the last answer."""


def _look(tokenizer: Tokenizer, arguments: Mapping[str, Any]) -> _Seen:
    def write(*texts: str, generate: bool = False) -> str:
        return _write(tokenizer, arguments, _conversation("", *texts), generate)

    header, asked = _cut(write(_ASKED, generate=True), _ASKED)
    before, after = _cut(write(_ASKED, _ANSWERED), _ANSWERED)
    between = _cut(_cut(write("Hi", _ANSWERED, _ASKED), _ANSWERED)[1], _ASKED)[0]
    return _Seen(header, asked, _cut(write(_ASKED), _ASKED)[1], _cut(before, _ASKED)[1], between, after)


def _around(tokenizer: Tokenizer, arguments: Mapping[str, Any], seen: _Seen) -> tuple[list[str], list[str]]:
    """What the template writes in front of texts and behind them, a system prompt's included where it takes one."""
    before, behind = [seen.header, seen.own, seen.between], [seen.asked, seen.own, seen.between, seen.after]
    try:
        head, rest = _cut(_write(tokenizer, arguments, _conversation(_SYSTEM, _ASKED), True), _SYSTEM)
        before, behind = [*before, head, _cut(rest, _ASKED)[0]], [*behind, rest[: rest.index(_ASKED)]]
    except (UserError, ValueError):
        pass
    return before, behind


def _thinking_off(tokenizer: Tokenizer, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that switch thoughts off, where the template reads them and thinks without them."""
    source, off = str(tokenizer.chat_template), dict[str, Any]()
    if re.search(r"\benable_thinking\b", source):
        off["enable_thinking"] = False
    if re.search(r"(?<![\w.'\"])thinking(?![\w'\"])", source):  # DeepSeek-V3.1, Granite; not a message's field of this name
        off["thinking"] = False
    if "reasoning_effort" in source and re.search(r"['\"]none['\"]", source):
        off["reasoning_effort"] = "none"
    off = {name: value for name, value in off.items() if name not in given}
    asked = _conversation("", _ASKED)
    changes = off and _write(tokenizer, {**off, **given}, asked, True) != _write(tokenizer, given, asked, True)
    return off if changes else {}


def _refuse_reserved(tokenizer: Tokenizer, given: Mapping[str, Any]) -> None:
    own = {*inspect.signature(tokenizer.apply_chat_template).parameters, "messages"} - {"kwargs"}
    if taken := sorted(own & given.keys()):
        raise UserError(f"template_args: {taken[0]!r} is set by selfalign itself; take it out")


def _lead(seen: _Seen) -> str:
    more = seen.own[len(seen.asked) :] if seen.own.startswith(seen.asked) else seen.own
    if more != seen.own and more.isspace():
        return more
    # A space belongs to the token of the word behind it; a line break is a token of its own.
    return "" if not more else more[len(more.rstrip(" ")) :]


def _has_system_role(tokenizer: Tokenizer, arguments: Mapping[str, Any]) -> bool:
    """Whether a system prompt is shown once, before all else, behind a history too, and when an answer is asked for."""
    for texts, generate in (((_ASKED, _ANSWERED), False), ((_ASKED, "Hello", "Hi", _ANSWERED), False), ((_ASKED,), True)):
        try:
            text = _write(tokenizer, arguments, _conversation(_SYSTEM, *texts), generate)
        except UserError:
            return False
        if text.count(_SYSTEM) != 1 or text.find(_SYSTEM) > text.find(_ASKED):
            return False
    return True


def _folding(tokenizer: Tokenizer, arguments: Mapping[str, Any]) -> tuple[str, str]:
    """Into which user turn the template writes a system prompt, and how; ("", a paragraph before the turn's text) if nowhere."""
    before = ("Hi", "Hello", _ASKED)
    try:
        own = _write(tokenizer, arguments, _conversation(_SYSTEM, _ASKED), True)
        head, tail = _cut(_write(tokenizer, arguments, _conversation("", _ASKED), True), _ASKED)
        inside = own[len(head) : len(own) - len(tail)]
        if head + inside + tail == own and inside.count(_SYSTEM) == inside.count(_ASKED) == 1:
            own = _write(tokenizer, arguments, _conversation(_SYSTEM, *before), True)
            for name, place in _TURNS.items():
                texts = list(before)
                texts[place] = [_folded(inside, _SYSTEM, text) for text in texts[place]]
                if _write(tokenizer, arguments, _conversation("", *texts), True) == own:
                    return name, inside
    except UserError:
        pass
    return "", fold(_SYSTEM, _ASKED)


def _folded(pattern: str, system: str, text: str) -> str:
    return re.sub(f"{_SYSTEM}|{_ASKED}", lambda found: system.strip() if found[0] == _SYSTEM else text.strip(), pattern)


def _check_all_shown(tokenizer: Tokenizer, arguments: Mapping[str, Any]) -> None:
    """Raises UserError: of a long conversation the template leaves out the beginning."""
    texts = [f"qzv7turn{at}vzq" for at in range(_LONG)]
    try:
        text = _write(tokenizer, arguments, _conversation("", *texts), True)
    except UserError:
        return  # it takes no more than some turns and says so: longer ones are refused where they are met
    if lost := [each for each in texts if each not in text]:
        what = f"the chat template leaves out {len(lost)} of {_LONG} turns of a conversation, so that the model would not see"
        raise UserError(f"{what} earlier turns, or examples, in front of a prompt; {_PLAIN}, or change the template")


def _argument_notes(tokenizer: Tokenizer, off: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    source = str(tokenizer.chat_template)
    unread = [name for name in given if not re.search(rf"\b{re.escape(name)}\b", source)]
    notes = [f"the chat template does not read the argument {name!r} of template_args" for name in unread]
    if off:
        said = ", ".join(f"{name}={json.dumps(value)}" for name, value in off.items())
        notes.append(f"the chat template can have the model think first: thinking is off ({said}); template_args changes that")
    return notes


def _notes(tokenizer: Tokenizer, arguments: Mapping[str, Any], special: Mapping[str, int], seen: _Seen) -> list[str]:
    """What a template writes by itself. Raises UserError: the time of day is a part of it."""
    notes, source = [], str(tokenizer.chat_template)
    heads, now = "".join(_around(tokenizer, arguments, seen)[0]), time.time()
    formats = re.findall(r"strftime_now\(\s*['\"](.+?)['\"]", source)
    written = [form for form in formats if any(time.strftime(form, time.localtime(now - ago)) in heads for ago in range(3))]
    if any(re.search(r"%-?[HIMSTRXcrs]", form) for form in written):
        raise UserError(
            f"the chat template writes the time of day into prompts, so that no two are alike; {_PLAIN}, or change it"
        )
    if written:
        remedy = "; template_args may fix it as date_string" if "date_string" in source else ""
        under = "" if any(time.strftime(form) in seen.header for form in written) else " with a system prompt"
        notes.append(
            f"the chat template writes today's date into every prompt{under}: a run that crosses midnight changes its prompts"
            f"{remedy}"
        )
    if said := _preamble(special, seen):
        notes.append(f"the chat template begins every conversation without a system prompt with a text of its own: {said!r}")
    return notes


def _boundary_notes(seen: _Seen, end: str) -> list[str]:
    """Where prompts end otherwise than with the template's generation prompt, and answers before its last word."""
    notes = []
    if seen.asked == seen.bare:
        notes.append("the chat template ignores add_generation_prompt: prompts end where its own answers begin")
    elif not seen.own.startswith(seen.asked):
        own, asked = _brief(seen.own), _brief(seen.asked)
        notes.append(f"prompts end with {own}, as the chat template's own answers begin, not with its {asked}")
    elif (more := seen.own[len(seen.asked) :]).strip():
        notes.append(
            f"prompts end with {_brief(more)}, which the chat template writes between its generation prompt and an answer"
        )
    if rest := seen.after[len(end) :].strip():
        notes.append(f"behind the end of an answer the chat template writes {_brief(rest)} too, which is not trained")
    return notes


def _brief(text: str) -> str:
    return repr(text if len(text) <= 160 else f"{text[:160]}…")


def _preamble(special: Mapping[str, int], seen: _Seen) -> str:
    """What the first user turn has before it and later ones have not, in words."""
    first, later = seen.header, seen.between
    for token in sorted(special, key=len, reverse=True):
        first, later = first.replace(token, "\0"), later.replace(token, "\0")
    same = next((at for at in range(len(first)) if not later.endswith(first[len(first) - at - 1 :])), len(first))
    text = first[: len(first) - same].replace("\0", " ")
    words = text.split()
    said = " ".join(words[1:] if words[:1] in (["system"], ["developer"]) else words)
    return said if len(said) <= 80 else f"{said[:80]}…"


def _line(text: str, place: int) -> str:
    """The first (0) or last (-1) line of what stands between turns, with the line break before it."""
    lines = text.strip().splitlines()
    if not lines:
        return ""
    mark = lines[place].strip()
    return ("\n" if "\n" in text[: text.rindex(mark) if place else text.index(mark)] else "") + mark


def _structure(special: Mapping[str, int], text: str) -> list[str]:
    """The special tokens in a text, but for those around thoughts."""
    thinking = {mark for pair in MARKERS for mark in pair}
    return [token for token in special if token in text and token not in thinking]


def _first(special: Mapping[str, int], text: str) -> str | None:
    found = [(text.index(token), -len(token), token) for token in _structure(special, text)]
    return min(found)[2] if found else None


def _turn(role: str, text: str, **more: str) -> dict[str, str]:
    return {"role": role, "content": text.strip(), **more}


def _conversation(system: str, *texts: str) -> list[dict[str, str]]:
    """Texts as alternating turns, the user's first, behind the system prompt if there is one."""
    turns = [_turn("assistant" if place % 2 else "user", text) for place, text in enumerate(texts)]
    return [_turn("system", system), *turns] if system.strip() else turns


def _write(tokenizer: Tokenizer, arguments: Mapping[str, Any], messages: Sequence[Mapping[str, str]], generate: bool) -> str:
    given = sum(len(message["content"]) for message in messages)
    try:
        with bounded():
            text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate, **arguments))
        return check_length(text, given)
    except Exception as error:  # the template is the model author's program: it may raise anything
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"the model's chat template fails on {len(messages)} turns ({said}); {_PLAIN}") from error


def _cut(rendered: str, text: str, times: int = 1) -> tuple[str, str]:
    """Before and behind a text, which stands there so many times, the last one meant."""
    if rendered.count(text) != times:
        raise UserError(f"the model's chat template does not show each turn's text once, unchanged; {_PLAIN}")
    before, _, after = rendered.rpartition(text)
    return before, after
