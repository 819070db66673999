"""How often a judge prefers the model's answer to the reference: pairwise, in both orders, with controls of the judge itself."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from selfalign.errors import UserError, refuse
from selfalign.evaluators._answers import answers, key
from selfalign.evaluators._judge import fits, judge_hash
from selfalign.evaluators._length_control import length_controlled
from selfalign.evaluators._metrics import mean, outcomes, share
from selfalign.models.classifier import rendering_fits, reward_model
from selfalign.models.layouts import fold
from selfalign.protocols import Context, Engine
from selfalign.types import Example, Metric, Request, Sampling

_log = logging.getLogger(__name__)

Kind = Literal["model", "reward"]

PROMPT = """Below are a request and two answers to it.

Request:
{prompt}

Answer A:
{first}

Answer B:
{second}

Which of the two is the better answer: correct, helpful, harmless and to the point? Reply with the letter A or B alone."""

CONSTANT = "I am happy to help. Please tell me more about what you need."

_LETTERS = ("A", "B")
_ROOM = 16  # tokens: a letter and whatever ends a turn
_ROUNDING = 1e-9  # in a mean of probabilities that is 0.5 by right

_Pair = tuple[Example, str]
"""An example and the text that stands against its reference."""


@dataclass(frozen=True, slots=True)
class Preference:
    """What became of one comparison with a reference."""

    value: float
    """For the text compared: 1 wins, 0 loses, 0.5 a tie; in between, how sure a model is."""
    consistent: bool | None = None
    """Whether both orders gave the same verdict; None where no order was involved."""


@dataclass(frozen=True)
class WinRate:
    """The model's answers against the reference responses of the held-out prompts, pair by pair, by a model or reward model.

    Every model is compared with the same references (AlpacaEval's way), so models are compared with each other in pairs of
    prompts. A win rate is worth what its judge is: `win_rate_flaws` counts what speaks against this one.
    """

    judge: str = ""
    """A folder or a name on the hub; for a model also `base`, the one the run started from; "" measures nothing."""
    kind: Kind = "model"
    """model: any causal model, run by `engine` and in the recipe's format, as a judge between two answers; reward: a
    sequence classifier with one output, which scores each answer by itself (safetensors, no code of its own)."""
    prompt: str = PROMPT
    """What a model is asked, with {prompt}, {first} and {second}; it must call for the letter A or B."""
    ties: float = 0.0
    """What counts as a tie: for a model, probabilities at most this far from 0.5; for a reward model, scores at most this far
    from each other."""
    constant: str = CONSTANT
    """An answer to everything that answers nothing, judged like the model's as a control; "" does without. A control costs as
    much as the judging itself."""
    rendering: str = ""
    """What a reward model reads, as in `Harmfulness`; "" is its chat template, or where it has none its tokenizer's own form
    for two texts."""
    batch_size: int = 8
    """Texts a reward model reads at once."""
    max_length: int = 0
    """Tokens a reward model reads at most; 0: its window."""
    device: str = "auto"
    """Where a reward model runs: auto, cpu, cuda, cuda:1 or mps."""
    sampling: Sampling | None = None
    """null: as the recipe decodes evaluations."""
    engine: Engine | None = field(default=None, repr=False)
    """What runs a model as the judge, where that is not the recipe's engine: OpenAI with a url of its own, for one."""

    def __post_init__(self) -> None:
        refuse(
            self,
            kind=self.kind not in get_args(Kind),
            judge=self.kind == "reward" and self.judge == "base",
            prompt=any(self.prompt.count(slot) != 1 for slot in ("{prompt}", "{first}", "{second}")),
            ties=not 0.0 <= self.ties < (0.5 if self.kind == "model" else np.inf),
            rendering=not rendering_fits(self.rendering),
            batch_size=self.batch_size < 1,
            max_length=self.max_length < 0,
        )
        if self.kind == "reward" and self.engine is not None:
            raise ValueError("WinRate: engine runs a judge of kind model; a reward model runs without one")

    @property
    def other_model(self) -> str:
        return self.judge if self.kind == "model" else ""

    def check(self) -> str:
        """As `judge_hash`."""
        return judge_hash(self.judge, self.engine)

    def evaluate(self, context: Context, held_out: Sequence[Example]) -> list[Metric]:
        """All over the prompts that have a reference and were judged, in 0 … 1:

        `win_rate`: mean preference for the model's answer (a model's probabilities as they are, AlpacaEval 2.0's weighted
        win rate; a tie is 0.5); `win_rate_strict`: share of prompts it wins; `win_rate_ties`: share of ties;
        `win_rate_length_controlled`: the preference if answers were as long as references, in characters (see
        `length_controlled`; its outcomes may lie outside 0 … 1); `win_rate_consistency`: share of prompts on which a model
        gives the same verdict in both orders; `win_rate_constant`: the win rate of the constant answer; `win_rate_unjudged`:
        share of prompts without a verdict; `win_rate_flaws`: how many sentences `flaws` has about the judge.

        Means with t intervals (left out below two prompts), shares with Wilson's. An answer that says nothing loses and one
        that is the reference is a tie, without asking the judge. No verdict: the comparison is longer than the judge's
        window, or holds text that means a turn to it.

        Empty without a judge, or without references.

        Raises:
            UserError: the judge cannot be loaded, is no reward model, or cannot be asked at all.
            RunFailed: not enough memory for it, or it gives something that is no number.
        """
        asked = [example for example in held_out if example.response.strip()]
        if not self.judge or not asked:
            return []
        # All are answered: the same stage and requests as those of other evaluators, so nothing is generated twice.
        every = zip(held_out, answers(context, held_out, self.sampling), strict=True)
        pairs = [(example, answer.text) for example, answer in every if example.response.strip()]
        control = [(example, self.constant) for example in asked] if self.constant.strip() else []
        found = self._rewarded([*pairs, *control]) if self.kind == "reward" else self._compared(context, [*pairs, *control])
        metrics = [*_figures(pairs, found[: len(pairs)]), *_constant(asked, found[len(pairs) :])]
        against = flaws({metric.name: metric.value for metric in metrics})
        for sentence in against:
            _log.warning("win_rate: %s", sentence)
        count = float(len(against))
        return [*metrics, Metric("win_rate_flaws", count, count, count, len(asked), unit="count", better="lower")]

    def metric_names(self, held_out: Sequence[Example]) -> Sequence[str]:
        if not self.judge or not any(example.response.strip() for example in held_out):
            return ()
        controls = (*(("consistency",) if self.kind == "model" else ()), *(("constant",) if self.constant.strip() else ()))
        figures = ("strict", "ties", "length_controlled", *controls, "unjudged", "flaws")
        return ("win_rate", *(f"win_rate_{name}" for name in figures))

    def _compared(self, context: Context, pairs: Sequence[_Pair]) -> list[Preference | None]:
        """By a model: its probability of answering exactly "A" among exactly "A" and exactly "B", in both orders.

        The letters are scored as responses in the judge's own format, end token included: what it was trained to be asked
        with, and one boundary between question and letter whatever the tokenizer. What it favours in a letter or a place
        stands against itself in the two orders and all but cancels in their mean.
        """
        found = [_settled(example, text) for example, text in pairs]
        with context.open_model(self.judge, self.engine) as other:
            # A judge that cannot be asked this is an error; where it can, what fails later is one prompt's texts.
            if other.session.fit(Request("", prompt=self._question("…", "…", "…")), _ROOM) is None:
                raise UserError(f"WinRate.prompt does not fit the window of {self.judge!r}; shorten it, or use another judge")
            places = [
                place
                for place, (example, text) in enumerate(pairs)
                if found[place] is None and all(fits(other.session, asked, _ROOM) for asked in self._orders(example, text))
            ]
            # Both letters for the text standing first, then both for it standing second.
            examples = [
                Example(f"{place}/{order}{letter}", question, letter)
                for place in places
                for order, question in enumerate(self._orders(*pairs[place]))
                for letter in _LETTERS
            ]
            # Another judge, question, control or answers must not get the scores of these.
            stage = f"win_rate_{key((self.judge, self.prompt, self.constant, self.sampling))}"
            totals = [each.total for each in other.likelihood(stage, examples)]
        for at, place in enumerate(places):
            first_a, first_b, second_a, second_b = totals[4 * at : 4 * at + 4]
            first, second = _probability(first_a, first_b), _probability(second_b, second_a)
            value = (first + second) / 2
            found[place] = Preference(value if self._side(value) else 0.5, self._side(first) == self._side(second))
        return found

    def _orders(self, example: Example, text: str) -> tuple[str, str]:
        asked, reference = _whole(example), example.response
        return self._question(asked, text, reference), self._question(asked, reference, text)

    def _question(self, prompt: str, first: str, second: str) -> str:
        texts = {"{prompt}": prompt, "{first}": first, "{second}": second}
        # In one pass: braces inside the texts stay what they are.
        return re.sub(r"\{(?:prompt|first|second)\}", lambda slot: texts[slot.group()].strip(), self.prompt)

    def _side(self, probability: float) -> int:
        return 0 if abs(probability - 0.5) <= self.ties + _ROUNDING else 1 if probability > 0.5 else -1

    def _rewarded(self, pairs: Sequence[_Pair]) -> list[Preference | None]:
        found = [_settled(example, text) for example, text in pairs]
        sides = [((_whole(one), text), (_whole(one), one.response)) for one, text in pairs]
        texts = list(dict.fromkeys(side for pair, settled in zip(sides, found, strict=True) if settled is None for side in pair))
        about = self.rendering, self.batch_size, self.max_length, self.device
        with reward_model(self.judge, "WinRate.judge", *about) as read:
            given = read(texts)
        scores = {side: value for side, value in zip(texts, given, strict=True) if isinstance(value, float)}
        for place, pair in enumerate(sides):
            mine, other = map(scores.get, pair)
            if found[place] is None and mine is not None and other is not None:
                found[place] = Preference(0.5 if abs(mine - other) <= self.ties else float(mine > other))
        return found


def flaws(figures: Mapping[str, float]) -> list[str]:
    """What the judge's controls say against it, in sentences; `figures` are the values of a model's metrics by name."""
    found = []
    if (constant := figures.get("win_rate_constant", 0.0)) >= 0.5:
        found.append(f"the judge prefers a constant answer to the references ({constant:.0%}): its win rates tell nothing")
    if (consistency := figures.get("win_rate_consistency", 1.0)) < 0.5:
        found.append(
            f"the judge gives the same verdict in both orders on {consistency:.0%} of the prompts, less than a coin would:"
            " it goes by the place of an answer more than by its content"
        )
    return found


def _whole(example: Example) -> str:
    """The request as judges are shown it: a system prompt is its first paragraph, for the answer had to follow it."""
    return fold(example.system, example.full_prompt)


def _settled(example: Example, text: str) -> Preference | None:
    if not text.strip():
        return Preference(0.0)
    return Preference(0.5) if text.strip() == example.response.strip() else None


def _probability(one: float, other: float) -> float:
    """Of the first of two alternatives, from their log-probabilities, which may be far below the smallest float's."""
    return float(np.exp(one - np.logaddexp(one, other)))


def _figures(pairs: Sequence[_Pair], found: Sequence[Preference | None]) -> Iterator[Metric]:
    judged = [(example, text, each) for (example, text), each in zip(pairs, found, strict=True) if each is not None]
    ids, values = [example.id for example, _, _ in judged], [each.value for _, _, each in judged]
    yield from mean("win_rate", ids, values, unit="share")
    if judged:
        yield share("win_rate_strict", ids, [value > 0.5 for value in values])
        yield share("win_rate_ties", ids, [value == 0.5 for value in values], better="neither")
    longer = [float(len(text.strip()) - len(example.response.strip())) for example, text, _ in judged]
    if (controlled := length_controlled(values, longer)) is not None:
        by_prompt = outcomes(ids, controlled.outcomes) if controlled.outcomes else ()
        yield Metric("win_rate_length_controlled", *controlled[:3], n=len(ids), outcomes=by_prompt, unit="share")
    orders = [(example.id, each.consistent) for example, _, each in judged if each.consistent is not None]
    if orders:
        yield share("win_rate_consistency", [id for id, _ in orders], [bool(same) for _, same in orders], better="neither")
    yield share("win_rate_unjudged", [example.id for example, _ in pairs], [each is None for each in found], better="lower")


def _constant(asked: Sequence[Example], found: Sequence[Preference | None]) -> Iterator[Metric]:
    judged = [(example.id, each.value) for example, each in zip(asked, found, strict=bool(found)) if each is not None]
    yield from mean("win_rate_constant", [id for id, _ in judged], [value for _, value in judged], "share", "neither")
