"""The HF engine on tiny random models; everything runs through the real libraries."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from selfalign.engines import HF, _decode, _weights
from selfalign.errors import RunFailed, UserError
from selfalign.models.rendering import make_renderer
from selfalign.types import Example, ModelRef, Request, Sampling, derive_seed
from tests.tiny import sentencepiece_tokenizer, tiny_model, tiny_tokenizer

PAIRS = tuple(Example(f"s{i}", f"Question {i}?", f"Answer number {i}.") for i in range(8))
EXACT = HF(dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def model_of_many_ends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose rows end after few tokens, each at another step; its positions are absolute."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("ends") / "model"
    config = GPT2Config(vocab_size=260, n_positions=512, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = GPT2LMHeadModel(config)
    made.generation_config.eos_token_id = [257, *range(30)]
    made.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def requests(count: int) -> list[Request]:
    """Prompts to write and to answer, with no to three demonstrations, so of many lengths."""
    return [
        Request(f"r{i}", PAIRS[: i % 4], None if i % 2 else f"What is {'so ' * (i % 5)}{i}?", derive_seed(1, i))
        for i in range(count)
    ]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=12),
        Sampling(max_tokens=12, temperature=0.0),
        Sampling(max_tokens=12, temperature=0.7, top_p=0.9, top_k=50),
        Sampling(max_tokens=12, repetition_penalty=1.2, no_repeat_ngram=3),
    ],
    ids=["sample", "greedy", "nucleus", "penalties"],
)
def test_a_rows_text_does_not_depend_on_its_neighbours(model: Path, sampling: Sampling) -> None:
    rows = requests(24)
    with EXACT.open(ModelRef(str(model)), "auto") as session:
        together = session.generate(rows, sampling)
        assert session.generate(rows[:7], sampling) + session.generate(rows[7:], sampling) == together
        assert session.generate(rows[::-1], sampling)[::-1] == together
        assert len({one.text for one in together}) > (1 if sampling.temperature == 0.0 else 20)
    if sampling.temperature > 0.0:
        with EXACT.open(ModelRef(str(model)), "auto") as session:
            other = session.generate([replace(row, seed=row.seed + 1) for row in rows], sampling)
        assert sum(a.text == b.text for a, b in zip(together, other, strict=True)) < 3


def test_rows_that_end_leave_the_others_as_they_are(model_of_many_ends: Path) -> None:
    rows, sampling = requests(24), Sampling(max_tokens=30)
    with EXACT.open(ModelRef(str(model_of_many_ends)), "auto") as session:
        together = session.generate(rows, sampling)
        assert [session.generate([row], sampling)[0] for row in rows] == together
    assert len({one.generated_tokens for one in together}) > 5


def test_the_own_loop_writes_what_generate_writes(model: Path) -> None:
    rows = requests(12)
    with EXACT.open(ModelRef(str(model)), "auto") as session:
        prompts = [session._texts.ids(row) for row in rows if row.prompt is not None]
        arguments = (prompts, [1, 2, 3, 4, 5, 6], Sampling(max_tokens=16), session._stopper("response", ()), 260, 259)
        assert _decode.sample(session._model, *arguments) == _decode.generate(session._model, *arguments)


def test_sampling_draws_from_the_models_distribution() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -30.0])
    expected = torch.softmax(logits / 0.7, dim=-1)
    draws = torch.from_numpy(_decode.uniforms([7], 40_000))[0]
    chosen = _decode.pick(logits.expand(40_000, -1), draws, Sampling(temperature=0.7))
    share = torch.bincount(chosen, minlength=5) / 40_000
    assert torch.allclose(share, expected, atol=0.01) and chosen.max() <= 3


def test_top_k_and_top_p_keep_the_likeliest_tokens_only() -> None:
    logits = torch.log(torch.tensor([0.1, 0.4, 0.3, 0.15, 0.05])).expand(2000, -1)
    draws = torch.from_numpy(_decode.uniforms([3], 2000))[0]
    assert set(_decode.pick(logits, draws, Sampling(top_k=2)).tolist()) == {1, 2}
    assert set(_decode.pick(logits, draws, Sampling(top_p=0.6)).tolist()) == {1, 2}
    assert set(_decode.pick(logits, draws, Sampling(top_p=0.3)).tolist()) == {1}
    edge = torch.tensor([0.0, 1.0])
    ends = _decode.pick(torch.zeros(2, 4).log_softmax(-1), edge, Sampling())
    assert ends.tolist() == [0, 3]
    barred = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]])
    assert [_decode.pick(barred, one[None], Sampling()).item() for one in edge] == [1, 2]


def test_whole_numbers_draw_what_floats_draw_and_nothing_that_is_barred() -> None:
    """How probabilities are summed on a GPU, where a sum of floats may fall."""
    torch.manual_seed(2)
    logits = 4 * torch.randn(20_000, 300)
    logits[:, 40:200] = -torch.inf
    logits[::2, 250:] = logits[:6, :3] = -torch.inf
    draws = torch.from_numpy(_decode.uniforms([5], 20_000))[0].float()
    draws[:6] = torch.tensor([0.0, 0.0, 1.0, 1.0, 2.0**-24, 1.0 - 2.0**-24])
    for sampling in (Sampling(), Sampling(temperature=0.3, top_p=0.8), Sampling(top_k=7)):
        floats, whole = (_decode.pick(logits, draws, sampling, each) for each in (False, True))
        assert not logits.gather(-1, whole[:, None]).isinf().any()
        assert (floats == whole).float().mean() > 0.999, "but where a draw falls on the edge between two tokens"
    broken = logits.clone()
    broken[3, 7] = torch.nan
    assert (_decode.pick(broken, draws, Sampling(), True) == 300).nonzero().tolist() == [[3]]


def test_beams_are_repeatable_and_leave_the_callers_random_state_alone(model: Path) -> None:
    sampling = Sampling(
        max_tokens=8, beams=3, repetition_penalty=1.1, no_repeat_ngram=3, length_penalty=2.0, length_decay=(3, 1.5)
    )
    rows = requests(6)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with EXACT.open(ModelRef(str(model)), "auto") as session:
        first = session.generate(rows, sampling)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(6)
        assert session.generate(rows, sampling) == first
        assert session.generate([replace(row, seed=row.seed + 1) for row in rows], sampling) != first


def test_finish_reasons_and_counts_tell_an_end_from_a_cut(model: Path) -> None:
    rows = [Request(f"r{i}", PAIRS[:2], "Go on?", derive_seed(2, i)) for i in range(48)]
    with EXACT.open(ModelRef(str(model)), "auto") as session:
        done = session.generate(rows, Sampling(max_tokens=60))
    stopped = [one for one in done if one.finish == "stop"]
    assert 0 < len(stopped) < 48
    assert all(one.generated_tokens == 60 for one in done if one.finish == "length")
    assert all(one.generated_tokens <= 60 and "<|" not in one.text and one.text == one.text.strip() for one in done)
    assert min(one.generated_tokens for one in stopped) < 60


def test_a_stop_string_ends_a_row_where_it_stands() -> None:
    tokenizer = tiny_tokenizer(template=None)
    stopper = _decode.Stopper(tokenizer, frozenset({tokenizer.eos_token_id}), ("USER:", "END OF CONVERSATION"))
    ids = tokenizer("Yes. USER: no: END OF CONVERSATION", add_special_tokens=False)["input_ids"]
    ends = [count for count in range(1, len(ids) + 1) if stopper.ends(ids[:count])]
    assert ends[0] == len("Yes. USER:")
    assert stopper.ends([tokenizer.eos_token_id]) and not stopper.ends(ids[:3])


@pytest.mark.parametrize("end", ["END ", "END\n", "END\t", "終わり", "fin é", "🎉", "\u00a0", "END\u00ad"])
def test_a_stop_string_may_end_in_any_character(end: str) -> None:
    tokenizer = tiny_tokenizer()
    stopper = _decode.Stopper(tokenizer, frozenset(), (end,))
    ids = tokenizer(f"So. {end}")["input_ids"]
    assert [stopper.ends(ids[: at + 1]) for at in range(len(ids))] == [False] * (len(ids) - 1) + [True]


def test_a_stop_string_may_end_in_the_space_before_a_word() -> None:
    tokenizer = sentencepiece_tokenizer(("\u2581", "A"))
    stopper, ids = _decode.Stopper(tokenizer, frozenset(), ("END ",)), tokenizer("So. END And")["input_ids"]
    assert [stopper.ends(ids[:count]) for count in range(1, len(ids) - 1)] == [False] * 8 + [True]
    assert _decode.Stopper(tokenizer, frozenset(), (" END",)).ends(ids[:8])  # the decoder takes a space that begins a text


@pytest.mark.parametrize(
    "options",
    [
        {"pad": "none"},
        {"pad": "eos"},
        {"template": None},
        {"eos": None, "pad": "none"},
        {"template": None, "eos": None, "pad": "none"},
    ],
)
def test_models_without_pad_end_token_or_template_work(tmp_path: Path, options: dict[str, object]) -> None:
    ref = EXACT.check(ModelRef(str(tiny_model(tmp_path / "model", **options))), PAIRS, "auto")
    with EXACT.open(ref, "auto") as session:
        assert len(session.generate(requests(5), Sampling(max_tokens=6))) == 5
        assert len(session.generate(requests(4), Sampling(max_tokens=6, beams=2, length_decay=(2, 1.2)))) == 4
        assert all(one.total < 0 for one in session.likelihood(PAIRS))


def test_padding_rows_of_the_vocabulary_are_never_written(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = tiny_model(tmp_path / "model", extra_vocabulary=20)
    made = AutoModelForCausalLM.from_pretrained(folder)
    made.get_output_embeddings().weight.data[260:] *= 30.0  # the likeliest of all, were they allowed
    made.save_pretrained(folder)
    with EXACT.open(ModelRef(str(folder)), "auto") as session:
        for sampling in (Sampling(max_tokens=10), Sampling(max_tokens=10, temperature=0.0)):
            prompts = [session._texts.ids(row) for row in requests(8)]
            for write in (_decode.sample, _decode.generate):
                rows = write(
                    session._model, prompts, range(8), sampling, session._stopper("response", ()), session._vocabulary(), 0
                )
                assert max(token for ids, _ in rows for token in ids) < 260


def test_hidden_decoding_defaults_of_the_model_have_no_effect(model: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    own = json.loads((folder / "generation_config.json").read_text())
    own |= {"temperature": 0.01, "top_k": 1, "max_length": 3, "do_sample": True, "suppress_tokens": [*range(100)]}
    (folder / "generation_config.json").write_text(json.dumps(own))
    rows = requests(8)
    for sampling in (Sampling(max_tokens=10), Sampling(max_tokens=10, beams=2), Sampling(max_tokens=10, no_repeat_ngram=9)):
        texts = []
        for path in (model, folder):
            with EXACT.open(ModelRef(str(path)), "auto") as session:
                texts.append(session.generate(rows, sampling))
        assert texts[0] == texts[1]


def test_the_models_further_end_tokens_end_a_text_too(model: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [257, *range(128)]}))
    with EXACT.open(ModelRef(str(folder)), "auto") as session:
        done = session.generate(requests(16), Sampling(max_tokens=40))
    assert all(one.finish == "stop" for one in done)


def test_likelihood_is_the_sum_over_the_response_alone(model: Path) -> None:
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(model)
    with EXACT.open(ModelRef(str(model)), "auto") as session:
        found = session.likelihood(PAIRS)
        pairs = [session._texts.renderer.training_ids(pair.prompt, pair.response) for pair in PAIRS]
    with replace(EXACT, batch_size=1).open(ModelRef(str(model)), "auto") as session:
        alone = session.likelihood(PAIRS)
    for one, single, (ids, labels) in zip(found, alone, pairs, strict=True):
        with torch.inference_mode():
            out = plain(input_ids=torch.tensor([ids]), labels=torch.tensor([labels]))
        count = sum(label != -100 for label in labels)
        assert one.tokens == count
        assert one.total == pytest.approx(-float(out.loss) * count, rel=1e-5)
        assert one.total == pytest.approx(single.total, rel=1e-5)


def test_embeddings_are_unit_means_of_the_last_states_and_ignore_padding(model_of_many_ends: Path) -> None:
    from transformers import AutoModel

    texts = ["short", "a text that is a good deal longer than the other one", "", "short"]
    plain, tokenizer = AutoModel.from_pretrained(model_of_many_ends), tiny_tokenizer()
    with EXACT.open(ModelRef(str(model_of_many_ends)), "auto") as session:
        found = session.embed(texts)
        assert session.embed([]).shape == (0, found.shape[1])
    assert found.shape == (4, 32) and found.dtype == np.float32
    assert np.allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-6)
    for text, vector in zip(texts[:2], found, strict=False):
        with torch.inference_mode():
            mean = plain(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state.mean(dim=1)[0].numpy()
        assert np.allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)
    assert np.allclose(found[0], found[3], atol=1e-6)


def test_fit_drops_demonstrations_from_the_last_and_never_cuts_the_prompt(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", context=256)
    with EXACT.open(ModelRef(str(folder)), "auto") as session:
        whole = Request("r", PAIRS, "And now?")
        fitted = session.fit(whole, 50)
        assert fitted is not None
        kept = len(fitted.demonstrations)
        assert 0 < kept < 8 and fitted == replace(whole, demonstrations=PAIRS[:kept])
        length = session.generate([fitted], Sampling(max_tokens=1))[0].prompt_tokens
        longer = session.generate([replace(whole, demonstrations=PAIRS[: kept + 1])], Sampling(max_tokens=1))[0].prompt_tokens
        assert length <= 206 < longer
        assert session.fit(Request("r", (), "x" * 300), 8) is None
        assert session.fit(fitted, 50) == fitted


def test_a_seed_longer_than_the_window_is_refused_by_name(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", context=128)
    with pytest.raises(UserError, match=r"long-one: .* tokens .* 128"):
        EXACT.check(ModelRef(str(folder)), [*PAIRS, Example("long-one", "Why?", "x" * 128)], "auto")


def test_plan_depends_on_the_lengths_alone_and_covers_all(model: Path) -> None:
    rows = requests(30)
    with replace(EXACT, batch_size=7).open(ModelRef(str(model)), "auto") as session:
        batches = session.plan(rows)
        lengths = [len(session._texts.ids(row)) for row in rows]
        assert sorted(place for batch in batches for place in batch) == list(range(30))
        assert all(len(batch) <= 7 for batch in batches) and len(batches) == 5
        ordered = [lengths[place] for batch in batches for place in batch]
        assert ordered == sorted(ordered, reverse=True)
        assert session.plan(rows) == batches and session.plan([]) == []
    with replace(EXACT, batch_tokens=200).open(ModelRef(str(model)), "auto") as session:
        for batch in session.plan(rows):
            assert len(batch) == 1 or max(lengths[place] for place in batch) * len(batch) <= 200


def test_a_few_long_prompts_do_not_widen_all_others(model: Path) -> None:
    short, long = (
        [Request(f"{text}{i}", (), text * times, seed=i) for i in range(5)] for text, times in (("a ", 9), ("b ", 150))
    )
    with EXACT.open(ModelRef(str(model)), "auto") as session:
        assert [set(batch) for batch in session.plan([*short, *long])] == [{5, 6, 7, 8, 9}, {0, 1, 2, 3, 4}]
        assert len(session.plan([*short, *[replace(row, prompt="b " * 15) for row in long]])) == 1  # padding is cheap there


def test_running_out_of_memory_halves_the_batch_down_to_one_row(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, sizes, real = requests(12), [], _decode.sample

    def small(model, prompts, *rest):
        sizes.append(len(prompts))
        if len(prompts) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, prompts, *rest)

    with EXACT.open(ModelRef(str(model)), "auto") as session:
        expected = session.generate(rows, Sampling(max_tokens=8))
        monkeypatch.setattr(_decode, "sample", small)
        limit = 2
        assert session.generate(rows, Sampling(max_tokens=8)) == expected
        assert max(sizes) == 6 and min(sizes) <= 2
        limit = 0
        with pytest.raises(RunFailed, match="memory ran out with a single row"):
            session.generate(rows, Sampling(max_tokens=8))


def test_weights_that_are_not_finite_stop_the_run(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = tiny_model(tmp_path / "model")
    made = AutoModelForCausalLM.from_pretrained(folder)
    made.model.norm.weight.data[0] = float("nan")
    made.save_pretrained(folder)
    with EXACT.open(ModelRef(str(folder)), "auto") as session:
        for sampling in (Sampling(max_tokens=4), Sampling(max_tokens=4, temperature=0.0)):
            with pytest.raises(RunFailed, match="not finite"):
                session.generate(requests(2), sampling)
        with pytest.raises(RunFailed, match="not finite"):
            session.likelihood(PAIRS[:2])


def test_an_adapter_is_merged_and_found_with_its_base(model: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(model), LoraConfig(r=4, target_modules="all-linear"))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    adapted.save_pretrained(tmp_path / "adapter")
    ref = EXACT.check(ModelRef(str(tmp_path / "adapter")), PAIRS, "auto")
    assert (ref.base, ref.adapter) == (str(model), str(tmp_path / "adapter"))
    assert ref.hash != EXACT.check(ModelRef(str(model)), PAIRS, "auto").hash
    with EXACT.open(ref, "auto") as session, EXACT.open(ModelRef(str(model)), "auto") as plain:
        found, ids = session.likelihood(PAIRS[:1])[0], session._texts.renderer.training_ids(PAIRS[0].prompt, PAIRS[0].response)
        assert abs(found.total - plain.likelihood(PAIRS[:1])[0].total) > 0.1
    with torch.inference_mode():
        loss = adapted(input_ids=torch.tensor([ids[0]]), labels=torch.tensor([ids[1]])).loss
    assert found.total == pytest.approx(-float(loss) * found.tokens, rel=1e-4)


def test_a_small_adapter_is_not_rounded_away_where_weights_have_16_bits(model: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model).to(torch.bfloat16)
    base.save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(model).save_pretrained(tmp_path / "base")
    torch.manual_seed(0)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), LoraConfig(target_modules="all-linear"))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=1e-4)
    adapted.save_pretrained(tmp_path / "adapter")
    ref = ModelRef(str(tmp_path / "base"), str(tmp_path / "adapter"))
    changes = []
    for kind in (torch.float32, torch.bfloat16):
        merged = _weights.weights(ref, torch.device("cpu"), kind, "sdpa").state_dict()
        changes.append(torch.cat([(merged[name].float() - old.float()).flatten() for name, old in base.state_dict().items()]))
    whole, kept = changes
    assert 0.8 < (kept @ whole / (whole @ whole)).item() < 1.2, "on average all of the change is there"


def test_weights_load_at_the_first_need_and_are_gone_after_the_block(model: Path) -> None:
    import gc
    import weakref

    with EXACT.open(ModelRef(str(model)), "auto") as session:
        session.plan(requests(3))
        session.render(requests(1)[0])
        assert session._weights is None
        session.likelihood(PAIRS[:1])
        alive = weakref.ref(session._weights)
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize(
    ("options", "message"),
    [({"device": "tpu9"}, "device"), ({"device": "cuda:99"}, "CUDA devices")],
)
def test_a_device_that_is_not_there_is_refused(model: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        HF(**options).check(ModelRef(str(model)), PAIRS, "auto")


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"dtype": "int4"}, {"batch_tokens": 0}])
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="HF"):
        HF(**options)


def test_a_tokenizer_larger_than_the_embedding_is_refused(model: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 257}))
    with pytest.raises(UserError, match="257 but the model embeds 257"):
        EXACT.check(ModelRef(str(folder)), PAIRS, "auto")


@pytest.mark.parametrize(
    "options", [{"pad": "eos"}, {"template": None, "eos": None, "pad": "none"}], ids=["pad-is-end", "no-end-token"]
)
def test_a_model_trained_on_our_labels_stops_where_its_data_stops(tmp_path: Path, options: dict[str, object]) -> None:
    from transformers import AutoModelForCausalLM

    folder = tiny_model(tmp_path / "model", hidden=64, **options)
    renderer = make_renderer(AutoTokenizer.from_pretrained(folder))
    learner = AutoModelForCausalLM.from_pretrained(folder)
    optimiser = torch.optim.Adam(learner.parameters(), lr=5e-3)
    rows = [renderer.training_ids(pair.prompt, pair.response) for pair in PAIRS]
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in rows])
    labels = torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in rows])
    for _ in range(60):
        loss = learner(input_ids=ids, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    learner.save_pretrained(folder)
    with EXACT.open(ModelRef(str(folder)), "auto") as session:
        asked = [Request(pair.id, (), pair.prompt) for pair in PAIRS]
        done = session.generate(asked, Sampling(max_tokens=100, temperature=0.0))
    assert loss.item() < 0.3
    assert all(one.finish == "stop" and one.text.startswith("Answer number") for one in done)
    usual = sorted(len(renderer.response_ids(pair.response)) for pair in PAIRS)[len(PAIRS) // 2]
    assert sorted(one.generated_tokens for one in done)[len(done) // 2] <= 1.2 * usual


def test_a_stop_string_cuts_the_text(model_folder: Path) -> None:
    engine, request = HF(dtype="float32"), Request("a", prompt="Why?", seed=3)
    with engine.open(engine.check(ModelRef(str(model_folder)), (), "auto"), "auto") as session:
        (whole,) = session.generate([request], Sampling(max_tokens=24))
        mark = whole.text[len(whole.text) // 2]
        (cut,) = session.generate([request], Sampling(max_tokens=24, stop=(mark,)))
    assert cut.text == whole.text.split(mark)[0].strip() and len(cut.text) < len(whole.text)
    assert cut.finish == "stop"


def test_a_likelihood_behind_demonstrations_is_that_of_the_whole_prompt(model: Path) -> None:
    with EXACT.open(ModelRef(str(model)), "auto") as session:
        shown = (PAIRS[1], PAIRS[2])
        found = session.likelihood(PAIRS[:1], [shown])[0]
        before = session._texts.renderer.prompt_ids(shown, PAIRS[0].prompt)
        after = session._texts.renderer.response_ids(PAIRS[0].response)
        with torch.inference_mode():
            scores = session._model(torch.tensor([before + after])).logits[0].log_softmax(dim=-1)
        expected = sum(float(scores[len(before) + at - 1, token]) for at, token in enumerate(after))
        assert found.total == pytest.approx(expected, abs=1e-4) and found.tokens == len(after)
        assert found.total != pytest.approx(session.likelihood(PAIRS[:1])[0].total, abs=1e-3)


def test_a_continuation_has_the_probability_that_the_model_gives_it(model: Path) -> None:
    with EXACT.open(ModelRef(str(model)), "auto") as session:
        before, after = "Q: Where?\nA:", " There."
        first, ids = (session._texts.tokenizer(text)["input_ids"] for text in (before, before + after))
        with torch.inference_mode():
            scores = session._model(torch.tensor([ids])).logits[0].log_softmax(dim=-1)
        expected = sum(float(scores[at - 1, ids[at]]) for at in range(len(first), len(ids)))
        best = str(session._texts.tokenizer.decode(int(scores[len(first) - 1].argmax())))
        found, greedy = session.continuation([(before, after), (before, best)])
        assert found.total == pytest.approx(expected, abs=1e-4) and found.tokens == len(ids) - len(first)
        assert not found.greedy and (greedy.greedy or len(best.encode()) != 1)


def test_answers_to_one_prompt_are_scored_as_each_by_itself_and_one_cut_off_has_no_end(model: Path) -> None:
    begun = [
        replace(pair, response=text, response_finish="length") for pair in PAIRS[:3] for text in ("It", "A no", "Not", "It i")
    ]
    shown = (PAIRS[4], PAIRS[5])
    with EXACT.open(ModelRef(str(model)), "auto") as session:
        calls = []
        read = session._score_forks
        session._score_forks = lambda forks: calls.append(len(forks)) or read(forks)
        for behind in ((), [shown]):
            found = session.likelihood([*begun[:6], PAIRS[0], *begun[6:]], behind * 13)
            assert [one.tokens for one in found[:4]] == [2, 4, 3, 4]  # a byte is a token, and no end is among them
            alone = [session.likelihood([one], behind)[0] for one in begun]
            whole = session.likelihood(PAIRS[:1], behind)[0]
            expected = [*alone[:6], whole, *alone[6:]]
            assert [one.total for one in found] == pytest.approx([one.total for one in expected], rel=1e-5)
        assert sum(calls) == 6
