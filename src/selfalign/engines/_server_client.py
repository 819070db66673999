"""Asking an HTTP server that may be slow, busy, broken or away: every call ends in a reply that was checked, or in one error.

Each attempt has a total deadline, from the first byte sent to the last one read. What can pass by itself is tried again after
a random wait (full jitter: uniform between 0 and a bound that doubles, at most a minute; `Retry-After` is honoured up to the
same minute) until the call's patience is over. A server that is too busy (429, 503, no answer in time) halves the number of
calls in flight, and each round of good answers adds one again. Many failures in a row open a circuit: then only the probe, one
token, is sent until it is answered.

The calls run in an event loop in a thread of its own, so that a signal interrupts the caller and never a half-done call.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Generic, TypeVar

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


class Trouble(Exception):
    """What may pass by itself: no connection, an error of the server, a body that is no reply."""

    def __init__(self, reason: str, *, busy: bool = False, wait: float | None = None) -> None:
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


@dataclass(frozen=True)
class Limits:
    """`concurrency` calls at once; seconds for one attempt, for all attempts of one call, and of the first wait."""

    concurrency: int
    timeout: float
    patience: float
    backoff: float


class Client:
    """Calls to one server. Usable from one thread at a time."""

    def __init__(self, url: str, key: str, limits: Limits) -> None:
        """
        Args:
            url: without credentials; paths of calls are put behind it.
            key: sent as a bearer token where not empty; kept out of every message.

        Raises:
            UserError: httpx2 is not installed.
        """
        try:
            import httpx2
        except ImportError as error:
            raise UserError(
                "asking a server needs the package httpx2; install it with: pip install 'selfalign[server]'"
            ) from error
        self._library = httpx2
        self._url, self._key, self._limits = url, key, limits
        self._probe: Call[Any] | None = None
        self._reached = False
        self._failures = 0
        self._random = random.Random()  # decides when, never what
        self._gate = _Gate(limits.concurrency)
        self._recovering = asyncio.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="selfalign-server-calls", daemon=True)
        self._thread.start()
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        self._http = httpx2.AsyncClient(
            headers=headers | ({"Authorization": f"Bearer {key}"} if key else {}),
            timeout=httpx2.Timeout(None, connect=_FIRST_CONTACT),  # beside the deadline over the whole attempt
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=limits.concurrency),
            trust_env=httpx2.URL(url).host not in ("localhost", "127.0.0.1", "::1"),  # a proxy cannot reach this machine's own
        )

    def close(self) -> None:
        """End what is under way and give everything back."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def probe_with(self, call: Call[Any]) -> None:
        """Ask this once, now, and again whenever the server must show that it is back."""
        self.ask([call])
        self._probe = call

    def answers(self, call: Call[Any]) -> bool:
        """Whether the server replies to one attempt, if only with a refusal."""
        try:
            call.read(self._run(self._send(call)))
        except Unfit as problem:
            return problem.value is not None
        except Trouble:
            return False
        except Rejected:
            return True
        return True

    def ask(self, calls: Sequence[Call[_T]]) -> list[_T]:
        """The reply to each call, in order.

        Raises:
            Rejected: the server refuses one of them for good; no other is sent any more.
            RunFailed: it gave no good answer to one of them within the patience.
        """
        return self._run(self._all(calls))

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:  # a signal: the calls under way are dropped
            future.cancel()
            raise

    async def _end(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._http.aclose()

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
                    self._give_up(spent + time.monotonic() - sent, trouble)
                    await self._sleep(tries, trouble.wait)
                except Unfit as problem:
                    self._failures, unfit = 0, unfit + 1
                    if unfit == _UNFIT_TRIES:
                        if problem.value is None:
                            raise RunFailed(f"the server at {self._url} {problem}") from None
                        taken: _T = problem.value
                        return taken
                else:
                    self._failures = 0
                    self._gate.good()
                    return value
                tries += 1
                spent += time.monotonic() - sent  # waiting for the others is not counted

    async def _until_back(self) -> None:
        """Wait until the circuit is closed."""
        if self._failures < _TRIP or self._probe is None:
            return
        async with self._recovering:
            began, tries, wait = time.monotonic(), 0, 0.0
            while self._failures >= _TRIP:
                await self._sleep(tries, wait)
                try:
                    self._probe.read(await self._send(self._probe))
                except Trouble as trouble:
                    self._give_up(time.monotonic() - began, trouble)
                    tries, wait = tries + 1, trouble.wait or 0.0
                except Unfit:
                    self._failures = 0
                else:
                    self._failures = 0

    async def _send(self, call: Call[Any]) -> bytes:
        """The body of a reply with status 200."""
        content = None if call.body is None else json.dumps(call.body).encode()
        body, size = bytearray(), 0
        try:
            async with (
                asyncio.timeout(self._limits.timeout),
                self._http.stream("GET" if content is None else "POST", self._url + call.path, content=content) as reply,
            ):
                self._reached = True
                async for chunk in reply.aiter_bytes():
                    size += len(chunk)
                    if size > LARGEST_REPLY:
                        raise Trouble(f"a reply of more than {LARGEST_REPLY // 2**20} MiB")
                    body += chunk
        except TimeoutError:
            raise Trouble(f"no whole reply within {self._limits.timeout:g} s", busy=True) from None
        except (self._library.LocalProtocolError, self._library.UnsupportedProtocol, self._library.InvalidURL) as error:
            raise Rejected(0, f"the request cannot be sent ({type(error).__name__})") from None
        except self._library.RequestError as error:
            raise Trouble(f"{type(error).__name__} {self._plain(str(error))}".strip()) from None
        if reply.status_code == 200:
            return bytes(body)
        said = f"status {reply.status_code} {self._detail(bytes(body))}".strip()
        if reply.status_code == 500 and call.broken is not None:
            raise Unfit(f"answers {call.path} with {said}", call.broken)
        passing = reply.status_code in (408, 409, 425, 429) or (reply.status_code >= 500 and reply.status_code != 501)
        if passing or 200 < reply.status_code < 300:
            wait = retry_after(reply.headers.get("retry-after", ""))
            raise Trouble(said, busy=reply.status_code in (429, 503), wait=wait)
        raise Rejected(reply.status_code, said)

    def _give_up(self, spent: float, trouble: Trouble) -> None:
        patience = self._limits.patience if self._reached else min(self._limits.patience, _FIRST_CONTACT)
        if spent >= patience:
            what = "gave no good reply" if self._reached else "cannot be reached"
            raise RunFailed(f"the server at {self._url} {what} in {patience:g} s of tries; the last one: {trouble}")

    async def _sleep(self, tries: int, asked: float | None = None) -> None:
        bound: float = min(LONGEST_WAIT, self._limits.backoff * 2.0 ** min(tries, 30))
        await asyncio.sleep(max(self._random.uniform(0.0, bound), asked or 0.0))

    def _detail(self, body: bytes) -> str:
        """What the body of an error says, in short."""
        text = body[:4096].decode("utf-8", "replace")
        try:
            found = json.loads(text)
            found = found.get("error", found.get("detail", "")) if isinstance(found, dict) else ""
            text = str(found.get("message", "")) if isinstance(found, dict) else str(found)
        except (ValueError, RecursionError):
            pass
        return f"({self._plain(text)})" if text.strip() else ""

    def _plain(self, text: str) -> str:
        """Fit for a terminal and a log: one short line, without the key."""
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


def retry_after(header: str) -> float | None:
    """Seconds that a `Retry-After` header (seconds or a date) asks to wait, at most a minute; None where it makes no sense."""
    try:
        seconds = float(header)
    except ValueError:
        try:
            date = parsedate_to_datetime(header)
        except (ValueError, TypeError, IndexError):
            return None
        seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp()
    return min(seconds, LONGEST_WAIT) if seconds >= 0.0 else None
