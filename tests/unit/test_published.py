"""Every value of the recipes that repeat ISARA's scripts, written out: a change here says that the paper did something else."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from selfalign import trainers
from selfalign.recipes import isara_paper, sft_paper
from selfalign.trainers import _child

MARKERS = ["BEGIN", "END", "USER", "ASSISTANT", "ASSISTENT", "\\begin", "\\end", "ANS"]
SAMPLED = {
    "max_tokens": 96,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "stop": [],
    "beams": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram": 0,
    "length_penalty": 1.0,
    "length_decay": None,
    "rules": "today",
}
"""What a `Sampling` is that says nothing."""
BEAMS = {**SAMPLED, "top_k": 50, "stop": MARKERS, "beams": 5, "no_repeat_ngram": 10, "rules": "transformers-4.31"}
QUESTION = {**BEAMS, "max_tokens": 200, "repetition_penalty": 1.05, "length_penalty": 2.0, "length_decay": [15, 1.6]}
ANSWER = {**BEAMS, "max_tokens": 100, "repetition_penalty": 1.2, "length_penalty": 1.0, "length_decay": [30, 1.05]}
SHARED = {
    "engine": {"part": "HF", "batch_size": 40, "batch_tokens": None, "dtype": "auto", "device": "auto", "attention": "sdpa"},
    "encoder": {"part": "SentenceEncoder", "model": "bundled", "batch_size": 64, "dtype": "auto", "device": None},
    "retriever": {"part": "Knn", "demonstrations": 8, "generated": 1, "nearest": "first", "by_category": False},
    "trainer": {
        "part": "SFT",
        "method": "full",
        "learning_rate": 2e-5,
        "full_rate": 2e-5,
        "epochs": 1,
        "batch_size": 32,
        "micro_batch": 4,
        "schedule": "cosine",
        "warmup": 0.03,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "lora_rank": None,
        "lora_alpha": 32.0,
        "lora_dropout": 0.0,
        "lora_target": "all-linear",
        "device": "auto",
        "optimizer": "adamw",
        "precision": "auto",
        "gradient_checkpointing": None,
        "save_every": 50,
        "max_length": 2048,
        "max_steps": 0,
        "loss": {"part": "CrossEntropy"},
    },
    "eval_retriever": None,
    "order": "chosen",
    "prompt_filters": [],
    "scorers": [],
    "pair_filters": [],
    "second_turns": {
        "part": "SecondTurns",
        "share": 0.0,
        "sampling": {"part": "Sampling", **SAMPLED, "max_tokens": 0, "temperature": 0.8},
    },
    "evaluators": [
        {"part": "Refusal", "harmful": ["harmful", "out_of_scope"], "harmless": ["harmless", "in_scope"], "sampling": None},
        {"part": "HeldOut", "sampling": None},
    ],
    "eval_sampling": {"part": "Sampling", **SAMPLED, "max_tokens": 200, "temperature": 0.0, "stop": MARKERS},
    "evaluate": "every",
    "shown_to": "answer",
    "rounds": 2,
    "steps": [],
    "seed_weight": None,
    "start_from": "previous",
    "train_on": "latest",
    "train_seeds": True,
    "learning_rate_decay": 0.5,
    "validation_share": 0.0,
    "roll_back": "worse",
    "alarms": {
        "part": "Alarms",
        "action": "warn",
        "median_words": 0.5,
        "very_short": 0.15,
        "very_short_rise": 0.1,
        "distinct_2": 0.85,
        "repeats": 0.02,
        "spread": 0.8,
        "saturation": 0.9,
        "min_examples": 20,
    },
    "ignore_calibration": False,
    "allow_overlap": False,
    "allow_other_versions": False,
    "format": "isara",
    "template_args": {},
    "keep_thinking": False,
    "seed": 42,
}
ISARA = {
    **SHARED,
    "part": "Recipe",
    "name": "isara_paper",
    "proposer": {
        "part": "FewShot",
        "demonstrations": 8,
        "generated": 1,
        "aim": "any",
        "sampling": {"part": "Sampling", **QUESTION},
    },
    "sampling": {"part": "Sampling", **ANSWER},
    "filters": [
        {
            "part": "Novelty",
            "max_overlap": 0.7,
            "against": "demonstrations",
            "field": "prompt",
            "unicode": False,
            "learn": False,
        },
        {
            "part": "Length",
            "min_prompt_words": 5,
            "max_prompt_words": None,
            "min_response_words": 5,
            "max_response_words": None,
            "learn": False,
        },
        {"part": "Substring", "both_ways": False, "learn": False},
        {"part": "Exact", "ignore_case": False},
    ],
    "per_round": 512,
    "min_yield": 0.0,
    "ignore_seed_rules": True,
}
SFT = {
    **SHARED,
    "part": "Recipe",
    "name": "sft_paper",
    "proposer": {
        "part": "FewShot",
        "demonstrations": 8,
        "generated": 1,
        "aim": "any",
        "sampling": {"part": "Sampling", **SAMPLED},
    },
    "sampling": {"part": "Sampling", **SAMPLED, "max_tokens": 0},
    "filters": [],
    "per_round": 0,
    "min_yield": 0.1,
    "ignore_seed_rules": False,
}


def named(value: Any) -> Any:
    """Classes by name alone, and without the hash of the phrases that judge refusals, which are no value of a paper."""
    if isinstance(value, dict):
        return {key: each.rpartition(".")[2] if key == "part" else named(each) for key, each in value.items() if key != "content"}
    return [named(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("recipe", "values"), [(isara_paper, ISARA), (sft_paper, SFT)])
def test_every_value_is_that_of_the_scripts(recipe: Any, values: dict[str, Any]) -> None:
    found = named(recipe().identity())
    for name in {*found, *values}:
        assert found.get(name, "not there") == values.get(name, "not there"), name
    default = {name: each.default for name, each in inspect.signature(recipe).parameters.items()}
    assert default == ({"demonstrations": 8, "retriever": isara_paper().retriever} if recipe is isara_paper else {})


@pytest.mark.parametrize(("steps", "warmup"), [(2, 0), (9, 0), (20, 0), (34, 1), (100, 3)])
def test_the_warm_up_is_rounded_down(steps: int, warmup: int, tmp_path: Any) -> None:
    class Model:
        supports_gradient_checkpointing = False

    options = {each: getattr(isara_paper().trainer, each) for each in inspect.signature(trainers.SFT).parameters}
    made = _child.arguments({"options": options, "learning_rate_scale": 0.5, "seed": 42}, Model(), steps, tmp_path)
    assert (made.warmup_steps, made.learning_rate, made.max_steps) == (warmup, 1e-5, steps)
