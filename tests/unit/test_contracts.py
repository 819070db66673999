from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selfalign.contracts import check_engine, trial_context, trial_examples
from selfalign.engines import HF, Scripted
from selfalign.protocols import Flags, Preflight, Session, declared
from selfalign.types import Completion, Example, FloatArray, Format, Likelihood, ModelRef, Request, Sampling


def test_the_engines_of_the_package_pass(model_folder: Path) -> None:
    check_engine(Scripted(), "any")
    check_engine(HF(dtype="float32", device="cpu"), str(model_folder))


def test_the_trial_context_answers_as_a_run_would() -> None:
    """Requests too long for the window come back unanswered, others with their completion; another model is another one."""
    context, sampling = trial_context(), Sampling(max_tokens=20)
    asked = [Request("a", prompt="What now?"), Request("b", prompt="word " * 3000), Request("c", prompt="And then?")]
    done = context.generate("stage", asked, sampling)
    assert [request.id for request, _ in done] == ["a", "b", "c"]
    assert [one.finish == "context" for _, one in done] == [False, True, False] and done[0][1].text
    with context.open_model("another") as other:
        assert other.generate("stage", asked[:1], sampling) != done[:1]
    assert len({example.id for example in trial_examples()}) == len(trial_examples())


@dataclass(frozen=True)
class Broken:
    """An engine whose session does one thing wrong."""

    fault: str

    def check(self, model: ModelRef, seeds: Sequence[Example], format: Format) -> ModelRef:
        return model if self.fault == "hash" else Scripted().check(model, seeds, format)

    @contextmanager
    def open(self, model: ModelRef, format: Format) -> Iterator[Session]:
        with Scripted().open(model, format) as session:
            yield BrokenSession(session, self.fault)


@dataclass(frozen=True)
class BrokenSession:
    inner: Session
    fault: str

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def fit(self, request: Request, max_tokens: int) -> Request | None:
        fitted = self.inner.fit(request, max_tokens)
        if self.fault == "endless" and fitted is None:
            return request
        if self.fault == "from the front" and fitted is not None and 0 < len(fitted.demonstrations) < len(request.demonstrations):
            return replace(fitted, demonstrations=request.demonstrations[-len(fitted.demonstrations) :])
        return fitted

    def plan(self, requests: Sequence[Request]) -> list[tuple[int, ...]]:
        return self.inner.plan(requests)[1:] if self.fault == "plan" else self.inner.plan(requests)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        if self.fault == "seeds":
            requests = [replace(request, seed=7) for request in requests]
        done = self.inner.generate(requests, sampling)
        if self.fault == "wavers":
            return [replace(one, text=f"{one.text} {random.random()}") for one in done]
        return [replace(one, text=f"{one.text} ") for one in done] if self.fault == "space" else done

    def likelihood(self, examples: Sequence[Example], shown: Sequence[Sequence[Example]] = ()) -> list[Likelihood]:
        found = self.inner.likelihood(examples, shown)
        return [replace(one, total=-one.total) for one in found] if self.fault == "sign" else found

    def embed(self, texts: Sequence[str]) -> FloatArray:
        return self.inner.embed(texts) * np.float32(2 if self.fault == "length" else 1)

    def render(self, request: Request) -> str:
        return "" if self.fault == "render" else self.inner.render(request)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("hash", "check gives a hash"),
        ("endless", "longer than the window is refused"),
        ("from the front", "from the last one on"),
        ("plan", "each request once"),
        ("seeds", "other random seeds"),
        ("wavers", "same texts in another session"),
        ("space", "white space around"),
        ("sign", "likelihood gives a negative sum"),
        ("length", "unit length"),
        ("render", "demonstrations in order"),
    ],
)
def test_the_contract_sees_a_broken_engine(fault: str, words: str) -> None:
    check_engine(Broken("none"), "any")
    with pytest.raises(AssertionError, match=rf"Broken: .*{words}"):
        check_engine(Broken(fault), "any")


def test_a_part_may_declare_one_thing_alone_also_behind_another_part() -> None:
    class Asking:
        other_model = "judge"

        def prompts(self, seeds: Sequence[Example]) -> Sequence[Example]:
            return seeds[:1]

    class Around:
        def __getattr__(self, name: str) -> object:
            return getattr(Asking(), name)

    for part in (Asking(), Around()):
        found = declared(part, Preflight)
        assert (found.other_model, found.prompts(trial_examples())) == ("judge", trial_examples()[:1])
        assert (found.check(), found.metric_names([])) == ("", None)
    assert declared(Asking(), Flags).lora_rank is None
