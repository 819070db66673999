"""Functions that stand in a Python file of the user's own: recipes, checks."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from traceback import extract_tb
from typing import Any

from selfalign.errors import RunFailed, UserError


def load_function(path: Path, function: str, hint: str) -> Callable[..., Any]:
    """The function of that name, or the one named as the file is where no name is given.

    Args:
        hint: how such a function is named on the command line, for a file that is not there.

    Raises:
        UserError: no such file or function, or one that cannot be imported; the message has file and line.
    """
    if not path.is_file():
        raise UserError(f"no file {path}; {hint}")
    spec = spec_from_file_location(_module_name(path), path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses in the file look their own module up
    try:
        spec.loader.exec_module(module)
    except (UserError, RunFailed):
        raise
    except SyntaxError as error:
        file = path if error.filename in (None, spec.origin) else error.filename  # it may be in what the file imports
        where = f"{file}, line {error.lineno}" if error.lineno else str(file)
        raise UserError(f"{where}: {error.msg}: {(error.text or '').strip()}") from error
    except Exception as error:
        lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == spec.origin]
        problem = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"{path}, line {lines[-1] if lines else 1}: {problem}; `python {path}` shows all of it") from error
    made = getattr(module, function or path.stem, None)
    if not callable(made):
        public = [key for key, value in vars(module).items() if inspect.isfunction(value) and value.__module__ == spec.name]
        raise UserError(f"{path} has no function {function or path.stem!r}; its functions: {', '.join(public) or 'none'}")
    return made  # type: ignore[no-any-return]


def _module_name(path: Path) -> str:
    """The file's own, but for one that would take the place of another module: a user's json.py is not the library's."""
    known = getattr(sys.modules.get(path.stem), "__file__", None)
    taken = path.stem in sys.stdlib_module_names or (known is not None and Path(known).resolve() != path.resolve())
    return f"{path.stem} of {path.parent.resolve()}" if taken else path.stem
