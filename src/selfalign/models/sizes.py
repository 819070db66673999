"""How large a model is, by its configuration and the headers of its weights: no weight is read."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfalign.errors import UserError
from selfalign.models.files import read_json, weights

_LONGEST_HEADER = 2**27
_EMBEDDINGS = ("embed", "wte", "wpe")


@dataclass(frozen=True)
class Sizes:
    """Counts of numbers, not of bytes."""

    weights: int
    """All weights; an output layer that is tied to the embeddings counts once."""
    matrices: Mapping[str, tuple[int, int]]
    """The linear layers but the output layer, by name: their two sides. Experts that share one tensor are none of them."""
    layers: int
    hidden: int
    inner: int
    """Width of a feed-forward layer."""
    vocabulary: int
    window: int | None
    """The most tokens, where the configuration says so."""


def read_sizes(folder: Path) -> Sizes:
    """Raises UserError: no model's folder, or a file of weights that cannot be read."""
    config = read_json(folder / "config.json")
    text: dict[str, Any] = {**config, **(config["text_config"] if isinstance(config.get("text_config"), dict) else {})}
    shapes = {name: shape for file in weights(folder) for name, shape in header(folder / file)}
    hidden, vocabulary = _number(text, "hidden_size", "n_embd", "d_model"), _number(text, "vocab_size")
    matrices = {
        name.removesuffix(".weight"): (shape[0], shape[1])
        for name, shape in shapes.items()
        if len(shape) == 2 and name.endswith(".weight") and vocabulary not in shape and not any(x in name for x in _EMBEDDINGS)
    }
    return Sizes(
        weights=sum(_product(shape) for shape in shapes.values()),
        matrices=matrices,
        layers=_number(text, "num_hidden_layers", "n_layer", "num_layers"),
        hidden=hidden,
        inner=_number(text, "intermediate_size", "n_inner", "ffn_dim", "d_ff") or 4 * hidden,
        vocabulary=vocabulary,
        window=_number(text, "max_position_embeddings", "n_positions", "max_seq_len") or None,
    )


def window(config: Any, tokenizer: Any) -> int:
    """Tokens in a model's window: the smaller of what model and tokenizer say, where they say anything (1e30 is nothing)."""
    text = config.get_text_config()
    said = [getattr(text, name, None) for name in ("max_position_embeddings", "n_positions", "max_seq_len")]
    return min((int(value) for value in (*said, tokenizer.model_max_length) if value and 0 < value < 10**9), default=10**9)


def header(file: Path) -> Iterator[tuple[str, list[int]]]:
    """Names and shapes of a .safetensors file: eight bytes that say how long the JSON behind them is."""
    try:
        with file.open("rb") as stream:
            length = struct.unpack("<Q", stream.read(8))[0]
            if length > _LONGEST_HEADER:
                raise ValueError("its header is too long")
            header = json.loads(stream.read(length))
        for name, about in header.items():
            if name != "__metadata__":
                yield name, [int(size) for size in about["shape"]]
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} cannot be read as .safetensors weights: {error}") from error


def _number(config: Mapping[str, Any], *names: str) -> int:
    """The first of these that the configuration has as a number; 0 for none."""
    return next((value for name in names if isinstance(value := config.get(name), int)), 0)


def _product(shape: list[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
