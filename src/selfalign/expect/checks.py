"""Checks that judge answers, made of expectations as they are written."""

from __future__ import annotations

import hashlib
import inspect
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from selfalign.errors import UserError
from selfalign.expect.json_answers import (
    has_field,
    object_or_list,
    other_field,
    read_json,
    same_value,
    schema_judge,
    shared_fields,
)
from selfalign.expect.own_file import load_function
from selfalign.expect.patterns import LIMIT, match_with
from selfalign.expect.results import MARKER, comes_to, result
from selfalign.expect.spec import Spec
from selfalign.text import count_words, counted, in_language, language, language_identifier, normalise
from selfalign.types import Example

Judge = Callable[[str, Example], str]
"""From an answer and the example that it answers to what is wrong, "" for nothing. Raises TimeoutError and `Unjudged`."""


class Unjudged(Exception):
    """A check that came to no verdict; the message says why."""


@dataclass(frozen=True)
class Fault:
    """An answer that is not as a check expects it."""

    why: str
    judged: bool
    """Whether the check came to a verdict at all: a pattern that ran out of time and a function that failed did not."""


@dataclass(frozen=True)
class Check:
    spec: Spec
    judge: Judge

    def about(self, example: Example) -> bool:
        """Whether the check is about it: its category, and a reference, or one with the field, where it needs that."""
        wanted = self.spec.category
        if wanted and unicodedata.normalize("NFC", example.category.strip()) != wanted:
            return False
        if self.spec.kind == "exact" and self.spec.argument:
            return has_field(example.response, self.spec.argument)
        return not self.spec.by_reference or bool(example.response.strip())

    def fault(self, answer: str, example: Example) -> Fault | None:
        """
        Args:
            example: what is answered: for checks by reference its response is the reference.
        """
        try:
            why = self.judge(answer.strip(), example)
        except TimeoutError:
            return Fault(f"no verdict within {LIMIT:g} s, the pattern backtracks", judged=False)
        except Unjudged as error:
            return Fault(str(error), judged=False)
        return Fault(why, judged=True) if why else None


def compiled(specs: Sequence[Spec]) -> tuple[Check, ...]:
    """Raises UserError: a pattern, a language, a schema or a function that cannot be used."""
    return tuple(Check(spec, _made(spec, content_of(spec))) for spec in specs)


def content_of(spec: Spec) -> bytes:
    """What is in the file that the expectation names, b"" where it names none: other content is another check.

    Raises:
        UserError: the file cannot be read.
    """
    path = _file(spec)
    try:
        return b"" if path is None else path.read_bytes()
    except OSError as error:
        raise UserError(f"--expect {spec.text}: cannot read {path}: {error.strerror}") from None


def digest(specs: Sequence[Spec]) -> str:
    """A hash of all such files; "" where there are none."""
    contents = [content_of(spec) for spec in specs if _file(spec) is not None]
    return hashlib.sha256(b"".join(hashlib.sha256(each).digest() for each in contents)).hexdigest() if contents else ""


def _file(spec: Spec) -> Path | None:
    if spec.kind in ("function", "compare"):
        return _function_place(spec)[0]
    return Path(spec.argument).expanduser() if spec.kind == "json" and spec.argument else None


def _function_place(spec: Spec) -> tuple[Path, str]:
    file, _, name = spec.argument.rpartition(":")
    file, name = (file, name) if file and not name.endswith(".py") else (spec.argument, "")
    return Path(file).expanduser(), name


@lru_cache(maxsize=64)
def _made(spec: Spec, content: bytes) -> Judge:
    """Once for each content of its file: a round asks for the same checks again and again."""
    return MAKERS[spec.kind](spec, content)


def _json(spec: Spec, content: bytes) -> Judge:
    judge = schema_judge(Path(spec.argument), content) if spec.argument else object_or_list
    return lambda answer, _: judge(answer)


def _regex(spec: Spec, _: bytes) -> Judge:
    matches = match_with(spec.argument, f"--expect {spec.text}")
    return lambda answer, _: "" if matches(answer) else "does not match as a whole"


def _language(spec: Spec, _: bytes) -> Judge:
    wanted = [code.strip().lower() for code in spec.argument.split(",")]
    known = {*language_identifier().nb_classes} - {"zxx"}  # the code of what is no language
    if unknown := [code for code in wanted if code not in known]:
        raise UserError(
            f"--expect {spec.text}: {unknown[0]!r} is no code of a language that can be told (ISO 639), such as de, en, zh"
        )

    def judge(answer: str, _: Example) -> str:
        if not any(map(str.isalpha, answer)):
            return "no word in it"
        return f"in {language(answer)}" if in_language(answer, wanted) is False else ""

    return judge


def _max_words(spec: Spec, _: bytes) -> Judge:
    most = int(spec.argument)
    return lambda answer, _: "" if (words := count_words(answer)) <= most else f"{counted(words, 'word')}, at most {most} wanted"


def _exact(spec: Spec, _: bytes) -> Judge:
    if spec.argument:
        return lambda answer, example: other_field(answer, example.response, spec.argument)
    return lambda answer, example: "" if same_answer(answer, example.response) else f"the reference is {example.response[:80]!r}"


def same_answer(one: str, other: str) -> bool:
    """Whether two answers are one: case and white space do not count, and JSON is compared by value."""
    if normalise(one) == normalise(other):
        return True
    if not other.lstrip().startswith(("{", "[")):
        return False
    try:
        return same_value(read_json(one), read_json(other))
    except ValueError:
        return False


def _result(spec: Spec, _: bytes) -> Judge:
    marker = spec.argument or MARKER

    def judge(answer: str, example: Example) -> str:
        wanted, found = result(example.response, marker), result(answer, marker)
        return "" if comes_to(answer, wanted, marker) else f"comes to {found[:80]!r}, the reference to {wanted[:80]!r}"

    return judge


def _contains(spec: Spec, _: bytes) -> Judge:
    def judge(answer: str, example: Example) -> str:
        wanted = spec.argument or example.response
        return "" if normalise(wanted) in normalise(answer) else f"lacks {wanted[:80]!r}"

    return judge


def _function(spec: Spec, _: bytes) -> Judge:
    path, name = _function_place(spec)
    call = load_function(path, name, f"a function of your own is named {spec.kind}:FILE.py:NAME")
    takes = _parameters(spec, call)

    def judge(answer: str, example: Example) -> str:
        given = (answer, example.full_prompt, example.response)[:takes]
        try:
            verdict = call(*given)
        except Exception as error:  # whatever a user's function may raise on a model's answer
            raise Unjudged(f"raised {type(error).__name__}: {' '.join(str(error).split())[:120]}") from error
        if not isinstance(verdict, bool | np.bool_):
            raise Unjudged(f"returned {verdict!r:.80}, not True or False")
        return "" if verdict else "says no"

    return judge


def _parameters(spec: Spec, call: Callable[..., Any]) -> int:
    """How many of (answer, prompt, reference) a function must be given: all of them where it compares."""
    compares = spec.kind == "compare"
    try:
        signature = inspect.signature(call)
    except (TypeError, ValueError):  # some of those written in C do not say
        return 3 if compares else 1
    places = [each for each in signature.parameters.values() if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    count = 3 if compares else max(1, sum(each.default is each.empty for each in places))
    try:
        signature.bind(*[""] * (count if compares else min(count, 2)))
    except TypeError:
        takes = "an answer, a prompt and a reference" if compares else "an answer, or an answer and a prompt"
        third = "" if compares or count != 3 else f"; with the reference: compare:{spec.argument}"
        raise UserError(f"--expect {spec.text}: it must take {takes}, and takes {signature}{third}") from None
    return count


MAKERS: dict[str, Callable[[Spec, bytes], Judge]] = {
    "json": _json,
    "regex": _regex,
    "language": _language,
    "max_words": _max_words,
    "exact": _exact,
    "result": _result,
    "contains": _contains,
    "function": _function,
    "compare": _function,
}


def try_out(checks: Sequence[Check], seeds: Sequence[Example], held_out: Sequence[Example]) -> None:
    """Tries checks on the answers there are, before a model loads.

    Raises:
        UserError: a category or a field that nothing has, or a check that comes to no verdict on one of them.
    """
    examples = (*seeds, *held_out)
    categories = {unicodedata.normalize("NFC", example.category.strip()) for example in examples} - {""}
    for check in checks:
        name = check.spec.category
        if name and name not in categories:
            near = get_close_matches(name, categories, 1)
            hint = f"did you mean {near[0]!r}? There" if near else "there"
            listed = ", ".join(sorted(categories)[:12]) or "none"
            raise UserError(f"--expect {check.spec.text}: no example has the category {name!r}; {hint} are {listed}")
        if check.spec.kind == "exact" and check.spec.argument and not any(map(check.about, examples)):
            fields = shared_fields([example.response for example in examples])
            listed = f"; they have {', '.join(fields)}" if fields else ""
            raise UserError(
                f"--expect {check.spec.text}: no response is a JSON object with the field {check.spec.argument!r}{listed}"
            )
        for example in examples:
            if example.response.strip() and check.about(example):
                fault = check.fault(example.response, example)
                if fault is not None and not fault.judged:
                    raise UserError(f"--expect {check.spec.text}: on the response of {example.id}: {fault.why}")


def faults(checks: Sequence[Check], answer: str, example: Example) -> Iterator[tuple[Check, Fault | None]]:
    """What each of the checks that are about an example says of its answer."""
    for check in checks:
        if check.about(example):
            yield check, check.fault(answer, example)
