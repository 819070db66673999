"""ISARA (arXiv 2401.06785) on one page, for reading: the loop of `selfalign run isara` on transformers and peft alone.

    python examples/isara_in_one_page.py seeds.jsonl --model HuggingFaceTB/SmolLM2-360M-Instruct --out isara-adapter

`seeds.jsonl` has a `prompt` and a `response` in each line. The package's version of the same loop is src/selfalign/loop; it adds
resuming, an account of every row, near-duplicates, seeds held out to choose the round, and metrics with intervals.
"""

import argparse
import json
import random
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from rapidfuzz.distance import LCSseq
from transformers import AutoModelForCausalLM, AutoTokenizer

SHOWN, BATCH = 5, 8  # pairs shown in a prompt (C in the paper); rows computed together


def chat(tokenizer, pairs, prompt=None):
    """The pairs as one conversation, then `prompt` with the answer left to the model; without one, the user's turn left open."""
    turns = [{"role": role, "content": text} for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True)]
    turns.append({"role": "user", "content": prompt or "<open>"})
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt is not None)
    return text if prompt else text[: text.rindex("<open>")]


def tensors(tokenizer, texts, side):
    return tokenizer(texts, return_tensors="pt", padding=True, padding_side=side, add_special_tokens=False)


@torch.no_grad()
def write(model, tokenizer, texts, tokens, temperature):
    """What the model writes after each text; "" where it did not come to an end within `tokens` tokens."""
    written = []
    for start in range(0, len(texts), BATCH):
        batch = tensors(tokenizer, texts[start : start + BATCH], "left").to(model.device)
        rows = model.generate(
            **batch, max_new_tokens=tokens, do_sample=True, temperature=temperature, top_k=0, pad_token_id=tokenizer.pad_token_id
        )
        for row in rows[:, batch["input_ids"].shape[1] :].tolist():
            ended = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else 0
            written.append(tokenizer.decode(row[:ended], skip_special_tokens=True).strip())
    return written


@torch.no_grad()
def embed(model, tokenizer, texts):
    """Mean last hidden states, rows of unit length, shape (len(texts), width)."""
    batch = tensors(tokenizer, texts, "right").to(model.device)
    mask = batch["attention_mask"].unsqueeze(-1)
    hidden = model(**batch, output_hidden_states=True).hidden_states[-1]
    return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


def overlap(one, other):
    """ROUGE-L (F1) of two texts: their longest common subsequence of words."""
    one, other = one.lower().split(), other.lower().split()
    return 2 * LCSseq.similarity(one, other) / max(1, len(one) + len(other))


def problem(prompt, response, known, least=4):
    """Why a pair is dropped; "" where it is kept. An unfinished text is empty, so the first two rules drop it too."""
    if len(prompt.split()) < least:
        return "prompt short or unfinished"
    if len(response.split()) < least:
        return "response short or unfinished"
    return "not novel" if max((overlap(prompt, other) for other in known), default=0) > 0.7 else ""


def train(model, tokenizer, pairs, epochs, rate, chance):
    """Cross-entropy on the responses alone, in steps of BATCH pairs, at a rate that falls to zero."""
    optimiser = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=rate, weight_decay=0.0)
    order = [pair for _ in range(epochs) for pair in chance.sample(pairs, len(pairs))]
    steps = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    model.train()
    for done, step in enumerate(steps):
        asked = [chat(tokenizer, (), prompt) for prompt, _ in step]
        batch = tensors(
            tokenizer, [text + pair[1] + tokenizer.eos_token for text, pair in zip(asked, step, strict=True)], "right"
        )
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        for row, text in zip(labels, asked, strict=True):
            row[: len(tokenizer(text, add_special_tokens=False)["input_ids"])] = -100
        optimiser.param_groups[0]["lr"] = rate * (1 - done / len(steps))
        model(**batch.to(model.device), labels=labels.to(model.device)).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    model.eval()


def main(arguments=None):
    parser = argparse.ArgumentParser(description="ISARA on one page")
    parser.add_argument("seeds")
    for name, default in (("model", "HuggingFaceTB/SmolLM2-360M-Instruct"), ("out", "isara-adapter")):
        parser.add_argument(f"--{name}", default=default)
    for name, default in (("rounds", 2), ("candidates", 128), ("epochs", 3), ("rate", 2e-4), ("tokens", 128), ("seed", 0)):
        parser.add_argument(f"--{name}", type=type(default), default=default)
    options = parser.parse_args(arguments)
    chance = random.Random(options.seed)
    torch.manual_seed(options.seed)

    rows = map(json.loads, Path(options.seeds).read_text(encoding="utf-8").splitlines())
    seeds = [(row["prompt"], row["response"]) for row in rows]
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    base = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    base.to("cuda" if torch.cuda.is_available() else "cpu")
    model = get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")).eval()

    kept_by_round = []
    for number in range(1, options.rounds + 1):
        # 1. New prompts: the model is shown pairs drawn at random, one of each earlier round among them, and plays the user.
        earlier = [chance.choice(kept) for kept in kept_by_round if kept]
        shown = [[*chance.sample(seeds, min(len(seeds), SHOWN - len(earlier))), *earlier] for _ in range(options.candidates)]
        prompts = write(model, tokenizer, [chat(tokenizer, pairs) for pairs in shown], options.tokens, temperature=0.8)
        # 2. Answers: each prompt is shown the seeds nearest to it.
        prompts = [prompt for prompt in prompts if prompt]
        near = embed(model, tokenizer, [*prompts, *(seed[0] for seed in seeds)])
        nearest = (near[: len(prompts)] @ near[len(prompts) :].T).topk(min(SHOWN, len(seeds))).indices.tolist()
        asked = [chat(tokenizer, [seeds[at] for at in places], one) for one, places in zip(prompts, nearest, strict=True)]
        responses = write(model, tokenizer, asked, options.tokens, temperature=0.3)
        # 3. Filters: finished, long enough, not close to a prompt there is already.
        kept, known = [], [pair[0] for part in (seeds, *kept_by_round) for pair in part]
        for prompt, response in zip(prompts, responses, strict=True):
            if not problem(prompt, response, known):
                kept.append((prompt, response))
                known.append(prompt)
        kept_by_round.append(kept)
        print(f"round {number}: kept {len(kept)} of {options.candidates}")
        # 4. Fine-tuning on the seeds and this round's pairs; the next round is written by the better model.
        train(model, tokenizer, [*seeds, *kept], options.epochs, options.rate, chance)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    return kept_by_round


if __name__ == "__main__":
    main()
