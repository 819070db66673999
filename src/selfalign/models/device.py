"""Where a model runs, and its memory: chosen by name, reported when it runs out, handed back."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
from typing import Any

from selfalign.errors import UserError

_NO_MEMORY = (
    *(
        "can't allocate memory",
        "cannot allocate memory",
        "not enough memory",
        "out of memory",
        "bad_alloc",
        "failed to map segment",
    ),
    # What oneDNN, the library below torch on processors, makes of it.
    *("could not create a primitive", "could not create a memory", "could not execute a primitive"),
)


def choose_device(name: str) -> Any:
    """The device by name; auto: a CUDA device, else Apple's, else the processor."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device {name!r} is unknown; use auto, cpu, cuda, cuda:1 or mps") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {name!r} is asked for, but this machine shows {torch.cuda.device_count()} CUDA devices")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("device 'mps' is asked for, but this machine has none")
    return chosen


def empty_cache() -> None:
    """Hand memory that torch and the C library keep for later back: a trainer in another process asks for it next."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim_heap()


def trim_heap() -> None:
    """Hand back what the C library keeps of freed memory, also between pieces in use; it takes milliseconds."""
    with contextlib.suppress(OSError, AttributeError):  # glibc's; other C libraries have nothing of the kind
        ctypes.CDLL(None).malloc_trim(0)


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a GPU or on the processor."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    text = str(error).lower()
    return isinstance(error, Exception) and any(said in text for said in _NO_MEMORY)
