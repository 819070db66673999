"""A model on the straight line between two others, by their weights: start + share · (trained - start)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from selfalign.errors import UserError
from selfalign.models.decoding import save_model
from selfalign.models.files import ADAPTER
from selfalign.models.names import located, quiet
from selfalign.models.rounding import rounded
from selfalign.types import ModelRef


def write_between(start: ModelRef, trained: ModelRef, share: float, out: Path) -> None:
    """Writes it into the folder `out`, in the form and the number type of the trained one (WiSE-FT, arXiv 2109.01903, whose α is
    `share`). Of an adapter on the start the second factor is scaled, which scales what it adds; the base is not touched.

    The same files give the same bytes. Two models of the size of the trained one are in main memory meanwhile, or one adapter.

    Raises:
        UserError: the trained model has other weights than those of the start, or more than a LoRA adapter's.
    """
    source = Path(trained.adapter or trained.base)
    out.mkdir(parents=True)
    if trained.adapter:
        _copy(source, out)
        _scale(source / ADAPTER, out / ADAPTER, share)
        return
    import torch

    with quiet(), torch.no_grad():
        model, first = _load(trained.base), dict(_load(located(start.base)).named_parameters())
        for name, weight in model.named_parameters():
            if name not in first or first[name].shape != weight.shape:
                raise UserError(f"{source}: its weight {name} has no like in the start model, so nothing lies between the two")
            weight.copy_(rounded(first[name].float().lerp(weight.float(), share), weight.dtype, 0, name))
        save_model(model, out)
    _copy(source, out)


def _copy(source: Path, out: Path) -> None:
    """What stands beside the weights: tokenizer, template, configuration. No folders, and nothing that is there."""
    weights = (".safetensors", ".bin", ".index.json")
    for path in sorted(source.iterdir()):
        if path.is_file() and not path.name.endswith(weights) and not (out / path.name).exists():
            shutil.copyfile(path, out / path.name)


def _scale(source: Path, out: Path, share: float) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(source)
    if other := [name for name in weights if ".lora_A." not in name and ".lora_B." not in name]:
        raise UserError(f"{source}: {other[0]} is no part of a plain LoRA adapter, so that it cannot be scaled")
    scaled = {name: weight * share if ".lora_B." in name else weight for name, weight in weights.items()}
    save_file(scaled, out, metadata={"format": "pt"})


def _load(folder: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto", use_safetensors=True, trust_remote_code=False)
