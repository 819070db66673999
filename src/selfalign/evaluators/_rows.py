"""Rows of the files in which benchmarks are published."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from selfalign.errors import UserError
from selfalign.seeds.files import read_rows
from selfalign.seeds.rows import Malformed, Problem

_Made = TypeVar("_Made")


def read(path: str, make: Callable[[Mapping[str, Any]], _Made]) -> list[_Made]:
    """What is made of the fields of each row, in the order of the file (any format of `seeds.files`).

    Args:
        make: raises ValueError or `Malformed` with what is wrong with the fields.

    Raises:
        UserError: the file, or a row of it, with its place; or it has no rows.
    """
    found = []
    for row in read_rows(path):
        if isinstance(row, Problem):
            raise UserError(f"{row.where}: {row.what}")
        try:
            found.append(make(row.fields))
        except (ValueError, Malformed) as error:
            raise UserError(f"{row.where}: {error}") from None
    if not found:
        raise UserError(f"{path}: has no rows; it must hold at least one")
    return found
