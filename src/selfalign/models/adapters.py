"""Whether an adapter belongs on its base, told before any weight of the base is read.

PEFT lets an adapter be laid on a base of another depth: what has no place is left out, and layers without weights get random ones
that add nothing. A run would go on with the base, or with a part of the adapter.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

from selfalign.errors import Interrupted, UserError, in_a_line
from selfalign.models.names import quiet
from selfalign.models.rendering import NOTES
from selfalign.text import counted


def check_adapter(folder: Path, base: Any) -> None:
    """
    Args:
        base: the model it is made for, without its weights (`skeleton`), which is changed.

    Raises:
        UserError: an adapter of a kind that cannot be merged into weights, of another base, without some of its weights, or
            with weights that are no numbers (NaN, infinity), as a training that came apart leaves them.
    """
    kind = type(base).__name__
    try:
        with quiet(), warnings.catch_warnings(record=True) as said:
            from peft import PeftConfig, PeftModel, load_peft_weights

            warnings.simplefilter("always")
            config = PeftConfig.from_pretrained(str(folder))
            if why := _unmergeable(config):
                raise UserError(f"{folder}: {why}, and so cannot be made part of the model's weights; give a LoRA adapter")
            if hasattr(config, "init_lora_weights"):  # some kinds begin from the base's weights, of which there are none here
                config.init_lora_weights = False
            adapted = PeftModel(base, config, low_cpu_mem_usage=True)
            mapping = getattr(base, "_checkpoint_conversion_mapping", None)
            found = adapted.load_adapter(str(folder), "default", torch_device="cpu", key_mapping=mapping)
            weights = load_peft_weights(str(folder), device="cpu")  # those laid on the base have no values, as it has none
    except (UserError, Interrupted):
        raise
    except NotImplementedError:  # what cannot be computed without weights is known when they are loaded
        return
    except Exception as error:  # files that are damaged may make the libraries raise anything
        raise UserError(f"adapter {folder} does not fit its base, a {kind}: {in_a_line(error)}; {_REMEDY}") from error
    for names, what in ((found.missing_keys, "has no weights for {} of"), (found.unexpected_keys, "has {} that are not in")):
        if names:
            number, such = counted(len(names), "tensor"), f"such as {sorted(names)[0]}"
            raise UserError(f"adapter {folder} {what.format(number)} its base, a {kind}, {such}; {_REMEDY}")
    apart = next((name for name, weight in weights.items() if not weight.float().isfinite().all()), None)
    if apart is not None:
        raise UserError(f"adapter {folder}: {apart} holds NaN or infinity: its training came apart; take an earlier checkpoint")
    _tell_unknown(folder, said)


_REMEDY = (
    "save it anew, or have base_model_name_or_path in its adapter_config.json name the model that it was made for, with the same"
    " embeddings where they were resized"
)


def _unmergeable(config: Any) -> str:
    """What an adapter has that only runs beside the model, as the end of a sentence about it; "" for nothing."""
    if config.is_prompt_learning or config.is_adaption_prompt:
        kind = str(getattr(config.peft_type, "value", config.peft_type))
        return f"an adapter of the kind {kind} puts tokens of its own before a text"
    return "an activated LoRA works behind certain tokens alone" if getattr(config, "alora_invocation_tokens", None) else ""


def _tell_unknown(folder: Path, said: list[warnings.WarningMessage]) -> None:
    """PEFT leaves options out that it does not know, such as those of a later version."""
    for each in said:
        if options := re.match(r"Unexpected keyword arguments \[(.*?)\]", str(each.message)):
            NOTES.warning(
                "%s: this version of peft leaves out %s, which it does not know; if that changes what is computed, update peft",
                folder / "adapter_config.json",
                options[1],
            )
