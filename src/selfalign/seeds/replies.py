"""Answers as the interfaces of models and their logs write them: OpenAI's `choices`, a message in an object, also as text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from selfalign.seeds.rows import Malformed, show
from selfalign.seeds.verdicts import refuse_cut

_OBJECT = re.compile(r"""\s*\{\s*"(?:role|content|choices|message|id|object)"\s*:""")


def with_reply(row: Mapping[str, Any], answers: tuple[str, ...]) -> dict[str, Any]:
    """A row in which what an interface answered is a list of one turn; any other row as it is.

    Raises:
        Malformed: several answers, or one that a limit cut off.
    """
    found = dict(row)
    choices = row.get("choices")
    if isinstance(choices, list) and choices and all(isinstance(each, dict) and "message" in each for each in choices):
        found["response" if "response" not in row else "choices"] = found.pop("choices")
        found |= {} if "response" in row else {"response": _reply("choices", {"choices": choices})}
    if isinstance(message := row.get("message"), dict) and "role" in message and "response" not in found:
        found["response"] = found.pop("message")
    return {name: _reply(name, value) if name in answers else value for name, value in found.items()}


def _reply(name: str, value: Any) -> Any:
    whole = value
    if isinstance(value, str) and _OBJECT.match(value):
        try:
            value = json.loads(value)
        except ValueError:
            return whole
    if not isinstance(value, dict):
        return whole
    value = value["body"] if isinstance(value.get("body"), dict) else value  # of a batch
    which = "choices" if "choices" in value else "candidates"  # the latter are Gemini's
    if isinstance(choices := value.get(which), list) and choices and all(isinstance(each, dict) for each in choices):
        if len(choices) > 1:
            raise Malformed(f"field {show(name)}: has {len(choices)} answers ({show(which)}); keep the one to be learned")
        refuse_cut(choices[0], name)
        value = choices[0]
        value = value["content"] if isinstance(value.get("content"), dict) else value
    value = value["message"] if isinstance(value.get("message"), dict) else value
    return [value] if "role" in value and not {"content", "parts"}.isdisjoint(value) else whole
