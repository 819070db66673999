"""A random two-layer Llama with a byte-level tokenizer, built in code: real files, real library calls, no network.

One byte is one token, so lengths in tests can be counted by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

START, END, TEXT_END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|pad|>"


def tiny_tokenizer(
    *,
    template: str | None = CHATML,
    eos: str | None = END,
    pad: Literal["own", "eos", "none"] = "own",
    context: int = 512,
):
    """A tokenizer of the 256 bytes and four special tokens; `pad="eos"` makes the end token the padding token too."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (START, END, TEXT_END, PAD)])
    named = {"eos_token": eos, "pad_token": {"own": PAD, "eos": eos, "none": None}[pad]}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
        **{name: token for name, token in named.items() if token is not None},
    )
    tokenizer.chat_template = template
    return tokenizer


def tiny_model(
    folder: Path,
    *,
    template: str | None = CHATML,
    eos: str | None = END,
    pad: Literal["own", "eos", "none"] = "own",
    context: int = 512,
    extra_vocabulary: int = 0,
    hidden: int = 32,
    seed: int = 0,
) -> Path:
    """Write model and tokenizer to `folder` (made if need be) and return it.

    Args:
        template: the chat template (Jinja), None for a base model.
        eos: the end token, None for a model without one.
        pad: a padding token of its own, the end token, or none.
        context: tokens in the window.
        extra_vocabulary: rows of the embedding beyond the tokenizer, as padded vocabularies have.
        hidden: width of the model.
        seed: of the random weights.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer(template=template, eos=eos, pad=pad, context=context)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + extra_vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
