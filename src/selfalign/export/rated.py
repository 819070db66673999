"""Ratings as people hand them back, made sure of: of the pairs of this key, with its texts, and each one a rating."""

from __future__ import annotations

import json
from collections.abc import Mapping
from errno import ENOENT
from pathlib import Path
from typing import Any

from selfalign.errors import UserError
from selfalign.export.ratings import COLUMNS, Rows, digest, name_of, pair_id, uncell
from selfalign.proof.ratings import CHOICES, Choice, Rating, conclude

_SAID: Mapping[str, Choice] = {**{choice.lower(): choice for choice in CHOICES}, "both bad": "bad"}


def read_key(path: str | Path) -> dict[str, Any]:
    """The key that `write_pairs` wrote. Raises UserError: it cannot be read, is none, or is not as it was written."""
    try:
        if not Path(path).is_file():  # a pipe could be waited for for ever
            raise FileNotFoundError(ENOENT, "no such file")
        key = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        remedy = "--key is the .key.json that was written with the pairs"
        raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    except (ValueError, RecursionError):
        key = None
    if not isinstance(key, dict) or "set" not in key:
        raise UserError(f"{path}: is no key of pairs; --key is the .key.json that was written with them")
    if key["set"] != name_of(key):
        remedy = "bring back a copy, or write the pairs again by the same command"
        raise UserError(f"{path}: the key is not as it was written; {remedy}")
    return key


def read_ratings(key: Mapping[str, Any], rows: Rows) -> list[Rating]:
    """One person's ratings, in the order of the file; pairs without a rating, or without a row, are left out.

    Upper and lower case are one, and so are `bad` and `both bad`. Columns that are not ours are not read.

    Raises:
        UserError: in one line with the row's place: a row of other pairs, one twice, a changed text, a rating that is none.
    """
    known = {pair_id(key["set"], number): each for number, each in enumerate(key["pairs"], start=1)}
    places: dict[str, str] = {}
    found: list[Rating] = []
    for where, fields in rows:
        for name in COLUMNS[:-1]:
            if not isinstance(fields.get(name), str) and (name != "rating" or fields.get(name, "") is not None):
                raise UserError(f"{where}: has no text {name!r}; hand back the columns {', '.join(COLUMNS[:-1])} as they were")
        id = fields["id"].strip()
        if (pair := known.get(id)) is None:
            raise UserError(f"{where}: {_stranger(id, key['set'])}")
        if (first := places.setdefault(id, where)) != where:
            raise UserError(f"{where}: {id} stands at {first} too; keep one of the two")
        for name, digested in pair["sha256"].items():
            if not _same(fields[name], digested):
                raise UserError(f"{where}: {name!r} of {id} is not the text that was written; put it back, or take the row out")
        if said := (fields["rating"] or "").strip():
            if (choice := _SAID.get(" ".join(said.lower().split()))) is None:
                raise UserError(f"{where}: the rating {said[:40]!r} of {id} is none of {', '.join(CHOICES)}, or empty")
            found.append(Rating(id, pair["category"], choice, pair["new"]))
    return found


def figures(key: Mapping[str, Any], raters: Mapping[str, list[Rating]]) -> dict[str, Any]:
    """`proof.ratings.conclude` of all raters, with what the key knows: {"sides", "set", "pairs", "identical", "unrated", …}.

    `unrated` counts the pairs that nobody has rated; each rater has a count of their own.
    """
    ids = {pair_id(key["set"], number): each for number, each in enumerate(key["pairs"], start=1)}
    names = dict.fromkeys(name for each in ids.values() for name in each["metrics"])
    metrics = {name: {id: each["metrics"][name] for id, each in ids.items() if name in each["metrics"]} for name in names}
    found = conclude(raters, [each["category"] for each in key["identical"]], metrics)
    for each in found["raters"].values():
        each["unrated"] = len(ids) - each["rated"]
    rated = {each.pair for ratings in raters.values() for each in ratings}
    counts = {"prompts": key["prompts"], "pairs": len(ids), "identical": len(key["identical"]), "unrated": len(ids) - len(rated)}
    return {"sides": key["sides"], "set": key["set"], "seed": key["seed"], **counts, **found}


def _stranger(id: str, name: str) -> str:
    other, _, number = id.rpartition("-")
    if other and other != name and number.isdigit():
        return f"{id} is of the pairs {other}, and the key of {name}; give --key the key of these pairs"
    return f"no pair {id[:40]!r} in the key; hand back the ids as they were"


def _same(text: str, digested: str) -> bool:
    """Whether it is the text itself, or a cell made of it; a spreadsheet may have taken the first apostrophe away."""
    return any(digest(each) == digested for each in (text, uncell(text), uncell(f"'{text}")))
