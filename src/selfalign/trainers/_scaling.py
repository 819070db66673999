"""Loss scaling for products in fp16: for GPUs before Ampere, which have no bf16 of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class NotFinite(Exception):
    """A loss, a gradient or a weight is NaN or infinite; the message says which and when."""


@dataclass
class LossScale:
    """Gradients below 6e-8 are zero in fp16, so the loss is multiplied by `factor` before they are computed and they are divided
    by it afterwards (Micikevicius et al., arXiv 1710.03740, section 3.2).

    A step whose gradients are too large for it is computed again with half the factor. The usual scaler leaves such a step out: a
    training of some dozen steps has none to spare (our own choice).
    """

    factor: float = 2.0**14

    def unscale(self, model: Any) -> bool:
        """Divides the gradients of a step; False where they are too large: they are gone, and the step is to be computed again.

        Raises:
            NotFinite: they are not finite whatever the factor.
        """
        import torch

        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        if all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
            torch._foreach_div_(gradients, self.factor)
            return True
        if self.factor <= 1.0:
            raise NotFinite("the gradients are not finite in fp16")
        self.factor /= 2
        model.zero_grad()
        return False
