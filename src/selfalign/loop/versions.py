"""Under what a run works: the versions of the libraries that decide on its bytes, and the files of the user's own parts."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from selfalign.recipe import Recipe

DECIDING = ("selfalign", "torch", "transformers")


def software(recipe: Recipe, files: Sequence[Path] = ()) -> dict[str, Any]:
    """{"selfalign": version …, "python": version, "files": {name: SHA-256}}; a package that is not installed has None.

    Args:
        files: the file that the recipe comes from; those that define parts of it are found from the parts.
    """
    own = {*(path.resolve() for path in files), *_files_of(recipe)}
    return {
        **{name: _version(name) for name in DECIDING},
        "python": platform.python_version(),
        "files": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(own)},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _files_of(part: Any) -> Iterator[Path]:
    """The files of the classes of all parts, at any depth, that are not selfalign's own."""
    if isinstance(part, (tuple, list)):
        for each in part:
            yield from _files_of(each)
        return
    if not is_dataclass(part) and type(part).__module__ in ("builtins", "typing"):
        return
    module = type(part).__module__
    if module.partition(".")[0] != "selfalign":
        file = getattr(sys.modules.get(module), "__file__", None)
        if file and file.endswith(".py") and Path(file).is_file():
            yield Path(file).resolve()
    for each in fields(part) if is_dataclass(part) else ():
        yield from _files_of(getattr(part, each.name))
