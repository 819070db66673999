"""How surprising a pair is to a model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from selfalign.errors import refuse
from selfalign.protocols import Context, Engine
from selfalign.scorers._model import another, asked, check_engine, fingerprint, obstacle, scored, stage
from selfalign.types import Continuation, Example, Likelihood, Request, is_score_name

_SLACK = 64
"""Tokens left for the end of the turns where it is checked that a pair fits the window."""


@dataclass(frozen=True)
class Perplexity:
    """exp(-log-likelihood per token) of the response or of the whole pair; lower is less surprising.

    I-SHEEP's filter (2408.08072) keeps a pair where both are below 50: `Threshold("perplexity", below=50)` and the same for
    `Perplexity(of="pair")`.
    """

    of: Literal["response", "pair"] = "response"
    """response: given the system prompt and the prompt, in the run's own format, end token included; pair: prompt and response as
    plain text, each on lines of its own."""
    model: str = "base"
    """current, base, a folder or a name on the hub."""
    name: str = ""
    """Of the score; "" is `perplexity` or `perplexity_pair`."""
    engine: Engine | None = field(default=None, repr=False)
    """What runs the model, where that is not the recipe's engine; not with current."""

    def __post_init__(self) -> None:
        refuse(
            self,
            of=self.of not in ("response", "pair"),
            model=not self.model,
            name=self.name != "" and not is_score_name(self.name),
        )
        check_engine(self.model, self.engine)

    @property
    def score_name(self) -> str:
        return self.name or ("perplexity" if self.of == "response" else "perplexity_pair")

    @property
    def other_model(self) -> str:
        return another(self.model)

    def check(self) -> str:
        """The hash of the model asked, where it is one of its own. Raises UserError where there is no such model."""
        return fingerprint(self.model, self.engine)

    def score(self, context: Context, examples: Sequence[Example]) -> list[Example]:
        """Adds the score; one that the model cannot read (too long, a turn of its format inside) gets none, with the reason."""
        if not examples:
            return []
        texts = [f"{example.full_prompt}\n{example.response}" for example in examples]
        key = stage(self.score_name, self, texts, [example.system for example in examples])
        with asked(context, self.model, self.engine) as reader:
            # As a prompt, so that the format's own tokens count too.
            requests = [
                Request("", prompt=text, system=example.system) if self.of == "response" else Request("", text=text)
                for example, text in zip(examples, texts, strict=True)
            ]
            problems = [obstacle(reader.session, request, _SLACK, "the model's") for request in requests]
            sent = [(example, text) for example, text, problem in zip(examples, texts, problems, strict=True) if not problem]
            found: Iterator[Likelihood | Continuation]
            if self.of == "response":
                found = iter(reader.likelihood(key, [example for example, _ in sent]))
            else:
                found = iter(reader.continuation(key, [("", text) for _, text in sent]))
        return scored(examples, self.score_name, [problem or _perplexity(next(found)) for problem in problems])


def _perplexity(found: Likelihood | Continuation) -> float:
    # No model is surprised by 700 nats a token; the bound keeps the number finite whatever comes.
    return math.exp(min(-found.total / max(found.tokens, 1), 700.0))
