"""The strict reader of seed files and held-out files: JSONL, JSON, CSV, TSV and Parquet.

Strict because a seed is multiplied: one wrong row of 64 becomes hundreds of wrong samples. A text is kept byte by byte
as it stands in the file, or the file is refused; nothing is repaired, skipped or converted.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from selfalign.errors import SeedError
from selfalign.seeds.files import read_rows
from selfalign.seeds.rows import MAX_FIELD, Malformed, Problem, Row, json_text, kind, listed, show
from selfalign.types import Example

_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]")
_FORBIDDEN_IN_NAME = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_CATEGORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FORMS = {"prompt": "response", "question": "answer", "instruction": "output", "messages": "messages"}
"""The names under which a row may hold its prompt and its response."""
_KNOWN = sorted({*_FORMS, *_FORMS.values()})
_EXPECTED = "prompt + response, question + answer, instruction (+ input) + output, instruction + instances, or messages"
_BY_TURNS = "write user and assistant turns by turns, the user's first and the assistant's last"


def read_seeds(path: str | Path, *, response_required: bool = True) -> tuple[Example, ...]:
    """The examples of a seed file or a held-out file, round 0, `slot` counting them from 0.

    The format goes by the suffix: .jsonl, .ndjson, .json (an array of objects, or an object that holds one), .csv, .tsv
    (UTF-8, with a header, quoted as RFC 4180 says), .parquet. A row holds `prompt` and `response`; or `question` and
    `answer`; or `instruction` (an `input` that is not empty follows it after a blank line) and `output`; or, as in
    Self-Instruct's seed tasks, `instruction` and `instances`, a list of `input` and `output`, each of them an example (where
    a row has several, `.1`, `.2` … follow its id); or `messages`, a list of user and assistant turns by turns: the last two are
    the prompt and its response, those before them its history. `id` and `category` are optional; an example without an id is
    called seed-0001 and so on, by its place. Other columns become metadata: text as it stands, any other value as its JSON
    text. Prompts that differ in case or white space alone count as duplicates, where the same was said before them.

    The turns of a history are no examples by themselves: a first turn that shall be shown, learned or measured too needs a row
    of its own.

    With `response_required=False` a response may be missing, null or blank, and then is "".

    Raises:
        SeedError: one line with the first problem, its file and line (or row), the field and the remedy, and how many
            more rows have one.
    """
    examples: list[Example] = []
    problems: list[Problem] = []
    ids: dict[str, str] = {}
    prompts: dict[str, str] = {}
    for item in read_rows(path):
        where = item.where
        try:
            if isinstance(item, Problem):
                problems.append(item)
                continue
            for row in _instances(item):
                where = row.where
                example = _example(row.fields, len(examples) + len(problems), response_required)
                if (first := ids.setdefault(example.id, where)) != where:
                    raise Malformed(f"field 'id': {show(example.id)} is also the id of {first}; give each row its own")
                if (first := prompts.setdefault(" ".join(example.asked.casefold().split()), where)) != where:
                    what = f"the prompt {show(example.prompt)} is the same as that of {first}"
                    raise Malformed(f"{what}; remove one of the two")
                examples.append(example)
        except Malformed as error:
            problems.append(Problem(where, str(error)))
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise SeedError(f"{problems[0].where}: {problems[0].what}{more}")
    if not examples:
        raise SeedError(f"{show(str(path), 500)[1:-1]}: has no rows; it must hold at least one example")
    return tuple(examples)


def _instances(row: Row) -> list[Row]:
    """A row of Self-Instruct's format as rows of instruction, input and output; any other row as it is."""
    if not {"instruction", "instances"} <= set(row.fields):
        return [row]
    shared, found = dict(row.fields), row.fields["instances"]
    del shared["instances"]
    if mixed := [name for name in (*_KNOWN, "input") if name in shared and name != "instruction"]:
        raise Malformed(f"mixes {listed(['instances', *mixed])}; keep one pair of fields and rename the others")
    if not isinstance(found, list):
        raise Malformed(f"field 'instances': is {kind(found)}, not a list; write one of objects with input and output")
    if not found:
        raise Malformed("field 'instances': is empty; write at least one instance or remove the row")
    rows = []
    for number, instance in enumerate(found, start=1):
        if not isinstance(instance, dict):
            raise Malformed(f"field 'instances': instance {number} is {kind(instance)}, not an object with input and output")
        if extra := [name for name in instance if name not in ("input", "output")]:
            raise Malformed(f"field 'instances': instance {number} has {listed(extra)} beside input and output; remove it")
        several = len(found) > 1
        own = {"id": f"{_id(shared)}.{number}"} if several and "id" in shared else {}
        rows.append(Row(f"{row.where}, instance {number}" if several else row.where, {**shared, **instance, **own}))
    return rows


def _example(fields: Mapping[str, Any], slot: int, response_required: bool) -> Example:
    prompt_name, response_name = _form(fields, response_required)
    rest = {name: value for name, value in fields.items() if name not in (prompt_name, response_name)}
    earlier: list[tuple[str, str]] = []
    if prompt_name == "messages":
        *earlier, (prompt, response) = _turns(fields["messages"], response_required)
    else:
        prompt = _text(fields, prompt_name)
        response = _text(fields, response_name, required=response_required)
    if prompt_name == "instruction" and (context := _text({"input": rest.pop("input", None)}, "input", required=False)):
        prompt = f"{prompt}\n\n{context}"
    identity = _id(rest) if "id" in rest else f"seed-{slot + 1:04}"
    category = _category(rest)
    metadata = {name: _metadata(name, value) for name, value in rest.items() if name not in ("id", "category")}
    return Example(identity, prompt, response, slot=slot, category=category, metadata=metadata, history=tuple(earlier))


def _form(names: Collection[str], response_required: bool) -> tuple[str, str]:
    present = [pair for pair in _FORMS.items() if set(pair) & set(names)]
    if len(present) > 1:
        found = [name for pair in present for name in dict.fromkeys(pair) if name in names]
        raise Malformed(f"mixes {listed(found)}; keep one pair of fields and rename the others")
    if not present:
        what = f"has no prompt among its fields ({listed(names) or 'none'})"
        raise Malformed(f"{what}; expected {_EXPECTED}{_nearest(names, _KNOWN)}")
    for name in present[0] if response_required else present[0][:1]:
        if name not in names:
            what = f"field {show(name)}: is missing among {listed(names)}"
            raise Malformed(f"{what}; expected {_EXPECTED}{_nearest(names, [name])}")
    return present[0]


def _nearest(names: Collection[str], wanted: list[str]) -> str:
    for name in names:
        match = difflib.get_close_matches(name[:40].strip().casefold(), wanted, n=1, cutoff=0.7)
        if match and name not in _KNOWN:
            return f"; rename {show(name)} to {show(match[0])}?"
    return ""


def _turns(messages: Any, response_required: bool) -> list[tuple[str, str]]:
    """(prompt, response) of each turn, the last one's response "" where it is not required and missing."""
    if not isinstance(messages, list):
        raise Malformed(f"field 'messages': is {kind(messages)}, not a list; {_BY_TURNS}")
    roles = []
    for turn in messages:
        if not isinstance(turn, dict):
            raise Malformed(f'field \'messages\': a turn is {kind(turn)}, not an object; write {{"role": …, "content": …}}')
        if extra := [name for name, value in turn.items() if name not in ("role", "content") and value is not None]:
            raise Malformed(f"field 'messages': a turn has {listed(extra)} beside role and content; remove it")
        roles.append(_text(turn, "role"))
    if "system" in roles:
        raise Malformed("field 'messages': has a system turn, but no instructions are written in the loop; remove it")
    unanswered = len(roles) % 2 == 1
    if not roles or roles != [("user", "assistant")[at % 2] for at in range(len(roles))] or (unanswered and response_required):
        raise Malformed(f"field 'messages': has the turns {listed(roles) or 'none'}; {_BY_TURNS}")
    texts = [_text(turn, "content") for turn in messages[:-1]]
    texts.append(_text(messages[-1], "content", required=unanswered or response_required))
    texts += [""] if unanswered else []
    return list(zip(texts[::2], texts[1::2], strict=True))


def _text(fields: Mapping[str, Any], name: str, *, required: bool = True) -> str:
    """The text of a field exactly as it stands; not required, a missing, null or blank one is ""."""
    value = fields.get(name)
    if not required and (value is None or (isinstance(value, str) and not value.strip())):
        return ""
    if name not in fields:
        raise Malformed(f"field {show(name)}: is missing; add it")
    if not isinstance(value, str):
        remedy = "fill it in or remove the row" if value is None else "write it as text in quotes"
        raise Malformed(f"field {show(name)}: is {kind(value)} where text must stand; {remedy}")
    if not value.strip():
        raise Malformed(f"field {show(name)}: is empty; fill it in or remove the row")
    return _checked(name, value)


def _checked(name: str, text: str) -> str:
    if len(text) > MAX_FIELD:
        raise Malformed(f"field {show(name)}: is longer than {MAX_FIELD:,} characters; shorten it")
    if match := _FORBIDDEN.search(text):
        code = ord(match.group())
        what = "half a surrogate pair" if code >= 0xD800 else "the control character"
        raise Malformed(f"field {show(name)}: holds {what} U+{code:04X} at character {match.start() + 1}; remove it")
    return text


def _id(fields: Mapping[str, Any]) -> str:
    text = _text(fields, "id")
    if len(text) > 128 or _FORBIDDEN_IN_NAME.search(text):
        what = "is longer than 128 characters" if len(text) > 128 else "holds a control character"
        raise Malformed(f"field 'id': {show(text)} {what}; write a short plain id")
    return text


def _category(fields: Mapping[str, Any]) -> str:
    text = _text(fields, "category", required=False)
    if text and not _CATEGORY.fullmatch(text):
        remedy = "use up to 64 of A-Z a-z 0-9 . _ - with a letter or digit first"
        raise Malformed(f"field 'category': {show(text)} is not a plain name; {remedy}")
    return text


def _metadata(name: str, value: Any) -> str:
    if not name or len(name) > 128 or _FORBIDDEN_IN_NAME.search(name):
        raise Malformed(f"field {show(name)}: has no usable name; use 1 to 128 characters without control characters")
    return _checked(name, value if isinstance(value, str) else json_text(value))
