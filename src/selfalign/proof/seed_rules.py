"""The filters of a recipe, tried on the seeds themselves: a rule that drops what it should learn from is named at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from types import SimpleNamespace
from typing import Any, NoReturn, Protocol, cast, runtime_checkable

from selfalign.protocols import Context, Encode, Filter
from selfalign.text import TENTH, counted, languages, one_line
from selfalign.types import Dropped, Example, Pool

_FOLDS, _MOST = 16, 512
"""So many groups of seeds are judged by the others where there are more than twice as many, else each seed by itself; and so
many seeds are tried, evenly drawn."""
_PAIRS = ("Novelty", "NearDuplicates")
"""Filters that learn how like each other two seeds may be, which they could not with one of the two left out."""
_NO_RULE = ("unscored", "unparsed")  # seeds have no scores
_FIELDS = {
    "prompt_short": "min_prompt_words", "prompt_long": "max_prompt_words", "response_short": "min_response_words",
    "response_long": "max_response_words", "instruction_short": "min_words", "instruction_long": "max_words",
    "not_novel": "max_overlap", "near_duplicate": "max_similarity", "repetition": "max_share", "unfinished": "sentence_end",
    "marker": "markers", "prompt_in_response": "both_ways", "role_line": "roles", "asks_back": "openings",
    "blacklisted": "words", "noise": "phrases", "leftover_label": "labels", "prompt_length": "deviations",
    "response_length": "deviations", "starts_with_phrase": "phrases",
}  # fmt: skip
"""Which field of its filter a rule goes by."""


class _AsksAModel(Exception):
    """A filter wants the model or the encoder, which is not there; nothing else may be taken for that."""


@runtime_checkable
class Voidable(Protocol):
    """A filter that can say that it sees nothing in texts such as the seeds', or a proposer that its words do not suit them."""

    def void(self, seeds: Sequence[Example]) -> str:
        """Why, as the end of a sentence that begins with the part; "" where it works."""
        ...


@dataclass(frozen=True, slots=True)
class SeedRule:
    """A rule that drops seeds, each judged by the others."""

    filter: str
    """Its name as an option: `filters.length`."""
    rule: str
    dropped: int
    of: int
    example: str
    """The id of the first seed that it drops."""
    evidence: str
    option: str
    """What would change it, as the command line has it."""

    @property
    def share(self) -> float:
        return self.dropped / self.of

    @property
    def text(self) -> str:
        what = f"{self.filter} would drop {self.dropped} of the {counted(self.of, 'seed')} ({self.share:.0%}) as {self.rule}"
        return f"{what}, such as {self.example}: {one_line(self.evidence)[:200]}; change it by {self.option}"


def rules_on_seeds(named: Iterable[tuple[str, Any]], encode: Encode | None, seeds: Sequence[Example]) -> list[SeedRule]:
    """Every rule that drops at least one of the seeds, the greatest number first.

    Each seed (of many seeds each sixteenth of them) is judged with the others as the pool, so that rules which compare find
    them, and what a rule learns does not come from the seed judged; only what it learns of pairs comes from all of them. Prompt
    filters see prompts alone, as in a round. A filter that asks a model is not tried.

    Args:
        named: the filters by their options' names, `filters.length`.
        encode: asked for the same texts again and again: one that remembers. None leaves out the filters that need it.
        seeds: those that are shown.
    """
    seeds = seeds[:: -(-len(seeds) // _MOST) or 1]
    groups = [seeds[start::_FOLDS] for start in range(_FOLDS)] if len(seeds) > 2 * _FOLDS else [[seed] for seed in seeds]
    found: list[SeedRule] = []
    for name, part in named:
        dropped: dict[str, list[Dropped]] = defaultdict(list)
        of_prompts = name.startswith("prompt_filters.")
        for group in groups:
            judged = {seed.id for seed in group}
            others = tuple(seed for seed in seeds if seed.id not in judged)
            context = _alone(encode, others, seeds if type(part).__name__ in _PAIRS else others)
            try:
                result = part.apply(context, [replace(seed, response="") for seed in group] if of_prompts else group)
            except _AsksAModel:
                break
            for drop in result.dropped:
                dropped[drop.rule].append(drop)
        found += [
            SeedRule(name, rule, len(drops), len(seeds), drops[0].example.id, drops[0].evidence, _option(name, part, rule))
            for rule, drops in dropped.items()
            if rule not in _NO_RULE
        ]
    return sorted(found, key=lambda each: -each.dropped)


def _alone(encode: Encode | None, others: Sequence[Example], learned_from: Sequence[Example]) -> Context:
    def absent(*_: Any, **__: Any) -> NoReturn:
        raise _AsksAModel

    journal = SimpleNamespace(session=None, generate=absent, likelihood=absent, continuation=absent, work=absent)
    pool = Pool((tuple(others),))
    if learned_from is not others:
        pool = cast(Pool, SimpleNamespace(seeds=tuple(learned_from), examples=pool.examples))
    return Context(1, 0, pool, encode or absent, cast(Any, journal), absent)


def harmful(rules: Sequence[SeedRule]) -> list[SeedRule]:
    """Those that drop a seed in spite of more than a tenth of the others, from which a rule that learns would have learned."""
    return [each for each in rules if each.dropped - 1 > TENTH * (each.of - 1)]


def void_on_seeds(named: Iterable[tuple[str, Any]], seeds: Sequence[Example]) -> list[str]:
    """What the parts cannot see in texts such as the seeds', or do not suit in them, a sentence each.

    Those that can say so do (`Voidable`); lists of English words find nothing where neither prompts nor responses are English.
    """
    notes = [f"{name} {why}" for name, part in named if isinstance(part, Voidable) and (why := part.void(seeds))]
    spoken = {**languages([seed.prompt for seed in seeds]), **languages([seed.response for seed in seeds])}
    words = [name for name, part in named if type(part).__name__ in _ENGLISH] if spoken and "en" not in spoken else []
    if words:
        notes.append(f"{', '.join(words)}: lists of English words, which say nothing of texts in {', '.join(spoken)}")
    return notes


_ENGLISH = ("AnswerChoices", "Blacklist", "LeftoverLabels", "NextTurns", "NoiseWords", "Placeholders")


def _option(name: str, part: Filter, rule: str) -> str:
    there = {field.name for field in fields(part)}  # type: ignore[arg-type]
    options = [f"--{name}.learn true"] if getattr(part, "learn", True) is False else []
    options += [f"--{name}.{_FIELDS[rule]}"] if _FIELDS.get(rule) in there else []
    options += ["--expect"] if rule.startswith("expected") else []
    return " or ".join([*options, f"--without {name}"])
