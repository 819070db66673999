"""A Ray cluster: how this process gets to it, what room it has, and what must be the same on its nodes."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import signal
import socket
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from selfalign.errors import UserError
from selfalign.text import counted

_log = logging.getLogger(__name__)

REFUSED = ("selfalign", "Python")
"""What must be the same on all nodes."""
DECIDING = ("selfalign", "torch", "transformers", "openvino-genai", "vllm")
"""Packages that decide what is written."""
_REACHED = 10.0
"""Seconds in which the head answers."""
_STORE = 2**28
"""Bytes of the object store of a Ray of our own: batches of texts are small."""


def require(who: str) -> None:
    """Raises UserError: Ray is not installed."""
    if find_spec("ray") is None:
        raise UserError(f"{who} needs the package ray: pip install 'selfalign[ray]'")


def connect(address: str | None, option: str) -> None:
    """Connects this process to the cluster at the address, or to a Ray of its own, unless it is connected already.

    Args:
        option: the one that names the address, for the message.

    Raises:
        UserError: none answers there, or one that does not fit this one (another version of Ray or Python).
    """
    import ray

    if ray.is_initialized():
        return
    if address:
        _check_reached(address, option)
    own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": _STORE}
    vars(ray._private.worker)["_worker_logs_enabled"] = False  # else its own messages go to standard output
    # A Ray of our own reports no use to its makers, and its workers yield no more to other programs than we do.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        # Workers' output stays in Ray's log files, our warnings in it come with the results: standard output is for our tables.
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **({} if address else own))
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        said = " ".join(str(error).split())[:300]
        where = f"no Ray cluster at {option} {address}" if address else "Ray does not start on this machine"
        raise UserError(f"{where}: {said}; `ray status` says what runs, docs/cluster.md how to start one") from error
    finally:
        with contextlib.suppress(ValueError):  # only a main thread may; Ray has put handlers of its own, by which SIGTERM aborts
            for number, handler in handlers.items():
                if handler is not None:
                    signal.signal(number, handler)


def _check_reached(address: str, option: str) -> None:
    """Raises UserError: nobody listens at HOST:PORT, for whom Ray would wait minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return  # auto, or something of which Ray says what is wrong
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACHED).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"no Ray cluster at {option} {address}: {error}; `ray status` says what runs, docs/cluster.md how to start one"
        ) from error


def has_gpus() -> bool:
    """Whether some node of the cluster that this process is connected to has GPUs."""
    return any(node["Resources"].get("GPU") for node in _nodes())


def check_room(who: str, what: str, number: int, wanted: Mapping[str, Any]) -> list[str]:
    """The ids of the nodes that are large enough for one of what is to be placed; that there are too few of them is only said.

    Args:
        who: asks, as in "engine Ray".
        what: is to be placed, as in "worker".
        number: how many at a time.
        wanted: by one, in the words of Ray's actors: num_cpus, num_gpus, resources.

    Raises:
        UserError: no node is.
    """
    each = {"CPU": wanted["num_cpus"], "GPU": wanted["num_gpus"], **wanted["resources"]}
    each = {name: amount for name, amount in each.items() if amount}
    nodes = _nodes()
    room = {
        node["NodeID"]: min(int(node["Resources"].get(name, 0) / amount + 1e-6) for name, amount in each.items())
        for node in nodes
    }
    said = ", ".join(f"{name} {amount:g}" for name, amount in each.items())
    if sum(room.values()) < number:
        there = "; ".join(", ".join(f"{name} {node['Resources'].get(name, 0):g}" for name in each) for node in nodes)
        if not any(room.values()):
            raise UserError(f"{who}: no node has room for a {what} ({said}); the {counted(len(nodes), 'node')}: {there}")
        placed = sum(room.values())
        _log.warning("%s: there is room for %d of %d %ss (%s each); the nodes: %s", who, placed, number, what, said, there)
    return [node for node, count in room.items() if count]


def free() -> dict[str, float]:
    """What no one has taken of the whole cluster's resources."""
    import ray

    return {name: amount for name, amount in ray.available_resources().items() if ":" not in name}


def versions() -> dict[str, str]:
    """What of this process decides on the texts."""
    found = {"Python": platform.python_version()}
    for name in DECIDING:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def compare(who: str, what: str, node: str, there: Mapping[str, str]) -> None:
    """Compares a node's `versions` with those here. Another one of a library is said: what it writes may differ.

    Args:
        what: writes there, as in "this worker".

    Raises:
        UserError: its selfalign or Python is another one.
    """
    here = versions()
    names = [name for name in ("Python", *DECIDING) if there.get(name) != here.get(name)]
    other = {name: f"{there.get(name)} on {node}, {here.get(name)} here" for name in names}
    for name in REFUSED:
        if name in other:
            raise UserError(f"{who}: {name} is {other[name]}; install the same on all nodes")
    if other:
        found = "; ".join(f"{name} {each}" for name, each in other.items())
        _log.warning("%s: %s: what %s writes may differ from what others write", who, found, what)


def own(error: BaseException) -> BaseException | None:
    """What the worker's code raised; None where it was not the code that failed, but its process or its node."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, Exception) else None


def first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def last_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()[::-1]), type(error).__name__)


def _nodes() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]
