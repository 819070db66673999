"""A page for one browser on this machine: on 127.0.0.1, under a random token, and nobody else is answered.

Requests are answered where they name this machine as the host and, if they change anything, come from the page itself: another
site that a browser has open can neither read nor change what is served.
"""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from selfalign.errors import UserError

_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
}
_LARGEST = 2**21
"""Bytes of a request: an edited answer of the longest, with each character escaped."""
_HOSTS = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class Reply:
    """What a request is answered with."""

    status: int
    body: bytes
    kind: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    """In place of those of every answer."""
    last: bool = False
    """Nothing is served behind it."""


Answer = Callable[[str, bytes | None], Reply]
"""From a name behind the token, and what was sent to it (None where it was only asked for), to the answer."""


def as_json(status: int, value: Any, last: bool = False) -> Reply:
    return Reply(status, json.dumps(value).encode(), last=last)


def serve(answer: Answer, told: Callable[[str], None], port: int = 0) -> None:
    """Tells the page's address and answers until an answer is the last one, or the process is interrupted.

    `answer` is called in the thread that called this: a record can be used that it has opened.

    Args:
        port: 0 takes a free one.

    Raises:
        UserError: a port that cannot be listened on.
    """
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    token = secrets.token_urlsafe(24)

    async def respond(request: Request) -> Response:
        changes = request.method == "POST"
        found, _, name = request.path_params["path"].partition("/")
        if why := _refused(request.headers, changes):
            reply = as_json(403, {"error": why})
        elif not secrets.compare_digest(found.encode(), token.encode()):
            reply = as_json(404, {"error": "nothing is here"})
        else:
            reply = answer(name, await request.body() if changes else None)
        if reply.last:
            server.should_exit = True
        return Response(reply.body, reply.status, {**_HEADERS, **reply.headers}, reply.kind)

    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port))
            listening.listen()  # from here on a browser that opens the address waits, instead of being refused
        except (OSError, OverflowError) as error:
            raise UserError(f"--port {port}: cannot be listened on ({error}); leave it out to take a free one") from error
        app = Starlette(routes=[Route("/{path:path}", respond, methods=["GET", "POST"])])
        config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, lifespan="off", ws="none")
        server = uvicorn.Server(config)
        told(f"http://127.0.0.1:{listening.getsockname()[1]}/{token}/")
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listening])


def _refused(headers: Any, changes: bool) -> str:
    """Why a request is not answered; "" where it is."""
    host = headers.get("host", "")
    if host.partition(":")[0] not in _HOSTS:
        return "this page is for this machine: open it by the address that was printed"
    if (origin := headers.get("origin")) is not None or changes:
        if origin != f"http://{host}":
            return "only the page itself may ask"
        if changes and headers.get("content-type") != "application/json":
            return "what changes something comes as JSON"
        length = headers.get("content-length", "")
        if changes and not (length.isdecimal() and 0 < int(length) <= _LARGEST):
            return "too large, or without a length"
    return ""
