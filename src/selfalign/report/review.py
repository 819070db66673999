"""The pairs of a round that waits, one at a time, on a page for the browser; see `record.review` and `served`."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from selfalign.errors import RunFailed, UserError
from selfalign.record.review import Decision, Review, shown_pairs, summary
from selfalign.report.served import Reply, as_json, serve

_ASSETS = ("page.css", "review.css", "elements.js", "review.js")
_FIELDS = ("id", "verdict", "reason", "response")


def serve_review(
    review: Review, by: str, told: Callable[[str], None], sample: int | None = None, blind: bool = False, port: int = 0
) -> None:
    """Serves the page until the review is done on it, or the process is interrupted; each decision is recorded at once.

    Args:
        told: is given the page's address.
        sample: as `shown_pairs`; so is `blind`.
        port: 0 takes a free one.

    Raises:
        UserError: a port that is taken, or a sample of nothing.
    """
    pairs = shown_pairs(review, sample, blind)

    def answer(name: str, body: bytes | None) -> Reply:
        if body is not None:
            return _changed(review, by, name, body)
        if name == "pairs":
            return as_json(200, _all(review, pairs))
        if name not in ("", *_ASSETS):
            return as_json(404, {"error": "nothing is here"})
        kind = {"css": "text/css", "js": "text/javascript"}.get(name.rpartition(".")[2], "text/html")
        return Reply(200, files("selfalign.report").joinpath(name or "review.html").read_bytes(), kind)

    serve(answer, told, port)


def _all(review: Review, pairs: list[dict[str, Any]]) -> dict[str, Any]:
    decided = [{name: getattr(said, name) for name in _FIELDS} for said in review.decisions().values()]
    title = f"Review of round {review.round}, {review.store.folder.resolve().name}"
    return {"title": title, "total": len(review.pairs), "pairs": pairs, "decided": decided}


def _changed(review: Review, by: str, name: str, body: bytes) -> Reply:
    """The answer to a request that changes the record."""
    try:
        asked = json.loads(body)
        if name == "decide" and isinstance(asked, dict) and all(isinstance(each, str) for each in asked.values()):
            review.decide([Decision(**{name: asked.get(name, "") for name in _FIELDS})], by)
        elif name == "done" and isinstance(asked, dict) and asked.get("rest") in (None, "keep", "drop"):
            review.close(by, asked["rest"])
        else:
            return as_json(400, {"error": "neither a decision nor the end of the review"})
        return as_json(200, summary(review.store, review.round), last=name == "done")
    except UserError as error:
        return as_json(400, {"error": str(error)})
    except RunFailed as error:  # the disk is full
        return as_json(500, {"error": str(error)})
    except (ValueError, KeyError, RecursionError):
        return as_json(400, {"error": "no JSON"})
