"""How the model answers held-out prompts, and how likely it finds their reference answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selfalign.evaluators._answers import GREEDY, answers, demonstrations
from selfalign.evaluators._metrics import mean, share
from selfalign.protocols import Context
from selfalign.text import count_words, is_finished
from selfalign.types import Example, Metric, Sampling


@dataclass(frozen=True)
class HeldOut:
    """Length and completeness of greedy zero-shot answers, and log-likelihood of the references (our own choice of figures).

    Zero-shot, because the question is what training put into the weights.
    """

    sampling: Sampling = GREEDY

    def evaluate(self, context: Context, held_out: Sequence[Example]) -> list[Metric]:
        """`response_words`: mean words of an answer; `finished`: share that the model ended itself, at the end of a sentence;
        `log_likelihood`: mean over prompts of the reference's log-probability per token, in nats.

        Means with t intervals (left out below two prompts, where there is none), the share with Wilson's.
        """
        if not held_out:
            return []
        completions = answers(context, held_out, self.sampling)
        finished = [answer.finish == "stop" and is_finished(answer.text) for answer in completions]
        references = [example for example in held_out if example.response]
        shown = demonstrations(context, references) if context.responder is not None else ()
        likelihoods = context.likelihood("held_out_likelihood", references, shown) if references else []
        ids, of = [example.id for example in held_out], [example.id for example in references]
        return [
            share("finished", ids, finished),
            *mean("response_words", ids, [float(count_words(answer.text)) for answer in completions], better="neither"),
            *mean("log_likelihood", of, [likelihood.per_token for likelihood in likelihoods]),
        ]
