from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfalign.contracts import check_scorer
from selfalign.errors import RunFailed, UserError
from selfalign.filters import RisingThreshold
from selfalign.loop.progress import Quiet
from selfalign.models.classifier import outputs
from selfalign.record.journal import Journal
from selfalign.record.store import Store
from selfalign.scorers import Reward
from selfalign.types import Example
from tests.parts import context
from tests.tiny import END, REWARD_WINDOW, chat_ids


def part(folder: Path, **options: Any) -> Reward:
    return Reward(str(folder), **{"device": "cpu", **options})


def pairs(*responses: str) -> list[Example]:
    return [Example(f"r{row}", f"prompt {row % 3}", text, 1, row) for row, text in enumerate(responses)]


def test_it_is_a_scorer(reward_model: Path) -> None:
    check_scorer(part(reward_model))


def test_the_score_is_the_output_of_the_model(reward_model: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(reward_model)
    model = AutoModelForSequenceClassification.from_pretrained(reward_model).eval()
    rows = pairs("This is good", "I say poor", "This is fair", "I say good, and more of it")
    found = part(reward_model, batch_size=3, name="mine").score(context(), rows)
    for example in found:
        with torch.inference_mode():
            alone = float(model(torch.tensor([chat_ids(tokenizer, example.prompt, example.response)])).logits)
        assert dict(example.scores) == {"mine": pytest.approx(alone, abs=1e-5)}
    good, poor, fair, _ = (example.scores["mine"] for example in found)
    assert good > fair + 0.5 > poor + 1.0


def test_a_system_prompt_stands_in_front_of_the_prompt(reward_model: Path) -> None:
    (row,) = pairs("This is fair")
    told, folded = replace(row, system="Be kind."), replace(row, prompt=f"Be kind.\n\n{row.prompt}")
    found = part(reward_model).score(context(), [told, folded, row])
    told_score, folded_score, bare = (example.scores["reward"] for example in found)
    assert told_score == pytest.approx(folded_score, abs=1e-5) != pytest.approx(bare, abs=1e-5)


def test_what_the_model_cannot_read_has_no_score_and_a_reason(reward_model: Path) -> None:
    rows = pairs("I say good", f"I say {END} good", "I say good " * 100)
    found = part(reward_model).score(context(), rows)
    assert [list(example.scores) for example in found] == [["reward"], [], []]
    drops = RisingThreshold("reward", first=-9.0).apply(context(), found).dropped
    assert [drop.rule for drop in drops] == ["unparsed", "unparsed"]
    assert repr(END) in drops[0].evidence and f"longer than the {REWARD_WINDOW} tokens" in drops[1].evidence
    (short,) = part(reward_model, max_length=20).score(context(), rows[:1])
    assert "longer than the 20 tokens" in short.metadata["reward_unparsed"]


def test_it_is_calibrated_once(reward_model: Path) -> None:
    seeds = [Example(f"s{row}", f"prompt {row}", f"{word} good") for row, word in enumerate(("This is", "I say") * 4)]
    found = part(reward_model).calibrate(context(), seeds)
    assert found is not None and found.name == "reward" and found.repeatability is None
    kinds = {kind: each.value for kind, each in found.auc_by_kind}
    assert kinds["cut"] == kinds["off_topic"] == 1.0
    assert part(reward_model).calibrate(replace(context(), round=2), seeds) is None


@pytest.mark.parametrize(
    "options",
    [
        {"model": ""},
        {"model": "base"},
        {"model": "current"},
        {"model": "m", "rendering": "{prompt}"},
        {"model": "m", "batch_size": 0},
        {"model": "m", "max_length": -1},
        {"model": "m", "name": "My reward"},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"Reward: {list(options)[-1]} = .* is out of range"):
        Reward(**options)


def test_a_causal_model_is_no_reward_model(model_folder: Path) -> None:
    with pytest.raises(UserError, match=r"lacks the weights 'score\.weight'"):
        part(model_folder).score(context(), pairs("So."))


def test_what_is_scored_is_not_scored_again(reward_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, scorer = pairs(*(f"I say {'good ' * row}" for row in range(20))), part(reward_model, batch_size=1)
    asked: list[int] = []

    def failing(*given: Any) -> Any:
        asked.append(len(given[2]))
        if len(asked) == 2:
            raise RunFailed("no power")
        return outputs(*given)

    monkeypatch.setattr("selfalign.models.classifier.outputs", failing)
    with Store.open(tmp_path, {"name": "reward"}) as store:
        own = replace(context(), journal=Journal(store, 1, None, Quiet()))
        with pytest.raises(RunFailed, match="no power"):
            scorer.score(own, rows)
        found = scorer.score(own, rows)
        assert asked == [8, 8, 8, 4]  # eight batches of one are committed together; the second eight were lost
        monkeypatch.setattr("selfalign.models.classifier.load", None)  # nor is the model loaded for nothing
        assert scorer.score(own, rows) == found
        monkeypatch.undo()
        assert scorer.score(context(), rows) == found


def test_no_pairs_load_no_model(tmp_path: Path) -> None:
    assert part(tmp_path / "nothing here").score(context(), []) == []


def test_running_out_of_memory_is_told(reward_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def starve(*_: object) -> Any:
        raise MemoryError

    monkeypatch.setattr("selfalign.models.classifier.outputs", starve)
    with pytest.raises(RunFailed, match=r"lower Reward\.batch_size"):
        part(reward_model).score(context(), pairs("So."))
