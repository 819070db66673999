"""A random two-layer Llama with a byte-level tokenizer, built in code: real files, real library calls, no network.

One byte is one token, so lengths in tests can be counted by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from selfalign.protocols import TrainJob
from selfalign.types import ModelRef

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


def sentencepiece_tokenizer(*merges: tuple[str, str]):
    """Characters as SentencePiece spells them: U+2581 for a space, and one more before every text."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    letters = ["</s>", *(chr(code) for code in range(33, 127)), "\n", "\u2581", *("".join(merge) for merge in merges)]
    inner = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate(letters)}, merges=list(merges)))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    inner.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", clean_up_tokenization_spaces=False)


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
    from transformers import LlamaForCausalLM

    tokenizer = tiny_tokenizer(template=template, eos=eos, pad=pad, context=context)
    config = tiny_config(tokenizer, context, extra_vocabulary, hidden, tie_word_embeddings=True, initializer_range=0.2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_config(tokenizer: Any, context: int, extra_vocabulary: int = 0, hidden: int = 32, **more: Any) -> Any:
    """The configuration of a two-layer Llama with a window of `context` tokens."""
    from transformers import LlamaConfig

    return LlamaConfig(
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
        **more,
    )


REWARD_WINDOW = 1024


def tiny_reward_model(folder: Path) -> Path:
    """Write a two-layer Llama that has learnt to score an answer by its last word: good 1, fair 0, poor -1."""
    tokenizer = tiny_tokenizer(context=REWARD_WINDOW)
    config = tiny_config(tokenizer, REWARD_WINDOW, num_labels=1, problem_type="regression")
    rows = [
        (chat_ids(tokenizer, f"prompt {row}", f"{word} {wanted}"), [value])
        for row in range(3)
        for word in ("This is", "I say")
        for wanted, value in (("good", 1.0), ("fair", 0.0), ("poor", -1.0))
    ]
    return train_classifier(folder, tokenizer, config, rows, enough=0.002)


def chat_ids(tokenizer: Any, prompt: str, response: str) -> list[int]:
    """What the tiny template writes for a pair, by hand."""
    text = f"{START}user\n{prompt}{END}\n{START}assistant\n{response}{END}\n"
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def train_classifier(folder: Path, tokenizer: Any, config: Any, rows: list[tuple[list[int], list[float]]], enough: float) -> Path:
    """A sequence classifier that has learned its rows (token ids, labels) by heart, down to a loss of `enough`."""
    import torch
    from transformers import LlamaForSequenceClassification

    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [tokenizer.pad_token_id] * (longest - len(ids)) for ids, _ in rows])
    wanted = torch.tensor([labels for _, labels in rows])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForSequenceClassification(config)
        optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
        for _ in range(300):
            loss = model(input_ids=ids, attention_mask=ids != tokenizer.pad_token_id, labels=wanted).loss
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            if loss.item() < enough:
                break
    assert loss.item() < 5 * enough
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def train_job(start: ModelRef, folder: Path, /, **changes: object) -> TrainJob:
    """A round's training from a model, in a folder of its own; the rows come as changes."""
    given: dict[str, object] = {
        "round": 1,
        "start": start,
        "seeds": (),
        "generated": (),
        "seed_weight": None,
        "format": "auto",
        "seed": 11,
        "learning_rate_scale": 1.0,
        "work": folder / "training",
        "out": folder / "model",
    }
    return TrainJob(**{**given, **changes})  # type: ignore[arg-type]


def tiny_seeing_model(folder: Path) -> Path:
    """Write a Gemma 3 of two layers, that has a part for images too, as the larger ones have."""
    import torch
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    tokenizer = tiny_tokenizer(context=256)
    text = tiny_config(tokenizer, 256, head_dim=8, initializer_range=0.2).to_dict()
    eyes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config={**text, "model_type": "gemma3_text", "architectures": None},
        vision_config={**eyes, "model_type": "siglip_vision_model", "image_size": 16, "patch_size": 8},
        mm_tokens_per_image=4,
        image_token_index=2,
        boi_token_index=3,
        eoi_token_index=4,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Gemma3ForConditionalGeneration(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
