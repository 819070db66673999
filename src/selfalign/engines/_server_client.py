"""Asking an HTTP server that may be slow, busy, broken or away: every call ends in a reply that was checked, or in one error.

Each attempt has a total deadline, from the first byte sent to the last one read. What can pass by itself is tried again after
a random wait (full jitter: uniform between 0 and a bound that doubles, at most a minute; `Retry-After` is honoured up to the
same minute) until the call's patience is over, which no wait outlasts. A server that is too busy (429, 503, no answer in time)
halves the number of calls in flight, and each round of good answers adds one again. Many failures in a row open a circuit: then
only the probe, one token, is sent until it is answered.

Our own choice, rather than the `openai` package, which is a layer over the same httpx2: that one's deadline starts anew with
each byte read, it reads bodies of any size, takes most bodies that are no reply for one, and sends the organisation and project
that OPENAI_ORG_ID and OPENAI_PROJECT_ID name to whatever server is asked.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from calendar import timegm
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent import futures
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from email.utils import parsedate
from typing import Any, Generic, TypeVar, cast

from selfalign.errors import RunFailed, UserError

_T = TypeVar("_T")

LONGEST_WAIT = 60.0
"""Seconds between two tries at most, whatever the server asks for."""
LARGEST_REPLY = 32 * 2**20
"""Bytes; log-probabilities of a long prompt take about a hundred for each token."""
_TRIP = 8
"""Failures in a row that open the circuit."""
_UNFIT_TRIES = 4
_FIRST_CONTACT = 10.0
"""Seconds in which a server that was never reached must be: after that the address is wrong or nobody listens there."""
_HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity", "Connection": "close"}
_JITTER = random.Random()  # decides when, never what


class Trouble(Exception):
    """What may pass by itself: no connection, an error of the server, a body that is no reply."""

    def __init__(self, reason: str, *, busy: bool = False, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.busy, self.wait = busy, wait


class Unfit(Exception):
    """A well-formed reply that does not hold what was asked for; tried again a few times, at once.

    With a `value` that one is taken in the end: an empty text can be a fault, but also what the model has to say.
    """

    def __init__(self, reason: str, value: Any = None) -> None:
        super().__init__(reason)
        self.value = value


class Rejected(Exception):
    """The server will not do this however often it is asked."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Call(Generic[_T]):
    """One question: POST with a body, GET without one."""

    path: str
    body: Mapping[str, Any] | None
    read: Callable[[bytes], _T]
    """Checks the reply's body; raises Trouble or Unfit."""
    broken: _T | None = None
    """What stands for the reply where the server answers 500 a few times in a row; None: that is trouble as any other."""


class Client:
    """Calls to one server, from one thread at a time.

    They run in an event loop in a thread of its own, so that a signal interrupts the caller and never a half-done call.
    """

    def __init__(self, url: str, key: str, *, concurrency: int, timeout: float, patience: float, backoff: float) -> None:
        """
        Args:
            url: without credentials; paths of calls are put behind it.
            key: sent as a bearer token where not empty; kept out of every message.
            concurrency: calls under way at once.
            timeout, patience, backoff: seconds of one attempt, of all attempts of one call, and of the first wait at most.

        Raises:
            UserError: httpx2 is not installed, or cannot use the url.
        """
        try:
            import httpx2
            from anyio.from_thread import start_blocking_portal
        except ImportError as error:
            raise UserError(
                f"asking a server needs the package {error.name}; install it with: pip install 'selfalign[server]'"
            ) from error
        try:
            http = httpx2.AsyncClient(
                headers=_HEADERS | ({"Authorization": f"Bearer {key}"} if key else {}),
                timeout=httpx2.Timeout(None, connect=_FIRST_CONTACT),  # within the deadline of the whole attempt
                # No connection serves a second call: what a server sent too much would be read as the next call's reply.
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
                # A proxy cannot reach this machine's own servers.
                trust_env=httpx2.URL(url).host not in ("localhost", "127.0.0.1", "::1"),
            )
        except (httpx2.InvalidURL, ValueError) as error:  # of this address, or of a proxy's in the environment
            raise UserError(f"the server at {url} cannot be asked: {error}") from None
        self._library, self._url, self._key = httpx2, url, key
        self._timeout, self._patience, self._backoff = timeout, patience, backoff
        self._probe: Call[Any] | None = None
        self._reached, self._failures = False, 0
        self._gate, self._recovering = _Gate(concurrency), asyncio.Lock()
        self._open = ExitStack()
        self._portal = self._open.enter_context(start_blocking_portal())
        self._http = self._open.enter_context(self._portal.wrap_async_context_manager(http))

    def close(self) -> None:
        """Give everything back."""
        self._open.close()

    def probe_with(self, call: Call[_T]) -> _T:
        """The reply to a call that is asked now, and again whenever the server must show that it is back."""
        reply = self.ask([call])[0]
        self._probe = call
        return reply

    def answers(self, call: Call[Any]) -> bool:
        """Whether the server replies to one attempt, if only with a refusal."""
        try:
            call.read(self._run(self._send, call))
        except (Trouble, Rejected, Unfit) as problem:
            return not isinstance(problem, Trouble)
        return True

    def ask(self, calls: Sequence[Call[_T]]) -> list[_T]:
        """The reply to each call, in order.

        Raises:
            Rejected: the server refuses one of them for good; no other is sent any more.
            RunFailed: it gave no good answer to one of them within the patience.
        """
        return self._run(self._all, calls)

    def _run(self, work: Callable[..., Coroutine[Any, Any, _T]], argument: Any) -> _T:
        future = self._portal.start_task_soon(work, argument)
        try:
            # Python handles a signal between two waits: one that arrives just before a wait would be heard only after it.
            while not futures.wait([future], timeout=1.0).done:
                pass
            return cast(_T, future.result())
        except BaseException:  # a signal: the calls under way are dropped
            future.cancel()
            raise

    async def _all(self, calls: Sequence[Call[_T]]) -> list[_T]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._one(call)) for call in calls]
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _one(self, call: Call[_T]) -> _T:
        spent, tries, unfit = 0.0, 0, 0
        while True:
            async with self._gate:  # held while waiting too: a server that is busy or away gets no other call instead
                await self._until_back()
                sent = time.monotonic()
                try:
                    value = call.read(await self._send(call))
                except Trouble as trouble:
                    self._failures += 1
                    if trouble.busy:
                        self._gate.busy(sent)
                    await self._pause(trouble, tries, spent + time.monotonic() - sent)
                except Unfit as problem:
                    self._failures, unfit = 0, unfit + 1
                    if unfit == _UNFIT_TRIES:
                        if problem.value is None:
                            raise RunFailed(f"the server at {self._url} {problem}") from None
                        return cast(_T, problem.value)
                else:
                    self._failures = 0
                    self._gate.good()
                    return value
                tries += 1
                spent += time.monotonic() - sent  # waiting for the others is not counted

    async def _until_back(self) -> None:
        """Wait until the circuit is closed."""
        async with self._recovering:
            began, tries = time.monotonic(), 0
            while self._failures >= _TRIP and self._probe is not None:
                try:
                    with suppress(Unfit):
                        self._probe.read(await self._send(self._probe))
                    self._failures = 0
                except Trouble as trouble:
                    await self._pause(trouble, tries, time.monotonic() - began)
                    tries += 1

    async def _pause(self, trouble: Trouble, tries: int, spent: float) -> None:
        """Wait before the next try, or end the run where they have taken too long."""
        patience = self._patience if self._reached else min(self._patience, _FIRST_CONTACT)
        if spent >= patience:
            what = "gave no good reply" if self._reached else "cannot be reached"
            raise RunFailed(f"the server at {self._url} {what} in {patience:g} s of tries; the last one: {trouble}")
        bound = min(LONGEST_WAIT, self._backoff * 2.0 ** min(tries, 30))
        # The last try comes when the patience ends, whatever the server would have us wait.
        await asyncio.sleep(min(max(_JITTER.uniform(0.0, bound), trouble.wait), patience - spent))

    async def _send(self, call: Call[Any]) -> bytes:
        """The body of a reply with status 200."""
        method, content = ("GET", None) if call.body is None else ("POST", json.dumps(call.body).encode())
        body = bytearray()
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._http.stream(method, self._url + call.path, content=content) as reply,
            ):
                self._reached = True
                async for chunk in reply.aiter_bytes():
                    body += chunk
                    if len(body) > LARGEST_REPLY:
                        raise Trouble(f"a reply of more than {LARGEST_REPLY // 2**20} MiB")
        except TimeoutError:
            raise Trouble(f"no whole reply within {self._timeout:g} s", busy=True) from None
        except self._library.RequestError as error:
            raise Trouble(f"{type(error).__name__} {self._said(str(error))}".strip()) from None
        status = reply.status_code
        if status == 200:
            return bytes(body)
        text = self._said(body[:4096].decode("utf-8", "replace"))
        said = f"status {status} ({text})" if text else f"status {status}"
        if status == 500 and call.broken is not None:
            raise Unfit(f"answers {call.path} with {said}", call.broken)
        if status in (408, 409, 425, 429) or (status >= 500 and status != 501) or 200 < status < 300:
            raise Trouble(said, busy=status in (429, 503), wait=retry_after(reply.headers.get("retry-after", "")))
        raise Rejected(status, said)

    def _said(self, text: str) -> str:
        """One short line, fit for a terminal and a log, without the key; of the JSON of an error its message."""
        with suppress(ValueError, RecursionError):
            found = json.loads(text)
            found = found.get("error", found.get("detail", "")) if isinstance(found, dict) else ""
            text = str(found.get("message", "") if isinstance(found, dict) else found)
        hidden = text.replace(self._key, "***") if self._key else text
        return "".join(letter for letter in " ".join(hidden.split()) if letter.isprintable())[:200]


class _Gate:
    """At most `limit` calls inside: half of them after a server said that it is busy, one more after as many good replies."""

    def __init__(self, limit: int) -> None:
        self._most = self.limit = limit
        self._inside = self._good = 0
        self._halved = 0.0
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._inside < self.limit)
            self._inside += 1

    async def __aexit__(self, *_: object) -> None:
        self._inside -= 1
        async with self._changed:
            self._changed.notify(max(0, self.limit - self._inside))

    def busy(self, sent: float) -> None:
        """Halve, once for all calls that were under way together."""
        if sent >= self._halved:
            self.limit, self._good, self._halved = max(1, self.limit // 2), 0, time.monotonic()

    def good(self) -> None:
        self._good += 1
        if self._good >= self.limit and self.limit < self._most:
            self.limit, self._good = self.limit + 1, 0


def retry_after(header: str) -> float:
    """Seconds that a `Retry-After` header (seconds or a date) asks to wait, at most a minute; 0 where it makes no sense."""
    seconds = 0.0
    with suppress(ValueError, OverflowError):
        date = parsedate(header)
        seconds = timegm(date) - time.time() if date else float(header)
    return min(seconds, LONGEST_WAIT) if seconds > 0.0 else 0.0
