"""What every engine must keep to, over every engine found in the folder."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import selfalign.engines
from selfalign.errors import Interrupted, UserError
from selfalign.protocols import Engine, Session
from selfalign.types import Example, ModelRef, Request, Sampling, derive_seed
from tests.server import model_server

MODULES = [name for _, name, _ in pkgutil.iter_modules(selfalign.engines.__path__) if not name.startswith("_")]
ENGINES: list[type[Any]] = [
    part
    for name in MODULES
    for _, part in inspect.getmembers(importlib.import_module(f"selfalign.engines.{name}"), inspect.isclass)
    if part.__module__ == f"selfalign.engines.{name}" and hasattr(part, "check") and hasattr(part, "open")
]
AROUND = {"Ray"}
"""Engines around another one, with tests of their own (tests/e2e/test_ray.py)."""
EXACT: dict[str, dict[str, Any]] = {
    "HF": {"dtype": "float32", "device": "cpu"},
    "OpenVINO": {"dtype": "float32", "threads": 1},
}
PAIRS = tuple(Example(f"s{i}", f"Where is place number {i}?", f"It is in hall {i}.") for i in range(6))
SAMPLING = Sampling(max_tokens=12)


@pytest.fixture(scope="module")
def server(model_folder: Path) -> Iterator[str]:
    """The tiny model behind HTTP, for an engine that asks a server."""
    with model_server(model_folder, seconds=300) as running:
        yield running.url


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What engines convert goes to a folder of the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SELFALIGN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(params=[part for part in ENGINES if part.__name__ not in AROUND], ids=lambda part: part.__name__)
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param.__name__ == "OpenVINO":
        pytest.importorskip("openvino_genai", reason="OpenVINO GenAI is not installed: pip install 'selfalign[cpu]'")
    options = EXACT.get(request.param.__name__, {})
    if request.param.__name__ == "VLLM":
        request.getfixturevalue("fake_vllm")
    if request.param.__name__ == "OpenAI":
        options = {"url": request.getfixturevalue("server")}
    made: Engine = request.param(batch_size=5, **options)
    return made


@pytest.fixture
def ref(engine: Engine, model_folder: Path) -> ModelRef:
    return engine.check(ModelRef(str(model_folder)), PAIRS, "auto")


@pytest.fixture
def session(engine: Engine, ref: ModelRef) -> Iterator[Session]:
    with engine.open(ref, "auto") as opened:
        yield opened


def requests(count: int) -> list[Request]:
    return [Request(f"r{i}", PAIRS[: i % 3], None if i % 2 else f"What is {i}?", derive_seed(3, i)) for i in range(count)]


def test_every_file_holds_an_engine() -> None:
    assert {part.__module__.rpartition(".")[2] for part in ENGINES} == set(MODULES)


def test_check_gives_a_hash_and_says_the_same_twice(engine: Engine, ref: ModelRef) -> None:
    assert ref.hash and engine.check(ModelRef(ref.base), PAIRS, "auto") == ref


def test_a_seed_longer_than_the_window_is_refused_by_name(engine: Engine, ref: ModelRef) -> None:
    with pytest.raises(UserError, match="too-long"):
        engine.check(ModelRef(ref.base), [*PAIRS, Example("too-long", "Why?", "word " * 3000)], "auto")


def test_completions_come_in_order_one_for_each_request(session: Session) -> None:
    rows = requests(11)
    done = session.generate(rows, SAMPLING)
    assert len(done) == 11
    assert session.generate(rows[::-1], SAMPLING) == done[::-1]
    assert all(one.finish in ("stop", "length") and one.text == one.text.strip() for one in done)
    assert all(0 < one.generated_tokens <= 13 and one.prompt_tokens > 0 for one in done)
    assert len({one.text for one in done}) > 5


def test_nothing_asked_nothing_given(session: Session) -> None:
    assert session.generate([], SAMPLING) == [] and session.plan([]) == [] and session.likelihood([]) == []
    assert session.embed([]).shape[0] == 0


def test_the_plan_covers_every_request_once(session: Session) -> None:
    rows = requests(13)
    batches = session.plan(rows)
    assert sorted(place for batch in batches for place in batch) == list(range(13))
    assert max(map(len, batches)) <= 5 and session.plan(rows) == batches


def test_a_second_session_writes_the_same(engine: Engine, ref: ModelRef) -> None:
    texts = []
    for _ in range(2):
        with engine.open(ref, "auto") as session:
            texts.append(session.generate(requests(7), SAMPLING))
    assert texts[0] == texts[1]


def test_another_seed_writes_other_texts(session: Session) -> None:
    rows = requests(10)
    other = session.generate([replace(row, seed=row.seed + 1) for row in rows], SAMPLING)
    same = [a.text == b.text for a, b in zip(session.generate(rows, SAMPLING), other, strict=True)]
    assert sum(same) < 5


def test_fit_keeps_what_has_room_and_refuses_what_has_none(session: Session) -> None:
    whole = Request("r", PAIRS, "And now?")
    assert session.fit(whole, 64) == whole
    long = tuple(Example(f"l{i}", "word " * 100, "word " * 10) for i in range(30))
    fitted = session.fit(replace(whole, demonstrations=long), 64)
    assert fitted is not None and 0 < len(fitted.demonstrations) < 30
    assert fitted.demonstrations == long[: len(fitted.demonstrations)] and fitted.prompt == "And now?"
    assert session.fit(Request("r", (), "word " * 3000), 64) is None


def test_likelihoods_are_negative_and_count_the_end_token(session: Session) -> None:
    found = session.likelihood(PAIRS)
    assert len(found) == 6 and all(one.total < 0 and one.tokens > 1 for one in found)
    backwards = session.likelihood(PAIRS[::-1])[::-1]
    assert [one.total for one in backwards] == pytest.approx([one.total for one in found], rel=1e-4)


def test_embeddings_are_unit_rows(session: Session) -> None:
    rows = session.embed(["one text", "another, longer text", "one text", ""])
    assert rows.dtype == np.float32 and rows.shape[0] == 4
    assert np.allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)
    assert np.allclose(rows[0], rows[2], atol=1e-5) and not np.allclose(rows[0], rows[1], atol=1e-3)


def test_render_shows_what_is_asked(session: Session) -> None:
    text = session.render(Request("r", PAIRS[:2], "And now?"))
    places = [text.index(part) for part in (PAIRS[0].prompt, PAIRS[0].response, PAIRS[1].prompt, PAIRS[1].response, "And now?")]
    assert places == sorted(places)
    assert session.render(Request("r", PAIRS[:2], None)).count("And now?") == 0


def test_an_interrupt_passes_through_and_the_engine_opens_again(engine: Engine, ref: ModelRef) -> None:
    with pytest.raises(Interrupted), engine.open(ref, "auto") as session:
        session.plan(requests(2))
        raise Interrupted(15)
    with engine.open(ref, "auto") as session:
        assert len(session.generate(requests(2), SAMPLING)) == 2


def test_a_continuation_is_scored_alone_and_in_any_company(session: Session) -> None:
    pairs = [("Question: Where is it?\nAnswer:", " In the hall."), ("", "Alone."), ("Ends in a space ", "here it goes on")]
    found = session.continuation(pairs)
    assert [one.total < 0 and one.tokens > 0 for one in found] == [True] * 3
    backwards = session.continuation(pairs[::-1])[::-1]
    assert [one.total for one in backwards] == pytest.approx([one.total for one in found], abs=1e-4)
    assert session.continuation([]) == []


def test_a_text_of_the_callers_own_is_read_as_it_stands(session: Session) -> None:
    request = Request("t", text="Question: Where is it?\nAnswer:", seed=5)
    assert session.render(request) == request.text
    assert session.fit(request, 12) == request and session.plan([request]) == [(0,)]
    whole = session.generate([request], Sampling(max_tokens=40))[0]
    letter = whole.text[len(whole.text) // 2]
    cut = session.generate([request], Sampling(max_tokens=40, stop=(letter,)))[0]
    assert cut.text == whole.text[: whole.text.index(letter)].strip() and cut.finish == "stop"
    assert cut.generated_tokens <= whole.generated_tokens
