"""Where a model runs, and its memory: chosen by name, reported when it runs out, handed back."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfalign.errors import UserError

_NO_MEMORY = (
    *("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory", "bad_alloc"),
    "failed to map segment",
    "_status_alloc_failed",  # cuBLAS and cuDNN, which take some besides torch
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
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"device {name!r} is unknown; use auto, cpu, cuda, cuda:1 or mps")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {name!r} is asked for, but this machine shows {torch.cuda.device_count()} CUDA devices")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("device 'mps' is asked for, but this machine has none")
    return chosen


def only_device(name: str, given: Mapping[str, str]) -> dict[str, str]:
    """The environment `given`, for a process that shall see only the named CUDA (or AMD) device.

    `cuda:1` is the second of those that CUDA_VISIBLE_DEVICES lets us see, none where that are fewer: the machine's own second one
    may be another process's. auto and cuda are all of them.
    """
    kind, _, index = name.partition(":")
    if kind in ("auto", "cuda") and not index:
        return dict(given)
    if kind == "cuda" and (variable := visible(given)) in given:
        seen = [each.strip() for each in given[variable].split(",") if each.strip()]
        index = seen[int(index)] if int(index) < len(seen) else ""
    only = index if kind == "cuda" else ""
    return {**given, visible(given): only}


def visible(given: Mapping[str, str]) -> str:
    """The name of the variable that says which GPUs are seen: on AMD's two are read, and their own wins over CUDA's."""
    return "HIP_VISIBLE_DEVICES" if "HIP_VISIBLE_DEVICES" in given else "CUDA_VISIBLE_DEVICES"


def device_count(device: Any) -> int:
    """The devices that a training on this one may use: all CUDA devices that are visible, unless one is named (`cuda:1`)."""
    import torch

    return int(torch.cuda.device_count()) if device.type == "cuda" and device.index is None else 1


def own_gpu() -> int:
    """The index of the GPU of this one of a machine's training processes, which may be shown that one alone."""
    import torch

    return int(os.environ.get("LOCAL_RANK", "0")) % max(int(torch.cuda.device_count()), 1)


def device_memory(device: Any) -> tuple[int, int]:
    """(in all, free now) of a device, in bytes; of all CUDA devices the smallest, and what is free of the first. A processor's
    is the machine's, or what its container is given."""
    import torch

    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        # Of several the smallest, as each has the same share; what is free there cannot be asked without taking some of it.
        all_of_them = range(device_count(device)) if device.index is None else ()
        return min([total, *(int(torch.cuda.get_device_properties(each).total_memory) for each in all_of_them)]), free
    if device.type == "mps":
        most = torch.mps.recommended_max_memory()
        return most, most - torch.mps.driver_allocated_memory()
    total = free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, StopIteration):  # Linux
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        free = 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # no container, or "max"
            total = min(total, int((Path("/sys/fs/cgroup") / limit).read_text("ascii")))
    return total, min(free, total)


def empty_cache() -> None:
    """Hand memory that torch and the C library keep for later back: a trainer in another process asks for it next."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
    trim_heap()


def half_type(device: Any, precision: str = "auto") -> Any:
    """The 16-bit type that matrix products run in, as asked (`bf16`, `fp16`, `fp32`) or (auto) where the hardware is quicker in
    it: bfloat16, on CUDA devices before Ampere float16, as their bfloat16 is emulated; None for 32 bits.

    Among processors that have AMX, or AVX-512's bfloat16 and are not Intel's: those do as many float32 products in the same time
    (measured without AMX: training takes 2.1 times as long in bfloat16, reading 1.6 times; on AMD's Zen 4 0.6 times).
    """
    import torch

    if precision != "auto":
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type != "cpu":
        return None
    known: Mapping[str, Any] = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    pays = known.get("avx512_bf16") and not str(known.get("cpu_name", "")).startswith("Intel")
    return torch.bfloat16 if known.get("amx_bf16") or pays else None


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
