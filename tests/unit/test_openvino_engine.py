"""The OpenVINO engine on tiny random models, held against transformers' own texts and distribution."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import textwrap
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfalign import align, read_seeds
from selfalign.cli.main import main
from selfalign.encoders import Hashed
from selfalign.engines import HF, OpenVINO, _openvino_model, openvino
from selfalign.errors import Interrupted, RunFailed, UserError
from selfalign.proposers import FewShot
from selfalign.recipes import isara
from selfalign.trainers import NullTrainer
from selfalign.types import Completion, Example, ModelRef, Request, Sampling, derive_seed
from tests.conftest import command
from tests.tiny import tiny_model, tiny_tokenizer

PAIRS = tuple(Example(f"s{i}", f"Question {i}?", f"Answer number {i}.") for i in range(8))
EXACT, REFERENCE = OpenVINO(dtype="float32", threads=1), HF(dtype="float32", device="cpu")
GREEDY = Sampling(max_tokens=24, temperature=0.0)
APART = _openvino_model._convert_apart


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    pytest.importorskip("openvino_genai", reason="OpenVINO GenAI is not installed: pip install 'selfalign[cpu]'")
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SELFALIGN_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversions in this process: one of their own takes seconds of imports."""
    monkeypatch.setattr(_openvino_model, "_convert_apart", _openvino_model._convert)


def random_model(kind: str, folder: Path) -> Path:
    """A random two-layer model of an architecture that declares many end tokens, so that rows end after few, each elsewhere."""
    from transformers import AutoConfig

    tokenizer = tiny_tokenizer()
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 512}
    if kind == "opt":
        sizes |= {"ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.2}
    else:
        sizes |= {"intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.2}
    special = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, vocab_size=len(tokenizer), **sizes, **special))
    made.generation_config.eos_token_id = [257, *range(6), *range(7, 11), 14]  # none of them in an answer here
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model("llama", tmp_path_factory.mktemp("llama") / "model")


def requests(count: int) -> list[Request]:
    """Prompts to write and to answer, with no to three demonstrations, so of many lengths."""
    return [
        Request(f"r{i}", PAIRS[: i % 4], None if i % 2 else f"What is {'so ' * (i % 5)}{i}?", derive_seed(1, i))
        for i in range(count)
    ]


def written(engine: OpenVINO | HF, model: Path, rows: list[Request], sampling: Sampling) -> list[Completion]:
    """In the order of the rows, batch by planned batch, in a session of its own."""
    done: dict[int, Completion] = {}
    with engine.open(engine.check(ModelRef(str(model)), PAIRS, "auto"), "auto") as session:
        for batch in session.plan(rows):
            done.update(zip(batch, session.generate([rows[at] for at in batch], sampling), strict=True))
    return [done[at] for at in range(len(rows))]


@pytest.mark.parametrize("kind", _openvino_model.ARCHITECTURES)
def test_greedy_texts_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    folder, rows = random_model(kind, tmp_path / kind), requests(24)
    found, expected = written(EXACT, folder, rows, GREEDY), written(REFERENCE, folder, rows, GREEDY)
    assert {one.finish for one in expected} == {"stop", "length"} and len({one.text for one in expected}) > 12
    assert sum(ours == theirs for ours, theirs in zip(found, expected, strict=True)) >= 22


def test_padding_of_the_vocabulary_is_never_written(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", extra_vocabulary=64)
    rows = [replace(row, text=row.id) for row in requests(16)]
    sampling = Sampling(max_tokens=24, temperature=0.0)
    with EXACT.open(ModelRef(str(folder)), "auto") as ours, REFERENCE.open(ModelRef(str(folder)), "auto") as theirs:
        assert ours.generate(rows, sampling) == theirs.generate(rows, sampling)
        sampled = ours.generate(rows, Sampling(max_tokens=24, temperature=5.0))
    assert all(one.generated_tokens == 24 or one.finish == "stop" for one in sampled)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=1),
        Sampling(max_tokens=1, temperature=0.7),
        Sampling(max_tokens=1, top_k=12, top_p=0.6),
    ],
    ids=["plain", "cold", "top_k and top_p"],
)
def test_samples_follow_the_models_distribution(model: Path, sampling: Sampling) -> None:
    text, draws = "Where is it", 3000
    tokenizer, loaded = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.inference_mode():
        logits = loaded(torch.tensor([tokenizer(text)["input_ids"]])).logits[0, -1] / sampling.temperature
    shares: dict[str, float] = defaultdict(float)
    for token, share in enumerate(kept(logits.softmax(dim=-1), sampling).tolist()):
        shares[str(tokenizer.decode([token], skip_special_tokens=True)).strip()] += share
    rows = [Request(f"r{i}", text=text, seed=derive_seed(5, i)) for i in range(draws)]
    counts: dict[str, int] = defaultdict(int)
    for one in written(EXACT, model, rows, sampling):
        counts[one.text] += 1
    assert set(counts) <= {name for name, share in shares.items() if share > 0}
    often = [name for name, share in shares.items() if share * draws >= 8]
    pairs = [(counts[name], shares[name] * draws) for name in often]
    pairs.append((draws - sum(seen for seen, _ in pairs), draws - sum(due for _, due in pairs)))
    pairs = [(seen, due) for seen, due in pairs if due > 1e-3]
    seen, due = zip(*pairs, strict=True)
    total = sum(due)
    assert len(pairs) > 2 and stats.chisquare(seen, [one * draws / total for one in due]).pvalue > 1e-3


def kept(shares: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """By the definition: the k most probable, then of those the fewest that reach p."""
    order = shares.argsort(descending=True)
    ordered = shares[order]
    if sampling.top_k:
        ordered[sampling.top_k :] = 0.0
    ordered = ordered / ordered.sum()
    ordered[ordered.cumsum(dim=0) - ordered >= sampling.top_p] = 0.0
    return torch.zeros_like(shares).scatter(0, order, ordered / ordered.sum())


def test_a_resumed_run_and_another_order_write_the_same(model: Path) -> None:
    rows, sampling = requests(20), Sampling(max_tokens=24)
    whole = written(EXACT, model, rows, sampling)
    assert written(EXACT, model, rows, sampling) == whole and len({one.text for one in whole}) > 15
    assert written(EXACT, model, rows[:8], sampling) + written(EXACT, model, rows[8:], sampling) == whole
    assert written(replace(EXACT, batch_size=3, batch_tokens=40), model, rows[::-1], sampling)[::-1] == whole
    assert written(replace(EXACT, prefix_cache=True, batch_size=4), model, rows, sampling) == whole


class Counting:
    """A pipeline that counts its steps."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline, self.steps = pipeline, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)

    def step(self) -> None:
        self.steps += 1
        self._pipeline.step()


def test_a_common_beginning_is_computed_once(model_folder: Path) -> None:
    rows = [Request(f"r{i}", text=f"{'Once upon a time. ' * 50}{i} {kind * 40}") for i in range(8) for kind in "ab"]
    steps, texts = [], []
    for cache in (False, True):
        # 64 tokens at most are computed in a step, so the steps count those of the prompts.
        with replace(EXACT, batch_tokens=64, prefix_cache=cache).open(ModelRef(str(model_folder)), "auto") as session:
            pipeline, ends = session._load()
            counting = Counting(pipeline)
            session._loaded = (counting, ends)
            texts.append([one.text for one in session.generate(rows, Sampling(max_tokens=2, temperature=0.0))])
            steps.append(counting.steps)
            assert [at for batch in session.plan(rows[::-1]) for at in batch] == list(range(15, -1, -1) if cache else range(16))
    assert texts[0] == texts[1]
    assert steps[0] > 16 * 940 / 64 and steps[1] < steps[0] / 4


class Interruption:
    """Progress that ends the run, as a signal would, when so many batches are done."""

    def __init__(self, after: int) -> None:
        self.left = after

    def start(self, stage: str, total: int, done: int = 0) -> None: ...

    def advance(self, count: int = 1, note: str = "") -> None:
        self.left -= 1
        if not self.left:
            raise Interrupted(15)

    def finish(self) -> None: ...


def test_a_run_gone_on_with_writes_the_same_bytes(model: Path, seeds_file: Path, tmp_path: Path) -> None:
    recipe = replace(
        isara(),
        rounds=1,
        per_round=8,
        validation_share=0.0,
        proposer=FewShot(demonstrations=5, aim="balanced", sampling=Sampling(max_tokens=12)),
        sampling=Sampling(max_tokens=12),
        engine=replace(EXACT, batch_size=3),
        encoder=Hashed(),
        trainer=NullTrainer(),
    )
    seeds = read_seeds(str(seeds_file))
    align(recipe, str(model), seeds, tmp_path / "whole")
    with pytest.raises(Interrupted):
        align(recipe, str(model), seeds, tmp_path / "halves", progress=Interruption(2))
    align(recipe, str(model), seeds, tmp_path / "halves")
    whole, halves = ((tmp_path / name / "round-01" / "dropped.jsonl").read_bytes() for name in ("whole", "halves"))
    assert whole == halves and whole.count(b"\n") == 8


def test_the_command_line_takes_the_engine_and_its_options(
    model: Path, seeds_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["check", "isara", str(seeds_file), "--model", str(model), "--engine", "OpenVINO"]
    assert main([*asked, "--engine.threads", "1", "--engine.prefix_cache", "true"]) == 0
    assert main([*asked, "--engine.batch_size", "0"]) == 2
    assert "batch_size = 0 must be" in capsys.readouterr().err


def test_a_run_on_one_core_ends_well_in_any_number_type(model: Path, seeds_file: Path, tmp_path: Path) -> None:
    """With one thread and AMX OpenVINO dies of bfloat16, which `auto` takes there; a first model in float32 changes nothing."""
    mine = tmp_path / "mine.py"
    mine.write_text(
        textwrap.dedent("""
        import os
        from dataclasses import replace
        from selfalign.engines import OpenVINO
        from selfalign.recipes import isara
        from selfalign.types import ModelRef, Request, Sampling

        def mine():
            engine = OpenVINO(dtype="float32")
            with engine.open(engine.check(ModelRef(MODEL), (), "auto"), "auto") as session:
                session.generate([Request("r", prompt="Where?")], Sampling(max_tokens=4))
            assert "ONEDNN_MAX_CPU_ISA" not in os.environ  # trainers are none of this
            return replace(isara(), rounds=1, per_round=4, min_yield=0.0, prompt_filters=(), filters=())
        """).replace("MODEL", repr(str(model)))
    )
    parts = ("--encoder", "Hashed", "--trainer", "NullTrainer", "--guard.parts", "none", "--engine", "OpenVINO", "--quiet")
    core = min(os.sched_getaffinity(0))
    done = subprocess.run(
        command("run", f"{mine}:mine", seeds_file, "--model", model, *parts, "--out", tmp_path / "out"),
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    assert done.returncode == 0, f"{done.returncode}: {done.stderr}"


def test_a_stop_string_ends_the_row_and_not_its_neighbours(model_folder: Path) -> None:
    rows = [Request(f"r{i}", text=f"Text {i}", seed=i) for i in range(12)]
    whole = written(EXACT, model_folder, rows, Sampling(max_tokens=30))
    letter = max((chr(code) for code in range(33, 127)), key=lambda one: sum(one in row.text for row in whole))
    cut = written(EXACT, model_folder, rows, Sampling(max_tokens=30, stop=(letter,)))
    assert [one.text for one in cut] == [one.text.split(letter)[0].strip() for one in whole]
    changed = [(a, b) for a, b in zip(cut, whole, strict=True) if letter in b.text]
    assert all(a.finish == "stop" and a.generated_tokens <= b.generated_tokens for a, b in changed)
    assert any(a.generated_tokens < b.generated_tokens for a, b in changed)
    assert all(a == b for a, b in zip(cut, whole, strict=True) if letter not in b.text)


def test_a_checkpoint_is_converted_once_and_old_ones_go(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_openvino_model, "_KEPT", 2)
    shutil.rmtree(cache / "openvino", ignore_errors=True)
    (cache / "openvino.partial").mkdir()  # left by a killed process
    first = tiny_model(tmp_path / "0")
    before = written(EXACT, first, requests(3), GREEDY)
    (made,) = (cache / "openvino").iterdir()
    born = (made / "openvino_model.bin").stat().st_mtime_ns
    copy = shutil.copytree(first, tmp_path / "copy")
    assert written(EXACT, copy, requests(3), GREEDY) == before
    assert (made / "openvino_model.bin").stat().st_mtime_ns == born and [*(cache / "openvino").iterdir()] == [made]
    for seed in (1, 2):
        other = written(EXACT, tiny_model(tmp_path / str(seed), seed=seed), requests(3), GREEDY)
        assert other != before
    assert not made.exists() and len([*(cache / "openvino").iterdir()]) == 2
    assert written(EXACT, first, requests(3), GREEDY) == before


def test_a_conversion_that_cannot_be_is_told_by_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_openvino_model, "_convert_apart", APART)
    folder = tiny_model(tmp_path / "model", seed=9)
    ref = EXACT.check(ModelRef(str(folder)), PAIRS, "auto")
    (folder / "model.safetensors").unlink()  # behind the check, which would tell it too
    with EXACT.open(ref, "auto") as session, pytest.raises(UserError, match="cannot be loaded"):
        session.generate(requests(1), GREEDY)
    assert "Traceback" not in capfd.readouterr().err


def test_logits_that_are_not_finite_end_the_run(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    broken = AutoModelForCausalLM.from_pretrained(folder)
    broken.model.norm.weight.data[3] = float("nan")
    broken.save_pretrained(folder)
    for sampling in (GREEDY, Sampling(max_tokens=4)):
        with pytest.raises(RunFailed, match="not finite"):
            written(EXACT, folder, requests(2), sampling)


def test_an_interruption_leaves_nothing_behind_in_the_pipeline(
    model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    stops = iter([False] * 40)

    def goes_on(row: Any) -> bool:
        if next(stops, True):
            raise Interrupted(2)
        return plain(row)

    plain = openvino._Row.goes_on
    monkeypatch.setattr(openvino._Row, "goes_on", goes_on)
    with EXACT.open(EXACT.check(ModelRef(str(model)), PAIRS, "auto"), "auto") as session, pytest.raises(Interrupted):
        session.generate(requests(16), replace(GREEDY, max_tokens=64))
    del session
    gc.collect()
    said = capfd.readouterr()
    assert "leaked" not in said.err + said.out  # the library's own line, of blocks that were still in use


def test_what_openvino_does_not_decode_is_refused(model: Path) -> None:
    with EXACT.open(ModelRef(str(model)), "auto") as session:
        for name, sampling in (
            ("beams", Sampling(beams=2)),
            ("repetition_penalty", Sampling(repetition_penalty=1.1)),
            ("no_repeat_ngram", Sampling(no_repeat_ngram=3)),
            ("length_decay", Sampling(length_decay=(8, 1.1))),
            ("rules transformers-4.31", Sampling(rules="transformers-4.31")),
        ):
            with pytest.raises(UserError, match=name):
                session.generate(requests(1), sampling)


def test_other_architectures_are_refused_by_name(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(vocab_size=260, n_positions=512, n_embd=32, n_layer=1, n_head=4)).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="'gpt2', engine OpenVINO runs llama, opt"):
        EXACT.check(ModelRef(str(tmp_path)), PAIRS, "auto")


def test_a_missing_package_is_told_with_the_remedy(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_openvino_model, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'selfalign\[cpu\]'"):
        EXACT.check(ModelRef(str(model)), PAIRS, "auto")


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_tokens": 0}, {"threads": -1}, {"dtype": "float16"}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"OpenVINO: {next(iter(options))} = "):
        OpenVINO(**options)
