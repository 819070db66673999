"""A model in OpenVINO's own form: traced with OpenVINO's PyTorch reader and kept in the cache by the checkpoint's hash.

optimum-intel would do the same but holds transformers below the version we need. The graph is what OpenVINO GenAI looks for:
keys and values as states with `beam_idx`, which it turns into paged attention when it loads the model.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import warnings
from contextlib import suppress
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from selfalign.cache import cache_folder
from selfalign.engines import _weights
from selfalign.errors import RunFailed, UserError, die_with_parent
from selfalign.models.names import locked, quiet
from selfalign.types import ModelRef

ARCHITECTURES = ("llama", "opt", "qwen2", "qwen3")
"""Those whose greedy text was compared with transformers'."""

_FORM = 1  # one more whenever the graph below changes: folders made by earlier versions are not read
_KEPT = 4
"""Converted models in the cache: one run's base and newest rounds; each takes 4 bytes a parameter."""

_REFUSED = 3
"""How a conversion ends that a user has to mend something for."""

_INPUTS = ("input_ids", "attention_mask", "position_ids", "beam_idx")


def installed() -> bool:
    return find_spec("openvino_genai") is not None


def check(name: str, config: Any) -> None:
    """Raises UserError: OpenVINO GenAI is not installed, or the model is of a kind that is not converted."""
    if not installed():
        raise UserError("engine OpenVINO needs the package openvino-genai; install it with: pip install 'selfalign[cpu]'")
    if why := obstacle(config):
        raise UserError(f"model {name!r} {why}; use engine HF")


def obstacle(config: Any) -> str:
    """Why a model with this configuration is not converted, as the end of a sentence about it; "" where it is."""
    kind, text = config.model_type, config.get_text_config()
    if kind not in ARCHITECTURES:
        return f"is of the kind {kind!r}, engine OpenVINO runs {', '.join(ARCHITECTURES)}"
    rope = (getattr(text, "rope_parameters", None) or {}).get("rope_type", "default")
    for trait, has in (
        ("a sliding window", "sliding_attention" in (getattr(text, "layer_types", None) or ())),
        (f"positions of the type {rope!r}", rope in ("dynamic", "longrope")),
    ):
        if has:  # either would be frozen into the graph as it was for one short text
            return f"has {trait}, which engine OpenVINO does not convert"
    return ""


def converted(model: ModelRef, config: Any) -> tuple[Path, frozenset[int]]:
    """The folder of the converted model, made at the first call (seconds to minutes), and the end tokens the model declares.

    Raises:
        UserError: the checkpoint cannot be read, or there is no room for its copy.
        RunFailed: the conversion died.
    """
    target = cache_folder() / "openvino" / _key(model, config)
    with locked(cache_folder() / "openvino.lock"):
        if not target.is_dir():
            _convert_apart(model, target)
        os.utime(target)
        _prune(target.parent)
        ends = json.loads((target / "ends.json").read_text(encoding="utf-8"))
    return target, frozenset(ends)


def _key(model: ModelRef, config: Any) -> str:
    import openvino

    named = [] if Path(model.base).is_dir() else [model.base, str(getattr(config, "_commit_hash", None))]
    parts = (str(_FORM), openvino.get_version(), model.hash, *named)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _prune(folder: Path) -> None:
    """Only the models used last stay: every round of every run has another one."""
    found = sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    for path in found[:-_KEPT]:
        shutil.rmtree(path, ignore_errors=True)


def _convert_apart(model: ModelRef, target: Path) -> None:
    """Converts in a process of its own, which dies with this one: tracing leaves 0.2 GiB behind for 135M parameters."""
    # Not by -m: the package has imported this module by then, of which Python would warn the user.
    command = [sys.executable, "-c", f"from {__name__} import _child; _child()"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "encoding": "utf-8"}
    with subprocess.Popen(command, start_new_session=True, **pipes) as child:  # so that Ctrl-C is for this process alone
        assert child.stdin is not None and child.stdout is not None
        with suppress(BrokenPipeError):
            child.stdin.write(json.dumps([asdict(model), str(target)]) + "\n")
            child.stdin.flush()
        said = child.stdout.read()
    if child.returncode == _REFUSED:
        raise UserError(json.loads(said.splitlines()[-1]))
    if child.returncode:
        raise RunFailed(f"converting {model.adapter or model.base} for OpenVINO ended with code {child.returncode}")


def _child() -> None:
    """The other end of `_convert_apart`: the job is a line of standard input, whose end is the parent's; a refusal is printed."""
    model, target = json.loads(sys.stdin.readline())
    die_with_parent()
    try:
        _convert(ModelRef(**model), Path(target))
    except UserError as error:
        sys.stdout.write(f"\n{json.dumps(str(error))}\n")
        sys.stdout.flush()
        sys.exit(_REFUSED)


def _convert(model: ModelRef, target: Path) -> None:
    import openvino
    import torch

    tokenizer = _weights.tokenizer_and_config(model)[0]
    loaded = _weights.weights(model, torch.device("cpu"), torch.float32, "sdpa")
    size = _weights.vocabulary(loaded, tokenizer)
    target.parent.mkdir(parents=True, exist_ok=True)
    needed, free = int(4.1 * loaded.num_parameters()), shutil.disk_usage(target.parent).free
    if free < needed:
        raise UserError(
            f"{target.parent} has {free / 1e6:.0f} MB free, the model in OpenVINO's form needs {needed / 1e6:.0f}; make room, "
            "or set SELFALIGN_CACHE to a folder on another disk"
        )
    partial = target.parent.with_name("openvino.partial")  # one at a time, by the lock
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    openvino.save_model(_graph(loaded, size), partial / "openvino_model.xml", compress_to_fp16=False)
    (partial / "ends.json").write_text(json.dumps(sorted(_weights.own_stop_ids(loaded))), encoding="utf-8")
    for path in partial.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    partial.rename(target)


def _graph(loaded: Any, size: int) -> Any:
    """The model as an OpenVINO graph with states, its logits of shape (rows, columns, size)."""
    import torch
    from openvino import PartialShape
    from openvino._offline_transformations import apply_make_stateful_transformation, apply_moc_transformations
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    _cut_head(loaded, size)
    rows, past, new = 2, 3, 4  # all different, so that no dimension is taken for another
    with torch.inference_mode():
        layers = loaded(torch.zeros((1, 1), dtype=torch.long), use_cache=True).past_key_values.layers
    shapes = [(state.shape[1], state.shape[3]) for layer in layers for state in (layer.keys, layer.values)]
    example = (
        torch.zeros((rows, new), dtype=torch.long),
        torch.ones((rows, past + new), dtype=torch.long),
        torch.arange(past, past + new).repeat(rows, 1),
        torch.arange(rows),
        *(torch.zeros((rows, heads, past, width)) for heads, width in shapes),
    )
    # OpenVINO's `convert_model` is these calls and a report of its use to its makers, which nobody asked us for.
    reader = FrontEndManager().load_by_framework("pytorch")
    with torch.no_grad(), quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer, about Python values that it takes as constants
        traced = TorchScriptPythonDecoder(_plain(loaded), example_input=example)  # must outlive the conversion
        graph = reader.convert(reader.load(traced))
    states = {f"past.{place}": f"present.{place}" for place in range(len(shapes))}
    for port, name in zip(graph.inputs, (*_INPUTS, *states), strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_friendly_name(name)
        port.get_node().set_partial_shape(PartialShape([-1] if name == "beam_idx" else [-1, -1]))
    for port, (heads, width) in zip(graph.inputs[len(_INPUTS) :], shapes, strict=True):
        port.get_node().set_partial_shape(PartialShape([-1, heads, -1, width]))
    for port, name in zip(graph.outputs, ("logits", *states.values()), strict=True):
        port.get_tensor().set_names({name})
    apply_moc_transformations(graph, cf=False)
    apply_make_stateful_transformation(graph, states)
    _start_empty(graph)
    return graph


def _cut_head(loaded: Any, size: int) -> None:
    """Leave the ids that are no tokens out of the logits, so that none of them is ever chosen."""
    import torch

    head = loaded.get_output_embeddings()
    if head.weight.shape[0] > size:
        cut = torch.nn.Linear(head.weight.shape[1], size, bias=head.bias is not None)
        cut.weight = torch.nn.Parameter(head.weight[:size])
        if head.bias is not None:
            cut.bias = torch.nn.Parameter(head.bias[:size])
        loaded.set_output_embeddings(cut)


def _plain(loaded: Any) -> Any:
    """One forward pass with plain tensors for all that transformers keeps in objects, as tracing needs it."""
    import torch
    from transformers import DynamicCache

    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loaded = loaded

        def forward(self, ids: Any, mask: Any, positions: Any, beams: Any, *states: Any) -> tuple[Any, ...]:
            cache: Any = DynamicCache(config=self.loaded.config)
            chosen = [state.index_select(0, beams) for state in states]
            for layer, keys, values in zip(cache.layers, chosen[::2], chosen[1::2], strict=True):
                layer.lazy_initialization(keys, values)
                layer.keys, layer.values = keys, values
            columns = torch.arange(mask.shape[1])
            earlier = columns[None, :] <= columns[mask.shape[1] - ids.shape[1] :, None]
            seen = earlier[None, None] & mask[:, None, None, :].bool()
            bias = torch.where(seen, 0.0, torch.finfo(torch.float32).min)
            out = self.loaded(input_ids=ids, attention_mask=bias, position_ids=positions, past_key_values=cache, use_cache=True)
            return (out.logits, *(state for layer in out.past_key_values.layers for state in (layer.keys, layer.values)))

    return Step().eval()


def _start_empty(graph: Any) -> None:
    """Give each state what it is before the first token: no columns. Paged attention is only found behind such states."""
    import numpy as np
    from openvino import opset13 as ops

    rows = ops.gather(ops.shape_of(graph.input("input_ids"), output_type="i64"), ops.constant([0]), ops.constant(0))
    for node in graph.get_ops():
        if node.get_type_name() == "ReadValue":
            shape = node.get_output_partial_shape(0)
            fixed = [ops.constant(np.array([size], dtype=np.int64)) for size in (shape[1].get_length(), 0, shape[3].get_length())]
            node.set_arguments([ops.broadcast(ops.constant(np.float32(0)), ops.concat([rows, *fixed], axis=0))])
    graph.validate_nodes_and_infer_types()
