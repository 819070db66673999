"""A teacher that follows its student: the moving average of the weights that are trained.

After each optimiser step average = (1 - rate) · average + rate · student (SDFT, arXiv 2601.19897). It has what is trained and no
more: with an adapter the adapter's weights, so that the base stays one copy, and the average of the two factors, not of their
product. It goes on from round to round, stands in every checkpoint and beside every round's weights (`checkpoints.AVERAGE`), in
float32, under the manifest that verifies those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfalign.record.checkpoints import AVERAGE

if TYPE_CHECKING:
    import torch

FILE = "average.safetensors"


@dataclass(frozen=True)
class Average:
    """By the names of a model's parameters; changed in place."""

    weights: dict[str, torch.Tensor]
    rate: float

    def follow(self, model: Any) -> None:
        """What a step of the student does to it."""
        for name, weight in _trained(model):
            self.weights[name].lerp_(weight, self.rate)

    def in_place_of(self, model: Any) -> Callable[..., Any]:
        """The model with these weights instead of its own, for calls without a gradient; its own stay where they are."""
        from torch.func import functional_call

        return lambda **given: functional_call(model, self.weights, (), given)

    def write(self, folder: Path) -> None:
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.weights, folder / FILE)


def average_of(model: Any, asked: Mapping[str, Any], device: Any, checkpoint: Path | None) -> Average:
    """As a checkpoint has it, else as the round before left it beside its weights, else the model itself.

    Args:
        asked: {"rate", "goes_on": the folder of the round's start where that is a model of this run, else None}.
    """
    from safetensors.torch import load_file

    stored = checkpoint or (Path(asked["goes_on"], AVERAGE) if asked["goes_on"] else None)
    found = load_file(stored / FILE) if stored else dict(_trained(model))
    return Average({name: found[name].to(device, copy=True) for name, _ in _trained(model)}, asked["rate"])


def _trained(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    return ((name, weight.detach()) for name, weight in model.named_parameters() if weight.requires_grad)
