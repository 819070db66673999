"""Win rates against references: what the judge is asked, what follows from its answers, and what speaks against it."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selfalign.engines import HF
from selfalign.errors import RunFailed, UserError
from selfalign.evaluators import HeldOut, WinRate
from selfalign.evaluators.win_rate import PROMPT, flaws
from selfalign.protocols import Context, Engine
from selfalign.types import Completion, Example, Likelihood, Metric, ModelRef, Request, Sampling
from tests.parts import calling, context, foretold
from tests.tiny import END, REWARD_WINDOW, START, chat_ids, tiny_model, tiny_tokenizer

SLOTS = "{prompt}|{first}|{second}"
"""A question that a test can take apart again."""


def held_out(count: int = 4) -> list[Example]:
    return [Example(f"h{row}", f"prompt {row}", f"reference {row}", slot=row) for row in range(count)]


Judge = Callable[[str, str, str], float]
"""Prompt, first answer, second answer to the log-odds of "A"."""


class FakeSession:
    """A window of 400 characters, and one word that means a turn."""

    def fit(self, request: Request, max_tokens: int) -> Request | None:
        if "<turn>" in str(request.prompt):
            raise UserError("the text contains '<turn>'")
        return request if len(str(request.prompt)) + max_tokens <= 400 else None


def judged(judge: Judge, *texts: str, stages: list[str] | None = None, asked: list[Example] | None = None) -> Context:
    """A context whose model answers with `texts`, and whose other model judges."""

    def likelihood(stage: str, examples: Sequence[Example], shown: Sequence[Sequence[Example]] = ()) -> list[Likelihood]:
        assert not shown
        if stages is not None:
            stages.append(stage)
        if asked is not None:
            asked.extend(examples)
        odds = [judge(*example.prompt.split("|")) for example in examples]
        # Far below what a float's exponential can hold, as for a judge that would rather say something else.
        return [Likelihood(-2000.0 + (each if one.response == "A" else 0.0), 2) for one, each in zip(examples, odds, strict=True)]

    @contextmanager
    def open_model(model: str, engine: Engine | None = None) -> Iterator[Context]:
        assert model == "judge"
        yield calling(ours, session=FakeSession(), likelihood=likelihood)  # type: ignore[arg-type]

    replies = iter(texts)
    ours = context(write=lambda _: Completion(next(replies), "stop"), open_model=open_model)
    return ours


def measure(evaluator: WinRate, ctx: Context, examples: Sequence[Example] | None = None) -> dict[str, Metric]:
    asked = held_out() if examples is None else examples
    metrics = evaluator.evaluate(ctx, asked)
    assert foretold(evaluator, asked, metrics)
    assert len({metric.name for metric in metrics}) == len(metrics)
    return {metric.name: metric for metric in metrics}


def by_model(**options: Any) -> WinRate:
    return WinRate("judge", **{"prompt": SLOTS, "constant": "", **options})


def odds(share: float) -> float:
    return math.log(share / (1 - share))


def test_a_win_rate_by_hand() -> None:
    """The judge likes "good" with 0.9, "poor" with 0.2; with a pull of half a unit of log-odds towards the first place."""
    liking = {"good": odds(0.9), "poor": odds(0.2), "even": 0.0}

    def judge(prompt: str, first: str, second: str) -> float:
        return 0.5 + (liking[first] if first in liking else -liking[second])

    found = measure(by_model(), judged(judge, "good", "poor", "even", "good"))

    def both(share: float) -> float:
        first, second = (1 / (1 + math.exp(-odds(share) - pull)) for pull in (0.5, -0.5))
        return (first + second) / 2

    wanted = [both(0.9), both(0.2), both(0.5), both(0.9)]
    assert both(0.5) == pytest.approx(0.5)
    win = found["win_rate"]
    assert [one.id for one in win.outcomes] == ["h0", "h1", "h2", "h3"]
    assert [one.value for one in win.outcomes] == pytest.approx(wanted)
    assert (win.value, win.n) == (pytest.approx(sum(wanted) / 4), 4)
    # t interval: 3.182 is the 97.5 % point at three degrees of freedom. It reaches beyond 1, where no share is.
    half = 3.182446 * np.std(wanted, ddof=1) / 2
    assert win.value + half > 1.1
    assert (win.low, win.high) == (pytest.approx(win.value - half, abs=1e-5), 1.0)
    assert {name for name, one in found.items() if one.unit != "share"} == {"win_rate_flaws"}
    assert {name for name, one in found.items() if one.better == "lower"} == {"win_rate_unjudged", "win_rate_flaws"}
    assert [one.value for one in found["win_rate_strict"].outcomes] == [1.0, 0.0, 0.0, 1.0]
    assert [one.value for one in found["win_rate_ties"].outcomes] == [0.0, 0.0, 1.0, 0.0]
    # Where both are alike, each order gives the first place the win.
    assert [one.value for one in found["win_rate_consistency"].outcomes] == [1.0, 1.0, 0.0, 1.0]
    assert found["win_rate_unjudged"].value == 0.0
    assert found["win_rate_flaws"].value == 0.0


def test_both_letters_are_scored_in_both_orders_and_braces_stay() -> None:
    asked: list[Example] = []
    measure(by_model(), judged(lambda *_: 0.0, "my {first} answer", asked=asked), [replace(held_out(1)[0], system="In verse.")])
    request = "In verse.\n\nprompt 0"
    texts = [f"{request}|my {{first}} answer|reference 0", f"{request}|reference 0|my {{first}} answer"]
    assert [(one.prompt, one.response) for one in asked] == [(text, letter) for text in texts for letter in "AB"]
    assert len({one.id for one in asked}) == 4


def test_a_judge_that_goes_by_the_place_wins_nothing_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = measure(by_model(), judged(lambda *_: 3.7, *"abcd"))
    assert found["win_rate"].value == pytest.approx(0.5)
    assert (found["win_rate_ties"].value, found["win_rate_strict"].value) == (1.0, 0.0)
    assert found["win_rate_consistency"].value == 0.0
    assert (found["win_rate_flaws"].value, found["win_rate_flaws"].n) == (1.0, 4)
    assert "the place of an answer" in caplog.text


@pytest.mark.parametrize(("ties", "preference", "tie"), [(0.05, 0.6, 0.0), (0.11, 0.5, 1.0)])
def test_probabilities_near_a_half_are_ties(ties: float, preference: float, tie: float) -> None:
    judge = lambda prompt, first, second: odds(0.6) if first == "a" else -odds(0.6)  # noqa: E731
    found = measure(by_model(ties=ties), judged(judge, *"aaaa"))
    assert found["win_rate"].value == pytest.approx(preference)
    assert found["win_rate_ties"].value == tie
    assert found["win_rate_strict"].value == 1.0 - tie
    assert found["win_rate_consistency"].value == 1.0


def test_an_empty_answer_loses_and_a_copy_ties_without_the_judge() -> None:
    asked: list[Example] = []
    ctx = judged(lambda prompt, first, second: 5.0 if first == "a" else -5.0, " ", "reference 1 ", "a", asked=asked)
    found = measure(by_model(), ctx, held_out(3))
    assert [one.value for one in found["win_rate"].outcomes] == [0.0, 0.5, pytest.approx(1 / (1 + math.exp(-5)))]
    assert found["win_rate_consistency"].n == 1
    assert len(asked) == 4


def test_prompts_without_a_reference_are_answered_but_left_out() -> None:
    examples = held_out(4)
    examples[1] = replace(examples[1], response=" ")
    found = measure(by_model(), judged(lambda prompt, first, second: 1.0 if first in "abcd" else -1.0, *"abcd"), examples)
    assert [one.id for one in found["win_rate"].outcomes] == ["h0", "h2", "h3"]
    assert {metric.n for metric in found.values()} == {3}


def test_what_the_judge_cannot_read_has_no_verdict() -> None:
    found = measure(by_model(), judged(lambda *_: 0.0, "a", "x" * 400, "a <turn> b", "c"))
    assert [one.id for one in found["win_rate"].outcomes] == ["h0", "h3"]
    assert [one.value for one in found["win_rate_unjudged"].outcomes] == [0.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize(("prompt", "message"), [("x" * 400, "does not fit the window"), ("<turn>", "<turn>")])
def test_a_judge_that_cannot_be_asked_at_all(prompt: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        measure(by_model(prompt=prompt + SLOTS), judged(lambda *_: 0.0, *"abcd"))


def test_a_judge_that_likes_a_constant_answer_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """It prefers whatever is longer."""
    judge = lambda prompt, first, second: float(len(first) - len(second))  # noqa: E731
    with caplog.at_level(logging.WARNING):
        found = measure(by_model(constant="I am happy to help you."), judged(judge, *"abcd"))
    sure = 1 / (1 + math.exp(-12))
    assert [one.value for one in found["win_rate_constant"].outcomes] == pytest.approx([sure] * 4)
    assert found["win_rate"].value < 0.01
    assert found["win_rate_flaws"].value == 1.0
    assert "prefers a constant answer" in caplog.text
    assert "win_rate_constant" not in measure(by_model(constant=""), judged(judge, *"abcd"))


def test_flaws_are_sentences() -> None:
    assert flaws({"win_rate": 0.9, "win_rate_constant": 0.49, "win_rate_consistency": 0.5}) == []
    told = flaws({"win_rate_constant": 0.5, "win_rate_consistency": 0.49})
    assert len(told) == 2
    assert "(50%)" in told[0] and "49%" in told[1]


def test_stages_tell_judges_prompts_and_answers_apart() -> None:
    stages: list[str] = []
    options: list[dict[str, Any]] = [
        {},
        {"ties": 0.2},
        {"prompt": SLOTS + "?"},
        {"constant": "Yes."},
        {"sampling": Sampling(max_tokens=9)},
    ]
    for each in options:
        judge = judged(lambda *_: 0.0, *"abcd", stages=stages)
        by_model(**each).evaluate(judge, held_out())
    assert stages[0] == stages[1]
    assert len(set(stages)) == 4
    assert all(stage.startswith("win_rate_") for stage in stages)


def test_answers_are_those_that_other_evaluators_ask_for() -> None:
    asked: list[tuple[str, tuple[Request, ...]]] = []
    ctx = judged(lambda *_: 0.0, *"abcd")

    def generate(stage: str, requests: Sequence[Request], sampling: Sampling) -> list[tuple[Request, Completion]]:
        asked.append((stage, tuple(requests)))
        return [(request, Completion("a", "stop")) for request in requests]

    for evaluator in (by_model(), HeldOut()):
        evaluator.evaluate(calling(ctx, generate=generate), held_out())
    assert len(asked) == 2
    assert asked[0] == asked[1]


def test_nothing_to_measure() -> None:
    assert WinRate().evaluate(context(), held_out()) == []
    assert WinRate("judge").evaluate(context(), [replace(each, response="") for each in held_out()]) == []
    assert WinRate("judge").evaluate(context(), []) == []


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "human"},
        {"prompt": "{prompt} {first}"},
        {"prompt": "{first} {second} {first} {prompt}"},
        {"ties": 0.5},
        {"ties": -0.1},
        {"ties": float("nan")},
        {"kind": "reward", "ties": float("inf")},
        {"kind": "reward", "judge": "base"},
        {"rendering": "{prompt}"},
        {"batch_size": 0},
        {"max_length": -1},
    ],
)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="WinRate: "):
        WinRate(**{"judge": "folder", **options})


def test_the_hash_of_the_judge(model_folder: Path, tmp_path: Path) -> None:
    assert WinRate().check() == WinRate("base").check() == ""
    other = tiny_model(tmp_path / "other", seed=1)
    hashes = {WinRate(str(folder)).check() for folder in (model_folder, other)}
    assert len(hashes) == 2 and all(len(each) == 64 for each in hashes)
    with pytest.raises(UserError, match="there is no such folder"):
        WinRate("/no/such/folder").check()
    with pytest.raises(UserError, match="there is no such folder, and from the hub"):
        WinRate("some/hub-name").check()


def really_judged(folder: Path, *texts: str) -> Context:
    """The judge is a real model under the real engine."""

    @contextmanager
    def open_model(model: str, engine: Engine | None = None) -> Iterator[Context]:
        with HF(device="cpu", dtype="float32").open(ModelRef(model), "auto") as session:
            scored = lambda stage, examples, shown=(): session.likelihood(examples, shown)  # noqa: E731
            yield calling(ours, session=session, likelihood=scored)

    replies = iter(texts)
    ours = context(write=lambda _: Completion(next(replies), "stop"), open_model=open_model)
    return ours


def test_a_real_model_as_judge_gives_what_the_library_gives(model_folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(model_folder), AutoModelForCausalLM.from_pretrained(model_folder).eval()

    def log_probability(question: str, letter: str) -> float:
        head = f"{START}user\n{question}{END}\n{START}assistant\n"
        before, ids = (tokenizer(text)["input_ids"] for text in (head, f"{head}{letter}{END}"))
        with torch.inference_mode():
            scores = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        return sum(float(scores[at - 1, ids[at]]) for at in range(len(before), len(ids)))

    def first_wins(prompt: str, first: str, second: str) -> float:
        question = PROMPT.format(prompt=prompt, first=first, second=second)
        a, b = (math.exp(log_probability(question, letter)) for letter in "AB")
        return a / (a + b)

    texts = ("An answer.", "Another one", "{first}", "A long answer." * 3)
    found = measure(WinRate(str(model_folder), constant="Yes."), really_judged(model_folder, *texts))
    for name, mine in (("win_rate", texts), ("win_rate_constant", ("Yes.",) * 4)):
        wanted = [
            (first_wins(one.prompt, text, one.response) + 1 - first_wins(one.prompt, one.response, text)) / 2
            for one, text in zip(held_out(), mine, strict=True)
        ]
        assert len({round(each, 6) for each in wanted}) > 1
        assert [one.value for one in found[name].outcomes] == pytest.approx(wanted, abs=1e-5)
    assert found["win_rate_unjudged"].value == 0.0


def test_a_real_judge_reads_no_turns_and_cuts_nothing(model_folder: Path) -> None:
    texts = ("fine", f"bad {END} bad", "long " * 500, "fine too")
    found = measure(WinRate(str(model_folder), constant=""), really_judged(model_folder, *texts))
    assert [one.value for one in found["win_rate_unjudged"].outcomes] == [0.0, 1.0, 1.0, 0.0]


def rated(**responses: str) -> list[Example]:
    return [Example(id, f"prompt {row % 3}", text) for row, (id, text) in enumerate(responses.items())]


def by_reward(folder: Path, **options: Any) -> WinRate:
    return WinRate(str(folder), **{"kind": "reward", "device": "cpu", "ties": 0.3, "constant": "This is fair", **options})


def test_the_higher_reward_wins(reward_model: Path) -> None:
    examples = rated(a="This is fair", b="This is good", c="I say fair", d="This is poor")
    answers = iter(("I say good", "I say fair", "This is fair", "I say good"))
    found = measure(by_reward(reward_model), context(write=lambda _: Completion(next(answers), "stop")), examples)
    assert [one.value for one in found["win_rate"].outcomes] == [1.0, 0.0, 0.5, 1.0]
    assert [one.value for one in found["win_rate_strict"].outcomes] == [1.0, 0.0, 0.0, 1.0]
    assert [one.value for one in found["win_rate_ties"].outcomes] == [0.0, 0.0, 1.0, 0.0]
    # The constant answer is the first reference.
    assert [one.value for one in found["win_rate_constant"].outcomes] == [0.5, 0.0, 0.5, 1.0]
    assert found["win_rate_flaws"].value == 1.0
    assert "win_rate_consistency" not in found


def test_a_reward_decides_without_a_margin(reward_model: Path) -> None:
    examples = rated(a="This is fair", b="This is fair")
    found = measure(by_reward(reward_model, ties=0.0), context(write=lambda _: Completion("I say fair", "stop")), examples)
    assert {one.value for one in found["win_rate"].outcomes} <= {0.0, 1.0}


@pytest.mark.parametrize("batch_size", [1, 3])
def test_rewards_are_what_the_library_gives_for_each_text_alone(reward_model: Path, batch_size: int) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from selfalign.models.classifier import reward_model as opened

    tokenizer = AutoTokenizer.from_pretrained(reward_model)
    model = AutoModelForSequenceClassification.from_pretrained(reward_model).eval()
    pairs = [("prompt 0", "This is good"), ("prompt 1", "I say poor, dear"), ("p", "x"), (" prompt 2", "This is fair ")]
    found = []
    for form in ("", "Q {prompt} A {response}{eos}"):
        options = {"rendering": form, "batch_size": batch_size, "max_length": 0, "device": "cpu"}
        with opened(str(reward_model), "Part.model", **options) as read:
            found.append(read(pairs))
    scores, rendered = found
    for (prompt, response), score, other in zip(pairs, scores, rendered, strict=True):
        with torch.inference_mode():
            ids = chat_ids(tokenizer, prompt.strip(), response.strip())
            plain = [*tokenizer(f"Q {prompt} A {response}")["input_ids"], tokenizer.eos_token_id]
            alone, written = (float(model(torch.tensor([row])).logits) for row in (ids, plain))
        assert score == pytest.approx(alone, abs=1e-5)
        assert other == pytest.approx(written, abs=1e-5)


def test_what_a_reward_model_cannot_read_has_no_verdict(reward_model: Path) -> None:
    texts = iter(("I say good", f"I say {END} good", "I say good " * 100))
    found = measure(
        by_reward(reward_model),
        context(write=lambda _: Completion(next(texts), "stop")),
        rated(a="This is poor", b="This is fair", c="This is fair"),
    )
    assert [one.value for one in found["win_rate_unjudged"].outcomes] == [0.0, 1.0, 1.0]
    assert [one.value for one in found["win_rate_strict"].outcomes] == [1.0]


def test_a_classifier_with_several_outputs_is_no_reward_model(reward_model: Path, tmp_path: Path) -> None:
    import torch
    from transformers import LlamaForSequenceClassification

    model = LlamaForSequenceClassification.from_pretrained(reward_model)
    model.config.num_labels = 2
    model.score = torch.nn.Linear(32, 2, bias=False)
    model.save_pretrained(tmp_path / "two")
    tiny_tokenizer(context=REWARD_WINDOW).save_pretrained(tmp_path / "two")
    with pytest.raises(UserError, match="has 2 outputs, a reward model has one"):
        measure(by_reward(tmp_path / "two"), context())


def test_running_out_of_memory_is_told(reward_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def starve(*_: object) -> Any:
        raise MemoryError

    monkeypatch.setattr("selfalign.models.classifier.outputs", starve)
    with pytest.raises(RunFailed, match=r"lower WinRate\.batch_size"):
        measure(by_reward(reward_model), context())


def test_the_controlled_figure_is_reported_beside_the_raw_one() -> None:
    """A judge that sees length alone: raw far above a half, controlled not."""
    longer = np.random.default_rng(10).normal(1.0, 1.0, 60)
    texts = ["x" * max(1, int(30 + 10 * each)) for each in longer]
    examples = [Example(f"h{row}", "p", "y" * 30) for row in range(60)]
    judge = lambda prompt, first, second: 2.0 * (len(first) - len(second))  # noqa: E731
    found = measure(by_model(), judged(judge, *texts), examples)
    assert found["win_rate"].value > 0.75
    controlled = found["win_rate_length_controlled"]
    assert controlled.low < 0.5 < controlled.high
    assert controlled.value < found["win_rate"].value - 0.15
    assert controlled.n == 60


def test_figures_are_plain_numbers() -> None:
    found = measure(by_model(), judged(lambda prompt, first, second: len(first) - 10.0, "a", "bbb", "cc", "dddd"))
    for metric in found.values():
        json.dumps([metric.value, metric.low, metric.high, *[one.value for one in metric.outcomes]], allow_nan=False)
