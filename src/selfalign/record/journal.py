"""Work that is in the record before it counts: batches of a model's answers and scores, read back by a run that goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol

from selfalign.errors import RunFailed
from selfalign.protocols import Progress, Session, Work
from selfalign.record.store import Store
from selfalign.types import Completion, Continuation, Example, Likelihood, Request, Sampling

Arrange = Callable[[Sequence[Example]], tuple[Example, ...]]
"""The order in which a prompt shows its demonstrations."""

Method = Literal["generate", "likelihood", "continuation"]
Batches = Callable[[Sequence[tuple[int, ...]]], Iterator[tuple[int, list[dict[str, Any]]]]]
"""Batches of positions to (which of them, its rows), as each is done."""


class Spread(Protocol):
    """What a session that works on several batches at a time has besides (`protocols.Session`)."""

    def spread(self, method: Method, calls: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, list[Any]]]:
        """Calls the session's method with the arguments of each call; gives (which call, what came of it) in any order, as they
        end."""
        ...


SCORED_AT_ONCE = 320
"""Texts whose log-likelihoods are committed together: 32 rows, the engine's default batch, of the ten texts that a judge asks for
one pair. The HF engine puts texts with a common beginning into one row and cuts batches that fit its memory itself, longest
first; fewer texts would cut a judge's ten apart and leave most of those batches empty."""


@dataclass(frozen=True)
class Journal:
    """A session's work in one round through the run's record (see `protocols.Journal`).

    A batch is committed whole: a run that is killed repeats one at most (one for each worker of a session that is `Spread`) and
    writes the same bytes.
    """

    store: Store
    round: int
    session: Session
    progress: Progress
    arrange: Arrange = tuple
    prefix: str = ""
    """Before the names of all stages: the same work of another model in this round is other work."""

    def generate(self, stage: str, requests: Sequence[Request], sampling: Sampling) -> list[tuple[Request, Completion]]:
        """In the batches that the session plans; see `protocols.Journal.generate`."""
        if not sampling.max_tokens:
            raise ValueError(f"stage {stage}: a sampling without tokens; `align` fills in those that the seeds need")
        stage = self.prefix + stage
        done = self.store.done_batches(self.round, stage)
        if len(done) < len(requests):
            fitted = [_fitted(self.session, request, sampling.max_tokens, self.arrange) for request in requests]
            sent = {slot: request for slot, request in enumerate(fitted) if request is not None}
            roomless = {slot: _roomless(requests[slot]) for slot in range(len(requests)) if slot not in sent and slot not in done}
            if roomless:  # in no batch of the plan, but in the record like all others: exports and reports are made from it
                self.store.add_batch(self.round, stage, -1, roomless, 0.0)
                done.update(roomless)
            slots = list(sent)
            plan = [tuple(slots[i] for i in batch) for batch in self.session.plan(list(sent.values()))]

            def ask(batch: Sequence[int]) -> tuple[Any, ...]:
                return [sent[slot] for slot in batch], sampling

            self._run(stage, plan, done, partial(self._batches, "generate", ask, partial(self._answers, sent)))
        return [_read_back(request, done[slot], stage) for slot, request in enumerate(requests)]

    def likelihood(self, stage: str, examples: Sequence[Example], shown: Sequence[Sequence[Example]] = ()) -> list[Likelihood]:
        def ask(places: Sequence[int]) -> tuple[Any, ...]:
            return [examples[i] for i in places], [self.arrange(shown[i]) for i in places] if shown else ()

        def made(places: Sequence[int], found: Sequence[Likelihood]) -> list[dict[str, Any]]:
            return [{"id": examples[i].id, **asdict(one)} for i, one in zip(places, found, strict=True)]

        rows = self._rows(stage, len(examples), partial(self._batches, "likelihood", ask, made), SCORED_AT_ONCE)
        _same_ones(rows, [example.id for example in examples], stage)
        return [Likelihood(row["total"], row["tokens"]) for row in rows]

    def continuation(self, stage: str, pairs: Sequence[tuple[str, str]]) -> list[Continuation]:
        def ask(places: Sequence[int]) -> tuple[Any, ...]:
            return ([pairs[i] for i in places],)

        def made(_: Sequence[int], found: Sequence[Continuation]) -> list[dict[str, Any]]:
            return [asdict(one) for one in found]

        rows = self._rows(stage, len(pairs), partial(self._batches, "continuation", ask, made), SCORED_AT_ONCE)
        return [Continuation(row["total"], row["tokens"], row["greedy"]) for row in rows]

    def work(self, stage: str, ids: Sequence[str], work: Work, batch: int) -> list[dict[str, Any]]:
        made = partial(_one_by_one, lambda places: [{"id": ids[i], **row} for i, row in zip(places, work(places), strict=True)])
        rows = self._rows(stage, len(ids), made, batch)
        _same_ones(rows, ids, stage)
        return rows

    def _batches(
        self,
        method: Method,
        ask: Callable[[Sequence[int]], tuple[Any, ...]],
        rows: Callable[[Sequence[int], Sequence[Any]], list[dict[str, Any]]],
        plan: Sequence[tuple[int, ...]],
    ) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """Work of the session: what a batch's call is given, and the rows that its answer makes."""
        spread = getattr(self.session, "spread", None)
        if spread is None:
            yield from _one_by_one(lambda batch: rows(batch, getattr(self.session, method)(*ask(batch))), plan)
            return
        for place, found in spread(method, [ask(batch) for batch in plan]):
            yield place, rows(plan[place], found)

    def _answers(self, sent: Mapping[int, Request], batch: Sequence[int], found: Sequence[Completion]) -> list[dict[str, Any]]:
        requests = [sent[slot] for slot in batch]
        return [
            {
                "id": request.id,
                **asdict(completion),
                "demonstrations": [example.id for example in request.demonstrations],
                **_asked(request),
                "prompt_text": self.session.render(request),
            }
            for request, completion in zip(requests, found, strict=True)
        ]

    def _rows(self, stage: str, count: int, batches: Batches, size: int) -> list[dict[str, Any]]:
        """The rows of `count` positions, `size` of them made and committed together."""
        stage = self.prefix + stage
        done = self.store.done_batches(self.round, stage)
        self._run(stage, [tuple(range(start, min(start + size, count))) for start in range(0, count, size)], done, batches)
        return [done[slot] for slot in range(count)]

    def _run(self, stage: str, plan: Sequence[tuple[int, ...]], done: dict[int, Any], batches: Batches) -> None:
        """Has the batches of slots made that the record does not hold yet, commits each as it comes, and adds them to `done`."""
        waiting = [(number, batch) for number, batch in enumerate(plan) if batch[0] not in done]
        if not waiting:
            return
        total, left = sum(map(len, plan)), sum(len(batch) for _, batch in waiting)
        self.progress.start(f"round {self.round}: {stage}", total, total - left)
        began = time.monotonic()
        for place, made in batches([batch for _, batch in waiting]):
            number, batch = waiting[place]
            rows = dict(zip(batch, made, strict=True))
            self.store.add_batch(self.round, stage, number, rows, time.monotonic() - began)  # of several at a time since the last
            done.update(rows)
            self.progress.advance(len(batch))
            began = time.monotonic()
        self.progress.finish()


def _fitted(session: Session, request: Request, max_tokens: int, arrange: Arrange) -> Request | None:
    """See `Session.fit`; what has no room goes in the order chosen, before the rest is arranged. Texts stay as they are."""
    fitted = session.fit(request, max_tokens)
    if fitted is None or fitted.text is not None or (shown := arrange(fitted.demonstrations)) == fitted.demonstrations:
        return fitted
    return session.fit(replace(fitted, demonstrations=shown), max_tokens)  # a join of two texts may take a token more


def _asked(request: Request) -> dict[str, Any]:
    """The history only where there is one: most requests have none."""
    return {"prompt": request.prompt, **({"history": request.history} if request.history else {})}


def _roomless(request: Request) -> dict[str, Any]:
    """The row of a request that does not fit the model's window."""
    return {"id": request.id, "text": "", "finish": "context", "demonstrations": [], **_asked(request)}


def _one_by_one(work: Work, plan: Sequence[tuple[int, ...]]) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    for place, batch in enumerate(plan):
        yield place, work(batch)


def _read_back(request: Request, row: dict[str, Any], stage: str) -> tuple[Request, Completion]:
    _same(row["id"], request.id, stage)
    shown = {example.id: example for example in request.demonstrations}
    sent = replace(request, demonstrations=tuple(shown[name] for name in row["demonstrations"]))
    completion = Completion(row["text"], row["finish"], row.get("prompt_tokens", 0), row.get("generated_tokens", 0))
    return sent, completion


def _same_ones(rows: Sequence[Mapping[str, Any]], ids: Sequence[str], stage: str) -> None:
    for row, id in zip(rows, ids, strict=True):
        _same(row["id"], id, stage)


def _same(found: str, asked: str, stage: str) -> None:
    """Raises RunFailed where the journal answers another question than the one asked."""
    if found != asked:
        raise RunFailed(f"stage {stage}: the journal holds {found} where {asked} is asked for; made by another version?")
