"""A session that answers with the example shown instead of asking its model (`retrievers.Copied`)."""

from __future__ import annotations

from collections.abc import Sequence

from selfalign.errors import UserError
from selfalign.protocols import Session
from selfalign.types import Completion, Example, Likelihood, Request, Sampling


class Copying:
    """As its session, but that a request with demonstrations is answered with the first one's response, at no cost in tokens.

    A request without any (an evaluator's own, in a form of its own) goes to the model.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.plan, self.continuation, self.embed, self.render = session.plan, session.continuation, session.embed, session.render

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        alone = [request for request in requests if not request.demonstrations]
        written = iter(self._session.generate(alone, sampling) if alone else ())
        return [
            Completion(request.demonstrations[0].response, "stop") if request.demonstrations else next(written)
            for request in requests
        ]

    def fit(self, request: Request, max_tokens: int) -> Request | None:
        return request if request.demonstrations else self._session.fit(request, max_tokens)

    def likelihood(self, examples: Sequence[Example], shown: Sequence[Sequence[Example]] = ()) -> list[Likelihood]:
        if any(example.response_finish != "stop" for example in examples):
            raise UserError("answers are copied: there is nothing that a model decides")
        return self._session.likelihood(examples, shown)
