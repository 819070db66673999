"""Renders the part of Go's text/template that our Modelfiles use, to prove them without Go: put into Jinja action by action.

Actions: `{{ .System }}`, `{{ $m.Content }}`, `{{ "text" }}`, `if`, `else if`, `else`, `range $i, $m := X`, `end`, and calls of
`eq`, `gt`, `le`, `len` and `slice` (a list from a place on), with parentheses. Anything else is refused. After the documentation
of text/template; there are no trim markers, as nothing that we write needs them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import Environment, StrictUndefined, TemplateError

_ACTION = re.compile(r'\{\{ ((?:"(?:[^"\\]|\\.)*"|(?!\}\}).)*) \}\}', re.DOTALL)
_WORD = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[()]|[^\s()"]+)')
_NAMED = re.compile(r"(?:\$(?P<variable>\w*))?(?P<fields>(?:\.\w+)*)")
_CALLS: Mapping[str, Callable[..., Any]] = {
    "eq": lambda a, b: a == b,
    "gt": lambda a, b: a > b,
    "le": lambda a, b: a <= b,
    "len": len,
    "slice": lambda items, first: items[first:],
}


def render(template: str, values: Mapping[str, Any]) -> str:
    """The text of a template with these values as its dot.

    Raises:
        ValueError: something that is not in our part of the language.
    """
    texts, opened = list[str](), list[str]()
    written = []
    for place, said in enumerate(_ACTION.split(template)):
        if place % 2:
            written.append(_action(said, opened, texts))
        elif "{{" in said:
            raise ValueError(f"an action that is not understood: {said[said.index('{{') :][:40]!r}")
        else:
            written.append(f"{{{{ {_kept(said, texts)} }}}}")
    if opened:
        raise ValueError("a block without its end")
    try:
        jinja = Environment(undefined=StrictUndefined).from_string("".join(written))
        return jinja.render(texts=texts, variable_=values, dot=values, **_CALLS)
    except TemplateError as error:
        raise ValueError(f"a template that is not understood: {error}") from error


def _kept(text: str, texts: list[str]) -> str:
    """A text by its place among those that Jinja is given: none of it is ever read as code."""
    texts.append(text)
    return f"texts[{len(texts) - 1}]"


def _action(said: str, opened: list[str], texts: list[str]) -> str:
    """An action in Jinja; `opened` are the blocks that it stands in."""
    word, _, rest = said.partition(" ")
    if word in ("end", "else") and not opened:
        raise ValueError(f"{said!r} has nothing to end")
    if said == "end":
        return f"{{% end{opened.pop()} %}}"
    if said == "else":
        return "{% else %}"
    if word == "else":
        return f"{{% elif {_value(rest.removeprefix('if '), texts)} %}}"
    if word == "if":
        opened.append("if")
        return f"{{% if {_value(rest, texts)} %}}"
    if word != "range":
        return f"{{{{ {_value(said, texts)} }}}}"
    if (named := re.fullmatch(r"\$(\w+), \$(\w+) := (.+)", rest)) is None:
        raise ValueError(f"range {rest!r} is not understood")
    opened.append("for")
    place, each, items = named.groups()
    inside = f"{{% set variable_{place} = loop.index0 %}}{{% set dot = variable_{each} %}}"
    return f"{{% for variable_{each} in {_value(items, texts)} %}}{inside}"


def _value(said: str, texts: list[str]) -> str:
    words = [found.group(1) for found in _WORD.finditer(said)]
    value = _call(words, texts)
    if words:
        raise ValueError(f"{said!r} is not understood")
    return value


def _call(words: list[str], texts: list[str]) -> str:
    """A call or a single operand in Jinja; takes its words away."""
    if not words or words[0] not in _CALLS:
        return _operand(words, texts)
    call, given = words.pop(0), list[str]()
    while words and words[0] != ")":
        given.append(_operand(words, texts))
    return f"{call}({', '.join(given)})"


def _operand(words: list[str], texts: list[str]) -> str:
    word = words.pop(0) if words else ""
    if word == "(":
        value = _call(words, texts)
        if not words or words.pop(0) != ")":
            raise ValueError("a parenthesis is not closed")
        return value
    if word.startswith('"'):
        return _kept(json.loads(word), texts)
    if word.isdecimal():
        return word
    if not word or (named := _NAMED.fullmatch(word)) is None:
        raise ValueError(f"{word!r} is not understood")
    start = "dot" if named["variable"] is None else f"variable_{named['variable']}"
    return start + "".join(f'["{field}"]' for field in named["fields"].split(".")[1:])
