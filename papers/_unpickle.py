"""The child process that reads pickled weights: without a network, tensors alone, and with nothing of ours in reach.

    python -I _unpickle.py OUT FILE …

writes each FILE as a .safetensors file of the same stem to OUT, and on standard output how the network was closed and which
tensors each file holds. What a pickle could run is refused by `weights_only=True`; the rest is a second wall.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000
_FORBIDDEN = ("socket.", "subprocess.", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.fork", "ctypes.dlopen")


def network_of_its_own() -> bool:
    """Moves this process into a network namespace with no way out; False where the system does not let it."""
    unshare = getattr(ctypes.CDLL(None, use_errno=True), "unshare", None) if sys.platform == "linux" else None
    return unshare is not None and unshare(_NEW_USER | _NEW_NETWORK) == 0


def forbid(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: no sockets and no other processes from here on."""
    if event.startswith(_FORBIDDEN):
        raise PermissionError(f"the weights tried {event}; refused")


def main(arguments: list[str]) -> None:
    """Raises what `torch.load` raises."""
    alone = network_of_its_own()  # before torch starts threads: a process of several cannot move
    import torch
    from safetensors.torch import save_file

    sys.addaudithook(forbid)
    out, *files = (Path(argument) for argument in arguments)
    found: dict[str, list[str]] = {}
    for file in files:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
        tensors: dict[str, Any] = {}
        seen: set[int] = set()
        for name, tensor in loaded.items():
            if not isinstance(tensor, torch.Tensor):
                raise TypeError(f"{file.name}: {name} is {type(tensor).__name__} and no tensor; this is no file of weights")
            place = tensor.untyped_storage().data_ptr()
            tensors[name] = tensor.clone() if place in seen else tensor.contiguous()  # tied ones share memory; a file must not
            seen.add(place)
        target = out / f"{file.stem}.safetensors"
        save_file(tensors, target, metadata={"format": "pt"})
        found[target.name] = sorted(tensors)
    print(json.dumps({"network": "closed by the system" if alone else "closed by Python alone", "files": found}))


if __name__ == "__main__":
    main(sys.argv[1:])
