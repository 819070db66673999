"""What shows that a GGUF file, served by llama-server, is the model: the same tokens, the same choices, the same figure.

Tokens are compared as numbers. Choices and figures are judged behind the very same tokens, so that one divergence does not spoil
all that comes after: the file writes greedily, and the model, in float32, reads each of the file's answers in one pass. Where
each token is the likeliest one for the model too, or hardly less likely than that, greedy decoding of both is the same but for
near-ties.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from selfalign.errors import RunFailed
from selfalign.export.go_template import render
from selfalign.export.llama_cpp import Served
from selfalign.export.ollama import Conversation, values
from selfalign.models.rendering import IGNORE, Renderer
from selfalign.models.templates import Template
from selfalign.proof.stats import paired_difference, wilson
from selfalign.text import counted, finite, printable
from selfalign.types import Example

PROMPTS, TOKENS = 8, 32
"""Prompts of the run that are answered (three more are made of them), and greedy tokens of each answer."""
REFERENCES, LEARNED = 16, 24
"""Pairs for the log-likelihood, held-out ones first, and how many tokens of each response it reads: the server is asked once for
each."""
TIE, AWAY = 0.05, 0.02
"""Nats by which a float16 file's choice may be less likely than the model's own, and by which log-probabilities may differ on
average. Our own choice, about ten times what was seen on the bundled model with an adapter (0.005 and 0.0016:
tests/servers/test_gguf_export.py)."""
AGREEMENT, LOST = 0.5, 0.5
"""The least share of a quantised file's tokens that are the model's first choice, and the loss of log-likelihood, in nats a
token, that its interval may not lie beyond. Our own choice: there it is another model, not a coarser one; the rest is for the
user to judge."""
AWKWARD = "Don't count 1234567 or 3.14!\n\n\tif x == 2:\n        y += 1\n\nnaïve – 日本語 🙂 ﬁ"
"""Digits, contractions, indentation, other scripts: what tokenizers cut by rules of their own."""
BRIEF = "Answer in one short sentence."


@dataclass(frozen=True)
class Proof:
    """What was compared and found."""

    prompts: int
    tokens: int
    first_choice: int
    """Of the tokens those that are the model's own first choice."""
    answers: int
    """Answers all of whose tokens are."""
    worst: float
    """Nats by which the least likely of the file's tokens is below the model's choice."""
    away: float
    """Mean difference of the log-probabilities, in nats a token, of the tokens whose probability the server tells."""
    likelihood: tuple[float, float, float, float, int] | None = None
    """Log-likelihood of references, file minus model, in nats a token: value, low, high, p, pairs; None below two pairs."""

    def plain(self) -> dict[str, Any]:
        """As JSON knows it."""
        agreement = wilson(self.first_choice, self.tokens)
        found: dict[str, Any] = {
            "prompts_with_equal_token_ids": self.prompts,
            "greedy_tokens": self.tokens,
            "first_choice_of_the_model": dict(zip(("share", "low", "high"), agreement, strict=True)),
            "equal_answers": self.answers,
            "worst_choice_nats": self.worst,
            "log_probability_difference_nats": self.away,
        }
        if self.likelihood is not None:
            names = ("difference", "low", "high", "p_value", "pairs")
            found["log_likelihood_per_token"] = dict(zip(names, map(finite, self.likelihood), strict=True))
        return found

    def lines(self) -> list[str]:
        """For a person."""
        share, low, high = (100 * figure for figure in wilson(self.first_choice, self.tokens))
        said = [
            f"{counted(self.prompts, 'prompt')}: the same token ids as in the run",
            f"{self.first_choice} of {self.tokens} greedy tokens ({share:.1f} %, {low:.1f} to {high:.1f}) are the model's first"
            f" choice, {self.answers} of {self.prompts} answers in full; the farthest is {self.worst:.2g} nats below it",
        ]
        if self.likelihood is not None:
            value, low, high, _, pairs = self.likelihood
            figure = f"log-likelihood of {pairs} references: {value:+.4f} nats a token against the model"
            said.append(
                f"{figure} ({low:+.4f} to {high:+.4f})" if math.isfinite(high - low) else f"{figure}, too few for an interval"
            )
        return said


def canaries(examples: Sequence[Example]) -> list[Example]:
    """The first examples, and three made of them: with a system text, with a history, with a text that is hard to tokenise."""
    first, *others = examples[:PROMPTS]
    second = others[0] if others else first
    turns = ((first.prompt, first.response or "Yes."), (second.prompt, second.response or "No."))
    return [
        first,
        *others,
        replace(first, id=f"{first.id}+system", system=BRIEF, history=()),
        replace(first, id=f"{first.id}+history", system="", history=turns, prompt="And then?"),
        replace(first, id=f"{first.id}+text", system=BRIEF, history=turns[:1], prompt=AWKWARD),
    ]


def check_tokens(server: Served, renderer: Renderer, asked: Sequence[Example]) -> None:
    """Whether the file cuts the run's prompts and responses into the run's token ids: as they are, and through the chat template
    that the file carries.

    Raises:
        RunFailed: it does not.
    """
    chat = renderer.format == "chat"
    for one in asked:
        prompt = renderer.prompt_text((), one.prompt, one.history, one.system)
        _equal(server.tokens(prompt, begin=False, special=chat), renderer.tokens(prompt), renderer, one, "of a prompt")
        response = renderer.response_text(one.response)
        if one.response:
            _equal(server.tokens(response, begin=False, special=chat), renderer.tokens(response), renderer, one, "of a response")
        if isinstance(renderer.style, Template):
            messages, arguments = renderer.style.messages(one.system, one.history, one.prompt), dict(renderer.style.arguments)
            body = {"messages": messages, "add_generation_prompt": True, "chat_template_kwargs": arguments}
            written = str(server.ask("/apply-template", body)["prompt"])
            own = renderer.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **arguments)
            _equal(server.tokens(written, begin=True), renderer.tokens(own), renderer, one, "through the file's chat template")


def check_modelfile(server: Served, renderer: Renderer, asked: Sequence[Example], template: str) -> str:
    """What is wrong with the Go template's token ids, "" where they are the run's."""
    for one in asked:
        ids = renderer.prompt_ids((), one.prompt, one.history, one.system)
        if server.tokens(render(template, values(Conversation.of(one))), begin=True) != ids:
            return f"llama.cpp does not cut its prompt of {one.id} into the run's tokens"
    return ""


def _equal(served: Sequence[int], own: Sequence[int], renderer: Renderer, example: Example, what: str) -> None:
    if list(served) == list(own):
        return
    at = next((at for at, (a, b) in enumerate(zip(served, own, strict=False)) if a != b), min(len(served), len(own)))
    file, model = (repr(printable(str(renderer.tokenizer.decode(list(ids[at : at + 8]))))) for ids in (served, own))
    raise RunFailed(
        f"the file does not have the model's tokens {what} ({example.id}, at token {at}): {file} ({list(served[at : at + 4])})"
        f" instead of {model} ({list(own[at : at + 4])}); nothing is exported"
    )


def compare(
    server: Served, model: Any, renderer: Renderer, asked: Sequence[Example], references: Sequence[Example]
) -> tuple[Proof, str]:
    """What the file writes to the prompts, read by the model, and the likelihood of the references under both; and the worst of
    the file's choices in words."""
    tokens = first = whole = 0
    worst, where, away = 0.0, "", list[float]()
    for one in asked:
        ids = renderer.prompt_ids((), one.prompt, one.history, one.system)
        written, logprobs = _written(server, ids)
        scores = _scores(model, ids, written)
        own = [float(scores[at, token]) for at, token in enumerate(written)]
        gaps = [float(scores[at].max()) - score for at, score in enumerate(own)]
        tokens, first, whole = tokens + len(gaps), first + gaps.count(0.0), whole + (not any(gaps))
        away += [abs(a - b) for a, b in zip(own, logprobs, strict=True) if b is not None]
        if gaps and max(gaps) > worst:
            worst = max(gaps)
            where = _shown(renderer, one, written, gaps.index(worst), scores)
    likelihood = None
    if len(pairs := list(_likelihoods(server, model, renderer, references))) > 1:
        likelihood = (*paired_difference([file for file, _ in pairs], [own for _, own in pairs]), len(pairs))
    if not tokens:
        raise RunFailed("llama-server writes nothing to the run's prompts; nothing is exported")
    return Proof(len(asked), tokens, first, whole, worst, sum(away) / len(away) if away else 0.0, likelihood), where


def judge(proof: Proof, kind: str, where: str) -> None:
    """Raises RunFailed: what the file writes is not the model's."""
    if kind == "F16":
        if not (proof.worst <= TIE and proof.away <= AWAY):
            raise RunFailed(
                f"the float16 file does not write what the model writes, so it is not exported: {where}; log-probabilities"
                f" differ by {proof.away:.2g} nats a token ({AWAY:g} is allowed)"
            )
        return
    share, lost = proof.first_choice / proof.tokens, proof.likelihood
    if share < AGREEMENT or (lost is not None and lost[2] < -LOST):
        figure = "" if lost is None else f", log-likelihood {lost[0]:+.3f} ({lost[1]:+.3f} to {lost[2]:+.3f}) nats a token"
        raise RunFailed(
            f"the {kind} file is another model, so it is not exported: {share:.0%} of its tokens are the model's first choice"
            f"{figure}; choose Q8_0 or F16"
        )


_GREEDY = {"temperature": 0.0, "samplers": ["temperature"], "repeat_penalty": 1.0, "seed": 0}
"""Without any default that the file brings for its decoding."""


def _written(server: Served, ids: Sequence[int]) -> tuple[list[int], list[float | None]]:
    """The file's greedy answer to a prompt as token ids, its end token included, and the log-probability of each.

    None for a token that ends within a character: of these the server tells the id alone.
    """
    asked = {"prompt": list(ids), "n_predict": TOKENS, "n_probs": 1, "return_tokens": True, "cache_prompt": False, **_GREEDY}
    said = server.ask("/completion", asked)
    text, told = list(map(int, said["tokens"])), list(said["completion_probabilities"])
    return text, [float(told.pop(0)["logprob"]) if told and told[0]["id"] == token else None for token in text]


def _scores(model: Any, prompt: Sequence[int], text: Sequence[int]) -> Any:
    """Log-probabilities of all tokens, in float32, at each place of a text behind its prompt; shape (len(text), vocabulary)."""
    import torch

    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[*prompt, *text]])).logits[0, len(prompt) - 1 : -1]
    return logits.float().log_softmax(dim=-1)


def _likelihoods(server: Served, model: Any, renderer: Renderer, references: Sequence[Example]) -> Iterator[tuple[float, float]]:
    """(file, model): log-probability per token of each response's beginning, of the tokens whose probability the server tells."""
    for one in references:
        ids, labels = renderer.pair_ids(one.prompt, one.response, one.history, one.system)
        start = next(at for at, label in enumerate(labels) if label != IGNORE)
        text = ids[start : start + LEARNED]
        scores = _scores(model, ids[:start], text)
        told = [(_forced(server, ids[: start + at], token), float(scores[at, token])) for at, token in enumerate(text)]
        if both := [(file, own) for file, own in told if file is not None]:
            yield sum(file for file, _ in both) / len(both), sum(own for _, own in both) / len(both)


def _forced(server: Served, before: Sequence[int], token: int) -> float | None:
    """The log-probability of a token: the server tells those of what it writes, so that it is made to write this one.

    The figure is taken before the bias. None for a token that ends within a character.
    """
    asked = {"prompt": list(before), "n_predict": 1, "n_probs": 1, "return_tokens": True, "cache_prompt": True, **_GREEDY}
    said = server.ask("/completion", {**asked, "logit_bias": [[token, 1e6]]})
    if said["tokens"] != [token]:
        raise RunFailed("llama-server does not write the token that it is made to write: this version cannot prove a file")
    return next((float(each["logprob"]) for each in said["completion_probabilities"]), None)


def _shown(renderer: Renderer, example: Example, written: Sequence[int], at: int, scores: Any) -> str:
    own = [*written[:at], int(scores[at].argmax())]
    file, model = (repr(printable(str(renderer.tokenizer.decode(ids)))) for ids in (written[: at + 1], own))
    prompt = repr(printable(" ".join(example.prompt.split())[:80]))
    return f"to {prompt} (of {example.id}) the file writes {file} and the model {model}"
