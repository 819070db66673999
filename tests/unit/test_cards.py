"""Cards: valid for the hub, true to the record, and harmless whatever stands in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard

from selfalign.errors import UserError
from selfalign.evaluators import Refusal
from selfalign.export.cards import data_card, model_card
from selfalign.export.data import export_data_card
from selfalign.export.model import export_model
from selfalign.protocols import TrainResult
from selfalign.record.checkpoints import read_manifest
from selfalign.record.store import Store
from selfalign.types import Dropped, Example, Metric, ModelRef
from tests.conftest import SCRIPTED, Run
from tests.files import succeeded
from tests.unit.test_report import PAYLOADS

HOSTILE = (
    "x`|\n---\nlicense: mit\n# [a](javascript:1) <script>alert(1)</script> | &amp; \\` \u202e www.evil.example "
    "'\"{{ 7*7 }}{% raw %} \x1b[0m: !!python"
)
SEEDS = tuple(Example(f"s{i}", f"prompt {i}", "response", slot=i, category=HOSTILE) for i in range(4))
MADE = tuple(Example(f"r01-{i:05d}", f"prompt of {i}", "answer", 1, i, category="care") for i in range(3))


def fill(store: Store, name: str = "isara", base: str = "some/base", validation: int = 1, adapter: bool = False) -> None:
    store.add_seeds(SEEDS[validation:], SEEDS[:validation])
    store.add_model(0, ModelRef(base, hash="aa11"))
    store.add_metrics(0, [Metric("refusal", 0.25, 0.1, 0.5, 40)])
    store.finish_round_samples(1, MADE[:2], [Dropped(MADE[2], f"rule {name}", "evidence")], 3)
    folder = store.round_folder(1) / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "README.md").write_text("a library's own card")
    model = ModelRef(base, str(folder), hash="bb22") if adapter else ModelRef(str(folder), hash="bb22")
    trained = tuple(example.id for example in (*SEEDS[validation:], *MADE[:2]))
    store.add_model(1, model, read_manifest(folder), TrainResult(model, trained, (), 7, 1234, 0.431, (2.0, 1.5)))
    judge = Metric("calibration_judge_quality_auc", 0.8, 0.7, 0.9, 16)
    store.add_metrics(1, [Metric("refusal", 0.75, 0.5, 0.9, 40), Metric("kept_mean_words", 9.0, 8.0, 10.0, 2), judge])


REFUSAL = {"part": f"{Refusal.__module__}.{Refusal.__qualname__}"}
"""As a run's options name it."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    identity = {
        "name": "isara",
        "seed": 5,
        "seeds_hash": "cc33",
        "start_from": "base",
        "file": "/home/someone/held out.csv",
        "evaluators": [REFUSAL],
    }
    with Store.open(tmp_path / "run", identity) as store:
        fill(store)
        store.finish_run(1, "the one round is done")
        yield store


def front(card: str) -> dict[str, Any]:
    return dict(yaml.safe_load(card.split("---\n")[1]))


def test_a_model_card_is_valid_and_tells_what_the_record_tells(store: Store) -> None:
    card = model_card(store, 1, license="apache-2.0")
    read = ModelCard(card)
    data = read.data.to_dict()
    assert (data["license"], data["base_model"], data["library_name"]) == ("apache-2.0", "some/base", "transformers")
    assert data["base_model_relation"] == "finetune"
    (result,) = read.data.eval_results or []
    assert (result.metric_type, result.metric_value, result.dataset_type) == ("refusal", 0.75, "held-out-prompts")
    assert result.metric_name == "refusal (95 % interval 0.500 to 0.900, n = 40)"
    for told in (
        "| `refusal` | 0.250 [0.100, 0.500] | 0.750 [0.500, 0.900] | 40 |",
        "| 1 | 3 | 2 | 7 | 1,234 | 0.431 | 2.000 → 1.500 |",
        "| `kept_mean_words` | 9.000 [8.000, 10.000] | 2 |",
        "| `calibration_judge_quality_auc` | 0.800 [0.700, 0.900] | 16 |",
        "chose round 1, by the mean log-likelihood per token of the responses of 1 seed example",
        "starts from the base model",
        "| seed examples | 3 trained on, 1 for validation |",
        "English phrase rules",
        "40 held-out prompts",
        "trained on text it wrote itself (2 pairs)",
        "`cc33`",
        "`aa11`",
        "`bb22`",
        "AutoModelForCausalLM.from_pretrained",
        "…/held out.csv",
    ):
        assert told in card, told
    assert "/home/someone" not in card and "PeftModel" not in card
    assert model_card(store, 1, license="apache-2.0") == card


def test_a_limit_names_who_judged_refusals(tmp_path: Path) -> None:
    limits = {}
    for name, part in (("ours", REFUSAL), ("another's", {"part": "mine.Refusal"})):
        with Store.open(tmp_path / name, {"name": "isara", "evaluators": [part]}) as store:
            fill(store)
            limits[name] = model_card(store, 1).split("## Limits")[1]
    assert "by English phrase rules, or" in limits["ours"] and "phrase rules" not in limits["another's"]


def test_what_nobody_said_is_not_said(store: Store, tmp_path: Path) -> None:
    assert front(model_card(store, 1))["license"] == front(data_card(store))["license"] == "unknown"
    assert "Nobody has named one." in model_card(store, 1)
    for wrong in ("", "MIT licence", "x\ny", "--"):
        with pytest.raises(UserError, match="no identifier"):
            model_card(store, 1, license=wrong)
    with Store.open(tmp_path / "bare", {}) as bare:
        bare.add_seeds(SEEDS, ())
        bare.add_model(0, ModelRef("some/base"))
        card = model_card(bare, 0)
    assert "nothing here shows that the model is better" in card and "The run is not done" in card
    assert "None took place." in card and "model-index" not in card
    assert "no round was compared with another" in card and "English phrase rules" not in card


def test_an_adapter_is_loaded_on_its_base(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run", {"name": "isara"}) as store:
        fill(store, base="/home/someone/models/base", adapter=True)
        card, merged = model_card(store, 1), model_card(store, 1, merged=True)
    assert "PeftModel.from_pretrained" in card and front(card)["library_name"] == "peft"
    assert "'FOLDER_OF/base'" in card and "/home/someone" not in card
    assert "base_model" not in front(card) and "only its hash says which one" in card
    assert "PeftModel" not in merged and front(merged)["library_name"] == "transformers"


def test_a_dataset_card_counts_what_the_file_holds(store: Store) -> None:
    card = data_card(store, file="folder/kept[1].jsonl", format="messages")
    data = DatasetCard(card).data.to_dict()
    assert data["size_categories"] == ["n<1K"] and data["configs"][0]["data_files"][0]["path"] == "kept[[]1].jsonl"
    assert "6 pairs" in card and "4 seed examples (round 0, 1 of them held out for validation)" in card
    assert "| 1 | 3 | 1 | 2 |" in card and "| 1 | `rule isara` | 1 |" in card and "| `messages` |" in card
    assert "A language model wrote 2 of the pairs" in card and "1 of the pairs (round 0) chose the round" in card
    with pytest.raises(UserError, match="xml"):
        data_card(store, format="xml")


def test_letters_of_every_script_stay_letters(tmp_path: Path) -> None:
    words = "réponse : 日本 🙂"
    options = {"name": words, "stop": [words, "\u202e\u2028"], "proposer": {"part": "a.B", "stop": words}}
    with Store.open(tmp_path / "run", options) as store:
        fill(store)
        cards = (model_card(store, 1), data_card(store, file=f"{words}.jsonl"))
    for card in cards:
        (given,) = re.findall(r"^```json\n(.*?)\n```$", card, flags=re.DOTALL | re.MULTILINE)
        assert words in given and json.loads(given)["stop"] == options["stop"]
        assert "<code>&#123;&#34;stop&#34;&#58; &#34;réponse &#58; 日本" in card or card is cards[0]
        assert "\\u00e9" not in card and not {"\u202e", "\u2028"} & set(card)
    assert words in front(cards[1])["pretty_name"]


@pytest.mark.parametrize("base", [HOSTILE, "/models/" + HOSTILE.replace("/", "")])
def test_hostile_text_stays_text(tmp_path: Path, base: str) -> None:
    with Store.open(tmp_path / "run", {"name": HOSTILE, "proposer": {"part": f"a.{HOSTILE}", "stop": HOSTILE}}) as store:
        fill(store, name=HOSTILE, base=base)
        store.add_metrics(1, [Metric(HOSTILE, 0.5, 0.25, float("inf"), 2)])
        store.finish_run(1, HOSTILE)
        store.event("alarm", {"text": HOSTILE})
        cards = (model_card(store, 1), data_card(store, file=HOSTILE))
    for card, kind in zip(cards, (ModelCard, DatasetCard), strict=True):
        assert kind(card).data.to_dict()["license"] == "unknown" == front(card)["license"]
        body = card.split("\n---\n", 1)[1]
        assert "\x1b" not in card and "\u202e" not in card
        outside = re.sub(r"^```(\w*)\n.*?^```$", "", body, flags=re.DOTALL | re.MULTILINE)
        assert "<script" not in outside and "](javascript" not in outside and "www.evil" not in outside
        assert "\n---\n" not in outside and "\n# [a]" not in body
        for table in re.findall(r"(?:^\|.*\n)+", outside, flags=re.MULTILINE):
            assert len({line.count("|") for line in table.splitlines()}) == 1, table


FIELDS = ("name", "part", "base", "rule", "metric", "category", "reason", "event")


@pytest.mark.parametrize("start", range(0, len(PAYLOADS), 25))
def test_no_payload_becomes_markup(tmp_path: Path, start: int) -> None:
    texts = PAYLOADS[start : start + 25]
    for at in range(0, len(texts), len(FIELDS)):
        told = dict(zip(FIELDS, (texts[(at + place) % len(texts)] for place in range(len(FIELDS))), strict=True))
        with Store.open(tmp_path / f"run-{at}", {"name": told["name"], "proposer": {"part": f"a.{told['part']}"}}) as store:
            fill(store, name=told["rule"], base=told["base"])
            seed = Example("r02-00000", "prompt", "response", 2, 0, category=told["category"])
            store.finish_round_samples(2, [seed], [], 1)
            store.add_metrics(1, [Metric(told["metric"], 0.5, 0.25, 1.0, 2)])
            store.finish_run(1, told["reason"])
            store.event("alarm", {"text": told["event"]})
            cards = (model_card(store, 1), data_card(store, file=told["name"]))
        for card, kind in zip(cards, (ModelCard, DatasetCard), strict=True):
            assert kind(card).data.to_dict()["license"] == "unknown" == front(card)["license"]
            body = re.sub(r"^```(\w*)\n.*?^```$", "", card.split("\n---\n", 1)[1], flags=re.DOTALL | re.MULTILINE)
            outside = "\n".join(re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "", line) for line in body.splitlines())
            assert set(re.findall(r"<(?=[a-z!/?])/?([^\s>]*)", outside, re.IGNORECASE)) <= {"code", "details", "summary"}, outside
            assert not set("\x00\x1b\u202e\u2028") & set(card)


def test_the_files_cards_are_written_to(store: Store, tmp_path: Path) -> None:
    folder = export_model(store, tmp_path / "model", 1, license="mit")
    assert (folder / "README.md").read_text("utf-8") == model_card(store, 1, license="mit")
    card = export_data_card(store, tmp_path / "kept.parquet")
    assert card == tmp_path / "kept.card.md"
    assert card.read_text("utf-8") == data_card(store, file="kept.parquet")
    with pytest.raises(UserError, match="no regular file"):
        export_data_card(store, tmp_path)


def test_the_command_line_writes_them(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ("--rounds", 1, "--per_round", 8, "--demonstrations", 4, "--min_yield", 0, "--quiet", "--out", out)
    succeeded(cli("run", "isara", seeds_file, *SCRIPTED, *options))
    done = succeeded(cli("export", out, "--data", "kept.jsonl", "--card", "--license", "cc0-1.0", "--json"))
    assert DatasetCard.load(tmp_path / "kept.card.md").data.to_dict()["license"] == "cc0-1.0"
    for refused in (("export", out, "--model", "model"), ("push", out, "--repo", "user/name", "--dry_run")):
        pretended = cli(*refused, "--round", 1)
        assert pretended.returncode == 2 and "NullTrainer only pretends to train" in pretended.stderr, pretended.stderr
    lines = len((tmp_path / "kept.jsonl").read_text("utf-8").splitlines())
    found = json.loads(done.stdout)
    assert found["data"]["rows"] == lines and found["card"] == "kept.card.md"
    assert f"{lines} pairs" in (tmp_path / "kept.card.md").read_text("utf-8")
    assert cli("export", out, "--model", "other", "--card").returncode == 2
