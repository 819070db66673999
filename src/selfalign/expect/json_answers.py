"""Answers that are JSON, by a JSON Schema where there is one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from selfalign.errors import UserError
from selfalign.expect.patterns import Search, search_with
from selfalign.text import normalise

MAX_SCHEMA = 2**20
"""Bytes of a schema's file."""


def read_json(text: str) -> Any:
    """Raises ValueError: what is wrong with it, in a few words. NaN and infinity are no JSON."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON ({error.msg}, line {error.lineno}, column {error.colno})") from None
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"no JSON ({error})") from None


def object_or_list(text: str) -> str:
    """Why a text is no JSON object or list as a whole; "" where it is.

    A bare number, true or a quoted word is JSON too, but nobody who asks for JSON means that (our own choice); a schema takes
    them.
    """
    try:
        value = read_json(text)
    except ValueError as error:
        return str(error)
    return "" if isinstance(value, dict | list) else f"{type(value).__name__} where a JSON object or list is wanted"


def same_value(one: Any, other: Any) -> bool:
    """Whether two values of JSON are equal: keys in any order, 1 as 1.0 and not as true, texts but for case and white space."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_value(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_value, one, other))
    if isinstance(one, str) and isinstance(other, str):
        return normalise(one) == normalise(other)
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def shared_fields(texts: Sequence[str]) -> list[str]:
    """The fields that most of the texts that are JSON objects have, in their order."""
    objects = []
    for text in texts:
        try:
            value = read_json(text)
        except ValueError:
            continue
        objects += [value] if isinstance(value, dict) else []
    counts = Counter(name for each in objects for name in each)
    return [name for name, count in counts.items() if 2 * count > len(objects)]


def has_field(text: str, path: str) -> bool:
    """Whether a text is a JSON object with that field; `a.b` is b in the object a."""
    try:
        _field(text, path)
    except ValueError:
        return False
    return True


def other_field(answer: str, reference: str, path: str) -> str:
    """How an answer's field differs from the reference's; "" where they agree.

    Raises:
        ValueError: the reference has no such field.
    """
    wanted = _field(reference, path)
    try:
        given = _field(answer, path)
    except ValueError as error:
        return str(error)
    if same_value(given, wanted):
        return ""
    found, meant = (json.dumps(value, ensure_ascii=False)[:60] for value in (given, wanted))
    return f"{path} is {found}, the reference has {meant}"


def _field(text: str, path: str) -> Any:
    value = read_json(text)
    for name in (path,) if isinstance(value, dict) and path in value else path.split("."):
        if not isinstance(value, dict) or name not in value:
            raise ValueError(f"no field {path!r}")
        value = value[name]
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is none")


def schema_judge(path: Path, content: bytes) -> Callable[[str], str]:
    """A function from a text to what is wrong with it by the schema in a file, "" for nothing.

    By the draft that `$schema` names, or else 2020-12; `format` counts as far as jsonschema can check it without further
    packages. References lead within the file alone: nothing is fetched. Patterns have a time limit (`patterns`), and so its
    `TimeoutError` passes.

    Raises:
        UserError: no JSON, no schema, a schema that says nothing, a pattern that is none, a reference that leads nowhere.
    """
    try:
        if len(content) > MAX_SCHEMA:
            raise ValueError(f"larger than {MAX_SCHEMA >> 20} MiB")
        schema = read_json(content.decode("utf-8-sig"))
    except ValueError as error:
        raise UserError(f"{path}: {error}; a JSON Schema is wanted") from None
    validator = _validator(path, schema)

    def judge(text: str) -> str:
        try:
            error = next(iter(validator.iter_errors(read_json(text))), None)
        except RecursionError:
            return "JSON that is nested too deeply"
        except ArithmeticError as overflow:  # a number such as 1e999
            return f"a number that cannot be checked ({overflow})"
        except ValueError as unreadable:
            return str(unreadable)
        return f"{error.json_path}: {error.message[:200]}" if error is not None else ""

    return judge


def _validator(path: Path, schema: Any) -> Any:
    from jsonschema import Draft202012Validator, SchemaError, validators
    from jsonschema_specifications import REGISTRY

    if not isinstance(schema, dict):
        raise UserError(f"{path}: no JSON Schema, which is an object in braces")
    draft = validators.validator_for(schema, default=Draft202012Validator)
    try:
        draft.check_schema(schema)
    except SchemaError as error:
        raise UserError(f"{path}: no JSON Schema: {error.json_path}: {error.message[:200]}") from None
    if not {"$ref", "$dynamicRef", *draft.VALIDATORS} & schema.keys():
        some = ", ".join(list(schema)[:3]) or "nothing"
        raise UserError(f"{path}: every answer would pass: no word of JSON Schema in it (type, properties …), but {some}")
    searching = cache(partial(search_with, where=str(path)))
    named = [pattern for patterns in _behind("patternProperties", dict, schema) for pattern in patterns]
    for pattern in (*_behind("pattern", str, schema), *named):
        searching(pattern)
    if any("unevaluatedProperties" in each for each in _within(schema)) and named:
        raise UserError(
            f"{path}: unevaluatedProperties with patternProperties cannot be given a time limit; use additionalProperties"
        )
    _check_references(path, schema, draft)
    # Where a reference leads to a schema that names its draft, jsonschema goes on with that draft's own words.
    nameless = {word: each for word, each in schema.items() if word != "$schema"}
    kind = validators.extend(draft, _timed(searching))
    return kind(nameless, registry=REGISTRY, format_checker=draft.FORMAT_CHECKER)


def _check_references(path: Path, schema: dict[str, Any], draft: Any) -> None:
    from jsonschema_specifications import REGISTRY
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012, specification_with

    resource = specification_with(str(draft.META_SCHEMA.get("$schema", "")), default=DRAFT202012).create_resource(schema)
    resolver = REGISTRY.with_resource(resource.id() or "", resource).crawl().resolver(resource.id() or "")
    for reference in _behind("$ref", str, schema):
        try:
            resolver.lookup(reference)
        except Unresolvable:
            raise UserError(
                f"{path}: $ref {reference!r} leads nowhere; references within the file work, none is fetched"
            ) from None


def _behind(word: str, kind: type, schema: Any) -> list[Any]:
    """All of this kind that stands behind a word of the schema, wherever that stands."""
    return [each[word] for each in _within(schema) if isinstance(each.get(word), kind)]


def _within(schema: Any) -> Iterator[dict[str, Any]]:
    """The schema and all objects in it, but for its examples of data."""
    if isinstance(schema, dict):
        yield schema
        for word, each in schema.items():
            if word not in ("const", "enum", "default", "examples"):
                yield from _within(each)
    elif isinstance(schema, list):
        for each in schema:
            yield from _within(each)


def _timed(searching: Callable[[str], Search]) -> dict[str, Any]:
    """The three words of a schema that search by patterns, with a time limit: jsonschema's own would backtrack for ever."""
    from jsonschema import ValidationError

    def pattern(validator: Any, wanted: str, value: Any, schema: Any) -> Iterator[ValidationError]:
        if validator.is_type(value, "string") and not searching(wanted)(value):
            yield ValidationError(f"{value!r} does not match {wanted!r}")

    def pattern_properties(validator: Any, wanted: dict[str, Any], value: Any, schema: Any) -> Iterator[ValidationError]:
        if validator.is_type(value, "object"):
            for each, inner in wanted.items():
                for name in filter(searching(each), value):
                    yield from validator.descend(value[name], inner, path=name, schema_path=each)

    def additional_properties(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
        if not validator.is_type(value, "object"):
            return
        known, named = schema.get("properties", {}), [searching(each) for each in schema.get("patternProperties", {})]
        extra = [name for name in value if name not in known and not any(search(name) for search in named)]
        if validator.is_type(wanted, "object"):
            for name in extra:
                yield from validator.descend(value[name], wanted, path=name)
        elif not wanted and extra:
            yield ValidationError(f"nobody asked for {', '.join(map(repr, extra))}")

    return {"pattern": pattern, "patternProperties": pattern_properties, "additionalProperties": additional_properties}
