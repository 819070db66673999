"""How large a model is, by its configuration and the headers of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfalign.models.files import weights
from selfalign.models.skeleton import skeleton

_WINDOW = ("max_position_embeddings", "n_positions", "max_seq_len")


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
    shared: int = 0
    """Weights of experts that share one tensor."""


def read_sizes(folder: Path) -> Sizes:
    """Raises UserError: as `skeleton`; no model's folder, or one without weights."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    weights(folder)
    model = skeleton(folder)
    text, last = model.config.get_text_config(), model.get_output_embeddings()
    layers = {
        name: module.weight
        for name, module in model.named_modules()
        if isinstance(module, Linear | Conv1D) and module is not last
    }
    hidden = _number(text, "hidden_size")
    return Sizes(
        weights=sum(weight.numel() for weight in model.parameters()),
        matrices={name: (weight.shape[0], weight.shape[1]) for name, weight in layers.items()},
        layers=_number(text, "num_hidden_layers"),
        hidden=hidden,
        inner=_number(text, "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "d_ff") or 4 * hidden,
        vocabulary=_number(text, "vocab_size"),
        window=_number(text, *_WINDOW) or None,
        shared=sum(weight.numel() for weight in model.parameters() if weight.ndim > 2),
    )


def window(config: Any, tokenizer: Any) -> int:
    """Tokens in a model's window: the smaller of what model and tokenizer say, where they say anything (1e30 is nothing)."""
    text = config.get_text_config()
    said = [getattr(text, name, None) for name in _WINDOW]
    return min((int(value) for value in (*said, tokenizer.model_max_length) if value and 0 < value < 10**9), default=10**9)


def odd_windows(config: Any, tokenizer: Any) -> list[str]:
    """What is to be told of a window that is none, such as -1, and of what is taken in its place."""
    said = {name: getattr(config.get_text_config(), name, None) for name in _WINDOW}
    said["model_max_length"] = tokenizer.model_max_length
    odd = [f"{name} = {value}" for name, value in said.items() if isinstance(value, int | float) and value <= 0]
    taken = f"it is taken as {most:,} tokens" if (most := window(config, tokenizer)) < 10**9 else "so none is known or kept to"
    return [f"{' and '.join(odd)} in the model's files says no window: {taken}; write the number of tokens there"] if odd else []


def _number(config: Any, *names: str) -> int:
    """The first of these that the configuration has as a number; 0 for none."""
    return next((value for name in names if isinstance(value := getattr(config, name, None), int)), 0)
