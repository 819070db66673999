"""Evaluations that any recipe can have besides its own evaluators; the command line has these options for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from selfalign import filters
from selfalign.errors import UserError
from selfalign.evaluators import Code, Expected, Guard, Harmfulness, LmEval, MTBench, Refusal, Truthfulness, WinRate
from selfalign.evaluators.guard import AUTO
from selfalign.expect.spec import parse_all
from selfalign.protocols import Evaluator, Flags, declared
from selfalign.recipe import Recipe
from selfalign.retrievers import Knn
from selfalign.types import Example

NEEDED = {
    "truthfulness": ("file",),
    "harmfulness": ("classifier",),
    "win_rate": ("judge",),
    "lm_eval": ("tasks", "ifeval_file"),
    "mt_bench": ("file",),
    "code": ("humaneval_file", "humaneval_plus_file", "mbpp_file"),
}
"""The options that turn each one on."""


def measured_by(
    recipe: Recipe,
    *,
    expect: tuple[str, ...] = (),
    refusal: Refusal = Refusal(),
    truthfulness: Truthfulness = Truthfulness(),
    harmfulness: Harmfulness = Harmfulness(),
    win_rate: WinRate = WinRate(),
    lm_eval: LmEval = LmEval(),
    mt_bench: MTBench = MTBench(),
    code: Code = Code(),
    unsafe_run_code: bool = False,
    guard: Guard = Guard(),
) -> Recipe:
    """Evaluations that need a file or a model, each off until its option names one, and the guard suite.

    The suite is on where a model is really trained. Those that are off leave no trace in the recipe, so that a run is the same
    run with and without their names.

    Args:
        recipe: the recipe whose models are measured.
        expect: what every answer shall be, as filter of what is generated and as metric of held-out answers: json,
            json:SCHEMA.json, regex:PATTERN (of the whole answer), language:de, max_words:30, contains:TEXT,
            function:FILE.py:NAME, or of one category 'CATEGORY=json'; exact, exact:FIELD, contains, result, result:MARKER and
            compare:FILE.py:NAME compare with the references and only measure. May be given several times.
        refusal: which categories of held-out prompts deserve a refusal and which an answer, where the recipe measures refusals.
        truthfulness: measured on the table named by its `file` (TruthfulQA's format); without one it is not.
        harmfulness: the share of answers its `classifier` calls harmful; without one it is not measured.
        win_rate: the answers against the references by its `judge`; without one it is not measured.
        lm_eval: tasks of lm-evaluation-harness and IFEval, by its `tasks` and `ifeval_file`; without them it is not measured.
        mt_bench: MT-Bench on the questions named by its `file`, rated by its `judge`; without a file it is not measured.
        code: HumanEval, HumanEval+ and MBPP on their files; without one they are not measured.
        unsafe_run_code: let `code` run programs that a model wrote, each in a child without network and files.
        guard: what training may have cost, by a small bundled suite in English; its `parts` say which of it, or none.

    Raises:
        UserError: options of one that is off: they would change nothing.
    """
    parts: dict[str, Evaluator] = {
        "truthfulness": truthfulness,
        "harmfulness": harmfulness,
        "win_rate": win_rate,
        "lm_eval": lm_eval,
        "mt_bench": mt_bench,
        "code": replace(code, unsafe_run_code=True) if unsafe_run_code else code,
    }
    asked = {name: part for name, part in parts.items() if part != type(part)()}
    for name, part in asked.items():
        if not any(getattr(part, option) for option in NEEDED[name]):
            needed = " or ".join(f"--{name}.{option}" for option in NEEDED[name])
            raise UserError(f"options of --{name} change nothing without {needed}: give that, or take them out")
    recipe = expecting(recipe, expect)
    own = recipe.evaluators
    if refusal != Refusal():
        refusals = [replace(refusal, sampling=refusal.sampling or part.sampling) for part in own if isinstance(part, Refusal)]
        own = (*refusals, *(part for part in own if not isinstance(part, Refusal)))
    guards = (guard,) if guard.measures and (guard.parts != AUTO or _trains(recipe)) else ()
    return replace(recipe, evaluators=(*own, *asked.values(), *guards))


def _trains(recipe: Recipe) -> bool:
    """Whether the run ends with a model that can have lost something: not where engine or trainer only pretend."""
    return recipe.rounds > 0 and not any(declared(part, Flags).pretends for part in (recipe.engine, recipe.trainer))


def expecting(recipe: Recipe, expect: Sequence[str]) -> Recipe:
    """The recipe with declared checks on its answers: measured on held-out ones, and filtering what it generates. Raises
    UserError: what is declared cannot be read, or twice."""
    if not expect:
        return recipe
    pairs = tuple(spec.text for spec in parse_all(expect) if not spec.by_reference)
    measured = replace(recipe, evaluators=(*recipe.evaluators, Expected(tuple(expect))))
    return filtered_by(measured, filters.Expected(pairs)) if pairs else measured


def filtered_by(recipe: Recipe, expected: filters.Expected) -> Recipe:
    """The recipe with this filter, if it generates what is imitated (answers to be rejected or corrected need not be good ones)
    or what shall be preferred, and stand against what is as good in all but its kind (`Contrasted`).

    Before its scorers where it has some, so that no score is paid for a pair that goes anyway, else behind its other filters,
    whose rules (cut off, empty) say more.
    """
    rejects = declared(recipe.proposer, Flags).preferences and not hasattr(recipe.proposer, "oppose")
    if not recipe.rounds * recipe.per_round or recipe.shown_to == "teacher" or rejects:
        return recipe
    if recipe.scorers:
        return replace(recipe, pair_filters=(*recipe.pair_filters, expected))
    return replace(recipe, filters=(*recipe.filters, expected))


def bring_their_own(evaluators: Sequence[Evaluator], gains: bool = False) -> bool:
    """Whether there is something to measure without held-out examples: an evaluator with questions of its own.

    Args:
        gains: the guard's do not count, for they say what was lost and not what was won.
    """
    own = [part for part in evaluators if hasattr(part, "prompts")]  # see `protocols.Preflight.prompts`
    return any(not (gains and isinstance(part, Guard)) for part in own)


def depends_on_seed(recipe: Recipe) -> bool:
    """Whether a random seed can change what is measured: training, random demonstrations, sampled answers."""
    if recipe.rounds:
        return True
    decoding = [getattr(part, "sampling", None) or recipe.eval_sampling for part in recipe.evaluators]
    sampled = any(sampling.temperature > 0 for sampling in decoding)
    shown = getattr(recipe.eval_retriever, "chosen", recipe.eval_retriever)  # of one whose choice is copied
    drawn = shown is not None and (not isinstance(shown, Knn) or recipe.validation_share > 0)
    return sampled or drawn


def learned_judges(recipe: Recipe, seeds: Sequence[Example], held_out: Sequence[Example]) -> bool:
    """Whether refusals are judged by what these seeds' own look like, so that other seeds are another yardstick."""
    return any(isinstance(part, Refusal) and part.learns(seeds, held_out) for part in recipe.evaluators)
