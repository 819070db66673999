"""An adapter made part of full weights, with proof that the files written say what the adapter says."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfalign.errors import RunFailed, UserError
from selfalign.models.decoding import save_model
from selfalign.models.names import located, quiet
from selfalign.models.rendering import Renderer, make_renderer
from selfalign.text import printable
from selfalign.types import Example, Format, ModelRef

_log = logging.getLogger(__name__)

PROMPTS = 8
"""Prompts that are answered to compare the two; the first ones given."""
TOKENS = 32
"""Greedy tokens written for each of them."""
TOLERANCE = 1e-3
"""Nats: by how much the log-probability of a token may differ, on average over a text, and how far another token may stand
above the adapter's choice without being another choice. Our own: rounding in fp32 stays far below it."""


@dataclass(frozen=True)
class _Said:
    """A greedy text: its prompt and itself as token ids, and the log-probability of each of its own tokens."""

    example: Example
    prompt: list[int]
    text: list[int]
    logprobs: list[float]


def write_merged(model: ModelRef, out: Path, asked: Sequence[Example], format: Format) -> None:
    """Merges in fp32 (a merge in bf16 rounds small updates away) and writes weights and tokenizer to the folder `out`.

    The weights are written in the number type of the base, read back, and compared with the adapter on its base, in fp32 on the
    processor: on the prompts of the first `PROMPTS` examples, rendered as the run renders them, each greedy text must be the
    same and its log-probabilities within `TOLERANCE`. Where rounding to a narrower type makes the difference, they are written
    in fp32 instead, which a warning says.

    Raises:
        RunFailed: the merged model says something else than the adapter; the message shows the prompt and both texts.
        UserError: no example to compare on.
    """
    import torch
    from transformers import AutoConfig, AutoTokenizer

    if not asked:
        raise UserError("a merge is compared with its adapter on the run's seeds, and this run has none; export without --merge")
    own = any(Path(str(model.adapter)).glob("tokenizer*"))
    with quiet():
        tokenizer: Any = AutoTokenizer.from_pretrained(str(model.adapter) if own else located(model.base))
        renderer = make_renderer(tokenizer, format)
        said = _say(_adapted(model), renderer, asked[:PROMPTS])
        narrow, problem = AutoConfig.from_pretrained(located(model.base)).dtype or torch.float32, ""
        for kind in dict.fromkeys((narrow, torch.float32)):
            shutil.rmtree(out, ignore_errors=True)
            save_model(merged(_adapted(model)).to(kind), out)
            tokenizer.save_pretrained(out)
            if not (problem := _difference(load_float32(str(out)), renderer, said)):
                if kind != narrow:
                    _log.warning("merged weights in float32: in the base's %s they say something else than the adapter", narrow)
                return
    raise RunFailed(f"the merged model does not say what the adapter says, so it is not exported: {problem}")


def _adapted(model: ModelRef) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(load_float32(located(model.base)), str(model.adapter)).eval()


def merged(adapted: Any) -> Any:
    """The model of a `PeftModel`, its adapter made part of its weights.

    Where output layer and embeddings are one weight (tied), what the adapter does to one of them is not done to the other: each
    has its own from then on, and the configuration says so, without which the next who loads the files would tie them again.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from torch.nn import Parameter

    tied = adapted.get_input_embeddings().weight
    for layer in adapted.modules():
        own: Any = layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else None
        if own is not None and getattr(own, "weight", None) is tied:
            own.weight = Parameter(own.weight.detach().clone(), requires_grad=False)
    model = adapted.merge_and_unload(safe_merge=True)
    output = model.get_output_embeddings()
    if output is not None and output.weight is not model.get_input_embeddings().weight:
        model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = False
    return model


def load_float32(source: str) -> Any:
    """A causal language model of whole weights in float32, on the processor."""
    import torch
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, use_safetensors=True, trust_remote_code=False)
    return loaded.eval()


def _say(model: Any, renderer: Renderer, asked: Sequence[Example]) -> list[_Said]:
    prompts = [renderer.prompt_ids((), example.prompt, example.history, example.system) for example in asked]
    ends = renderer.response_stops.ids
    return [_Said(example, ids, *_greedy(model, ids, ends)) for example, ids in zip(asked, prompts, strict=True)]


def _greedy(model: Any, prompt: list[int], ends: frozenset[int]) -> tuple[list[int], list[float]]:
    """The likeliest token, again and again, up to an end token: without any default that a model brings for its decoding."""
    import torch

    ids, logprobs, fed, cache = list[int](), list[float](), prompt, None
    with torch.inference_mode():
        while len(ids) < TOKENS and (not ids or ids[-1] not in ends):
            step = model(input_ids=torch.tensor([fed]), past_key_values=cache, use_cache=True)
            best = step.logits[0, -1].float().log_softmax(dim=-1).max(dim=-1)
            fed, cache = [int(best.indices)], step.past_key_values
            ids, logprobs = ids + fed, [*logprobs, float(best.values)]
    return ids, logprobs


def _difference(model: Any, renderer: Renderer, said: Sequence[_Said]) -> str:
    """The first text on which the merged model differs, in words; "" where it differs on none.

    One pass over the adapter's text shows both: while its every token is the likeliest behind those before it, greedy decoding
    writes this very text.
    """
    import torch

    for one in said:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([one.prompt + one.text])).logits[0, len(one.prompt) - 1 : -1]
        scores = logits.float().log_softmax(dim=-1)
        own = scores.gather(-1, torch.tensor(one.text)[:, None])[:, 0]
        away = float((own - torch.tensor(one.logprobs)).abs().mean())
        other = float((scores.max(dim=-1).values - own).max())
        if not max(away, other) <= TOLERANCE:  # not a number is a difference too
            texts = [one.text, _greedy(model, one.prompt, renderer.response_stops.ids)[0]]
            adapter, full = (_shown(str(renderer.tokenizer.decode(ids, skip_special_tokens=True))) for ids in texts)
            return (
                f"to {_shown(one.example.prompt)} (of {one.example.id}) the adapter writes {adapter} and the merged model {full}"
                f" (log-probabilities differ by {away:.2g} nats a token, {TOLERANCE:g} is allowed)"
            )
    return ""


def _shown(text: str) -> str:
    return repr(printable(" ".join(text.split())[:160]))
