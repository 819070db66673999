"""What columns say of the answer beside them: that it is a bad one, or the worse one of two."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from selfalign.seeds.rows import Malformed, show
from selfalign.text import plain_name

_NO = ("false", "0", "no", "n")
_BAD = {
    "label": ("false", "0", "0.0", "bad", "undesirable"),
    "weight": ("false", "0", "0.0"),
    "status": ("rejected", "reject", "discarded", "ignore", "pending", "draft", "incomplete", "failed"),
    **dict.fromkeys(
        ("approved", "accepted", "iscorrect", "correct", "isgood", "isvalid", "issafe", "isresponsesafe", "ischosen"), _NO
    ),
    "deleted": ("true", "1", "yes"),
    **dict.fromkeys(
        ("feedback", "quality", "rating", "verdict", "grade", "thumbs", "vote", "userfeedback", "evaluation"),
        (
            *("thumbs_down", "thumbs down", "thumbsdown", "thumb_down", "👎", "down", "dislike"),
            *("negative", "bad", "poor", "wrong", "incorrect", "fail", "failed"),
        ),
    ),
}
"""KTO's label, a weight, what an annotator or a user thought of it, by names without case, spaces and underscores."""
_STOPS = ("finishreason", "stopreason", "donereason")
_CUT = ("length", "max_tokens", "max_output_tokens", "content_filter", "safety", "incomplete", "token_limit_reached")
"""Why a model stopped, where it was not done."""
_SCORES = re.compile(r"(?=.*chosen)(?=.*(?:score|rating|reward))")


def refuse_bad(row: Mapping[str, Any], plain: Mapping[str, str], *, is_preference: bool) -> None:
    """Nothing, where no column calls the answer of the row a bad one.

    Args:
        row: its columns.
        plain: their names as they are compared.
        is_preference: whether it has a rejected answer too.

    Raises:
        Malformed: one does, or two scores say that the rejected answer is the better one.
    """
    refuse_cut(row)
    for name, value in row.items():
        said = value[0] if isinstance(value, list) and len(value) == 1 else value
        if not isinstance(said, (dict, list)) and (says := str(said).strip().casefold()) in _BAD.get(plain[name], ()):
            what = f"is {show(says)}, by which tools (KTO, annotation) call an answer a bad one"
            raise Malformed(f"field {show(name)}: {what}; remove the row, or rename the column if it means something else")
    by_plain = {plain[name]: name for name in row}
    for name in row if is_preference else ():
        other = by_plain.get(plain[name].replace("chosen", "rejected")) if _SCORES.match(plain[name]) else None
        mine, its = number(row[name]), number(row[other]) if other else None
        if mine is not None and its is not None and mine < its:
            what = f"is {mine:g}, and {show(other or '')} is {its:g}, so the rejected answer is the better one"
            raise Malformed(f"field {show(name)}: {what}; swap the two answers, or remove the row or the scores")


def refuse_cut(fields: Mapping[str, Any], of: str = "") -> None:
    """Nothing, where no field says that the model was stopped before its end.

    Args:
        fields: those of a row, a turn, or what an interface answered.
        of: the field that they stand in.

    Raises:
        Malformed: one does.
    """
    for name, value in fields.items():
        if plain_name(name) in _STOPS and str(value).strip().casefold() in _CUT:
            where = f"{of}.{name}" if of else name
            raise Malformed(f"field {show(where)}: the model stopped at {show(str(value))}, not at the end; remove the row")


def number(value: Any) -> float | None:
    """The number that a cell holds, as text too; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except ValueError:
        return None
    return found if abs(found) < 1e15 else None
