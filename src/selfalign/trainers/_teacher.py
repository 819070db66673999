"""The teacher of a distillation: what it reads before an answer, and what it would say at each of the answer's tokens.

With an adapter the teacher is the model in training without it, or with an average of it (`_average`), so that there is no second
copy in memory. It takes no part in the training: no gradient, no dropout, no random number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from selfalign.errors import UserError
from selfalign.models.rendering import Renderer
from selfalign.trainers._average import Average
from selfalign.trainers._batches import IGNORE, Lost, Row
from selfalign.trainers._shard import is_cut, placed
from selfalign.trainers._weighted import Batch, Total, token_logits
from selfalign.types import Example

if TYPE_CHECKING:
    import torch


def with_taught(
    rows: Sequence[Row], given: Sequence[Mapping[str, Any]], renderer: Renderer, limit: int, ending: int
) -> tuple[list[Row], list[Lost]]:
    """The rows with their `taught`, seeds as they are. Of a replay row ("bare") the teacher reads what its student reads.

    Rules of those that have none: `no_demonstrations`, `not_renderable`, `other_tokens` (behind the demonstrations the response
    has other tokens than behind the bare prompt, so that the two cannot be compared), `too_long`.

    Args:
        given: as for `tokenise`, with "shown": (prompt, response, system) of each demonstration.
        limit: the most tokens of what the teacher reads, response included.
        ending: tokens of a response's end.
    """
    kept: list[Row] = []
    lost: list[Lost] = []
    for row in rows:
        found = row if row.seed else _with_taught(row, given[row.place], renderer, limit, ending)
        (lost if isinstance(found, Lost) else kept).append(found)  # type: ignore[arg-type]
    return kept, lost


def _with_taught(row: Row, said: Mapping[str, Any], renderer: Renderer, limit: int, ending: int) -> Row | Lost:
    if said.get("bare"):
        return replace(row, taught=row)
    shown = [Example("", prompt, response, system=system) for prompt, response, system in said["shown"]]
    if not shown:
        return Lost(row.place, "no_demonstrations", "the teacher is shown none, so that it knows nothing better")
    try:
        ids, labels = renderer.pair_ids(said["prompt"], said["response"], said["history"], said["system"], shown)
    except UserError as error:
        return Lost(row.place, "not_renderable", f"with its demonstrations: {error}")
    cut = len(ids) - ending if said["unfinished"] else len(ids)
    taught = Row(row.place, row.seed, tuple(ids[:cut]), tuple(labels[:cut]), row.kind)
    if _learned(taught) != _learned(row):
        return Lost(row.place, "other_tokens", "behind its demonstrations the response has other tokens")
    if len(taught.ids) > limit:
        return Lost(row.place, "too_long", f"{len(taught.ids)} tokens with its demonstrations, the limit is {limit}")
    return replace(row, taught=taught)


def _learned(row: Row) -> list[int]:
    return [label for label in row.labels[1:] if label != IGNORE]


def taught_by(total: Total, model: Any, copy: Any, device: Any, half: Any, average: Average | None = None) -> Total:
    """A loss whose batches have the teacher's logits as `taught`.

    Args:
        model: the one in training, with an adapter that the teacher has not, where `copy` and `average` are None.
        copy: the teacher as a model of its own.
        half: the 16-bit type of matrix products; None for 32 bits.
        average: the weights that the model has as a teacher.
    """
    if copy is not None:
        placed(copy, device).eval().requires_grad_(False)
    teacher = model if copy is None else copy

    def with_logits(student: Any, batch: Batch, head: Any) -> torch.Tensor:
        if "taught_targets" in batch:
            batch = {**batch, "taught": _logits(teacher, copy is None, average, batch, device, half)}
        elif is_cut(teacher):  # its parts are gathered by all processes together, and another one's batch may ask it
            _logits(teacher, copy is None, average, {f"taught_{name}": each for name, each in batch.items()}, device, half)
        return total(student, batch, head)

    return with_logits


def _logits(teacher: Any, own: bool, average: Average | None, batch: Batch, device: Any, half: Any) -> torch.Tensor:
    import torch

    training = teacher.training
    teacher.eval()
    asked = {name: batch[f"taught_{name}"] for name in ("input_ids", "attention_mask", "targets")}
    products = torch.autocast(device.type, half, enabled=half is not None)
    with torch.no_grad(), products, teacher.disable_adapter() if own and average is None else nullcontext():
        said = average.in_place_of(teacher) if average else teacher
        found = token_logits(said, asked, teacher.get_output_embeddings())
    teacher.train(training)
    if is_cut(teacher):
        teacher.reshard()  # what is in no layer too, which waits for a backward pass
    return found
