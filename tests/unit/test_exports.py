"""Files for other tools: their form, their bytes, and that a failure leaves the old ones whole."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pyarrow.parquet as pq
import pytest

from selfalign.cli.main import main
from selfalign.errors import RunFailed, UserError
from selfalign.export.data import DataFormat, export_data, export_dropped
from selfalign.export.model import export_model
from selfalign.record.checkpoints import read_manifest
from selfalign.record.disk import require_space, whole_file
from selfalign.record.exports import export_metrics, export_round
from selfalign.record.lineage import lineage, lineage_text
from selfalign.record.store import Store
from selfalign.seeds.read import read_with_notes
from selfalign.types import Demonstration, Dropped, Example, Metric, ModelRef
from tests.files import read_rows

AWKWARD = 'line\u2028break\x85, "quotes", \t, \x00, 007, 2024-01-02, null, مرحبا 🙂\r\n'
SEEDS = [Example(f"s{i}", AWKWARD, f"response {i}", slot=i) for i in range(3)]
MADE = [
    Example(f"r1-{i}", f"prompt {i}", AWKWARD, 1, i, response_demonstrations=(Demonstration("s1", 0.25),), scores={"x": math.nan})
    for i in range(4)
]
PLAIN = [
    *(
        {"id": f"s{i}", "round": 0, "category": "", "validation": i == 0, "prompt": AWKWARD, "response": f"response {i}"}
        for i in range(3)
    ),
    *(
        {"id": f"r1-{i}", "round": 1, "category": "", "validation": False, "prompt": f"prompt {i}", "response": AWKWARD}
        for i in range(2)
    ),
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "run", {"name": "test"}) as store:
        store.add_seeds(SEEDS[1:], SEEDS[:1])
        store.add_model(0, ModelRef("some/hub-name"))
        store.finish_round_samples(1, MADE[:2], [Dropped(e, "novelty", f"too near to {e.id}") for e in MADE[2:]], 4)
        yield store


def test_plain_data(store: Store, tmp_path: Path) -> None:
    assert export_data(store, tmp_path / "data.jsonl") == 5
    assert read_rows(tmp_path / "data.jsonl") == PLAIN
    assert export_data(store, tmp_path / "data.parquet") == 5
    assert pq.read_table(tmp_path / "data.parquet").to_pylist() == PLAIN


@pytest.mark.parametrize(
    ("format", "shape"),
    [
        ("messages", {"messages": [{"role": "user", "content": "prompt 0"}, {"role": "assistant", "content": AWKWARD}]}),
        ("prompt-completion", {"prompt": "prompt 0", "completion": AWKWARD}),
        ("alpaca", {"instruction": "prompt 0", "input": "", "output": AWKWARD}),
        ("sharegpt", {"conversations": [{"from": "human", "value": "prompt 0"}, {"from": "gpt", "value": AWKWARD}]}),
    ],
)
def test_the_forms_of_training_data(store: Store, tmp_path: Path, format: DataFormat, shape: dict[str, Any]) -> None:
    export_data(store, tmp_path / "data.jsonl", format)
    export_data(store, tmp_path / "data.parquet", format)
    expected = {"id": "r1-0", "round": 1, "category": "", "validation": False, **shape}
    assert read_rows(tmp_path / "data.jsonl")[3] == expected
    assert pq.read_table(tmp_path / "data.parquet").to_pylist()[3] == expected


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("format", get_args(DataFormat))
@pytest.mark.parametrize("before", [False, True], ids=["pairs", "conversations"])
def test_what_is_exported_is_read_back_as_seeds(tmp_path: Path, format: DataFormat, suffix: str, before: bool) -> None:
    said = {"system": "Be brief.", "history": (("Hi.", "Hello."), ("One?", "Two."))} if before else {}
    own = Example("s1", "Why?", "So.", slot=0, category="日常 life", metadata={"topic": "x", "round": "7"}, **said)  # type: ignore[arg-type]
    seeds = [own, Example("seed-r01-00000", "How?", " Thus.\n", slot=1), Example("s3", "Who?", "We.", slot=2)]
    made = [
        Example("r01-00000", "When?", "Now.", 1, 0, category="日常 life"),
        Example("r01-00000.2", "And then?", "Later.", 1, 1, history=(("When?", "Now."),) if before else ()),
    ]
    with Store.open(tmp_path / "run", {"name": "test"}) as store:
        store.add_seeds(seeds[:2], seeds[2:])
        store.finish_round_samples(1, made, [], 2)
        file = tmp_path / f"data{suffix}"
        export_data(store, file, format)
        ids = ("s1", "seed-r01-00000", "s3", "seed-seed-r01-00000", "seed-r01-00000.2")
        expected = [replace(e, id=id, round=0, slot=at) for at, (e, id) in enumerate(zip([*seeds, *made], ids, strict=True))]
        read, notes = read_with_notes(file)
        assert list(read) == expected
        assert len(notes) == 1 and "2 ids of generated samples" in notes[0]
        assert list(store.seeds()) == seeds[:2]
        assert ("system text\n  Be brief." in lineage_text(lineage(store, "s1"))) is before


def test_dropped_samples_with_their_evidence(store: Store, tmp_path: Path) -> None:
    assert export_dropped(store, tmp_path / "dropped.jsonl") == 2
    assert read_rows(tmp_path / "dropped.jsonl")[0] == {
        "id": "r1-2",
        "round": 1,
        "prompt": "prompt 2",
        "response": AWKWARD,
        "rule": "novelty",
        "evidence": "too near to r1-2",
    }
    export_dropped(store, tmp_path / "dropped.parquet")
    assert pq.read_table(tmp_path / "dropped.parquet").to_pylist() == read_rows(tmp_path / "dropped.jsonl")


def test_columns_are_there_without_rows(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run", {}) as store:
        store.add_seeds(SEEDS, ())
        assert export_dropped(store, tmp_path / "dropped.parquet") == 0
    assert pq.read_table(tmp_path / "dropped.parquet").column_names == ["id", "round", "prompt", "response", "rule", "evidence"]


def test_the_same_record_gives_the_same_bytes(store: Store, tmp_path: Path) -> None:
    for name in ("data.jsonl", "data.parquet"):
        (tmp_path / "a").mkdir(exist_ok=True)
        export_data(store, tmp_path / name)
        export_data(store, tmp_path / "a" / name)
        assert (tmp_path / name).read_bytes() == (tmp_path / "a" / name).read_bytes()


def test_the_files_of_a_round(store: Store, tmp_path: Path) -> None:
    store.add_metrics(1, [Metric("refusal", 0.5, math.nan, 1.0, 3, unit="share", better="lower")])
    export_round(store, 1)
    export_metrics(store, 1)
    folder = tmp_path / "run" / "round-01"
    kept = read_rows(folder / "kept.jsonl")
    assert [row["id"] for row in kept] == ["r1-0", "r1-1"]
    assert kept[0]["response_demonstrations"] == [{"id": "s1", "similarity": 0.25}]
    assert kept[0]["scores"] == {"x": None}
    first = read_rows(folder / "dropped.jsonl")[0]
    assert (first["rule"], first["evidence"]) == ("novelty", "too near to r1-2")
    assert json.loads((folder / "metrics.json").read_text()) == {
        "refusal": {"value": 0.5, "low": None, "high": 1.0, "n": 3, "unit": "share", "better": "lower"}
    }


@pytest.mark.parametrize("name", ["data.csv", "data.json", "folder", "missing/data.jsonl"])
def test_files_that_cannot_be(store: Store, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=name.split("/", maxsplit=1)[0]):
        export_data(store, tmp_path / name)


def test_formats_that_cannot_be(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="prompt-completion"):
        export_data(store, tmp_path / "data.jsonl", "xml")  # type: ignore[arg-type]
    assert not (tmp_path / "data.jsonl").exists()


def test_a_failure_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_is_no_file_is_written_to_and_not_replaced(store: Store, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    export_data(store, pipe)
    assert len(os.read(reader, 100_000).splitlines()) == 5
    assert pipe.is_fifo()
    os.close(reader)


def test_space_is_asked_for(tmp_path: Path) -> None:
    require_space(tmp_path, 1)
    with pytest.raises(RunFailed, match="1,000,000,000,000,000,000 bytes are needed"):
        require_space(tmp_path, 10**18)


def trained(store: Store, round: int) -> Path:
    folder = store.round_folder(round) / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    store.add_model(round, ModelRef(str(folder)), read_manifest(folder))
    return folder


def test_a_model_is_copied_and_verified(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not done"):
        export_model(store, tmp_path / "out")
    folder = trained(store, 1)
    store.finish_run(1, "done")
    assert export_model(store, tmp_path / "deep" / "out") == tmp_path / "deep" / "out"
    assert (tmp_path / "deep" / "out" / "model.safetensors").read_bytes() == b"weights"
    with pytest.raises(UserError, match="exists"):
        export_model(store, tmp_path / "deep" / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/out cannot be written \(.*\): name a new folder"):
        export_model(store, tmp_path / "file" / "out")
    (tmp_path / "file").unlink()
    with pytest.raises(UserError, match="some/hub-name"):
        export_model(store, tmp_path / "zero", 0)
    with pytest.raises(UserError, match=r"round 5 .* has no model"):
        export_model(store, tmp_path / "five", 5)
    (folder / "model.safetensors").write_bytes(b"Weights")
    with pytest.raises(UserError, match=r"damaged: .*model\.safetensors"):
        export_model(store, tmp_path / "damaged")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "run"]


@pytest.mark.parametrize(
    ("given", "wants"),
    [
        (("--data", "data.jsonl", "--round", "1"), "--model, --gguf, --answers or --format trl"),
        (("--data", "data.jsonl", "--merge"), "--model"),
        (("--answers", "answers.json", "--merge"), "--model"),
        (("--data", "data.jsonl", "--license", "mit"), "--model, --gguf or --card"),
    ],
)
def test_an_option_without_effect_is_refused(
    store: Store, given: tuple[str, ...], wants: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", "run", *given]) == 2
    assert f"changes nothing without {wants}" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    "given",
    [
        {"target_modules": ["q_proj", "down_proj"]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
    ],
)
def test_an_adapter_becomes_part_of_the_weights(
    store: Store, tmp_path: Path, model_folder: Path, given: dict[str, list[str]]
) -> None:
    """The model's embeddings are its output layer too: what is done to one is not done to the other."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    folder = store.round_folder(1) / "model"
    made = get_peft_model(AutoModelForCausalLM.from_pretrained(model_folder), LoraConfig(init_lora_weights=False, **given))
    for name, weight in made.named_parameters():
        if "modules_to_save" in name:
            weight.data += 0.1 * torch.randn_like(weight)
    made.save_pretrained(folder)
    store.add_model(1, ModelRef(str(model_folder), str(folder)), read_manifest(folder))
    ids = torch.tensor([[1, 5, 9, 70]])
    with torch.no_grad():
        base = AutoModelForCausalLM.from_pretrained(model_folder)
        plain = base(ids).logits
        adapted = PeftModel.from_pretrained(base, folder)(ids).logits
        export_model(store, tmp_path / "merged", 1, merge=True)
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(ids).logits
    assert not torch.allclose(plain, adapted, atol=1e-3)
    assert torch.allclose(merged, adapted, atol=1e-4)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "merged")("abc")["input_ids"]) == 3
    export_model(store, tmp_path / "adapter", 1)
    assert (tmp_path / "adapter" / "adapter_config.json").exists()
