"""How a model answers held-out prompts, alone or with demonstrations chosen for each of them.

Answers are made once however many evaluators read them, and an in-context baseline is evaluated by the same code as a
trained model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from selfalign.protocols import Context
from selfalign.types import Completion, Example, Request, Sampling, derive_seed


def answers(
    context: Context, held_out: Sequence[Example], sampling: Sampling | None = None, stage: str = "held_out"
) -> list[Completion]:
    """Answers in order; see `exchanges`."""
    return [completion for _, completion in exchanges(context, held_out, sampling, stage)]


def exchanges(
    context: Context, held_out: Sequence[Example], sampling: Sampling | None = None, stage: str = "held_out"
) -> list[tuple[Request, Completion]]:
    """Each prompt as it was asked, with the demonstrations of `context.eval_retriever` where there is one, and its answer.

    The same stage and requests for every evaluator, so the run's journal answers the second evaluator. Another way of decoding is
    another stage: it must not be given the answers of the first. `stage` names the set of prompts; `sampling` is the
    recipe's own for evaluations where it is None.
    """
    sampling = sampling or context.eval_sampling
    if sampling != context.eval_sampling:
        stage += f"_{key(sampling, 6)}"
    requests = [
        Request(
            id=example.id,
            demonstrations=shown,
            prompt=example.prompt,
            seed=derive_seed(context.seed, stage, row),
            history=example.history,
            system=example.system,
        )
        for row, (example, shown) in enumerate(zip(held_out, demonstrations(context, held_out), strict=True))
    ]
    return context.generate(stage, requests, sampling)


def written(context: Context, asked: Sequence[Example], sampling: Sampling, stage: str, *, chat: bool) -> list[Completion]:
    """`answers` to prompts that are asked as a user would; without `chat` how the model goes on from each as it stands."""
    if chat:
        return answers(context, asked, sampling, stage)
    raw = [
        Request(one.id, text=one.prompt, prompt=one.prompt, seed=derive_seed(context.seed, stage, place))
        for place, one in enumerate(asked)
    ]
    return [completion for _, completion in context.generate(stage, raw, sampling)]


def key(asked: object, length: int = 8) -> str:
    """For the name of a stage whose prompts are not always the same: the journal knows work by that name alone."""
    return hashlib.sha256(repr(asked).encode("utf-8", "surrogatepass")).hexdigest()[:length]


def demonstrations(context: Context, held_out: Sequence[Example]) -> list[tuple[Example, ...]]:
    """What each held-out prompt is shown; nothing where the model answers alone."""
    if context.eval_retriever is None:
        return [()] * len(held_out)
    return [tuple(example for example, _ in chosen) for chosen in context.eval_retriever.retrieve(context, held_out)]
