"""The papers' kit through its commands: every table of ISARA at its tiny scale, the makers of data, the converters."""

from __future__ import annotations

import csv
import gc
import gzip
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from papers import convert, data, run
from papers.kit import SCALES, Kit, answers, kept, of_round
from papers.kit import cell as filled
from selfalign.evaluators import HeldOut
from selfalign.evaluators.harmfulness import BEAVER_TAILS, Harmfulness
from selfalign.models.classifier import reward_model
from selfalign.recipes import isara_paper
from selfalign.record.store import Store
from selfalign.seeds.read import read_seeds
from selfalign.types import Example, Metric, Outcome, Unit
from tests.files import write_rows
from tests.tiny import tiny_config, tiny_model, tiny_tokenizer

ROOT = Path(run.__file__).parent.parent
ISARA = run.papers()["isara"]
HATE, THEFT = "hate_speech,offensive_language", "financial_crime,property_crime,theft"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all tables share, as a reader's would."""
    gc.freeze()  # each classifier that is released is followed by a collection, slow with torch's objects in it
    return tmp_path_factory.mktemp("isara")


def table(out: Path, name: str, *more: str) -> dict[str, Any]:
    assert run.main(["isara", name, "--out", str(out), "--scale", "tiny", "--quiet", *more]) == 0
    found: dict[str, Any] = json.loads((out / f"isara-{name}.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("name", ISARA)
def test_each_table_of_isara_is_run_and_stands_beside_the_papers(out: Path, name: str) -> None:
    found = table(out, name)
    cells = found["cells"]
    assert cells and found["scale"] == "tiny" and found["source_of_the_papers_figures"]
    for cell in cells:
        assert math.isfinite(cell["value"])
        assert cell["low"] is None or cell["low"] <= cell["value"] <= cell["high"]
        assert cell["n"] > 0 or name == "table5"
    assert name == "ablation_retriever" or any(cell["paper"] is not None for cell in cells)
    text = (out / f"isara-{name}.md").read_text(encoding="utf-8")
    for cell in cells:
        assert f"| {cell['row']} |" in text and f"| {cell['column']} |" in text
        assert cell["paper"] is None or f"paper {cell['paper']:.{1 + (name == 'table6')}f}" in text


def test_a_figure_is_what_the_run_measured_and_finished_runs_are_only_read(out: Path) -> None:
    first = table(out, "figure2")
    folders = {path: path.stat().st_mtime_ns for path in out.glob("runs/safety/*/*/*/*/run.sqlite")}
    with Store.read(out / "runs/safety/llama-7b/hate/ISARA/seed-42") as store:
        best = int(store.state()["best_round"])
        assert best == 2
        values = [one.value for one in store.outcomes(best, "harmfulness") if one.id.startswith("unethical-")]
        judged = {row["id"]: (row["prompt"], row["text"]) for row in store.done_batches(best, "held_out").values()}
    cell = next(each for each in first["cells"] if (each["row"], each["column"]) == ("llama-7b, ISARA, hate", "unethical"))
    assert cell["value"] == pytest.approx(100 * sum(values) / len(values)) and cell["n"] == len(values) == 6
    assert cell["paper"] == 7.2
    # By the classifier alone, on the answers in the record.
    _, verdicts = Harmfulness(str(out / "invented/beaver-dam"), preset="beaver_dam", device="cpu").judge(list(judged.values()))
    harm = {id: verdict[0] for id, verdict in zip(judged, verdicts, strict=True) if verdict}
    assert [float(harm[id]) for id in sorted(harm) if id.startswith("unethical-")] == values
    assert 0 < sum(harm.values()) < len(harm)
    assert table(out, "figure2") == first
    assert {path: path.stat().st_mtime_ns for path in folders} == folders


def test_what_table_4_compares_has_generated_the_same_number(out: Path) -> None:
    table(out, "table4")
    made = {}
    for arm in ("ISARA", "one-shot"):
        with Store.read(out / f"runs/truthfulqa/llama-7b/{arm}/seed-42") as store:
            rounds = range(1, 2 if arm == "one-shot" else 3)
            made[arm] = [len(store.kept(round)) + len(store.dropped(round)) for round in rounds]
    assert made == {"ISARA": [8, 8], "one-shot": [16]}


def wordy_model(folder: Path) -> Path:
    """A random base model that writes words and hardly ever single letters, so that the paper's rules keep what it writes."""
    import torch
    from transformers import LlamaForCausalLM

    tokenizer = tiny_tokenizer(template=None, eos="<|endoftext|>", context=2048)
    letters = len(tokenizer)
    tokenizer.add_tokens([f" {a}{b}{c}o" for a in "bdfglmnprst" for b in "aeiu" for c in "bdgklmnprt"])
    torch.manual_seed(0)
    model = LlamaForCausalLM(tiny_config(tokenizer, 2048, tie_word_embeddings=True, initializer_range=0.2))
    model.get_input_embeddings().weight.data[:letters] *= 0.01
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_real_weights_go_the_same_way(tmp_path: Path) -> None:
    """Trained by the paper's trainer, asked with the paper's beams, in the paper's format: as a table's first arm is."""
    seeds = [Example(f"s{n}", f"What is {n} and why?", f"It is {n}. That is why it is {n}.", slot=n) for n in range(6)]
    held_out = [Example(f"h{n}", f"Where is {n} now?", "") for n in range(3)]
    kit = Kit(tmp_path, SCALES["tiny"], tmp_path, {"tiny": str(wordy_model(tmp_path / "model"))})
    found = kit.study("try", kit.models["tiny"], {"ISARA": isara_paper(demonstrations=3)}, seeds, held_out, [HeldOut()])["ISARA"]
    (folder,) = kit.folders("try", found)
    assert [len(steps) for steps in (found, found[0].steps, kept(folder))] == [1, 2, 2] and all(map(len, kept(folder)))
    assert [of_round(folder, round)["response_words"].n for round in (0, 1, 2)] == [3, 3, 3]
    assert not of_round(folder, 3)
    texts = answers(folder, 2)
    assert sorted(texts) == ["h0", "h1", "h2"] and texts != answers(folder, 0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["isara", "table9", "--out", "x"], "there is no isara table9"),
        (["isara", "table2"], "give --out"),
        (["isara", "table2", "--out", "x", "--repeats", "0"], "must be at least 1"),
        (["isara", "table6", "--out", "x", "--data", "x"], "TruthfulQA.csv is not there; this table needs TruthfulQA's table"),
    ],
)
def test_what_cannot_run_says_so_in_one_line(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run.main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1


def test_without_a_table_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main([]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in ISARA) and "needs beavertails, beaver-dam" in listed
    costs = (ROOT / "papers/README.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in costs for name in ISARA)


# The data


def beaver_row(prompt: str, response: str, *flagged: str, safe: bool | None = None) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "response": response,
        "category": {name: name in flagged for name in BEAVER_TAILS},
        "is_safe": not flagged if safe is None else safe,
    }


def beaver_rows() -> list[dict[str, Any]]:
    rows = []
    for number in range(12):
        rows += [beaver_row(f"Insult number {number}?", "No, be kind.", *flagged) for flagged in ((), (), (THEFT,))]
        labels = ((HATE,), (HATE,), (HATE, THEFT))  # the one who says theft is outvoted
        rows += [beaver_row(f"Insult number {number}?", "They are all stupid.", *flagged) for flagged in labels]
    # Labelled hate by one of three, theft by two: theft it is. The safe label of the answer is the minority's.
    rows += [beaver_row("Take it?", "Yes, take it.", THEFT), beaver_row("Take it?", "Yes, take it.", THEFT, HATE)]
    rows += [beaver_row("Take it?", "Yes, take it.")]
    rows += [beaver_row("Either?", "Yes.", THEFT, HATE), beaver_row("Nothing?", "Fine.")]
    return rows


@pytest.mark.parametrize("form", ["jsonl.gz", "parquet", "folder"])
def test_beavertails(tmp_path: Path, form: str) -> None:
    rows = beaver_rows()
    source = tmp_path / f"rows.{form}"
    if form == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as parquet

        parquet.write_table(pa.Table.from_pylist(rows), source)
    elif form == "folder":
        source.mkdir()
        for part, some in (("b.jsonl", rows[:20]), ("a.jsonl", rows[20:])):
            write_rows(source / part, some)
    else:
        with gzip.open(source, "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in reversed(rows))
    out = tmp_path / "out"
    command = ["beavertails", str(source), str(out), "--categories", "hate", "--seeds", "4", "--prompts", "8"]
    assert data.main(command) == 0
    seeds = read_seeds(out / "hate-seeds.jsonl")
    prompts = read_seeds(out / "hate-prompts.jsonl", response_required=False)
    assert {seed.response for seed in seeds} == {"No, be kind."} and len(seeds) == 4 and len(prompts) == 8
    asked = {example.prompt for example in (*seeds, *prompts)}
    assert asked == {f"Insult number {number}?" for number in range(12)}  # disjoint, and neither "Take it?" nor "Either?"
    assert {example.metadata["harm"] for example in prompts} == {HATE}
    # What is drawn does not depend on the form or the order.
    assert [seed.prompt for seed in seeds] == SEEDS_DRAWN


SEEDS_DRAWN = [f"Insult number {number}?" for number in (2, 1, 5, 9)]


def test_beavertails_that_is_too_little_or_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_rows(tmp_path / "rows.jsonl", beaver_rows())
    assert data.main(["beavertails", str(source), str(tmp_path / "out"), "--categories", "hate"]) == 2
    assert "has 12 of 64 prompts with a safe answer and 0 of 250 others" in capsys.readouterr().err
    assert data.main(["beavertails", str(source), str(tmp_path / "out"), "--categories", "spite"]) == 2
    assert "no category 'spite'; it has discrimination, hate" in capsys.readouterr().err
    source.write_text('{"prompt": "a", "response": "b"}\n', encoding="utf-8")
    assert data.main(["beavertails", str(source), str(tmp_path / "out")]) == 2
    assert f"{source}:1: no row of BeaverTails" in capsys.readouterr().err


def test_truthfulqa_is_split(tmp_path: Path) -> None:
    source, out = tmp_path / "TruthfulQA.csv", tmp_path / "out"
    lines = [f'"What, {n}?",Nothing {n},Nothing {n}; None,Much {n},u{n}' for n in range(10)]
    source.write_text("\n".join(("Question,Best Answer,Correct Answers,Incorrect Answers,Source", *lines)), encoding="utf-8")
    assert data.main(["truthfulqa", str(source), str(out), "--seeds", "3"]) == 0
    seeds = read_seeds(out / "seeds.jsonl")
    with (out / "questions.csv").open(newline="", encoding="utf-8") as file:
        rest = list(csv.DictReader(file))
    assert len(seeds) == 3 and len(rest) == 7 and rest[0]["Source"].startswith("u")
    assert {seed.prompt for seed in seeds} | {row["Question"] for row in rest} == {f"What, {n}?" for n in range(10)}
    assert all(seed.response == f"Nothing {re.sub('[^0-9]', '', seed.prompt)}." for seed in seeds)


def test_alpaca_eval_is_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "alpaca_eval.json"
    source.write_text(json.dumps([{"instruction": f"Do {n}.", "output": f"Done {n}."} for n in range(805)]), encoding="utf-8")
    for more, count in (([], 549), (["--prompts", "300"], 300)):
        out = tmp_path / f"out-{count}"
        assert data.main(["alpaca_eval", str(source), str(out), *more]) == 0
        seeds, prompts = read_seeds(out / "seeds.jsonl"), read_seeds(out / "prompts.jsonl")
        assert (len(seeds), len(prompts)) == (64, count)
        assert not {seed.prompt for seed in seeds} & {example.prompt for example in prompts}
    assert data.main(["alpaca_eval", str(source), str(tmp_path / "o"), "--prompts", "700"]) == 2
    assert "has 805 different instructions, not enough" in capsys.readouterr().err


# The converters


def pickled(folder: Path, model: Any, config: dict[str, Any], tokenizer: Any, shards: int = 1) -> dict[str, Any]:
    """A model's folder as it was published before safetensors; returns its tensors."""
    import torch

    folder.mkdir()
    state = dict(model.state_dict())
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "code.Model"}}), encoding="utf-8")
    names = sorted(state)
    if shards == 1:
        torch.save(state, folder / "pytorch_model.bin")
    else:
        place = {name: f"pytorch_model-{1 + at % shards:05}-of-{shards:05}.bin" for at, name in enumerate(names)}
        for file in set(place.values()):
            torch.save({name: state[name] for name in names if place[name] == file}, folder / file)
        index = {"metadata": {"total_size": 1}, "weight_map": place}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index), encoding="utf-8")
    return state


@pytest.mark.parametrize("shards", [1, 3])
def test_pickled_weights_become_safetensors(tmp_path: Path, shards: int, capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, OPTConfig, OPTForCausalLM

    tokenizer = tiny_tokenizer(template=None)
    config = OPTConfig(
        vocab_size=len(tokenizer), hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=16
    )
    model = OPTForCausalLM(config).eval()  # the head is tied to the embedding
    source, out = tmp_path / "opt", tmp_path / "out"
    pickled(source, model, config.to_dict(), tokenizer, shards)
    assert convert.main(["weights", str(source), str(out)]) == 0
    assert "the network was closed by" in capsys.readouterr().out
    loaded = AutoModelForCausalLM.from_pretrained(out, use_safetensors=True, trust_remote_code=False)
    ids = torch.tensor([[5, 6, 7, 8]])
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert "auto_map" not in json.loads((out / "config.json").read_text()) and not list(out.glob("*.bin"))
    assert convert.main(["weights", str(source), str(out)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_pickle_that_runs_something_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    class Harm:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "harm",)

    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text("{}", encoding="utf-8")
    torch.save({"a": Harm()}, source / "pytorch_model.bin")
    assert convert.main(["weights", str(source), str(tmp_path / "out")]) == 2
    assert "cannot be read as tensors alone" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_the_child_has_no_network_and_no_processes(tmp_path: Path) -> None:
    probe = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'papers')!r}); import _unpickle, socket, subprocess\n"
        "print(_unpickle.network_of_its_own(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect_ex(('192.0.2.1', 9)))\n"
        "sys.addaudithook(_unpickle.forbid)\n"
        "for harm in (lambda: socket.create_connection(('127.0.0.1', 9)), lambda: subprocess.run(['true'])):\n"
        "    try:\n        harm()\n    except PermissionError as error:\n        print(error)\n"
    )
    lines = subprocess.run([sys.executable, "-I", "-c", probe], capture_output=True, text=True, check=True).stdout.splitlines()
    alone, code = lines[0].split()
    assert alone == "False" or code != "0"  # where the system lets it, no address can be reached at all
    assert [line.partition(";")[0] for line in lines[1:]] == [
        "the weights tried socket.getaddrinfo",
        "the weights tried subprocess.Popen",
    ]


def reward_folder(folder: Path, **settings: Any) -> tuple[Any, Any, Any]:
    """A reward model as safe-rlhf saves one: a Llama and a `score_head` on its last hidden state; (model, head, tokenizer)."""
    import torch
    from transformers import LlamaModel

    tokenizer = tiny_tokenizer(template=None, context=256)
    config = tiny_config(tokenizer, 256)
    torch.manual_seed(3)
    inner = LlamaModel(config).eval()
    whole = torch.nn.Module()
    whole.model, whole.score_head = (
        inner,
        torch.nn.Linear(config.hidden_size, settings.pop("score_dim", 1), settings.pop("bias", False)),
    )
    said = {
        **config.to_dict(),
        "architectures": ["LlamaModelForScore"],
        "score_type": "reward",
        "do_normalize": False,
        **settings,
    }
    pickled(folder, whole, said, tokenizer)
    return inner, whole.score_head, tokenizer


def test_a_score_head_becomes_a_classifier_of_equal_scores(tmp_path: Path) -> None:
    import torch

    inner, head, tokenizer = reward_folder(tmp_path / "beaver")
    assert convert.main(["reward", str(tmp_path / "beaver"), str(tmp_path / "out")]) == 0
    pairs = [("What now?", "Go home."), ("Why?", "Since it is late, and the shop is closed."), ("Who?", "")]
    options: dict[str, Any] = {"rendering": "USER: {prompt} ASSISTANT: {response}{eos}", "max_length": 0, "device": "cpu"}
    with reward_model(str(tmp_path / "out"), "Test", batch_size=2, **options) as read:
        found = read(pairs)
    wanted = []
    for prompt, response in pairs:
        ids = [*tokenizer(f"USER: {prompt} ASSISTANT: {response}")["input_ids"], tokenizer.eos_token_id]
        with torch.inference_mode():
            wanted.append(head(inner(torch.tensor([ids])).last_hidden_state[0, -1]).item())
    assert found == pytest.approx(wanted, abs=1e-6) and len(set(found)) == 3
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"bias": True}, "its score_head has a bias"),
        ({"score_dim": 2}, "its score_head has 2 outputs"),
        ({"do_normalize": True}, "normalised afterwards"),
    ],
)
def test_a_score_head_that_no_classifier_can_stand_for(
    tmp_path: Path, settings: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    reward_folder(tmp_path / "beaver", **settings)
    assert convert.main(["reward", str(tmp_path / "beaver"), str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err and [path.name for path in tmp_path.iterdir()] == ["beaver"]


def test_a_classifier_without_its_head_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny_model(tmp_path / "model", template=None)
    assert convert.main(["reward", str(folder), str(tmp_path / "out")]) == 2
    assert "has no score_head.weight" in capsys.readouterr().err
    shutil.rmtree(folder)
    assert convert.main(["weights", str(folder), str(tmp_path / "out")]) == 2
    assert "needs config.json and pytorch_model*.bin" in capsys.readouterr().err


@pytest.mark.parametrize(("unit", "times"), [("share", 100), ("points", 100), ("number", 1), ("amount", 1)])
def test_shares_are_shown_in_hundreds_and_nothing_else(unit: Unit, times: int) -> None:
    """A difference of ROUGE-L of -2.8 points once stood in Table 4 as -276."""
    values = (0.25, 0.75, 0.5)
    metric = Metric("any", 0.5, 0.0, 1.0, 3, tuple(Outcome(str(place), value) for place, value in enumerate(values)), unit)
    found = filled("row", "column", [metric])
    assert found.value == pytest.approx(0.5 * times) and found.low < found.value < found.high <= 2 * times
