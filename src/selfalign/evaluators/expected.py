"""Whether answers are as the user expects them, declared beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from selfalign.errors import RunFailed
from selfalign.evaluators._answers import answers
from selfalign.evaluators._metrics import share
from selfalign.expect.checks import Check, Fault, compiled, digest, faults, try_out
from selfalign.expect.json_answers import object_or_list
from selfalign.expect.results import MARKER, is_marked
from selfalign.expect.spec import metric_names, parse_all
from selfalign.expect.suggest import LABEL_WORDS
from selfalign.protocols import Context
from selfalign.text import TENTH, count_words
from selfalign.types import Example, Metric, Sampling

_ANSWERS, _TRIED = 8, 32
"""How many seeds' answers are given to how many other seeds' prompts, in search of one that suits all."""


@dataclass(frozen=True)
class Expected:
    """The share of greedy zero-shot answers that are as declared (our own addition; `filters.Expected` filters by the same)."""

    checks: tuple[str, ...] = ()
    """As in `filters.Expected`, and also `exact` and `contains`, which compare with each held-out row's own response."""
    sampling: Sampling | None = None
    """null: as the recipe decodes evaluations."""

    def __post_init__(self) -> None:
        parse_all(self.checks)

    def check(self) -> str:
        """As `Preflight.check`: the hash of the files that the checks are in."""
        compiled(parse_all(self.checks))
        return digest(parse_all(self.checks))

    def check_examples(self, seeds: Sequence[Example], held_out: Sequence[Example]) -> None:
        try_out(compiled(parse_all(self.checks)), seeds, held_out)

    def evaluate(self, context: Context, held_out: Sequence[Example]) -> list[Metric]:
        """`expected`: share of answers that pass all checks that are about their prompt; where there are several checks, one
        `expected:…` each; `expected_unjudged`: how often a check came to no verdict, where that happened: it counts as a fail.

        Over the prompts that a check is about (its category; a reference, for `exact` and `contains`), with Wilson intervals.

        Raises:
            RunFailed: a function that comes to no verdict on any answer.
        """
        checks = compiled(parse_all(self.checks))
        asked = [example for example in held_out if any(check.about(example) for check in checks)]
        if not asked:
            return []
        completions = dict(zip((one.id for one in held_out), answers(context, held_out, self.sampling), strict=True))
        found = [(example, dict(faults(checks, completions[example.id].text, example))) for example in asked]
        return [*_shares(checks, found), *_unjudged(checks, found)]

    def one_answer(self, seeds: Sequence[Example], held_out: Sequence[Example]) -> tuple[str, int, int] | None:
        """The id of the seed whose response, given to other seeds' prompts, is most often as expected; on how many held-out
        prompts it is; and on how many of them something is expected. None where either has nothing to ask about.

        A few seeds and prompts are enough (our own choice): a check can be a function of the user's that takes its time.
        """
        checks = compiled(parse_all(self.checks))
        asked = [[one for one in examples if any(check.about(one) for check in checks)] for examples in (seeds, held_out)]
        answers = [one for one in seeds if one.response.strip()][:_ANSWERS]
        if not answers or not asked[1]:
            return None

        def passed(answer: Example, examples: Sequence[Example]) -> int:
            about = (dict(faults(checks, answer.response, one)) for one in examples if one.id != answer.id)
            return sum(not any(each.values()) for each in about)

        chosen = max(answers, key=lambda answer: passed(answer, asked[0][:_TRIED]))
        return chosen.id, passed(chosen, asked[1]), len(asked[1])

    def metric_names(self, held_out: Sequence[Example]) -> Sequence[str]:
        specs = parse_all(self.checks)
        checks = [Check(spec, lambda *_: "") for spec in specs]
        about = [any(map(check.about, held_out)) for check in checks]
        if not any(about):
            return ()
        each = [name for name, is_about in zip(metric_names(specs), about, strict=True) if is_about] if len(specs) > 1 else []
        return ("expected", *each, "expected_unjudged")

    def preflight(self, seeds: Sequence[Example], held_out: Sequence[Example]) -> str:
        """As `Preflight.preflight`: checks that no held-out row is about, that long references meet word for word
        alone, and those that the examples' own responses fail."""
        notes = []
        for check in compiled(parse_all(self.checks)):
            if (held_out or check.spec.by_reference) and not any(map(check.about, held_out)):
                what = check.spec.needs
                alone = "it is about held-out rows (--held_out FILE), and filters nothing"
                why = f"no held-out row {what}" if held_out else alone
                notes.append(f"{check.spec.name} is not measured: {why}")
            about = [one for one in held_out if check.spec.kind == "result" and check.about(one)]
            bare = [one for one in about if not is_marked(one.response, check.spec.argument or MARKER)]
            if len(bare) > TENTH * len(about):
                what = f"nothing of the kind in {len(bare)} of {len(about)} references, such as {bare[0].id}"
                notes.append(f"{check.spec.name} finds {what}: the last number is compared there, or the whole text")
            about = [one for one in held_out if check.spec.kind == "exact" and check.about(one)]
            long = [one for one in about if count_words(one.response) > LABEL_WORDS and object_or_list(one.response)]
            if 2 * len(long) > len(about):
                what = f"the references word for word, and {len(long)} of {len(about)} have more than {LABEL_WORDS} words"
                notes.append(f"{check.spec.name} asks for {what}: contains, with what must stand there, asks for less")
            for name, examples in (("seeds", seeds), ("held-out references", held_out)):
                about = [one for one in examples if one.response.strip() and check.about(one)]
                wrong = [(one, fault) for one in about if (fault := check.fault(one.response, one)) is not None]
                if len(wrong) > max(1, TENTH * len(about)):
                    example, fault = wrong[0]
                    share_of = f"{len(wrong)} of the {len(about)} {name} are not as {check.spec.name} expects"
                    notes.append(f"{share_of}, such as {example.id} ({fault.why})")
        return f"expected: {'; '.join(notes)}" if notes else ""


Found = Sequence[tuple[Example, dict[Check, Fault | None]]]
"""Each prompt with what the checks that are about it say of its answer."""


def _shares(checks: Sequence[Check], found: Found) -> Iterator[Metric]:
    ids = [example.id for example, _ in found]
    yield share("expected", ids, [not any(said.values()) for _, said in found])
    names = metric_names([check.spec for check in checks]) if len(checks) > 1 else ()
    for check, name in zip(checks, names, strict=False):
        if about := [(example.id, said[check] is None) for example, said in found if check in said]:
            yield share(name, [id for id, _ in about], [passed for _, passed in about])


def _unjudged(checks: Sequence[Check], found: Found) -> Iterator[Metric]:
    """A plain count: what comes to no verdict is the check's fault as much as the model's, and nothing to compare models by."""
    total = 0
    for check in checks:
        about = [said[check] for _, said in found if check in said]
        unjudged = [fault for fault in about if fault is not None and not fault.judged]
        if check.spec.kind == "function" and len(unjudged) == len(about) > 1:
            raise RunFailed(f"--expect {check.spec.text} comes to no verdict on any of {len(about)} answers: {unjudged[0].why}")
        total += len(unjudged)
    if total:
        yield Metric("expected_unjudged", float(total), float(total), float(total), len(found), unit="count", better="lower")
