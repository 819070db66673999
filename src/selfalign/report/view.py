"""The report of a run or a study, made anew from the record whenever it is loaded; see `served`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from selfalign.errors import UserError
from selfalign.record.lock import is_locked
from selfalign.report.served import Reply, as_json, serve
from selfalign.report.write import page_text


def serve_report(folder: str | Path, told: Callable[[str], None], every: int = 60, port: int = 0) -> None:
    """Serves the page until the process is interrupted.

    Args:
        told: is given the page's address.
        every: seconds after which a browser loads it again, while a process works on a run.
        port: 0 takes a free one.

    Raises:
        UserError: no folder of a run or a study, no such time, or a port that is taken.
    """
    folder = Path(folder)
    if every < 1:
        raise UserError(f"--every {every}: at least 1 second")
    page_text(folder)  # what is wrong with the folder is said before the address is

    def answer(name: str, body: bytes | None) -> Reply:
        if name or body is not None:
            return as_json(404, {"error": "nothing is here"})
        # The page's own policy, by the hashes of its style and script, stands in it.
        headers = {"content-security-policy": "frame-ancestors 'none'", **({"refresh": str(every)} if is_locked(folder) else {})}
        try:
            return Reply(200, page_text(folder).encode(), "text/html", headers)
        except UserError as error:  # moved or damaged meanwhile
            return as_json(500, {"error": str(error)})

    serve(answer, told, port)
