"""Saving a model whose own settings of decoding (`generation_config.json`) transformers finds fault with, such as a temperature
where nothing is drawn. Models are published so; older releases (5.16) refuse to save them, later ones where they have changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfalign.models.files import read_json


def set_apart(model: Any) -> dict[str, Any]:
    """Takes such settings off a model, but for its tokens, so that its checkpoints can be written: what `save_model` puts back.
    {} where they can stay."""
    from transformers import GenerationConfig

    own = getattr(model, "generation_config", None)
    if own is None or hasattr(model, "peft_config"):  # with an adapter none are saved
        return {}
    try:
        own.validate(strict=True)
    except ValueError:
        tokens = {name: getattr(own, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        model.generation_config = GenerationConfig(**tokens)  # type: ignore[no-untyped-call]
        apart: dict[str, Any] = json.loads(own.to_json_string())
        return apart
    return {}


def save_model(model: Any, folder: Path, apart: Mapping[str, Any] | None = None, **more: Any) -> None:
    """`save_pretrained`, with the settings that were set apart."""
    apart = apart or set_apart(model)
    model.save_pretrained(folder, **more)
    if apart:
        file = folder / "generation_config.json"
        file.write_text(json.dumps({**apart, **read_json(file)}, indent=2) + "\n", encoding="utf-8")
