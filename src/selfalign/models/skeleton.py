"""A model without its weights (on torch's meta device), as transformers would load it: in a second, whatever its size. What it
has not, or cannot be, is said here, before anything is generated."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from selfalign.errors import Interrupted, UserError, in_a_line
from selfalign.models.files import read_json
from selfalign.models.names import quiet

_UNPACKED = ("mxfp4",)
"""Quantised weights that transformers spreads out as it loads them."""
_BOTH_WAYS = ("ForMaskedLM", "ForPreTraining")


def skeleton(folder: Path) -> Any:
    """The model that writes texts, of a folder's configuration and the headers of its weights.

    Raises:
        UserError: it is no model of that kind, its weights are quantised, or not all of them are there.
    """
    from transformers import AutoModelForCausalLM

    config = read_json(folder / "config.json")
    if (packed := _packed(config)) and packed not in _UNPACKED:
        raise UserError(
            f"{folder}, config.json: its weights are quantised ({packed}), and so neither trained nor run by --engine HF; give"
            " the model it was made of (--trainer.method qlora brings that to 4 bits by itself)"
        )
    named = next(iter(config.get("architectures") or []), "")
    if config.get("is_encoder_decoder") or str(named).endswith(_BOTH_WAYS):
        raise UserError(f"{folder}, config.json: {named or 'it'} has an encoder, {_NO_WRITER}")
    try:
        with quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder, device_map="meta", use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
    except (UserError, Interrupted):
        raise
    except Exception as error:  # files that are damaged may make the libraries raise anything
        if "Unrecognized configuration class" in str(error):
            raise UserError(f"{folder}, config.json: {named or 'it'} is {_NO_WRITER}") from error
        raise UserError(f"{folder} cannot be loaded: {in_a_line(error)}") from error
    model, found = loaded
    # transformers would fill in random weights, and texts and training would go on with them.
    if missing := sorted(found["missing_keys"]):
        what = f"{folder} lacks {len(missing)} of the weights of a {type(model).__name__}, such as {missing[0]}"
        raise UserError(f"{what} ({named} by its config.json); give a whole model that writes texts")
    return model


_NO_WRITER = "no model that transformers loads to write texts (AutoModelForCausalLM); give one that is"


def _packed(config: dict[str, Any]) -> str:
    """The method by which weights are quantised; "" for none."""
    inner = config.get("text_config")
    given = config.get("quantization_config") or (isinstance(inner, dict) and inner.get("quantization_config"))
    return str(given.get("quant_method") or "bitsandbytes") if isinstance(given, dict) else ""


@lru_cache(maxsize=8)
def check_loads(folder: str, digest: str) -> None:
    """Raises UserError: as `skeleton`. Asked once for files of this hash."""
    skeleton(Path(folder))
