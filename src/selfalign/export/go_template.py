"""Renders the part of Go's text/template that our Modelfiles use, to prove them without Go.

Actions: `{{ .System }}`, `{{ $m.Content }}`, `{{ "text" }}`, `if`, `else if`, `else`, `range $i, $m := X`, `end`, and calls of
`eq`, `gt`, `le`, `len` and `slice` (a list from a place on), with parentheses. Anything else is refused. After the documentation
of text/template; there are no trim markers, as nothing that we write needs them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Values = Mapping[str, Any]

_ACTION = re.compile(r'\{\{ ((?:"(?:[^"\\]|\\.)*"|(?!\}\}).)*) \}\}', re.DOTALL)
_WORD = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[()]|[^\s()"]+)')
_CALLS: Mapping[str, Callable[..., Any]] = {
    "eq": lambda a, b: a == b,
    "gt": lambda a, b: a > b,
    "le": lambda a, b: a <= b,
    "len": len,
    "slice": lambda items, first: items[first:],
}


def render(template: str, values: Values) -> str:
    """The text of a template with these values as its dot.

    Raises:
        ValueError: something that is not in our part of the language.
    """
    parts = [part for part in _parts(template) if part != ("text", "")]
    return "".join(_block(iter(parts), {"$": values, ".": values}, shown=True))


def _parts(template: str) -> Iterator[tuple[str, str]]:
    """("text" or "do", what it says), in order."""
    for place, said in enumerate(_ACTION.split(template)):
        if place % 2 == 0 and "{{" in said:
            raise ValueError(f"an action that is not understood: {said[said.index('{{') :][:40]!r}")
        yield "do" if place % 2 else "text", said


def _block(parts: Iterator[tuple[str, str]], known: Values, shown: bool, ends: Sequence[str] = ()) -> Iterator[str]:
    """What is written up to the word that ends the block; that word comes last, where there is one."""
    for kind, said in parts:
        word, _, rest = said.partition(" ")
        if kind == "text":
            yield said if shown else ""
        elif word in ("end", "else"):
            if word not in ends:
                raise ValueError(f"{said!r} has nothing to end")
            yield said
            return
        elif word == "if":
            yield from _if(parts, rest, known, shown)
        elif word == "range":
            yield from _range(parts, rest, known, shown)
        else:
            yield str(_value(said, known)) if shown else ""
    if ends:
        raise ValueError("a block without its end")


def _if(parts: Iterator[tuple[str, str]], condition: str, known: Values, shown: bool) -> Iterator[str]:
    """All branches are read; at most one of them is written."""
    done, said = not shown, f"else if {condition}"
    while said != "end":
        holds = not done and (said == "else" or bool(_value(said.removeprefix("else if "), known)))
        done = done or holds
        *written, said = _block(parts, known, holds, ("end",) if said == "else" else ("end", "else"))
        yield from written


def _range(parts: Iterator[tuple[str, str]], said: str, known: Values, shown: bool) -> Iterator[str]:
    named = re.fullmatch(r"(\$\w+), (\$\w+) := (.+)", said)
    if named is None:
        raise ValueError(f"range {said!r} is not understood")
    body, depth = list[tuple[str, str]](), 1
    for kind, text in parts:
        word = text.partition(" ")[0] if kind == "do" else ""
        depth += (word in ("if", "range")) - (word == "end")
        body.append((kind, text))
        if depth == 0:
            break
    else:
        raise ValueError("a range without its end")
    for place, each in enumerate(_value(named[3], known) if shown else ()):
        inside = {**known, named[1]: place, named[2]: each, ".": each}
        yield from list(_block(iter(body), inside, shown, ("end",)))[:-1]


def _value(said: str, known: Values) -> Any:
    words = [found.group(1) for found in _WORD.finditer(said)]
    if "".join(words).replace(" ", "") != re.sub(r"\s", "", said) and '"' not in said:
        raise ValueError(f"{said!r} is not understood")
    value = _call(words, known)
    if words:
        raise ValueError(f"{said!r} is not understood")
    return value


def _call(words: list[str], known: Values) -> Any:
    """The value of a call or of a single operand; takes its words away."""
    if words and words[0] in _CALLS:
        call, given = _CALLS[words.pop(0)], list[Any]()
        while words and words[0] != ")":
            given.append(_operand(words, known))
        return call(*given)
    return _operand(words, known)


def _operand(words: list[str], known: Values) -> Any:
    word = words.pop(0) if words else ""
    if word == "(":
        value = _call(words, known)
        if not words or words.pop(0) != ")":
            raise ValueError("a parenthesis is not closed")
        return value
    if word.startswith('"') or word.isdecimal():
        return json.loads(word)
    name, *fields = word.split(".")
    if not (name == "" and fields) and name not in known:
        raise ValueError(f"{word!r} is not understood")
    value = known[name or "."]
    for field in fields:
        value = value[field]
    return value
