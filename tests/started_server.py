"""Stands for a server program: the one on loopback (`server.model_server`) serves a folder until this process is told to end.

`python -m tests.started_server URL MODEL`; without loading a model itself, so it starts at once.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener


def say(url: str, body: dict[str, Any]) -> None:
    headers = {"Content-Type": "application/json"}
    build_opener(ProxyHandler({})).open(Request(url, json.dumps(body).encode(), headers), timeout=20).read()


if __name__ == "__main__":
    address, model = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    say(f"{address}/start", {"model": model})
    try:
        time.sleep(300)
    finally:
        say(f"{address}/stop", {})
