"""Stands for a server program: the one on loopback (`server.model_server`) serves a folder as long as this process lives.

`python -m tests.started_server URL MODEL`; without loading a model itself, so it starts at once.
"""

from __future__ import annotations

import json
import os
import sys
import time
from urllib.request import ProxyHandler, Request, build_opener

if __name__ == "__main__":
    address, model = sys.argv[1:]
    body = json.dumps({"model": model, "pid": os.getpid()}).encode()
    request = Request(f"{address}/start", body, {"Content-Type": "application/json"})
    build_opener(ProxyHandler({})).open(request, timeout=300).read()
    time.sleep(600)
