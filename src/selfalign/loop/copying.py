"""A session that answers with the example shown instead of asking its model (`retrievers.Copied`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selfalign.errors import UserError
from selfalign.protocols import Session
from selfalign.types import Completion, Continuation, Example, FloatArray, Likelihood, Request, Sampling


@dataclass(frozen=True)
class Copying:
    """As its session, but that a request with demonstrations is answered with the first one's response, at no cost in tokens.

    A request without any (an evaluator's own, in a form of its own) goes to the model.
    """

    session: Session

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        alone = [request for request in requests if not request.demonstrations]
        written = iter(self.session.generate(alone, sampling) if alone else ())
        return [
            Completion(request.demonstrations[0].response, "stop") if request.demonstrations else next(written)
            for request in requests
        ]

    def fit(self, request: Request, max_tokens: int) -> Request | None:
        return request if request.demonstrations else self.session.fit(request, max_tokens)

    def plan(self, requests: Sequence[Request]) -> list[tuple[int, ...]]:
        return self.session.plan(requests)

    def likelihood(self, examples: Sequence[Example], shown: Sequence[Sequence[Example]] = ()) -> list[Likelihood]:
        if any(example.response_finish != "stop" for example in examples):
            raise UserError("answers are copied: there is nothing that a model decides")
        return self.session.likelihood(examples, shown)

    def continuation(self, pairs: Sequence[tuple[str, str]]) -> list[Continuation]:
        return self.session.continuation(pairs)

    def embed(self, texts: Sequence[str]) -> FloatArray:
        return self.session.embed(texts)

    def render(self, request: Request) -> str:
        return self.session.render(request)
