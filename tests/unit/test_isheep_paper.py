"""The published I-SHEEP recipe: every value, written out here, and what its ablations change."""

from __future__ import annotations

from typing import Any

import pytest

from selfalign.recipes import isheep_paper


def part(name: str, /, **values: Any) -> dict[str, Any]:
    return {"part": f"selfalign.{name}", **values}


def sampling(**values: Any) -> dict[str, Any]:
    plain = {
        "max_tokens": 0,
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
    return part("types.Sampling", **{**plain, **values})


def judge(aspect: str) -> dict[str, Any]:
    return part(
        "scorers.judge.Judge",
        aspect=aspect,
        standard="combined",
        model="base",
        engine=None,
        method="parsed",
        prompt_form="raw",
        sampling=sampling(max_tokens=12),
        name="",
        reverse=False,
        calibrate_on=64,
    )


BLACKLIST = (
    "image images graph graphs picture pictures file files map maps draw plot go_to video audio music flowchart diagram"  # 18
)
MARKERS = (
    "BEGINNING_OF_CONVERSATION END_OF_CONVERSATION <| |> <s> </s> <bos> <eos> <pad> <unk> [INST] [/INST] <<SYS>> "
    "<start_of_turn> <end_of_turn>"
)
GOLDEN: dict[str, Any] = part(
    "recipe.Recipe",
    name="isheep_paper",
    engine=part("engines.hf.HF", batch_size=32, batch_tokens=None, dtype="auto", device="auto", attention="sdpa"),
    encoder=part("encoders.sentence.SentenceEncoder", model="bundled", batch_size=64, dtype="auto", device=None),
    proposer=part(
        "proposers.instructions.Instructions",
        human=5,
        generated=0,
        per_request=10,
        form="auto",
        input_needed=True,
        language="English",
        sampling=sampling(max_tokens=1000, top_p=0.95),
    ),
    retriever=part("retrievers.uniform.Uniform", demonstrations=0, generated=1),
    sampling=sampling(max_tokens=1000, top_p=0.95),
    trainer=part(
        "trainers.sft.SFT",
        method="auto",  # with a rank: LoRA
        learning_rate=5e-5,
        full_rate=2e-5,
        epochs=2,
        batch_size=16,
        micro_batch=1,
        schedule="cosine",
        warmup=0.06,
        weight_decay=0.0,
        max_grad_norm=1.0,
        adam_beta1=0.9,
        adam_beta2=0.999,
        lora_rank=8,
        lora_alpha=16.0,
        lora_dropout=0.05,
        lora_target="all-linear",
        device="auto",
        optimizer="adamw",
        precision="auto",
        gradient_checkpointing=None,
        save_every=50,
        max_length=1024,
        max_steps=0,
        loss=part("trainers._cross_entropy.CrossEntropy"),
    ),
    eval_retriever=None,
    order="chosen",
    prompt_filters=[
        part("filters.tasks.TaskLength", min_words=4, max_words=150, learn=False),
        part("filters.tasks.Blacklist", words=[w.replace("_", " ") for w in BLACKLIST.split()], inputs=True, learn=False),
        part("filters.tasks.TaskStart", phrases=[], learn=False),
        part("filters.tasks.Placeholders", none=False, brackets=False, learn=False),
        part("filters.tasks.LeftoverLabels", labels=["Instruction", "Input", "Output"], learn=False),
        part("filters.tasks.Links", responses=False, learn=False),
        part("filters.form.LeakedMarkers", markers=[m.replace("_OF_", " OF ") for m in MARKERS.split()], roles=[]),
        part("filters.novelty.Novelty", max_overlap=0.7, against="pool", field="instruction", unicode=False, learn=False),
    ],
    scorers=[judge("quality"), judge("following")],
    pair_filters=[
        part(
            "filters.answers.NextTurns",
            roles=["assistant", "system", "human", "question", "output", "user"],
            openings=["can you", "do you"],
            learn=False,
        ),
        part("filters.answers.AnswerChoices", learn=False),
        part("filters.answers.HanCharacters"),
        part("filters.tasks.Placeholders", none=True, brackets=True, learn=False),
        part("filters.tasks.RepeatedInput", learn=False),
        part("filters.form.EmptyResponse"),
    ],
    filters=[
        part("filters.score.Threshold", name="judge_quality", above=8.0, below=None),
        part("filters.score.Threshold", name="judge_following", above=8.0, below=None),
        part("filters.counts.AtMost", count=3000),
    ],
    second_turns=part("recipe.SecondTurns", share=0.0, sampling=sampling(max_tokens=0, temperature=0.8)),
    evaluators=[
        part("evaluators.refusal.Refusal", harmful=["harmful", "out_of_scope"], harmless=["harmless", "in_scope"], sampling=None),
        part("evaluators.held_out.HeldOut", sampling=None),
    ],
    eval_sampling=sampling(max_tokens=0, temperature=0.0),
    evaluate="every",
    shown_to="answer",
    rounds=3,
    per_round=10_000,
    steps=[],
    min_yield=0.0,
    seed_weight=None,
    start_from="base",
    train_on="latest",
    train_seeds=False,
    learning_rate_decay=1.0,
    validation_share=0.0,
    roll_back="worse",
    alarms=part(
        "proof.alarms.Alarms",
        action="off",
        median_words=0.5,
        very_short=0.15,
        very_short_rise=0.1,
        distinct_2=0.85,
        repeats=0.02,
        spread=0.8,
        saturation=0.9,
        min_examples=20,
    ),
    ignore_calibration=True,
    ignore_seed_rules=True,
    allow_overlap=False,
    allow_other_versions=False,
    format="auto",
    template_args={},
    keep_thinking=False,
    seed=42,
)


def test_every_value_of_the_published_recipe() -> None:
    """A value that differs here is another method: change it with the paper or the authors' scripts at hand, never to pass."""
    found = isheep_paper().identity()
    for each in found["evaluators"]:
        each.pop("content", None)  # a digest of the phrases that tell refusals
    assert found == GOLDEN


BOTH = ("judge_quality", "judge_following")


@pytest.mark.parametrize(
    ("options", "scores", "rules"),
    [
        ({}, BOTH, [(BOTH[0], 8.0, None), (BOTH[1], 8.0, None)]),
        ({"score_above": 6.0}, BOTH, [(BOTH[0], 6.0, None), (BOTH[1], 6.0, None)]),
        ({"select": "quality"}, BOTH[:1], [(BOTH[0], 8.0, None)]),
        ({"select": "following", "score_above": 7.0}, BOTH[1:], [(BOTH[1], 7.0, None)]),
        ({"select": "nothing"}, (), []),
        (
            {"select": "perplexity"},
            ("perplexity", "perplexity_pair"),
            [("perplexity", None, 50.0), ("perplexity_pair", None, 50.0)],
        ),
        (
            {"select": "perplexity", "perplexity_below": 30.0},
            ("perplexity", "perplexity_pair"),
            [("perplexity", None, 30.0), ("perplexity_pair", None, 30.0)],
        ),
        ({"select": "density"}, ("density",), [("density_cluster", "")]),
        ({"select": "density_perplexity", "clusters": 30}, ("density", "perplexity"), [("density_cluster", "perplexity")]),
    ],
)
def test_its_ablations(options: dict[str, Any], scores: tuple[str, ...], rules: list[tuple[Any, ...]]) -> None:
    """What selects is another, and nothing else."""
    recipe, usual = isheep_paper(**options).identity(), isheep_paper().identity()
    assert {name: value for name, value in recipe.items() if value != usual[name]}.keys() <= {"scorers", "filters"}
    scorers, filters = recipe["scorers"], recipe["filters"]
    assert tuple(each.get("name") or _score(each) for each in scorers) == scores
    assert filters.pop() == part("filters.counts.AtMost", count=3000)
    assert [
        (each["name"], each["above"], each["below"]) if "above" in each else (each["cluster"], each["by"]) for each in filters
    ] == rules
    assert all(each["model"] == "base" for each in scorers)
    if "density" in scores:
        assert scorers[0]["clusters"] == options.get("clusters", 3000) and scorers[0]["vectors"] == "model"


def _score(scorer: dict[str, Any]) -> str:
    return f"judge_{scorer['aspect']}" if "aspect" in scorer else "perplexity" + ("_pair" if scorer["of"] == "pair" else "")


@pytest.mark.parametrize(
    "options",
    [
        {"select": "nothing", "score_above": 6.0},
        {"select": "density", "perplexity_below": 20.0},
        {"perplexity_below": 20.0},
        {"select": "perplexity", "clusters": 10},
    ],
)
def test_an_option_that_would_change_nothing_is_told(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="changes nothing with select"):
        isheep_paper(**options)
