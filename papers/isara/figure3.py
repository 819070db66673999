"""Figure 3: utility, the share of prompts on which a reward model likes ISARA's answer at least as well as another's."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence

from papers.isara import _safety
from papers.kit import Kit, answers, cell
from papers.table import Cell, Table
from selfalign.errors import UserError
from selfalign.models.classifier import reward_model
from selfalign.recipes import isara_paper, pretrained, sft_paper
from selfalign.types import Example, Metric, Outcome

RENDERING = "BEGINNING OF CONVERSATION: USER: {prompt} ASSISTANT: {response}{eos}"
"""As the reward model was trained: a space stands before the answer."""


def fill(kit: Kit) -> Iterator[Cell]:
    everything = _safety.prompts(kit)
    for model in kit.models:
        found: dict[str, dict[str, list[Metric]]] = {}
        for category in _safety.CATEGORIES:
            for column, metrics in _utility(kit, model, category, everything).items():
                found.setdefault(column, {})[category] = metrics
        for column, by_category in found.items():
            for category, metrics in by_category.items():
                yield cell(f"{model}, {category}", column, metrics)
            yield _safety.pooled(f"{model}, all three", column, by_category, everything)


def _utility(kit: Kit, model: str, category: str, everything: Sequence[Example]) -> dict[str, list[Metric]]:
    """By column, a metric for each random seed of ISARA's."""
    arms = {"ISARA": isara_paper(demonstrations=kit.scale.shown(8)), "pretrained": pretrained(), "SFT": sft_paper()}
    asked = [one for one in everything if one.id in _safety.among(everything, category)]
    runs = _safety.study(kit, model, category, arms)
    folder = kit.out / "runs" / _safety.name(model, category)
    rewards = {
        arm: [_rewards(kit, asked, answers(folder / run.folder, run.best_round)) for run in of] for arm, of in runs.items()
    }
    columns: dict[str, list[Metric]] = {}
    for other in ("pretrained", "SFT"):
        # An arm that no random seed changes has one run, which stands against each of ISARA's.
        pairs = [(mine, rewards[other][min(at, len(rewards[other]) - 1)]) for at, mine in enumerate(rewards["ISARA"])]
        columns[f"against {other}"] = [_share(asked, *pair, operator.ge) for pair in pairs]
        columns[f"strictly better than {other}"] = [_share(asked, *pair, operator.gt) for pair in pairs]
    return columns


def _rewards(kit: Kit, asked: Sequence[Example], texts: dict[str, str]) -> list[float]:
    pairs = [(example.prompt, texts[example.id]) for example in asked]
    name = str(kit.source("beaver-reward"))
    with reward_model(name, "Figure 3", rendering=RENDERING, batch_size=8, max_length=2048, device="auto") as read:
        found = read(pairs)
    if wrong := [each for each in found if isinstance(each, str)]:
        raise UserError(f"{name} gives no reward for {len(wrong)} of {len(found)} answers: {wrong[0]}")
    return [float(each) for each in found]


def _share(
    asked: Sequence[Example], mine: Sequence[float], other: Sequence[float], wins: Callable[[float, float], bool]
) -> Metric:
    won = [float(wins(a, b)) for a, b in zip(mine, other, strict=True)]
    outcomes = tuple(Outcome(example.id, each) for example, each in zip(asked, won, strict=True))
    return Metric("utility", sum(won) / len(won), 0.0, 1.0, len(won), outcomes, unit="share")


TABLE = Table(
    title="utility: prompts on which ISARA's answer has at least the reward of another's",
    models={label: _safety.MODELS[label] for label in ("llama-7b", "opt-6.7b")},
    needs=(*_safety.NEEDS, "beaver-reward"),
    fill=fill,
    source="arXiv 2401.06785, Figure 3 (all three), and what its authors published with it",
    notes=("ISARA counts ties as wins; strict wins stand beside them",),
    paper={
        "llama-7b, all three": {"against pretrained": 88.0, "against SFT": 50.0},
        "opt-6.7b, all three": {"against pretrained": 91.0, "against SFT": 83.0},
        "llama-7b, discrimination": {"against SFT": 14.4},
        "llama-7b, hate": {"against SFT": 71.2},
        "llama-7b, unethical": {"against SFT": 64.4},
        "opt-6.7b, discrimination": {"against SFT": 86.0},
        "opt-6.7b, hate": {"against SFT": 70.4},
        "opt-6.7b, unethical": {"against SFT": 93.6},
    },
)
