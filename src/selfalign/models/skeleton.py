"""A model without its weights (on torch's meta device), as transformers would load it: in a second, whatever its size. What it
has not, or cannot be, is said here, before anything is generated."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from selfalign.errors import Interrupted, UserError, in_a_line
from selfalign.models.adapters import check_adapter
from selfalign.models.files import header, read_json, weights
from selfalign.models.names import quiet
from selfalign.models.rendering import NOTES
from selfalign.text import counted

_UNPACKED = ("mxfp4",)
"""Quantised weights that transformers spreads out as it loads them."""
_BOTH_WAYS = ("ForMaskedLM", "ForPreTraining")


def skeleton(folder: Path, attention: str | None = None) -> Any:
    """The model that writes texts, of a folder's configuration and the headers of its weights.

    Args:
        attention: transformers' name of an implementation of attention; None for the one that it takes by itself.

    Raises:
        UserError: it is no model of that kind, its weights are quantised or have other shapes, not all of them are there, or it
            has no such attention.
    """
    from transformers import AutoModelForCausalLM

    config = read_json(folder / "config.json")
    if (packed := _packed(config)) and packed not in _UNPACKED:
        raise UserError(
            f"{folder}, config.json: its weights are quantised ({packed}), and so neither trained nor run by --engine HF; give"
            " the model it was made of (for an adapter as base_model_name_or_path in its adapter_config.json; --trainer.method"
            " qlora brings it to 4 bits by itself)"
        )
    named = next(iter(config.get("architectures") or []), "")
    if config.get("is_encoder_decoder") or str(named).endswith(_BOTH_WAYS):
        raise UserError(f"{folder}, config.json: {named or 'it'} has an encoder, {_NO_WRITER}")
    try:
        with quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                device_map="meta",
                attn_implementation=attention,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except (UserError, Interrupted):
        raise
    except Exception as error:  # files that are damaged may make the libraries raise anything
        if "Unrecognized configuration class" in str(error):
            raise UserError(f"{folder}, config.json: {named or 'it'} is {_NO_WRITER}") from error
        remedy = (
            "; --engine.attention names another one, such as eager" if attention and "attention" in str(error).lower() else ""
        )
        raise UserError(f"{folder} cannot be loaded: {in_a_line(error)}{remedy}") from error
    model, found = loaded
    for name, stored, wanted in sorted(found["mismatched_keys"]):
        shapes = f"the shape {tuple(stored)} in its files and {tuple(wanted)} by its config.json"
        raise UserError(f"{folder}: {name} has {shapes}; the two are not of the same model")
    # transformers would fill in random weights, and texts and training would go on with them.
    if missing := sorted(found["missing_keys"]):
        what = f"{folder} lacks {len(missing)} of the weights of a {type(model).__name__}, such as {missing[0]}"
        raise UserError(f"{what} ({named} by its config.json); give a whole model that writes texts")
    _check_stored(folder, packed)
    if unread := sorted(name for name in found["unexpected_keys"] if not name.endswith(_BUFFERS)):
        NOTES.warning(
            "%s holds %s that a %s does not read, such as %s; if it should, its config.json is another model's",
            folder,
            counted(len(unread), "weight"),
            type(model).__name__,
            unread[0],
        )
    return model


def _check_stored(folder: Path, packed: str) -> None:
    """Raises UserError: weights of so few bits that they mean nothing without a scale, which the configuration does not name."""
    for file in () if packed else weights(folder):
        for name, kind, _ in header(folder / file):
            if name.endswith("weight") and kind.startswith(_SCALED):
                raise UserError(
                    f"{folder / file}: {name} is stored as {kind}, and config.json does not say how (quantization_config);"
                    " give the model it was made of"
                )


_SCALED = ("F8", "F6", "F4", "I8")
"""Number types of .safetensors that are read with a scale."""
_BUFFERS = ("inv_freq", ".attn.bias", "attention.bias", "masked_bias", "position_ids")
"""What some files hold and a model computes by itself."""
_NO_WRITER = "no model that transformers loads to write texts (AutoModelForCausalLM); give one that is"


def _packed(config: dict[str, Any]) -> str:
    """The method by which weights are quantised; "" for none."""
    inner = config.get("text_config")
    given = config.get("quantization_config") or (isinstance(inner, dict) and inner.get("quantization_config"))
    if isinstance(given, dict):
        return str(given.get("quant_method") or "bitsandbytes")
    own = config.get("quantization")
    return "MLX" if isinstance(own, dict) and "bits" in own else ""


@lru_cache(maxsize=8)
def check_loads(folder: str, adapter: str, digest: str, attention: str) -> None:
    """Asked once for files of this hash. Raises UserError: as `skeleton` and, where there is one, as `check_adapter`."""
    model = skeleton(Path(folder), attention)
    if adapter:
        check_adapter(Path(adapter), model)


@lru_cache(maxsize=8)
def check_fits(folder: str, adapter: str, digest: str) -> None:
    """For an engine that runs models without transformers: an adapter, on a base that transformers could load from its folder.

    Raises:
        UserError: as `check_adapter`.
    """
    try:
        base = skeleton(Path(folder))
    except UserError:
        return
    check_adapter(Path(adapter), base)
