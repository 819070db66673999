"""How the model answers held-out prompts, and how likely it finds their reference answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from selfalign.evaluators._answers import answers, demonstrations
from selfalign.evaluators._metrics import mean, share
from selfalign.protocols import Context
from selfalign.text import count_words, finished_like, in_language, languages
from selfalign.types import Completion, Example, Likelihood, Metric, Sampling

MARGIN = 1.5
"""How many times as long as the seeds' longest answer, or as short as their shortest, one may be and still be of usual length:
what a token budget leaves room for, too (`loop.budgets.FACTOR`; our own choice)."""


@dataclass(frozen=True)
class HeldOut:
    """Form, length and language of greedy zero-shot answers, and log-likelihood of the references (our own choice of figures).

    Zero-shot, because the question is what training put into the weights.
    """

    sampling: Sampling | None = None
    """null: as the recipe decodes evaluations."""

    def evaluate(self, context: Context, held_out: Sequence[Example]) -> list[Metric]:
        """`response_words`: mean words of an answer; `finished`: share that the model ended itself, at the end of a sentence or
        as more than a tenth of the seeds' responses end, as the filter `Finished` has it; `usual_length`: share with no fewer
        words than the seeds' shortest response less a third, and no more than their longest and half as many; `in_language`:
        share with a word in it that is in no other language than the seeds' responses, as the filter `Language` has it (not
        given where that cannot be told: codes, JSON, labels); `log_likelihood`: mean over prompts of the reference's
        log-probability per token, in nats. Without seeds the references stand for them.

        The same of the prompts with earlier turns alone, where there are any: `second_turn_words`, `second_turn_finished`,
        `second_turn_log_likelihood`. Means with t intervals (left out below two prompts, where there is none), the shares
        with Wilson's.
        """
        if not held_out:
            return []
        completions = answers(context, held_out, self.sampling)
        references = [example for example in held_out if example.response]
        shown = demonstrations(context, references) if context.eval_retriever is not None else ()
        likelihoods = context.likelihood("held_out_likelihood", references, shown) if references else []
        usual = [one.response for one in context.all_seeds or references if one.response.strip()]
        whole = finished_like(usual)
        ended = [one.finish == "stop" and whole(one.text) for one in completions]
        answered = list(zip(held_out, completions, ended, strict=True))
        scored = list(zip(references, likelihoods, strict=True))
        later = _figures(
            ("second_turn_finished", "second_turn_words", "second_turn_log_likelihood"),
            [each for each in answered if each[0].history],
            [(example, likelihood) for example, likelihood in scored if example.history],
        )
        likeness = _like([example.id for example in held_out], [one.text for one in completions], usual)
        return [*_figures(("finished", "response_words", "log_likelihood"), answered, scored), *likeness, *later]

    def metric_names(self, held_out: Sequence[Example]) -> Sequence[str]:
        of_answers, of_references = ("finished", "response_words"), ("log_likelihood",)
        later = [example for example in held_out if example.history]
        names = (*(of_answers if held_out else ()), *(of_references if any(e.response for e in held_out) else ()))
        second = (*(of_answers if later else ()), *(of_references if any(e.response for e in later) else ()))
        likeness = ("usual_length", "in_language") if held_out else ()
        return (*names, *likeness, *(f"second_turn_{name.removeprefix('response_')}" for name in second))


def _figures(
    names: tuple[str, str, str],
    answered: Sequence[tuple[Example, Completion, bool]],
    scored: Sequence[tuple[Example, Likelihood]],
) -> Iterator[Metric]:
    if not answered:
        return
    finished, words, log_likelihood = names
    ids = [example.id for example, *_ in answered]
    yield share(finished, ids, [ended for *_, ended in answered])
    yield from mean(words, ids, [float(count_words(answer.text)) for _, answer, _ in answered], "amount", "neither")
    yield from mean(log_likelihood, [example.id for example, _ in scored], [likelihood.per_token for _, likelihood in scored])


def _like(ids: Sequence[str], texts: Sequence[str], usual: Sequence[str]) -> Iterator[Metric]:
    """Shares of texts that are as long as the usual ones, and in their languages."""
    if not usual:
        return
    lengths = [count_words(text) for text in usual]
    least, most = min(lengths) / MARGIN, max(lengths) * MARGIN
    yield share("usual_length", ids, [least <= count_words(text) <= most for text in texts])
    if wanted := languages(usual):
        spoken = [any(map(str.isalpha, text)) and in_language(text, wanted) is not False for text in texts]
        yield share("in_language", ids, spoken)
