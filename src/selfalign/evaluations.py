"""What the models of any recipe can be measured by beside its own evaluators; the command line has these options for all."""

from __future__ import annotations

from dataclasses import replace

from selfalign.evaluators.harmfulness import Harmfulness
from selfalign.evaluators.lm_eval import LmEval
from selfalign.evaluators.truthfulness import Truthfulness
from selfalign.evaluators.win_rate import WinRate
from selfalign.recipe import Recipe


def measured_by(
    recipe: Recipe,
    *,
    truthfulness: Truthfulness = Truthfulness(),
    harmfulness: Harmfulness = Harmfulness(),
    win_rate: WinRate = WinRate(),
    lm_eval: LmEval = LmEval(),
) -> Recipe:
    """Evaluations that need a file or a model; each is off until it is told which.

    Those that are off leave no trace in the recipe, so that a run is the same run with and without their names.

    Args:
        recipe: the recipe whose models are measured.
        truthfulness: measured on the table named by its `file` (TruthfulQA's format); without one it is not.
        harmfulness: the share of answers its `classifier` calls harmful; without one it is not measured.
        win_rate: the answers against the references by its `judge`; without one it is not measured.
        lm_eval: tasks of lm-evaluation-harness and IFEval, by its `tasks` and `ifeval_file`; without them it is not measured.
    """
    asked = [part for part in (truthfulness, harmfulness, win_rate, lm_eval) if part != type(part)()]
    return replace(recipe, evaluators=(*recipe.evaluators, *asked))
