"""Loading for the HF engine: device, number type, tokenizer, weights; without a word on the terminal."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfalign.errors import Interrupted, RunFailed, UserError, in_a_line
from selfalign.models.device import half_type, out_of_memory
from selfalign.models.names import located, quiet, resolve_ref
from selfalign.models.rendering import IGNORE, NOTES, Renderer, make_renderer, preflight
from selfalign.models.rounding import rounded
from selfalign.models.sizes import odd_windows, window
from selfalign.models.skeleton import check_fits
from selfalign.types import Example, Format, ModelRef

DTYPES = ("auto", "float32", "bfloat16", "float16")
_NO_TOKENIZER = "instantiate the backend tokenizer"
"""In what transformers says of a folder without one."""


def dtype(name: str, on: Any) -> Any:
    """The number type by name; auto: the 16-bit type that the device is quicker in (`half_type`), else float32."""
    import torch

    if name not in DTYPES:
        raise UserError(f"dtype {name!r} is unknown; it is one of {', '.join(DTYPES)}")
    return getattr(torch, name) if name != "auto" else half_type(on) or torch.float32


def tokenizer_and_config(model: ModelRef) -> tuple[Any, Any]:
    """Both, without weights. Raises UserError: there is no such model, it has no tokenizer, or its files cannot be read."""
    from transformers import AutoConfig, AutoTokenizer

    with quiet(), _explained(model):
        base, adapter = located(model.base), located(model.adapter or "")
        source = adapter if adapter and (Path(adapter) / "tokenizer_config.json").is_file() else base
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        except ValueError as error:
            if _NO_TOKENIZER not in str(error):
                raise
            raise UserError(
                f"{source} has no tokenizer that can be read, such as tokenizer.json; copy the files of the model's own there"
            ) from error
        if not isinstance(tokenizer.model_max_length, int | float):
            given = f"model_max_length is {tokenizer.model_max_length!r:.80}"
            raise UserError(f"{source}, tokenizer_config.json: {given}; it must be a number of tokens")
        return tokenizer, AutoConfig.from_pretrained(base)


def weights(model: ModelRef, on: Any, kind: Any, attention: str) -> Any:
    """The model ready to generate, an adapter merged into its base (see `_merged`)."""
    from transformers import AutoModelForCausalLM, GenerationConfig

    with quiet(), _explained(model):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            located(model.base),
            dtype="auto" if model.adapter else kind,
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
        )
        if model.adapter:
            from peft import PeftModel

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # `check_adapter` has looked at what they are about
                loaded = _merged(PeftModel.from_pretrained(loaded, located(model.adapter)), kind)
    loaded = loaded.to(device=on, dtype=kind).eval()
    # The model's own decoding defaults (a temperature, a length …) must not leak into ours; its end tokens are kept.
    ends = loaded.generation_config.eos_token_id if loaded.generation_config is not None else None
    loaded.generation_config = GenerationConfig(eos_token_id=ends)  # type: ignore[no-untyped-call]
    return loaded


def _merged(adapted: Any, kind: Any) -> Any:
    """Merged in float32, then brought to `kind` by a draw (`rounded`), one layer after the other: a copy of the whole base in
    float32 would be twice what a model of 16 bits takes, and the nearest number of 16 bits is, for small updates, the old one.

    Weights that two layers share (tied embeddings) are shared no longer, as the adapter is one layer's.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from torch.nn import Parameter

    for name, layer in adapted.named_modules():
        if isinstance(layer, BaseTunerLayer) and (weight := getattr(layer.get_base_layer(), "weight", None)) is not None:
            own = layer.get_base_layer().weight = Parameter(weight.data.float(), requires_grad=False)
            layer.merge(safe_merge=True)
            own.data = rounded(own.data, kind, 0, name).to(weight.device)
    return adapted.merge_and_unload(safe_merge=True)  # of those that are merged already it only warns


def checked(model: ModelRef, seeds: Sequence[Example], format: Format, most: int | None = None) -> ModelRef:
    """The resolved model, on which the seeds are proven to train and generate; reads tokenizer and configuration only.

    Args:
        most: tokens, where those are fewer than the model's.

    Raises:
        UserError: no such model, no usable template or end token, a seed that contains a marker or does not fit the window.
    """
    resolved = resolve_ref(model)
    tokenizer, config = tokenizer_and_config(resolved)
    renderer = make_renderer(tokenizer, format)
    told = preflight(renderer, seeds, min(window(config, tokenizer), most or 10**9))
    rows = getattr(config.get_text_config(), "vocab_size", None)
    ends = declared_stop_ids(resolved, config)
    if odd := [end for end in ends if not (isinstance(end, int) and 0 <= end < (rows or 10**9))]:
        told.append(
            f"eos_token_id in the model's files names {', '.join(map(str, odd))}, no id of a token of it, which ends nothing"
        )
    for note in (*told, *odd_windows(config, tokenizer)):
        NOTES.warning("%s: %s", model.base, note)
    _check_ends(renderer, seeds, ends)
    used = {*renderer.prompt_stops.ids, *renderer.response_stops.ids}
    used.update(*(renderer.pair_ids(seed.prompt, seed.response, seed.history, seed.system)[0] for seed in seeds))
    if rows is not None and used and max(used) >= rows:
        raise UserError(
            f"model {model.base!r}: its tokenizer gives the id {max(used)} but the model embeds {rows} tokens; "
            "resize its embeddings"
        )
    return resolved


def _check_ends(renderer: Renderer, seeds: Sequence[Example], ends: Collection[int]) -> None:
    """Raises UserError: an answer holds a token that ends all that the model writes."""
    for seed in seeds:
        _, labels = renderer.pair_ids(seed.prompt, seed.response, seed.history, seed.system)
        answer = [label for label in labels if label != IGNORE]
        if found := next((id for id in answer[: len(answer) - renderer.ending] if id in ends), None):
            text = str(renderer.tokenizer.decode([found]))
            raise UserError(
                f"{seed.id}: its response holds {text!r}, the token {found}, and eos_token_id in the model's files"
                " (generation_config.json, else config.json) says that answers end there; write the id of the end token there"
            )


def check_adapter(resolved: ModelRef) -> None:
    """Raises UserError: an adapter that does not belong on its base; for engines that leave its weights to others."""
    if resolved.adapter is not None:
        check_fits(located(resolved.base), located(resolved.adapter), resolved.hash)


def own_stop_ids(loaded: Any) -> frozenset[int]:
    """The end tokens that the model itself declares, which can be more than its tokenizer's one."""
    return _ids(loaded.generation_config.eos_token_id)


def declared_stop_ids(model: ModelRef, config: Any) -> frozenset[int]:
    """`own_stop_ids` of a model that is not loaded here."""
    from transformers import GenerationConfig

    with quiet(), _explained(model):
        try:
            found = GenerationConfig.from_pretrained(located(model.base))
        except OSError:  # as transformers does where the file is not there
            found = GenerationConfig.from_model_config(config)
    return _ids(found.eos_token_id)


def _ids(ends: int | Sequence[int] | None) -> frozenset[int]:
    return frozenset(() if ends is None else (ends,) if isinstance(ends, int | float | str) else ends)


def vocabulary(loaded: Any, tokenizer: Any) -> int:
    """Ids from here on are padding of the embedding, not tokens."""
    rows: int = loaded.get_output_embeddings().weight.shape[0]
    return min(rows, int(max(tokenizer.get_vocab().values())) + 1)


@contextmanager
def _explained(model: ModelRef) -> Iterator[None]:
    """A missing or broken model as one line instead of a library's page."""
    name = model.base if model.adapter is None else f"{model.base} with adapter {model.adapter}"
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f"running models needs the package {error.name}; install it with: pip install 'selfalign[hf]'") from error
    except (UserError, RunFailed, Interrupted):
        raise
    except BaseException as error:
        if out_of_memory(error):
            raise RunFailed(f"there is not enough memory to load {name}; use a smaller model or another device") from error
        # Files that are damaged may make the libraries raise anything; tokenizers' panics are no `Exception`.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"model {name!r} cannot be loaded: {in_a_line(error)}") from error


def token_lengths(model: ModelRef, texts: Sequence[str]) -> list[int]:
    """As `EngineLimits.token_lengths`, by the model's tokenizer."""
    if not texts:
        return []
    tokenizer, _ = tokenizer_and_config(model)
    return [len(ids) + 1 for ids in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]]
