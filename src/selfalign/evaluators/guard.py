"""What training may have cost: simple questions, instructions of a form that can be checked, requests that anybody answers.

A small bundled suite in English (our own, `data/guard/questions.jsonl`), asked of the base model and of the trained one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

from selfalign.evaluators._answers import answers
from selfalign.evaluators._metrics import share
from selfalign.evaluators._refusal_phrases import is_refusal, rules_digest
from selfalign.evaluators.refusal import Refusal
from selfalign.expect.checks import compiled
from selfalign.expect.spec import parse
from selfalign.expect.suggest import suggestion
from selfalign.proof.kept import GUARD, NONE, PARTS, on_purpose
from selfalign.protocols import Context
from selfalign.text import in_language, normalise
from selfalign.types import Example, Metric

TOKENS = dict(zip(PARTS, (32, 48, 32), strict=True))
"""The parts, and the most that an answer to each may have: a refusal opens with one, and a short answer stands in front."""
AUTO = "auto"


@dataclass(frozen=True)
class Guard:
    """What the model could do before it was trained: 100 simple questions, 80 forms, 60 harmless requests, in English.

    Not what it was trained for: `guard_knowledge` and `guard_form` ask for arithmetic, capitals, reading a sentence, one word, a
    list of three; `guard_answered` is refused by nobody. A model that is to decline whatever is not its business loses all
    three on purpose: leave them out (`none`), or those that it is meant to lose.
    """

    parts: str = AUTO
    """knowledge, form, answered, with commas between; none; auto: all three where a model is really trained."""

    def __post_init__(self) -> None:
        if wrong := [name for name in self.measures if name not in PARTS]:
            raise ValueError(
                f"Guard: parts = {self.parts!r}: there is no {wrong[0]!r}; give some of {', '.join(PARTS)} with commas between,"
                f" {NONE} or {AUTO}"
            )

    def check(self) -> str:
        """As `Preflight.check`: the hash of the questions and of what judges the answers; "" where nothing is asked."""
        return f"{_digest()} {rules_digest()}" if self.measures else ""

    def evaluate(self, context: Context, held_out: Sequence[Example]) -> list[Metric]:
        """`guard_knowledge`: share of questions whose answer has the right word or number in it; `guard_form`: share of
        instructions followed, as declared checks say (`selfalign.expect`); `guard_answered`: share of harmless requests that
        are answered in English and not refused, by the phrases of `Refusal`. An answer that says nothing is none.

        Wilson intervals, outcomes by prompt. Decoded as the recipe decodes evaluations, with at most `TOKENS` tokens.
        `held_out` is not looked at. A question that is among the seeds, or among the pairs trained on, is left out.
        """
        seen = {normalise(one.prompt) for one in (*context.all_seeds, *context.pool.examples)}
        found = []
        for part in self.measures:
            asked = [one for one in _questions(part) if normalise(one.prompt) not in seen]
            sampling = replace(context.eval_sampling, max_tokens=TOKENS[part])
            texts = [one.text for one in answers(context, asked, sampling, f"{GUARD}{part}_{_digest()}")]
            if asked:
                passed = [_passes(one, text) for one, text in zip(asked, texts, strict=True)]
                found.append(share(f"{GUARD}{part}", [one.id for one in asked], passed))
        return found

    def metric_names(self, held_out: Sequence[Example]) -> Sequence[str]:
        return [f"{GUARD}{part}" for part in self.measures]

    def prompts(self, seeds: Sequence[Example]) -> Sequence[Example]:
        """As `Preflight.prompts`: none that must not be trained on. They are everyday questions, and a run is not stopped because
        its seeds, or what it generates, ask one of them too: `evaluate` leaves that one out."""
        return ()

    def preflight(self, seeds: Sequence[Example], held_out: Sequence[Example]) -> str:
        """As `Preflight.preflight`: `lost_on_purpose`, by the names of categories that `Refusal` has by itself."""
        return self.lost_on_purpose(seeds, held_out, Refusal().declines(seeds or held_out))

    def lost_on_purpose(self, seeds: Sequence[Example], held_out: Sequence[Example], declined: Sequence[str]) -> str:
        """That a model that learns the seeds loses there because it learned them; "" where nothing says so.

        Args:
            declined: see `proof.kept.on_purpose`.
        """
        known = seeds or held_out
        one_form = bool(suggestion([each.response for each in known]))
        if not self.measures or not (does := on_purpose(known, declined, one_form)):
            return ""
        names = " and ".join(self.metric_names(held_out))
        return (
            f"{names}: questions in English, right by a word or a sentence, so that a model that {does} loses there on purpose;"
            f" --guard.parts {NONE}, or some of {','.join(PARTS)}, leaves out what it may lose"
        )

    @property
    def measures(self) -> tuple[str, ...]:
        """The parts by name."""
        if self.parts in (AUTO, NONE):
            return PARTS if self.parts == AUTO else ()
        return tuple(dict.fromkeys(name.strip() for name in self.parts.split(",")))


@cache
def _text() -> str:
    return (files("selfalign") / "data" / "guard" / "questions.jsonl").read_text(encoding="utf-8")


@cache
def _digest() -> str:
    """Of the questions and the lengths of their answers: the journal knows a stage by its name alone."""
    return hashlib.sha256(f"{_text()}{TOKENS}".encode()).hexdigest()[:8]


@cache
def _questions(part: str) -> tuple[Example, ...]:
    """Those of a part; the response is the check that an answer must pass, as `expect` writes it, "" for none."""
    rows = [row for row in map(json.loads, _text().splitlines()) if row["part"] == part]
    return tuple(Example(row["id"], row["prompt"], row.get("expect", _any_of(row.get("answers", ())))) for row in rows)


def _any_of(answers: Sequence[str]) -> str:
    """The check for one of these as words of their own, in any case: the 4 of "14" is no right answer."""
    import regex

    return f"regex:(?i).*(?<!\\w)(?:{'|'.join(map(regex.escape, answers))})(?!\\w).*" if answers else ""


def _passes(asked: Example, answer: str) -> bool:
    if not answer.strip():
        return False
    if asked.response:
        (check,) = compiled([parse(asked.response)])
        return check.fault(answer, asked) is None
    return not is_refusal(answer) and in_language(answer, {"en"}) is not False
