from __future__ import annotations

import io
import json
import logging
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from selfalign.engines import HF
from selfalign.errors import RunFailed, UserError
from selfalign.evaluators import LmEval, _harness_tasks
from selfalign.evaluators._harness_model import ContextModel, sampling_of
from selfalign.proof.overlap import overlap
from selfalign.proof.stats import wilson
from selfalign.proof.verdicts import conclude
from selfalign.protocols import Context, Session
from selfalign.record.finished import Costs, Finished
from selfalign.types import Completion, Continuation, Example, Metric, ModelRef, Request, Sampling
from tests.files import succeeded, write_rows
from tests.parts import calling, context, foretold, seeds

QUESTIONS = (
    ("What is the capital of Peru?", ["Lima", "Cuzco", "La Paz"], 0),
    ("What is the capital of Turkey?", ["Istanbul", "Ankara"], 1),
    ("What is the capital of Kenya?", ["Mombasa", "Nairobi", "Kisumu"], 1),
    ("What is the capital of Oman?", ["Muscat", "Salalah"], 0),
)
CAPITALS = {
    "task": "capitals",
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "Q: {{question}}\nA:",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "answer",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
WRITING = {
    "task": "naming",
    "output_type": "generate_until",
    "test_split": "test",
    "doc_to_text": "Q: {{question}}\nA:",
    "doc_to_target": "{{choices[answer]}}",
    "generation_kwargs": {"until": ["\n", "Q:"], "max_gen_toks": 40, "do_sample": False},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "ignore_case": True}],
}
PERPLEXITY = {
    "task": "texts",
    "output_type": "loglikelihood_rolling",
    "test_split": "test",
    "doc_to_text": "",
    "doc_to_target": "question",
    "metric_list": [{"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False}],
}


def task(folder: Path, options: dict[str, Any], rows: Sequence[tuple[str, list[str], int]] = QUESTIONS) -> str:
    """A task file over a local file of questions; the path of the task."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / f"{options['task']}.jsonl"
    data.write_text("".join(json.dumps(dict(zip(("question", "choices", "answer"), row, strict=True))) + "\n" for row in rows))
    where = {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")}
    path = folder / f"{options['task']}.yaml"
    path.write_text(yaml.safe_dump({"dataset_path": "json", "dataset_kwargs": where, **options}))
    return str(path)


class Model:
    """Likes and writes what it is told; keeps what it was asked."""

    def __init__(self, likes: Sequence[str] = (), writes: Callable[[str], Completion] | None = None, window: int = 10**6) -> None:
        self.likes, self.window = likes, window
        self.writes = writes or (lambda prompt: Completion("", "stop"))
        self.stages: list[str] = []
        self.pairs: list[tuple[str, str]] = []
        self.requests: list[Request] = []
        self.samplings: list[Sampling] = []

    def fit(self, request: Request, max_tokens: int) -> Request | None:
        return request if len(request.text or request.prompt or "") + max_tokens <= self.window else None

    def continuation(self, stage: str, pairs: Sequence[tuple[str, str]]) -> list[Continuation]:
        self.stages.append(stage)
        self.pairs += pairs
        return [Continuation(-1.0 if after.strip() in self.likes else -9.0, 1, False) for _, after in pairs]

    def generate(self, stage: str, requests: Sequence[Request], sampling: Sampling) -> list[tuple[Request, Completion]]:
        self.stages.append(stage)
        self.samplings.append(sampling)
        self.requests += requests
        return [(one, self.writes(one.prompt or "")) for one in requests]

    def context(self, **options: Any) -> Context:
        made = calling(context(**options), session=SimpleNamespace(fit=self.fit))  # type: ignore[arg-type]
        return calling(made, continuation=self.continuation, generate=self.generate)


def measure(part: LmEval, model: Model | None = None, **options: Any) -> dict[str, Metric]:
    found = part.evaluate((model or Model()).context(**options), [])
    assert len({metric.name for metric in found}) == len(found) and foretold(part, [], found)
    return {metric.name: metric for metric in found}


def test_what_tasks_and_ifeval_ask_is_told(tmp_path: Path) -> None:
    part = LmEval((task(tmp_path, CAPITALS), task(tmp_path, PERPLEXITY)), ifeval_file=ifeval(tmp_path), limit=2)
    assert [(each.id, each.prompt) for each in part.prompts(())] == [
        ("capitals/0", "Q: What is the capital of Peru?\nA:"),
        ("capitals/1", "Q: What is the capital of Turkey?\nA:"),
        ("texts/0", "What is the capital of Peru?"),
        ("texts/1", "What is the capital of Turkey?"),
        ("ifeval/0", ROWS[0]["prompt"]),
        ("ifeval/1", ROWS[1]["prompt"]),
    ]
    near = overlap([Example("r01-00000", "What is the capital of Peru?", "Lima.")], part.prompts(())[:2])
    assert [(hit.held_out, hit.kind) for hit in near] == [("capitals/0", "ngram")]
    assert LmEval().prompts(()) == []


def test_nothing_is_measured_by_default() -> None:
    assert LmEval().check() == ""
    assert measure(LmEval()) == {}


def test_a_knowledge_probe_on_local_files_gives_the_known_accuracy(tmp_path: Path) -> None:
    model = Model(likes=("Lima", "Istanbul", "Nairobi", "Muscat"))
    metrics = measure(LmEval((task(tmp_path, CAPITALS),)), model)
    assert list(metrics) == ["capitals:acc"]
    accuracy = metrics["capitals:acc"]
    assert [(one.id, one.value) for one in accuracy.outcomes] == [(f"capitals/{row}", float(row != 1)) for row in range(4)]
    assert (accuracy.value, accuracy.low, accuracy.high, accuracy.n) == (*wilson(3, 4), 4)
    assert (accuracy.unit, accuracy.better) == ("share", "higher")
    assert ("Q: What is the capital of Peru?\nA:", " Lima") in model.pairs
    assert len(model.pairs) == 10


def test_stages_and_the_hash_follow_what_is_asked(tmp_path: Path) -> None:
    part, models = LmEval((task(tmp_path, CAPITALS),)), [Model(), Model(), Model()]
    first = part.check()
    measure(part, models[0])
    assert part.check() == first
    measure(part, models[1])
    task(tmp_path, CAPITALS, [("What is the capital of Chad?", ["Moundou", "N'Djamena"], 1), *QUESTIONS[1:]])
    assert part.check() != first
    measure(part, models[2])
    assert models[0].stages == models[1].stages
    assert models[0].stages != models[2].stages
    # The reference alone is no part of a prompt, but the figure depends on it.
    changed = part.check()
    task(tmp_path, CAPITALS, [("What is the capital of Chad?", ["Moundou", "N'Djamena"], 0), *QUESTIONS[1:]])
    assert part.check() != changed


def test_limit_and_examples_shown(tmp_path: Path) -> None:
    split = {"fewshot_split": "test"}
    model = Model()
    measure(LmEval((task(tmp_path, {**CAPITALS, **split}),), limit=2, num_fewshot=1), model)
    texts = list(dict.fromkeys(before for before, _ in model.pairs))
    assert len(texts) == 2
    for text, (question, _, _) in zip(texts, QUESTIONS, strict=False):
        shown, asked = text.split("\n\n")
        assert asked == f"Q: {question}\nA:"
        assert any(shown == f"Q: {other}\nA: {choices[right]}" for other, choices, right in QUESTIONS if other != question)
    again = Model()
    measure(LmEval((str(tmp_path / "capitals.yaml"),), limit=2, num_fewshot=1), again)
    assert again.pairs == model.pairs
    fixed = Model()
    measure(LmEval((task(tmp_path / "fixed", {**CAPITALS, **split, "num_fewshot": 0}),), num_fewshot=1), fixed)
    assert fixed.pairs[0][0] == f"Q: {QUESTIONS[0][0]}\nA:"


def test_a_folder_is_all_of_its_tasks_and_a_group_is_one_figure(tmp_path: Path) -> None:
    task(tmp_path, CAPITALS, QUESTIONS[:1])
    task(tmp_path, {**CAPITALS, "task": "others"}, QUESTIONS[1:])
    model = Model(likes=("Lima", "Istanbul", "Nairobi", "Muscat"))
    metrics = measure(LmEval((str(tmp_path),)), model)
    assert {name: metric.value for name, metric in metrics.items()} == {"capitals:acc": 1.0, "others:acc": 2 / 3}
    group = {"group": "geography", "task": ["capitals", "others"]}
    (tmp_path / "geography.yaml").write_text(yaml.safe_dump(group))
    with pytest.raises(UserError, match="is the file of a group; name its folder instead"):
        LmEval((str(tmp_path / "geography.yaml"),)).check()
    metrics = measure(LmEval((str(tmp_path),)), model)
    assert list(metrics) == ["geography:acc"]
    assert (metrics["geography:acc"].value, metrics["geography:acc"].n) == (0.75, 4)
    assert {one.id for one in metrics["geography:acc"].outcomes} == {"capitals/0", "others/0", "others/1", "others/2"}


def test_a_generation_task(tmp_path: Path) -> None:
    model = Model(writes=lambda prompt: Completion("lima" if "Peru" in prompt else "Paris", "stop"))
    path = task(tmp_path, WRITING)
    metrics = measure(LmEval((path,)), model)
    assert [one.value for one in metrics["naming:exact_match"].outcomes] == [1.0, 0.0, 0.0, 0.0]
    assert {one.text for one in model.requests} == {f"Q: {question}\nA:" for question, _, _ in QUESTIONS}
    assert model.samplings == [Sampling(max_tokens=40, temperature=0.0, stop=("\n", "Q:"))]
    shorter, chat = Model(writes=model.writes), Model(writes=model.writes)
    measure(LmEval((path,), max_tokens=8), shorter)
    assert shorter.samplings[0].max_tokens == 8
    measure(LmEval((path,), chat=True), chat)
    assert [one.text for one in chat.requests] == [None] * 4
    assert [one.prompt for one in chat.requests] == [one.text for one in model.requests]
    assert len({*model.stages, *shorter.stages, *chat.stages}) == 3


def test_metrics_of_several_filters_have_the_filter_in_their_name(tmp_path: Path) -> None:
    filters = [
        {"name": name, "filter": [{"function": "regex", "regex_pattern": pattern}, {"function": "take_first"}]}
        for name, pattern in (("first", r"^(\w+)"), ("last", r"(\w+)$"))
    ]
    model = Model(writes=lambda prompt: Completion("Lima not Ankara", "stop"))
    metrics = measure(LmEval((task(tmp_path, {**WRITING, "filter_list": filters}),)), model)
    assert [one.value for one in metrics["naming:exact_match:first"].outcomes] == [1.0, 0.0, 0.0, 0.0]
    assert [one.value for one in metrics["naming:exact_match:last"].outcomes] == [0.0, 1.0, 0.0, 0.0]


def test_a_metric_that_is_no_mean_has_an_interval_and_no_outcomes(tmp_path: Path) -> None:
    metrics = measure(LmEval((task(tmp_path, PERPLEXITY),)), Model(likes=(QUESTIONS[0][0],)))
    found = metrics["texts:word_perplexity"]
    words = sum(len(question.split()) for question, _, _ in QUESTIONS)
    assert found.value == pytest.approx(math.exp((1.0 + 3 * 9.0) / words))
    assert found.low < found.value < found.high
    assert (found.outcomes, found.n) == ((), 4)
    assert (found.unit, found.better) == ("number", "lower")


def test_the_harness_says_which_side_is_better(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "def score(doc, results):\n    return {'letters': len(results[0]) / 8, 'brief': results[0] == 'No', 'odd': 0.5}\n"
    )
    sides = {"letters": False, "brief": True, "odd": None}
    own = {"metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": side} for name, side in sides.items()]}
    path = Path(task(tmp_path, {**WRITING, **own}, QUESTIONS * 2))  # fewer than six prompts would tell nothing
    path.write_text(path.read_text() + "process_results: !function own.score\n")
    runs = {}
    answers = {"brief": Completion("No", "stop"), "long": Completion("No and so on", "stop")}
    for name, answer in answers.items():
        found = measure(LmEval((str(path),)), Model(writes=lambda prompt, answer=answer: answer))  # type: ignore[misc]
        runs[name] = [Finished(0, name, 0, "", (), Costs(0, 0, 0, 0, 0), found)]
    told = conclude(runs, "naming:letters", held_out=8, random_seeds=[0])
    assert told["metrics"] == {
        "naming:letters": {"unit": "number", "better": "lower"},
        "naming:brief": {"unit": "share", "better": "higher"},
        "naming:odd": {"unit": "number", "better": "neither"},
        "naming:cut": {"unit": "share", "better": "lower"},
    }
    assert told["verdicts"][0]["sentence"].startswith("brief is better than long on naming:letters: -1.25 [")


def test_texts_longer_than_the_window(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError, match=r"texts, row 0: .*does not fit the model's window; split"):
        measure(LmEval((task(tmp_path, PERPLEXITY),)), Model(window=28))
    longest = sorted(len(f"Q: {question}\nA: {choice}") for question, choices, _ in QUESTIONS for choice in choices)
    with caplog.at_level(logging.WARNING):
        measure(LmEval((task(tmp_path, CAPITALS),)), Model(window=longest[-4]))
    assert "LmEval: 4 texts are longer than the model's window and lose their beginning" in caplog.text
    full = Model(writes=lambda prompt: Completion("", "context"))
    with pytest.raises(UserError, match=r"naming: .*does not fit the model's window with 40 new tokens; lower"):
        measure(LmEval((task(tmp_path, WRITING),)), full)


def test_the_harness_draws_nothing_on_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    part = LmEval((task(tmp_path, CAPITALS), task(tmp_path, WRITING)), ifeval_file=ifeval(tmp_path))
    part.check()
    capfd.readouterr()
    speaking = Model(writes=lambda prompt: print("own word", file=sys.stderr) or Completion("a", "stop"))  # type: ignore[func-returns-value]
    measure(part, speaking)
    assert capfd.readouterr() == ("", "own word\n" * (4 + len(ROWS)))


@pytest.mark.parametrize(
    ("asked", "sampling"),
    [
        ({"until": "\n\n"}, Sampling(max_tokens=256, temperature=0.0, stop=("\n\n",))),
        ({"until": ["a", "a", ""], "max_gen_toks": 2000}, Sampling(max_tokens=1280, temperature=0.0, stop=("a",))),
        ({"until": [], "temperature": 0.7, "do_sample": False}, Sampling(max_tokens=256, temperature=0.0)),
        ({"until": [], "temperature": 0.7, "top_p": 0.9}, Sampling(max_tokens=256, temperature=0.7, top_p=0.9)),
        ({"do_sample": True, "top_k": 5, "max_new_tokens": 3}, Sampling(max_tokens=3, temperature=1.0, top_k=5)),
    ],
)
def test_decoding_of_a_task(asked: dict[str, Any], sampling: Sampling) -> None:
    assert sampling_of("some", asked, 1280) == sampling


def test_wrong_options_are_refused() -> None:
    for options in ({"limit": -1}, {"max_tokens": 0}, {"num_fewshot": -1}, {"tasks": ("a", "a")}, {"tasks": ("",)}):
        with pytest.raises(ValueError, match=f"LmEval: {next(iter(options))} = .* is out of range"):
            LmEval(**options)


def test_what_cannot_work_is_said_before_a_model_loads(tmp_path: Path) -> None:
    def complaint(*tasks: str, **options: Any) -> str:
        with pytest.raises(UserError) as caught:
            LmEval(tasks, **options).check()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no such file; check the path" in complaint(str(tmp_path / "none.yaml"))
    (tmp_path / "empty").mkdir()
    assert "the folder holds no file of a task" in complaint(str(tmp_path / "empty"))
    (tmp_path / "list.yaml").write_text("- 1\n")
    assert "list.yaml' cannot be loaded (ValueError: Expected YAML dict" in complaint(str(tmp_path / "list.yaml"))
    lost = task(tmp_path / "lost", CAPITALS)
    (tmp_path / "lost" / "capitals.jsonl").unlink()
    assert "cannot be loaded (FileNotFoundError" in complaint(lost)
    beams = task(tmp_path / "beams", {**WRITING, "generation_kwargs": {"until": [], "num_beams": 4}})
    assert "naming asks for 'num_beams' in its generation_kwargs" in complaint(beams)
    unsafe = task(tmp_path / "unsafe", {**WRITING, "unsafe_code": True})
    assert "naming needs to run code that the model wrote" in complaint(unsafe)
    twice = [task(tmp_path / name, CAPITALS) for name in ("one", "two")]
    assert "'capitals' of" in (said := complaint(*twice)) and "named twice" in said
    many = {"num_fewshot": 9}
    assert "'capitals' cannot be loaded (ValueError" in complaint(task(tmp_path / "few", CAPITALS), **many)


def test_a_name_that_the_harness_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.tasks import TaskManager

    # A folder of one task in place of the harness's own 14,000 files, which take long to read.
    task(tmp_path, {**CAPITALS, "task": "arc_easy"})
    monkeypatch.setattr(_harness_tasks, "_every_task", lambda: TaskManager(include_path=str(tmp_path), include_defaults=False))
    assert LmEval(("arc_easy",)).check()
    rows = [dict(zip(("question", "choices", "answer"), row, strict=True)) for row in QUESTIONS[:2]]
    write_rows(tmp_path / "two.jsonl", rows)
    local = LmEval((f"arc_easy={tmp_path / 'two.jsonl'}",), num_fewshot=1)
    assert [prompt.prompt for prompt in local.prompts(())] == [f"Q: {question}\nA:" for question, *_ in QUESTIONS[:2]]
    assert measure(local, Model(likes=("Lima", "Istanbul")))["arc_easy:acc"].value == 0.5
    for file, wrong in (("none.csv", "no such file"), ("two.txt", "name a .csv, .json, .jsonl or .parquet file")):
        with pytest.raises(UserError, match=f"arc_easy=.*{file}: {wrong}"):
            LmEval((f"arc_easy={tmp_path / file}",)).check()
    with pytest.raises(UserError, match=r"'arc_eazy' is no task of lm-evaluation-harness; did you mean 'arc_easy'\?"):
        LmEval(("arc_eazy",)).check()
    with pytest.raises(UserError, match="'zzzz' is no task of lm-evaluation-harness; list them with: lm_eval ls tasks"):
        LmEval(("zzzz",)).check()


def test_without_the_harness_the_command_to_install_it_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # As on a machine without the package: the names of what is installed are looked for in an empty folder.
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(UserError, match=r"needs the package lm_eval; install it with: pip install 'selfalign\[eval\]'"):
        LmEval(ifeval_file="rows.jsonl").check()


def test_a_score_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def score(doc, results):\n    return {'own': float('nan')}\n")
    own = {"metric_list": [{"metric": "own", "aggregation": "mean", "higher_is_better": True}]}
    path = Path(task(tmp_path, {**WRITING, **own}))
    path.write_text(path.read_text() + "process_results: !function own.score\n")
    with pytest.raises(RunFailed, match="naming:own: the task gives a score that is no finite number"):
        measure(LmEval((str(path),)))


@pytest.fixture(scope="module")
def session(model_folder: Path) -> Any:
    engine = HF(batch_size=4, dtype="float32", device="cpu")
    with engine.open(engine.check(ModelRef(str(model_folder)), seeds(), "chat"), "chat") as opened:
        yield opened


def test_log_probabilities_are_those_of_the_harness_own_model(model_folder: Path, session: Session) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    weights = AutoModelForCausalLM.from_pretrained(model_folder, dtype="float32")
    theirs = HFLM(weights, tokenizer=AutoTokenizer.from_pretrained(model_folder), batch_size=2, device="cpu")
    ours = ContextModel(
        calling(context(), session=session, continuation=lambda stage, pairs: session.continuation(pairs)),
        64,
        False,
        (sys.stdout, sys.stderr),
    )
    pairs = [(f"Q: {question}\nA:", f" {choice}") for question, choices, _ in QUESTIONS for choice in choices]
    pairs += [("Ends in spaces:  ", "here"), ("", "Behind nothing"), ("x" * 3000, " the beginning is cut"), ("é…", " ü")]
    asked = [Instance("loglikelihood", {}, pair, place, ("own", place, 1)) for place, pair in enumerate(pairs)]
    mine, other = ours.loglikelihood(asked), theirs.loglikelihood(asked, disable_tqdm=True)
    assert [total for total, _ in mine] == pytest.approx([total for total, _ in other], abs=1e-4, rel=2e-6)
    assert [greedy for _, greedy in mine] == [greedy for _, greedy in other]
    assert len({round(total, 3) for total, _ in mine}) == len(pairs)
    texts = [Instance("loglikelihood_rolling", {}, (text,), 0, ("own", 0, 1)) for text in ("A short text.", "Other\n\nlines")]
    assert ours.loglikelihood_rolling(texts) == pytest.approx(theirs.loglikelihood_rolling(texts, disable_tqdm=True), abs=1e-4)


def test_choices_are_those_of_the_harness_own_model(tmp_path: Path, model_folder: Path, session: Session) -> None:
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = [(f"Which of these is number {i}?", [f"a{i}", f"the {i}th", "none of them", "b"], i % 4) for i in range(24)]
    path = task(tmp_path, CAPITALS, rows)
    weights = AutoModelForCausalLM.from_pretrained(model_folder, dtype="float32")
    theirs = lm_eval.simple_evaluate(
        HFLM(weights, tokenizer=AutoTokenizer.from_pretrained(model_folder), batch_size=2, device="cpu"),
        tasks=[path],
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=0,
    )
    asked = calling(context(), session=session, continuation=lambda stage, pairs: session.continuation(pairs))
    (ours,) = LmEval((path,)).evaluate(asked, [])
    assert [one.value for one in ours.outcomes] == [sample["acc"] for sample in theirs["samples"]["capitals"]]
    assert 0.0 < ours.value < 1.0


ROWS: tuple[dict[str, Any], ...] = (
    {"key": 1, "prompt": "Name a fruit, no commas.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
    {
        "key": 2,
        "prompt": "Write five words or more with a title in <<>>.",
        "instruction_id_list": ["length_constraints:number_words", "detectable_format:title"],
        "kwargs": [{"relation": "at least", "num_words": 5, "keywords": None}, {}],
    },
    {"key": 3, "prompt": "Answer as JSON.", "instruction_id_list": ["detectable_format:json_format"], "kwargs": [{}]},
    {
        "key": 4,
        "prompt": "End with: The end.",
        "instruction_id_list": ["startend:end_checker", "keywords:forbidden_words"],
        "kwargs": [{"end_phrase": "The end."}, {"forbidden_words": ["dog"]}],
    },
    {"key": "five", "prompt": "Use quotes.", "instruction_id_list": ["startend:quotation"], "kwargs": [{}]},
    {
        "key": 6,
        "prompt": "Write two sentences without commas.",
        "instruction_id_list": ["length_constraints:number_sentences", "punctuation:no_comma"],
        "kwargs": [{"relation": "at least", "num_sentences": 2}, {}],
    },
)
ANSWERS = (
    "Apple",  # follows
    "Here you are, a text of more words but no title",  # 1 of 2
    'Sure:\n{"a": 1}',  # only without its first line
    "A cat.\nThe end.\nBye",  # the end only without the last line; no dog
    '*"Quoted"*',  # only without asterisks
    "",  # nothing
)


def ifeval(folder: Path, rows: Sequence[dict[str, Any]] = ROWS) -> str:
    path = write_rows(folder / "ifeval.jsonl", rows)
    return str(path)


def follow(rows: Sequence[dict[str, Any]], texts: Sequence[str], finish: str = "stop") -> Model:
    written = {row["prompt"]: text for row, text in zip(rows, texts, strict=True)}
    return Model(writes=lambda prompt: Completion(written[prompt], finish))  # type: ignore[arg-type]


@pytest.fixture
def no_punkt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without NLTK's data, whatever this one has."""
    import nltk

    from selfalign.evaluators._harness_ifeval import checkers

    checkers().instructions_registry.instructions.instructions_util._get_sentence_tokenizer.cache_clear()
    nltk.tokenize._get_punkt_tokenizer.cache_clear()
    monkeypatch.setattr(nltk.data, "path", [])


@pytest.mark.usefixtures("no_punkt")
def test_ifeval_strict_and_loose(tmp_path: Path) -> None:
    model = follow(ROWS, ANSWERS)
    metrics = measure(LmEval(ifeval_file=ifeval(tmp_path)), model)
    assert list(metrics) == [
        *(f"ifeval:{level}_{way}" for way in ("strict", "loose") for level in ("prompt", "inst")),
        "ifeval:unscored",
        "ifeval:cut",
    ]
    strict, loose = ({o.id: o.value for o in metrics[f"ifeval:prompt_{way}"].outcomes} for way in ("strict", "loose"))
    assert list(strict) == list(loose) == [f"ifeval/{row}" for row in range(5)]
    assert (list(strict.values()), list(loose.values())) == ([1.0, 0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 1.0, 1.0, 1.0])
    assert metrics["ifeval:prompt_strict"].value == 1 / 5
    # Of the eight instructions that can be scored: 1 + 1 + 0 + 1 + 0 + 0 strictly, 1 + 1 + 1 + 2 + 1 + 0 loosely.
    assert metrics["ifeval:inst_strict"].value == pytest.approx(3 / 8)
    assert metrics["ifeval:inst_loose"].value == pytest.approx(6 / 8)
    for way in ("strict", "loose"):
        one = metrics[f"ifeval:inst_{way}"]
        assert one.n == len(one.outcomes) == 6
        assert sum(each.value for each in one.outcomes) / 6 == pytest.approx(one.value)
        assert 0.0 <= one.low < one.value < one.high <= 1.0
    # The empty answer to the prompt whose sentences nobody can count is unscored, not failed.
    assert [o.value for o in metrics["ifeval:unscored"].outcomes] == [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    assert metrics["ifeval:cut"].value == 0.0
    assert {name for name, one in metrics.items() if one.better == "lower"} == {"ifeval:unscored", "ifeval:cut"}
    assert {one.unit for one in metrics.values()} == {"share"}
    assert [one.prompt for one in model.requests] == [row["prompt"] for row in ROWS]
    assert model.samplings == [Sampling(max_tokens=1280, temperature=0.0)]


@pytest.mark.usefixtures("no_punkt")
def test_what_cannot_be_checked_here_is_said_once_and_part_of_the_hash(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = LmEval(ifeval_file=ifeval(tmp_path))
    with caplog.at_level(logging.WARNING):
        without = part.check()
    assert (
        "1 instruction cannot be checked without data of NLTK ('length_constraints:number_sentences'); get it with" in caplog.text
    )
    from selfalign.evaluators._harness_ifeval import checkers

    class Splitter:
        def tokenize(self, text: str) -> list[str]:
            return text.split(". ")

    monkeypatch.setattr(
        checkers().instructions_registry.instructions.instructions_util, "_get_sentence_tokenizer", lambda: Splitter()
    )
    assert part.check() != without
    scored = measure(part, follow(ROWS, [*ANSWERS[:5], "One. Two."]))
    assert {o.id: o.value for o in scored["ifeval:prompt_strict"].outcomes}["ifeval/5"] == 1.0
    assert scored["ifeval:unscored"].value == 0.0


def test_a_checker_that_fails_leaves_its_instruction_unscored(tmp_path: Path) -> None:
    rows = ROWS[:3]
    metrics = measure(LmEval(ifeval_file=ifeval(tmp_path, rows)), follow(rows, [*ANSWERS[:2], "[" * 200_000]))
    assert metrics["ifeval:unscored"].value == 1 / 3
    assert [one.id for one in metrics["ifeval:prompt_strict"].outcomes] == ["ifeval/0", "ifeval/1"]


def test_ifeval_limit_length_and_the_eval_retriever(tmp_path: Path) -> None:
    class ShowsTwo:
        def retrieve(self, context: Context, drafts: Sequence[Example]) -> list[tuple[tuple[Example, float | None], ...]]:
            return [tuple((seed, None) for seed in context.pool.seeds[:2]) for _ in drafts]

    model = follow(ROWS, ANSWERS, "length")
    asked = replace(model.context(), eval_retriever=ShowsTwo())
    metrics = {one.name: one for one in LmEval(ifeval_file=ifeval(tmp_path), limit=2, max_tokens=16).evaluate(asked, [])}
    assert metrics["ifeval:cut"].value == 1.0
    assert metrics["ifeval:cut"].n == 2
    assert model.samplings[0].max_tokens == 16
    assert [len(one.demonstrations) for one in model.requests] == [2, 2]
    full = follow(ROWS, ANSWERS, "context")
    with pytest.raises(UserError, match="does not fit the model's window with 1280 new tokens"):
        measure(LmEval(ifeval_file=ifeval(tmp_path)), full)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"prompt": " "}, '"prompt" must be a text that is not empty; mend it'),
        ({"instruction_id_list": []}, '"instruction_id_list" must be a list that is not empty'),
        (
            {"instruction_id_list": ["punctuation:no_coma"]},
            "'punctuation:no_coma' is no instruction of the harness; it has 'change",
        ),
        ({"kwargs": [{}, {}]}, '"kwargs" has 2 items; give one object for each of the 1 instructions'),
        ({"kwargs": ["a"]}, "kwargs of punctuation:no_comma are no object; make them one"),
        ({"kwargs": [{"num_words": 3}]}, "punctuation:no_comma cannot use the kwargs"),
        (
            {"instruction_id_list": ["length_constraints:number_words"], "kwargs": [{"relation": "at least", "num_words": 0}]},
            "length_constraints:number_words lacks 'num_words' in its kwargs, and would be checked by a random one; add it",
        ),
    ],
)
def test_a_malformed_row_is_named_with_file_and_line(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    path = ifeval(tmp_path, [ROWS[1], {**ROWS[0], **change}])
    with pytest.raises(UserError) as caught:
        LmEval(ifeval_file=path).check()
    assert str(caught.value).startswith(f"{path}:2: ")
    assert complaint in str(caught.value)


def test_files_that_are_no_rows_of_ifeval(tmp_path: Path) -> None:
    (tmp_path / "broken.jsonl").write_text('{"key": 1}\n')
    (tmp_path / "syntax.jsonl").write_text(json.dumps(ROWS[0]) + "\n{\n")
    for name, complaint in (
        ("none.jsonl", "no such file; check the path"),
        ("broken.jsonl", "broken.jsonl:1: has no field 'prompt'; add it"),
        ("syntax.jsonl", "syntax.jsonl:2: not valid JSON"),
    ):
        with pytest.raises(UserError, match=complaint):
            LmEval(ifeval_file=str(tmp_path / name)).check()


def test_nothing_is_downloaded_and_languages_are_found_alike_each_time(tmp_path: Path) -> None:
    # In a process of its own: the harness would download NLTK's data as it is imported.
    code = f"""
import nltk, os
def refused(*a, **k): raise SystemExit("a download")
nltk.download = refused
nltk.data.path[:] = []
from selfalign.evaluators import LmEval
print(LmEval(ifeval_file={ifeval(tmp_path)!r}).check())
assert "LOCAL_RANK" not in os.environ
import langdetect
print({{langdetect.detect("sole mare") for _ in range(30)}}.__len__())
"""
    environment = {name: value for name, value in os.environ.items() if name != "LOCAL_RANK"}
    done = succeeded(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment))
    assert done.stdout.splitlines()[1] == "1"


def test_standard_streams_are_given_back(tmp_path: Path) -> None:
    streams = sys.stdout, sys.stderr
    with pytest.raises(UserError):
        measure(LmEval((task(tmp_path, PERPLEXITY),)), Model(window=1))
    assert (sys.stdout, sys.stderr) == streams
    assert not isinstance(sys.stderr, io.StringIO)
