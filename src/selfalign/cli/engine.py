"""`--engine auto`: vLLM on a GPU, OpenVINO on a processor, each where it is installed and can do the work, HF otherwise; and in a
run folder what it was begun with.

Decided before a recipe is made with it, so that a run's identity, its record and its `run.yaml` name an engine and not `auto`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from selfalign.cli.options import given, refilled
from selfalign.engines import HF, VLLM, OpenVINO, _openvino_model, _vllm_process, _weights, vllm
from selfalign.engines._requests import undecodable
from selfalign.errors import UserError
from selfalign.models.device import choose_device
from selfalign.models.names import resolve_ref
from selfalign.protocols import Preflight, declared
from selfalign.recipe import Recipe
from selfalign.record.store import Store
from selfalign.types import ModelRef

AUTO = "auto"


@dataclass(frozen=True)
class Planned:
    """What a command is about to do: all of it shall run on one engine."""

    recipes: Sequence[Recipe]
    models: Sequence[str]
    """As given; none where there is nothing to run."""
    folder: Path | None
    """The run folder that is gone on with, or begun."""


def offer_auto(parser: ArgumentParser, engines: Sequence[type]) -> None:
    """Says in the command's help that there is `auto`, where it can choose."""
    for action in parser._actions:
        if action.dest == "engine" and HF in engines:
            text = (action.help or "what runs the model").rstrip(".")
            action.help = f"{text}; auto: VLLM on a GPU, OpenVINO on a processor, where they can do the work, else HF."


def settle_engine(arguments: Sequence[str], engines: Sequence[type], plan: Callable[[Sequence[str]], Planned]) -> Sequence[str]:
    """The arguments with an engine by name in place of `--engine auto`; one line on the terminal says which one and why.

    Args:
        engines: what the recipe offers.
        plan: what the command would do with the arguments it is given, here with HF.

    Raises:
        UserError: options of an engine with `auto`; what `plan` raises; a model that cannot be found.
    """
    plain = refilled(arguments, "engine", AUTO, HF.__name__)
    if HF not in engines or plain == list(arguments):
        return arguments
    if given(arguments, "engine") != AUTO:
        return plain  # said, and overruled
    for argument in arguments:
        if argument.startswith("--engine."):
            name = argument.partition("=")[0]
            raise UserError(f"{name}: --engine auto chooses the engine, with its own options; give --engine HF, VLLM or OpenVINO")
    planned = plan(plain)
    if not any(planned.models):
        return plain  # nothing to run, or the command says that the model is missing
    if recorded := _recorded(planned.folder, engines):
        name, why = recorded["class_path"].rpartition(".")[2], f"{planned.folder} was begun with it"
    else:
        name, why = choose_engine(planned, engines)
    sys.stderr.write(f"selfalign: engine {name} (--engine auto: {why})\n")
    return refilled(arguments, "engine", AUTO, recorded or name)


def choose_engine(planned: Planned, engines: Sequence[type]) -> tuple[str, str]:
    """The engine's name and the reason. Raises UserError: a model that cannot be found or read."""
    device = choose_device(getattr(planned.recipes[0].engine, "device", "auto"))
    gpu = f"there is a GPU, {device}"
    if device.type == "cuda":
        why = _against_vllm(planned, engines)
        return (HF.__name__, f"{gpu}; {why}") if why else (VLLM.__name__, f"{gpu}, and vLLM")
    why = gpu if device.type != "cpu" else _against_openvino(planned, engines)
    return (HF.__name__, why) if why else (OpenVINO.__name__, "there is no GPU, and it runs this")


def _against_vllm(planned: Planned, engines: Sequence[type]) -> str:
    """What speaks against vLLM, "" for nothing. It is not asked itself, which would take long: `VLLM.check` does."""
    if VLLM not in engines:
        return "this recipe does not offer VLLM"
    if not _vllm_process.installed():
        return "vLLM is not installed; pip install 'selfalign[vllm]', or --engine VLLM --engine.python of another environment"
    found = (name for recipe in planned.recipes for _, each in recipe.samplings() if (name := vllm.undecodable(each)))
    name = next(found, "")
    return name and f"vLLM does not decode with {name}"


def _against_openvino(planned: Planned, engines: Sequence[type]) -> str:
    """What speaks against OpenVINO, "" for nothing; what costs the least to find out first."""
    if OpenVINO not in engines:
        return "this recipe does not offer OpenVINO"
    if not _openvino_model.installed():
        return "OpenVINO is not installed; pip install 'selfalign[cpu]'"
    for sampling in (each for recipe in planned.recipes for _, each in recipe.samplings()):
        if name := undecodable(sampling):
            return f"OpenVINO does not decode with {name}"
    asked = [name for recipe in planned.recipes for name in _judges(recipe)]
    for model in dict.fromkeys([*planned.models, *asked]):
        if why := _openvino_model.obstacle(_weights.tokenizer_and_config(resolve_ref(ModelRef(model)))[1]):
            return f"model {model!r} {why}"
    return ""


def _judges(recipe: Recipe) -> Iterator[str]:
    """The other models that the recipe's engine runs."""
    for part in (*recipe.scorers, *recipe.evaluators):
        asks = declared(part, Preflight)
        if asks.engine is None and asks.other_model not in ("", "base"):
            yield asks.other_model


def _recorded(folder: Path | None, engines: Sequence[type]) -> dict[str, Any] | None:
    """The engine that the run in the folder was begun with, with its options; None where there is no run, or another's."""
    if folder is None:
        return None
    try:
        with Store.read(folder) as store:
            chosen: dict[str, Any] = _as_option(store.identity().get("engine") or {})
    except UserError:  # no run there yet; of anything else the command says what is wrong
        return None
    return chosen if chosen.get("class_path") in {f"{each.__module__}.{each.__qualname__}" for each in engines} else None


def _as_option(recorded: Any) -> Any:
    """A part as an identity has it, in the words of an option; what is no part stays."""
    if not isinstance(recorded, dict) or "part" not in recorded:
        return recorded
    inner = {name: _as_option(value) for name, value in recorded.items() if name != "part"}
    return {"class_path": recorded["part"], "init_args": inner}
