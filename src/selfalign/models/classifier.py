"""Hugging Face sequence classifiers as judges and reward models: only trained ones load, and no text is cut to fit one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from selfalign.errors import RunFailed, UserError, in_a_line
from selfalign.models.device import choose_device, empty_cache, out_of_memory
from selfalign.models.limits import bounded
from selfalign.models.names import located, quiet, resolve_model
from selfalign.models.rendering import Renderer, make_renderer

END = "{eos}"
"""In a rendering, at its very end: the tokenizer's end token."""


@contextmanager
def released(classifier: str, part: str, batch_size: int) -> Iterator[None]:
    """For a block that loads a classifier: hands its memory back, and reports a lack of memory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise RunFailed(
            f"there is not enough memory for classifier {classifier!r} with batch_size {batch_size};"
            f" lower {part}.batch_size, or use device=cpu"
        ) from error
    empty_cache()


def load(classifier: str, device: str) -> tuple[Any, Any]:
    """Tokenizer and model of a local folder or hub name, from safetensors and without code of its own.

    Raises:
        UserError: it cannot be loaded, or its head is not trained.
    """
    try:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        chosen = choose_device(device)
        source = located(resolve_model(classifier))
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            model, loaded = AutoModelForSequenceClassification.from_pretrained(
                source,
                # On the processor half precision is emulated or less exact, so float32 there whatever was saved.
                dtype=torch.float32 if chosen.type == "cpu" else "auto",
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
            model = model.to(chosen).eval()
    except ImportError as error:
        raise UserError(f"a classifier needs the package {error.name}; install it with: pip install 'selfalign[hf]'") from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        if out_of_memory(error):
            raise
        raise UserError(f"classifier {classifier!r} cannot be loaded: {in_a_line(error)}") from error
    # transformers would fill in random weights, and the figures would look like any others.
    if missing := sorted(loaded["missing_keys"]):
        what = f"classifier {classifier!r} lacks the weights {', '.join(map(repr, missing[:3]))}"
        raise UserError(f"{what}; give a trained sequence classifier")
    text = model.config.get_text_config()
    if text.pad_token_id is None:
        text.pad_token_id = tokenizer.pad_token_id
    return tokenizer, model


def window(tokenizer: Any, model: Any) -> int:
    """How many tokens the classifier reads at most."""
    said = (tokenizer.model_max_length, getattr(model.config.get_text_config(), "max_position_embeddings", None))
    return min((int(value) for value in said if value and 0 < value < 10**9), default=10**9)


def rendering_fits(rendering: str) -> bool:
    """Whether a rendering has {response} once, and {eos} nowhere but at its very end; "" is the tokenizer's own form."""
    body = rendering.removesuffix(END)
    return not rendering or (body.count("{response}") == 1 and END not in body)


def token_ids(tokenizer: Any, rendering: str, prompt: str, response: str) -> list[int]:
    """What the classifier reads for a pair; "" renders it as the tokenizer's own form for two texts.

    Raises:
        UserError: the rendering asks for an end token that the tokenizer does not have.
    """
    # What an answer says must not pass for a special token: an end token inside it would hide what follows from the pooling.
    plain: dict[str, Any] = {"split_special_tokens": True, "truncation": False, "verbose": False}
    if not rendering:
        return list(tokenizer(prompt, response, **plain)["input_ids"])
    texts = {"{prompt}": prompt, "{response}": response}
    # In one pass: braces inside the texts stay what they are.
    whole = re.sub(r"\{prompt\}|\{response\}", lambda found: texts[found.group()], rendering.removesuffix(END))
    ids = list(tokenizer(whole, **plain)["input_ids"])
    if rendering.endswith(END):
        if tokenizer.eos_token_id is None:
            raise UserError("a rendering ends with {eos}, but the classifier's tokenizer has no end token; take it out")
        ids += [] if ids and ids[-1] == tokenizer.eos_token_id else [tokenizer.eos_token_id]
    return ids


def outputs(classifier: str, model: Any, rows: Mapping[int, list[int]], batch_size: int) -> dict[int, list[float]]:
    """Each row's logits, one for each output, under the row's key.

    Raises:
        RunFailed: the classifier gives something that is no number.
    """
    import torch

    pad = model.config.get_text_config().pad_token_id
    size = batch_size if pad is not None else 1
    # Of like length together, the longest first: memory that is too small shows at once.
    order = sorted(rows, key=lambda place: -len(rows[place]))
    found: dict[int, list[float]] = {}
    for places in (order[at : at + size] for at in range(0, len(order), size)):
        longest = len(rows[places[0]])
        ids = torch.tensor([rows[place] + [pad] * (longest - len(rows[place])) for place in places], device=model.device)
        mask = torch.tensor([[int(at < len(rows[place])) for at in range(longest)] for place in places], device=model.device)
        with torch.inference_mode():
            logits = model(input_ids=ids, attention_mask=mask).logits.float()
        if not bool(torch.isfinite(logits).all()):
            raise RunFailed(f"classifier {classifier!r} gives outputs that are no numbers; its weights are broken")
        found.update(zip(places, logits.tolist(), strict=True))
    return found


Pairs = Sequence[tuple[str, str]]


@contextmanager
def reward_model(
    name: str, part: str, rendering: str, batch_size: int, max_length: int, device: str
) -> Iterator[Callable[[Pairs], list[float | str]]]:
    """What a reward model (a sequence classifier with one output) gives each (prompt, response), or why it cannot, as a
    function of the pairs; it loads at the first call that has any, and is gone after the block.

    Args:
        name: a folder or a name on the hub.
        part: whose model it is, for messages: `Part.option`.
        rendering: what the model reads; "" is its chat template, or where it has none its tokenizer's own form for two texts.
        max_length: tokens that it reads at most; 0: its window.

    Raises:
        UserError: it cannot be loaded, or has another number of outputs.
        RunFailed: not enough memory for it, or it gives something that is no number.
    """
    loaded: list[tuple[Any, Any]] = []

    def read(pairs: Pairs) -> list[float | str]:
        if not pairs:
            return []
        if not loaded:
            loaded.append(load(name, device))
        tokenizer, model = loaded[0]
        if model.config.num_labels != 1:
            what = f"{part} {name!r} has {model.config.num_labels} outputs, a reward model has one"
            raise UserError(f"{what}; give another one")
        chat = make_renderer(tokenizer, "chat") if not rendering and tokenizer.chat_template else None
        rows = [_templated(chat, *pair) if chat else token_ids(tokenizer, rendering, *pair) for pair in pairs]
        room = max_length or window(tokenizer, model)
        fitting = {place: ids for place, ids in enumerate(rows) if not isinstance(ids, str) and len(ids) <= room}
        found = outputs(name, model, fitting, batch_size)
        long = f"the pair is longer than the {room} tokens that {name} reads"
        return [found[place][0] if place in found else ids if isinstance(ids, str) else long for place, ids in enumerate(rows)]

    with released(name, part.partition(".")[0], batch_size):
        yield read
        loaded.clear()  # before its memory is handed back


def _templated(renderer: Renderer, prompt: str, response: str) -> list[int] | str:
    """Through the chat template whole, as reward models are trained; the reason for a text that would be read as a turn."""
    for text in (prompt, response):
        if found := renderer.markers_in(text):
            return f"a text contains {found[0]!r}, which means a turn to the reward model"
    turns = [{"role": "user", "content": prompt.strip()}, {"role": "assistant", "content": response.strip()}]
    with bounded():
        ids: Any = renderer.tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
    return list(ids)
