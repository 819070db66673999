"""The loss and the Trainer that takes whole optimiser steps; only the training process imports torch through here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from selfalign.trainers import _shard, _zero
from selfalign.trainers._batches import IGNORE, Row, Step, Unit, Weights
from selfalign.trainers._shard import in_step, is_cut, local

if TYPE_CHECKING:
    import torch

Tensor: TypeAlias = "torch.Tensor"
"""For the losses' files: reading the options of a class imports what its file does for types, and torch takes seconds."""
Batch = Mapping[str, Tensor]
"""input_ids, attention_mask, targets (rows, tokens) and weights (rows,); `targets[i, t]` is what token t is to predict."""

Total = Callable[[Any, Batch, Any], "torch.Tensor"]
"""(model, batch, its output layer) to the weighted sum of the losses of a batch, a scalar in float32."""


class NotFinite(Exception):
    """A loss, a gradient or a weight is NaN or infinite; the message says which and when."""


def collate(rows: Sequence[Row], weights: Weights, pad: int) -> dict[str, torch.Tensor]:
    """Rows padded on the right. What is learned comes from the labels alone, never from a token's value."""
    import torch

    width = max(len(row.ids) for row in rows) - 1
    shape = (len(rows), width)
    ids = torch.full(shape, pad, dtype=torch.long)
    mask = torch.zeros(shape, dtype=torch.long)
    targets = torch.full(shape, IGNORE, dtype=torch.long)
    for place, row in enumerate(rows):
        length = len(row.ids) - 1  # the last token predicts nothing
        ids[place, :length] = torch.tensor(row.ids[:-1])
        mask[place, :length] = 1
        targets[place, :length] = torch.tensor(row.labels[1:])
    each = torch.tensor([weights.seed if row.seed else weights.generated for row in rows], dtype=torch.float32)
    return {"input_ids": ids, "attention_mask": mask, "targets": targets, "weights": each}


def token_logits(model: Any, batch: Batch, head: Any) -> torch.Tensor:
    """The logits that each learned token of a batch is predicted by, row by row, shape (tokens, words), in float32.

    `head`, the model's output layer, is handed only the positions that have a target: exact for any model, whatever it
    does to its logits afterwards, and with 49,000 words the layer is a good part of a small model's work.
    """
    learned = batch["targets"] != IGNORE
    select = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][learned].unsqueeze(0), *inputs[1:]))
    with select:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits[0]
    found: torch.Tensor = logits.float()
    return found


def token_losses(model: Any, batch: Batch, head: Any) -> torch.Tensor:
    """-log p of each learned token of a batch in turn, row by row, in float32, in nats."""
    import torch

    labels = batch["targets"][batch["targets"] != IGNORE]
    return torch.nn.functional.cross_entropy(token_logits(model, batch, head), labels, reduction="none")


def weighted_sum(model: Any, batch: Batch, head: Any) -> torch.Tensor:
    """Σ weight·(-log p) over the learned tokens of a batch, a scalar."""
    learned = batch["targets"] != IGNORE
    loss = token_losses(model, batch, head)
    return (loss * batch["weights"].unsqueeze(1).expand_as(learned)[learned]).sum()


def row_losses(model: Any, batch: Batch, head: Any) -> torch.Tensor:
    """-log p of each row's response, shape (rows,), in float32, in nats."""
    import torch

    learned = batch["targets"] != IGNORE
    losses = token_losses(model, batch, head)
    # Not `index_add`, whose order of additions is another in each run on a GPU.
    return torch.zeros(learned.shape, device=losses.device).masked_scatter(learned, losses).sum(1)


def check_finite(model: Any, when: str) -> None:
    """Raises NotFinite: a weight is NaN or infinite, named."""
    import torch

    for name, weight in model.named_parameters():
        if not torch.isfinite(local(weight)).all():
            raise NotFinite(f"weight {name} is not finite {when}")


@dataclass(frozen=True)
class Steps:
    """A data set whose items are one device's share of one optimiser step, made when they are asked for by `make`."""

    units: Sequence[Unit]
    steps: Sequence[Step]
    weights: Weights
    pad: int
    devices: int
    make: Callable[[Sequence[Unit], Weights, int], Batch]

    def __len__(self) -> int:
        return len(self.steps) * self.devices

    def __getitem__(self, item: int) -> dict[str, Any]:
        number, device = divmod(item, self.devices)
        step = self.steps[number]
        filler = max(step, key=len)[-1]
        batches = [self._batch(positions, filler) for positions in step[device :: self.devices]]
        # Gradients are averaged over the devices, so each one's share counts that many times.
        return {"batches": batches, "scale": self.devices / sum(self.units[i].counts for part in step for i in part)}

    def _batch(self, positions: Sequence[int], filler: int) -> Batch:
        # Every device must run as often as the others: an empty share computes some unit with weight 0.
        units = [self.units[i] for i in positions or (filler,)]
        return self.make(units, self.weights if positions else Weights(0.0, 0.0, 0.0), self.pad)


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


def make_trainer(
    model: Any,
    args: Any,
    steps: Steps,
    callbacks: Sequence[Any],
    total: Total,
    scale: LossScale | None = None,
    half: Any = None,
) -> Any:
    """A `transformers.Trainer` that runs one item of `steps` per optimiser step and stops before a step whose loss is not finite.

    Args:
        scale: for products in fp16.
        half: the 16-bit type of the products of a model that is cut up; of others accelerate asks for bf16.
    """
    import torch
    from transformers import Trainer

    half, engine = torch.float16 if scale else half, _zero.engine_of(model)

    class StepTrainer(Trainer):  # type: ignore[misc, no-any-unimported, unused-ignore]
        def get_train_dataloader(self) -> Any:
            data: Any = steps
            return self.accelerator.prepare(torch.utils.data.DataLoader(data, batch_size=1, collate_fn=lambda items: items[0]))

        def floating_point_ops(self, inputs: Any) -> int:
            return 0

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
            model.train()
            loss = self.gradients(model, inputs)
            while scale is not None and not scale.unscale(model):
                loss = self.gradients(model, inputs)
            return loss

        def gradients(self, model: Any, inputs: Any) -> torch.Tensor:
            head = self.accelerator.unwrap_model(model).get_output_embeddings()
            losses, batches = [], inputs["batches"]
            for number, batch in enumerate(batches, 1):
                with in_step(model, last=number == len(batches)):
                    with torch.autocast(args.device.type, half) if half is not None else nullcontext():
                        loss = total(model if engine is None else engine, batch, head) * inputs["scale"]
                    if engine is None:
                        self.accelerator.backward(loss * scale.factor if scale else loss)
                    else:
                        engine.backward(loss)
                losses.append(loss.detach())
            found = torch.stack(losses).sum()
            if not math.isfinite(found.item()):  # once a step: the device waits for nothing between micro-batches
                raise NotFinite(f"the loss is {found.item()} at step {self.state.global_step + 1} of {self.state.max_steps}")
            return found

    kind = _by_parts(StepTrainer) if is_cut(model) else StepTrainer
    optimizers = (None if engine is None else _zero.optimizer_of(engine), None)
    return kind(model=model, args=args, train_dataset=steps, callbacks=list(callbacks), optimizers=optimizers)


def _by_parts(kind: type[Any]) -> type[Any]:
    """The trainer of a model that is cut up: that is in its place, and each process has a part of a checkpoint."""

    class PartsTrainer(kind):  # type: ignore[misc, valid-type, unused-ignore]
        def _move_model_to_device(self, model: Any, device: Any) -> None:
            if _zero.engine_of(model) is None:
                model.reshard()  # it may have been asked before: optimisers take the parts, not what was gathered for that

        def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
            """Written with the optimiser's, and so read."""

        def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
            _shard.write(Path(output_dir), self.model, self.optimizer, self.lr_scheduler)

        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None: ...

        def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
            _shard.read(Path(str(checkpoint)), self.model, self.optimizer, self.lr_scheduler)

    return PartsTrainer
