"""What the user expects of every answer, declared beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selfalign.expect.checks import compiled, digest, faults, try_out
from selfalign.expect.spec import for_pairs, metric_names
from selfalign.filters._shared import Verdict, split
from selfalign.protocols import Context
from selfalign.types import Example, FilterResult


@dataclass(frozen=True)
class Expected:
    """Drops a response that is not as one of the checks expects it (our own addition; `evaluators.Expected` measures it)."""

    checks: tuple[str, ...] = ()
    """json, json:SCHEMA.json, regex:PATTERN, language:CODE, max_words:N, contains:TEXT, function:FILE.py:NAME; about one
    category with CATEGORY= in front. What compares with a reference is refused: a generated pair has none."""

    def __post_init__(self) -> None:
        for_pairs(self.checks)

    def check(self) -> str:
        """As `Preflight.check`: the hash of the files that the checks are in."""
        compiled(for_pairs(self.checks))
        return digest(for_pairs(self.checks))

    def check_examples(self, seeds: Sequence[Example], held_out: Sequence[Example]) -> None:
        """As `Preflight.check_examples`."""
        try_out(compiled(for_pairs(self.checks)), seeds, held_out)

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rules: `expected:json` and so on, named as the metrics are, by the first check that fails; `expected_unjudged`: a check
        came to no verdict, since a pattern ran out of time or a function failed."""
        specs = for_pairs(self.checks)
        checks = compiled(specs)
        names = dict(zip(checks, metric_names(specs), strict=True))

        def judge(example: Example) -> Verdict:
            for check, fault in faults(checks, example.response, example):
                if fault is not None:
                    rule = names[check] if fault.judged else "expected_unjudged"
                    return rule, f"{check.spec.name}: {fault.why}: {example.response[:200]}"
            return None

        return split(examples, judge)
