"""The model to train, as the training process loads it: its base in the type and the place that the method wants."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfalign.errors import UserError, in_a_line
from selfalign.models.device import choose_device, half_type, own_gpu
from selfalign.models.merge import merged
from selfalign.models.skeleton import skeleton
from selfalign.trainers._shard import cut, is_cut, lent
from selfalign.types import ModelRef


def load_model(spec: dict[str, Any]) -> tuple[Any, Any]:
    """The model to train and the type its weights are stored in.

    What is trained is float32. A frozen base is loaded in the type of the matrix products, on a GPU right there: no copy of it in
    float32 is ever made. With strategy fsdp each device is given its part of the layers, one after the other; what DeepSpeed
    takes waits in main memory (`_zero.start`). An adapter of an earlier round is trained further (not stacked, not merged) where
    the method is one with an adapter, and merged into the weights where all of them are trained.
    """
    import torch

    options, frozen = spec["options"], spec["options"]["method"] != "full"
    model = _frozen(spec["base"], options) if frozen else _loaded(spec["base"], "auto")
    stored, cuts = model.dtype, options.get("strategy") == "fsdp"
    if not frozen and (spec["adapter"] or not cuts):
        model = model.to(torch.float32)
    if spec["adapter"]:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, spec["adapter"], is_trainable=True)
        model = model if frozen else merged(model).requires_grad_(True)  # PEFT had frozen all but its own
    elif frozen:
        model = _with_adapter(model, spec)
    if not cuts:  # several processes would wait for each other's gradients of them
        for weight in {*model.parameters()}.difference(*(part.parameters() for part in _text_parts(model))):
            weight.requires_grad = False
    device = device_of(options)
    return (cut(model, device, half_type(device, options["precision"]), bool(options.get("offload"))) if cuts else model), stored


def device_of(options: dict[str, Any]) -> Any:
    """The device of the training process, which is shown only those that it may use (`_process.surroundings`)."""
    return choose_device(options["device"].partition(":")[0])


def _frozen(folder: str, options: dict[str, Any]) -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    device = device_of(options)
    if device.type == "cuda":  # of several processes each has its own
        device = torch.device("cuda", own_gpu())
    dtype = half_type(device, options["precision"]) or torch.float32
    if options["method"] == "lora":
        # What is to be cut goes there part by part.
        whole = device.type != "cpu" and options.get("strategy") not in ("fsdp", "deepspeed")
        return _loaded(folder, dtype, **({"device_map": {"": device}} if whole else {}))
    four_bits = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    return _loaded(folder, dtype, device_map={"": device}, quantization_config=four_bits)


def _loaded(folder: str, dtype: Any, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM

    # No implementation of attention by what the model's files say: it could be one of the hub.
    plain: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": False, "attn_implementation": None}
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **plain, **options)


def _text_parts(model: Any) -> list[Any]:
    """The parts that a text goes through: all, but of a model that sees or hears too (Gemma 3 from 4B on)."""
    if model.config.get_text_config() is model.config:
        return [model]
    return [model.get_decoder(), model.get_output_embeddings()]


def _lora(model: Any, rank: int, target: str, **more: float) -> Any:
    """What PEFT is to lay on the parts that a text goes through; on the others an adapter would stay as it begins, and engines
    may not take it."""
    from peft import LoraConfig

    inside = {module for part in _text_parts(model) for module in part.modules()}
    holds = {name for name, module in model.named_modules() if not inside.isdisjoint(module.modules())}
    beside = [name for name, _ in model.named_modules() if name not in holds and name.rpartition(".")[0] in holds]
    others = rf"({'|'.join(map(re.escape, beside))})(\..*)?" if beside else None
    return LoraConfig(r=rank, target_modules=target, exclude_modules=others, task_type="CAUSAL_LM", **more)  # type: ignore[arg-type]


def _with_adapter(model: Any, spec: dict[str, Any]) -> Any:
    from peft import get_peft_model

    options = spec["options"]
    more = {name: options[name] for name in ("lora_alpha", "lora_dropout")}
    config = _lora(model, options["lora_rank"], options["lora_target"], **more)
    # An adapter says whose it is by the name of its base, not by the place in the hub's cache that it was read from here.
    base = ModelRef(spec["base_name"])
    model.name_or_path = base.name
    return get_peft_model(model, config, revision=base.base.removeprefix(base.name).removeprefix("@") or None)


def count_adapter(folder: Path, rank: int, target: str) -> int:
    """Weights of the adapter that a training would put on the model of a folder.

    Raises:
        UserError: the model takes none, or no layer is named so.
    """
    from peft import get_peft_model

    base = skeleton(folder)
    try:
        adapted = get_peft_model(base, _lora(base, rank, target))
    except ValueError as error:
        what = f"trainer SFT: {type(base).__name__} takes no adapter with --trainer.lora_target {target!r}"
        raise UserError(f"{what}: {in_a_line(error)}; name other layers, or use --trainer.method full") from error
    return sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)


def second_copy(spec: dict[str, Any]) -> Any:
    """The teacher as a model of its own, in float32; None where it is the model in training, without its adapter or averaged."""
    if (teacher := spec.get("teacher_at")) is None:
        return None
    if spec["options"]["method"] != "full" and teacher == {"base": spec["base"], "adapter": None}:
        return None
    return load_model({**spec, **teacher, "options": {**spec["options"], "method": "full"}})[0]


@contextmanager
def reference(spec: dict[str, Any], model: Any) -> Iterator[Any]:
    """What the rows are compared with: the model in training as it starts, or an earlier round's. That one's adapter takes the
    place of the newer one on the same base; all weights are loaded for that alone, while those in training wait off the GPU."""
    other = spec.get("reference_at")
    if other is None or other == {"base": spec["base"], "adapter": spec["adapter"]}:
        yield model
    elif other["adapter"] and other["base"] == spec["base"] and is_cut(model) and spec["options"]["method"] != "full":
        with lent(model, Path(other["adapter"])):
            yield model
    elif other["adapter"] and other["base"] == spec["base"] and spec["options"]["method"] != "full":
        model.load_adapter(other["adapter"], "reference")
        model.set_adapter("reference")
        yield model
        model.set_adapter("default")
        model.delete_adapter("reference")
    else:
        yield load_model({**spec, **other})[0]
