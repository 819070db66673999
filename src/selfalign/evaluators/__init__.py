"""Evaluators: figures about a model on held-out prompts."""

from selfalign.evaluators._answers import answers
from selfalign.evaluators.code import Code
from selfalign.evaluators.expected import Expected
from selfalign.evaluators.guard import Guard
from selfalign.evaluators.harmfulness import Harmfulness
from selfalign.evaluators.held_out import HeldOut
from selfalign.evaluators.lm_eval import LmEval
from selfalign.evaluators.mt_bench import MTBench
from selfalign.evaluators.refusal import Refusal
from selfalign.evaluators.truthfulness import Truthfulness
from selfalign.evaluators.win_rate import WinRate

__all__ = [
    "Code",
    "Expected",
    "Guard",
    "Harmfulness",
    "HeldOut",
    "LmEval",
    "MTBench",
    "Refusal",
    "Truthfulness",
    "WinRate",
    "answers",
]
