"""Work that is in the record before it counts: batches of a model's answers and scores, read back by a run that goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from selfalign.errors import RunFailed
from selfalign.protocols import Progress, Session, Work
from selfalign.record.store import Store
from selfalign.types import Completion, Continuation, Example, Likelihood, Request, Sampling

Arrange = Callable[[Sequence[Example]], tuple[Example, ...]]
"""The order in which a prompt shows its demonstrations."""

SCORED_AT_ONCE = 320
"""Texts whose log-likelihoods are committed together: 32 rows, the engine's default batch, of the ten texts that a judge asks for
one pair. The HF engine puts texts with a common beginning into one row and cuts batches that fit its memory itself, longest
first; fewer texts would cut a judge's ten apart and leave most of those batches empty."""


@dataclass(frozen=True)
class Journal:
    """A session's work in one round through the run's record (see `protocols.Journal`).

    A batch is committed whole: a run that is killed repeats one at most, and writes the same bytes.
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
            self._run(stage, plan, done, partial(self._answers, sent, sampling))
        return [_read_back(request, done[slot], stage) for slot, request in enumerate(requests)]

    def likelihood(self, stage: str, examples: Sequence[Example], shown: Sequence[Sequence[Example]] = ()) -> list[Likelihood]:
        ids = [example.id for example in examples]
        rows = self.work(stage, ids, partial(self._likelihoods, examples, shown), SCORED_AT_ONCE)
        return [Likelihood(row["total"], row["tokens"]) for row in rows]

    def continuation(self, stage: str, pairs: Sequence[tuple[str, str]]) -> list[Continuation]:
        rows = self._rows(stage, len(pairs), partial(self._continuations, pairs), SCORED_AT_ONCE)
        return [Continuation(row["total"], row["tokens"], row["greedy"]) for row in rows]

    def work(self, stage: str, ids: Sequence[str], work: Work, batch: int) -> list[dict[str, Any]]:
        rows = self._rows(stage, len(ids), partial(_with_ids, ids, work), batch)
        for id, row in zip(ids, rows, strict=True):
            _same(row["id"], id, stage)
        return rows

    def _answers(self, sent: Mapping[int, Request], sampling: Sampling, batch: Sequence[int]) -> list[dict[str, Any]]:
        requests = [sent[slot] for slot in batch]
        completions = self.session.generate(requests, sampling)
        return [
            {
                "id": request.id,
                **asdict(completion),
                "demonstrations": [example.id for example in request.demonstrations],
                **_asked(request),
                "prompt_text": self.session.render(request),
            }
            for request, completion in zip(requests, completions, strict=True)
        ]

    def _likelihoods(
        self, examples: Sequence[Example], shown: Sequence[Sequence[Example]], places: Sequence[int]
    ) -> list[dict[str, Any]]:
        before = [self.arrange(shown[i]) for i in places] if shown else ()
        return [asdict(value) for value in self.session.likelihood([examples[i] for i in places], before)]

    def _continuations(self, pairs: Sequence[tuple[str, str]], places: Sequence[int]) -> list[dict[str, Any]]:
        return [asdict(value) for value in self.session.continuation([pairs[i] for i in places])]

    def _rows(self, stage: str, count: int, work: Work, size: int) -> list[dict[str, Any]]:
        """What `work` makes of each of `count` positions, `size` of them committed together."""
        stage = self.prefix + stage
        done = self.store.done_batches(self.round, stage)
        self._run(stage, [tuple(range(start, min(start + size, count))) for start in range(0, count, size)], done, work)
        return [done[slot] for slot in range(count)]

    def _run(self, stage: str, plan: Sequence[tuple[int, ...]], done: dict[int, Any], work: Work) -> None:
        """Makes the batches of slots that the record does not hold yet and adds them to `done`."""
        waiting = [(number, batch) for number, batch in enumerate(plan) if batch[0] not in done]
        if not waiting:
            return
        total, left = sum(map(len, plan)), sum(len(batch) for _, batch in waiting)
        self.progress.start(f"round {self.round}: {stage}", total, total - left)
        for number, batch in waiting:
            began = time.monotonic()
            rows = dict(zip(batch, work(batch), strict=True))
            self.store.add_batch(self.round, stage, number, rows, time.monotonic() - began)
            done.update(rows)
            self.progress.advance(len(batch))
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


def _with_ids(ids: Sequence[str], work: Work, places: Sequence[int]) -> list[dict[str, Any]]:
    return [{"id": ids[i], **row} for i, row in zip(places, work(places), strict=True)]


def _read_back(request: Request, row: dict[str, Any], stage: str) -> tuple[Request, Completion]:
    _same(row["id"], request.id, stage)
    shown = {example.id: example for example in request.demonstrations}
    sent = replace(request, demonstrations=tuple(shown[name] for name in row["demonstrations"]))
    completion = Completion(row["text"], row["finish"], row.get("prompt_tokens", 0), row.get("generated_tokens", 0))
    return sent, completion


def _same(found: str, asked: str, stage: str) -> None:
    """Raises RunFailed where the journal answers another question than the one asked."""
    if found != asked:
        raise RunFailed(f"stage {stage}: the journal holds {found} where {asked} is asked for; made by another version?")
