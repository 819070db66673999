"""The pairs of a round that waits, one at a time, on a page for one browser on this machine; see `record.review`.

The address has a random token, and nothing is answered without it. Requests are answered where they name this machine as the host
and, if they change anything, come from the page itself: another site that a browser has open can neither read nor decide.
"""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from importlib.resources import files
from typing import Any

from selfalign.errors import RunFailed, UserError
from selfalign.record.review import Decision, Review, shown_pairs, summary

_ASSETS = {
    "": ("review.html", "text/html"),
    "page.css": ("page.css", "text/css"),
    "review.css": ("review.css", "text/css"),
    "review.js": ("review.js", "text/javascript"),
}
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
Answered = tuple[int, Any]


def serve(
    review: Review, by: str, told: Callable[[str], None], sample: int | None = None, blind: bool = False, port: int = 0
) -> None:
    """Shows the page's address to `told` and serves it until the review is done on it, or the process is interrupted.

    Args:
        port: 0 takes a free one.

    Raises:
        UserError: a port that is taken, or a sample of nothing.
    """
    import uvicorn

    token = secrets.token_urlsafe(24)
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port))
            listening.listen()  # from here on a browser that opens the address waits, instead of being refused
        except (OSError, OverflowError) as error:
            raise UserError(f"--port {port}: cannot be listened on ({error}); leave it out to take a free one") from error
        app = make_app(review, by, token, lambda: setattr(server, "should_exit", True), sample, blind)
        config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, lifespan="off", ws="none")
        server = uvicorn.Server(config)
        told(f"http://127.0.0.1:{listening.getsockname()[1]}/{token}/")
        with suppress(KeyboardInterrupt):  # every decision is in the record by then
            server.run(sockets=[listening])


def make_app(
    review: Review, by: str, token: str, ended: Callable[[], None], sample: int | None = None, blind: bool = False
) -> Any:
    """The page and what it asks for, as an ASGI application; `ended` is called when the review is done.

    All of it runs in the thread of the event loop, which is that of the record's connection.
    """
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    pairs = shown_pairs(review, sample, blind)

    async def answer(request: Request) -> Response:
        refused = _refused(request.headers, request.method == "POST")
        found, _, name = request.path_params["path"].partition("/")
        if refused or not secrets.compare_digest(found.encode(), token.encode()):
            return JSONResponse({"error": refused or "nothing is here"}, 403 if refused else 404, _HEADERS)
        if request.method == "POST":
            code, said = _changed(review, by, name, await request.body())
            if name == "done" and code == 200:
                ended()
            return JSONResponse(said, code, _HEADERS)
        if name == "pairs":
            return JSONResponse(_all(review, pairs), 200, _HEADERS)
        if name not in _ASSETS:
            return JSONResponse({"error": "nothing is here"}, 404, _HEADERS)
        file, kind = _ASSETS[name]
        return Response(files("selfalign.report").joinpath(file).read_bytes(), 200, _HEADERS, kind)

    return Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])


def _refused(headers: Any, changes: bool) -> str:
    """Why a request is not answered; "" where it is."""
    host = headers.get("host", "")
    if host.partition(":")[0] not in _HOSTS:
        return "this page is for this machine: open it by the address that was printed"
    if (origin := headers.get("origin")) is not None or changes:
        if origin != f"http://{host}":
            return "only the page itself may ask"
        if changes and headers.get("content-type") != "application/json":
            return "decisions come as JSON"
        length = headers.get("content-length", "")
        if changes and not (length.isdecimal() and 0 < int(length) <= _LARGEST):
            return "too large, or without a length"
    return ""


def _all(review: Review, pairs: list[dict[str, Any]]) -> dict[str, Any]:
    shown = ("id", "verdict", "reason", "response")
    decided = [{name: getattr(said, name) for name in shown} for said in review.decisions().values()]
    title = f"Review of round {review.round}, {review.store.folder.resolve().name}"
    return {"title": title, "total": len(review.pairs), "pairs": pairs, "decided": decided}


def _changed(review: Review, by: str, name: str, body: bytes) -> Answered:
    """(status, what to answer) of a request that changes the record."""
    try:
        asked = json.loads(body)
        if name == "decide" and isinstance(asked, dict) and all(isinstance(each, str) for each in asked.values()):
            given = {key: asked.get(key, "") for key in ("id", "verdict", "reason", "response")}
            review.decide([Decision(**given)], by)
        elif name == "done" and isinstance(asked, dict) and asked.get("rest") in (None, "keep", "drop"):
            review.close(by, asked["rest"])
        else:
            return 400, {"error": "neither a decision nor the end of the review"}
        return 200, summary(review.store, review.round)
    except UserError as error:
        return 400, {"error": str(error)}
    except RunFailed as error:  # the disk is full
        return 500, {"error": str(error)}
    except (ValueError, KeyError, RecursionError):
        return 400, {"error": "no JSON"}
