"""ISARA's experiment on TruthfulQA: 64 questions to learn from, the rest to be asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from papers import data
from papers.kit import Kit
from selfalign.evaluators import Truthfulness
from selfalign.recipe import Recipe
from selfalign.recipes.baselines import PUBLISHED_EVALUATION
from selfalign.record.finished import Finished

NEEDS = ("TruthfulQA.csv",)


def study(kit: Kit, model: str, arms: Mapping[str, Recipe]) -> dict[str, list[Finished]]:
    """The runs of some arms; `model` by its short name. Multiple choice is left out: the paper has none."""
    seeds, questions = kit.made("truthfulqa", ["seeds.jsonl", "questions.csv"], lambda out: _make(kit, out))
    asked = Truthfulness(str(questions), multiple_choice=False, questions=kit.scale.questions, sampling=PUBLISHED_EVALUATION)
    return kit.study(name(model), kit.models[model], arms, seeds, (), [asked])


def name(model: str) -> str:
    return f"truthfulqa/{model}"


def _make(kit: Kit, out: Path) -> None:
    data.truthfulqa(kit.source("TruthfulQA.csv"), out, seeds=kit.scale.rows(64, 6))
