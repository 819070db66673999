"""Beam search by the rules of transformers 4.31: its two formulas, written out, and the library where both agree."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from transformers.generation.logits_process import ExponentialDecayLengthPenalty

from selfalign.engines import HF, _beams, _decode
from selfalign.engines.hf import HFSession
from selfalign.types import Example, ModelRef, Request, Sampling, derive_seed
from tests.tiny import tiny_model

PAIRS = tuple(Example(f"s{i}", f"Question {i}?", f"Answer number {i}.") for i in range(3))
ROWS = [Request(f"r{i}", PAIRS[: i % 4], f"What is {'so ' * i}{i}?", derive_seed(1, i)) for i in range(6)]
ENDS = [257, *range(5, 250, 12)]
THEN = "transformers-4.31"


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HFSession]:
    """A model with many end tokens, so that beams end at many lengths."""
    folder = tiny_model(tmp_path_factory.mktemp("beams") / "model")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ENDS}))
    with HF(dtype="float32", device="cpu").open(ModelRef(str(folder)), "auto") as opened:
        yield opened


def written(
    session: HFSession, sampling: Sampling, write: Any = _beams.search, rows: list[Request] = ROWS, ends: list[int] = ENDS
) -> list[Any]:
    prompts = [session._texts.ids(row) for row in rows]
    stopper = _decode.Stopper(session._texts.tokenizer, frozenset(ends), sampling.stop)
    return list(write(session._model, prompts, [row.seed for row in rows], sampling, stopper, 260, 259))


def test_the_length_decay_then_and_today() -> None:
    scores = torch.full((1, 4), -3.0)
    then = _decode.decayed(scores, step=20, ends=[2], decay=(15, 1.6))
    assert then[0].tolist() == pytest.approx([-3.0, -3.0, -3.0 * 1.6**5, -3.0]) and then[0, 2] == pytest.approx(-31.457, abs=1e-3)
    today = ExponentialDecayLengthPenalty((15, 1.6), [2], input_ids_seq_length=7)(torch.zeros(1, 27, dtype=torch.long), scores)
    assert today[0, 2] == pytest.approx(-3.0 + 3.0 * (1.6**5 - 1.0)) and today[0, 2] == pytest.approx(25.457, abs=1e-3)
    for step in (0, 15):  # not before it is past the start
        assert torch.equal(_decode.decayed(scores, step, [2], (15, 1.6)), scores)
    certain = _decode.decayed(torch.zeros(1, 4), 2000, [2], (15, 1.6))
    assert torch.equal(certain, torch.zeros(1, 4)), "log 1 stays, however far past the start"
    one_beam = _decode._earlier_decay([2], 7, (15, 1.6))
    assert torch.equal(one_beam(torch.zeros(1, 27, dtype=torch.long), scores), then)


def test_a_beams_score_is_divided_by_the_length_with_its_prompt() -> None:
    short, long = (-2.0, 4), (-6.0, 8)  # total, tokens before the end token
    today = {name: total / (tokens + 1) ** 2.0 for name, (total, tokens) in {"short": short, "long": long}.items()}
    assert today["long"] > today["short"]
    for first, second in ((short, long), (long, short)):
        best = _beams.Best(2, 2.0)
        for total, tokens in (first, second):
            best.add(total, 100 + tokens, [tokens])
        assert best.text == [4], f"{-2 / 104**2} > {-6 / 108**2}"
        assert best.beats(-6.1, 108) and not best.beats(-5.9, 108)


@pytest.mark.parametrize("beams", [2, 5])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_where_the_formulas_agree_it_finds_what_the_library_finds(
    session: HFSession, beams: int, penalty: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy beams without decay: with the length counted as today nothing differs but when a search may stop (penalty 2)."""
    then = _beams.Best

    class Today(then):  # type: ignore[misc, valid-type]
        def add(self, total: float, length: int, text: list[int]) -> None:
            super().add(total, len(text), text)

        def beats(self, total: float, length: int) -> bool:
            return super().beats(total, length - prompt + 1)

    sampling = Sampling(
        max_tokens=24, temperature=0.0, beams=beams, length_penalty=penalty, repetition_penalty=1.4, no_repeat_ngram=2
    )
    lengths = set()
    if penalty:
        monkeypatch.setattr(_beams, "Best", Today)
    for row in ROWS:
        prompt = len(session._texts.ids(row))
        (ours,), (theirs,) = (written(session, sampling, write, [row]) for write in (_beams.search, _decode.generate))
        assert ours == theirs
        lengths.add(len(ours[0]))
    assert penalty == 0.0 or len(lengths) > 1


def plainly(model: Any, prompt: list[int], sampling: Sampling) -> list[int]:
    """Greedy beams by 4.31's formulas, without a cache, a batch or a tensor more than needed."""
    beams, done = [(0.0, [])], []
    assert sampling.length_decay is not None
    start, factor = sampling.length_decay
    for step in range(sampling.max_tokens):
        found = []
        for total, text in beams:
            scores = model(torch.tensor([[*prompt, *text]])).logits[0, -1].float().log_softmax(-1)
            for end in ENDS if step > start else ():
                scores[end] *= factor ** (step - start)
            found += [(total + score, text, token) for token, score in enumerate(scores.tolist())]
        found = sorted(found, key=lambda each: -each[0])[: sampling.beams * (1 + len(ENDS))]
        whole = (len(prompt) + step) ** sampling.length_penalty
        done += [(total / whole, [*text, end]) for total, text, end in found[: sampling.beams] if end in ENDS]
        done = sorted(done, key=lambda each: -each[0])[: sampling.beams]
        beams = [(total, [*text, token]) for total, text, token in found if token not in ENDS][: sampling.beams]
        if len(done) == sampling.beams and done[-1][0] >= found[0][0] / whole:
            return done[0][1]
    whole = (len(prompt) + sampling.max_tokens) ** sampling.length_penalty
    return max([*done, *((total / whole, text) for total, text in beams)])[1]


@pytest.mark.parametrize("decay", [(2, 1.6), (1, 0.5), (6, 1.05)])
@pytest.mark.parametrize("penalty", [1.0, 2.0])
def test_both_formulas_through_a_model(session: HFSession, decay: tuple[int, float], penalty: float) -> None:
    sampling = Sampling(max_tokens=10, temperature=0.0, beams=3, length_penalty=penalty, length_decay=decay, rules=THEN)
    ours = written(session, sampling)
    with torch.inference_mode():
        assert [ids for ids, _ in ours] == [plainly(session._model, list(session._texts.ids(row)), sampling) for row in ROWS]
    assert [ended for _, ended in ours] == [ids[-1] in ENDS for ids, _ in ours]


def test_past_its_start_the_decay_ends_texts_today_and_keeps_them_going_then(session: HFSession) -> None:
    sampling = Sampling(max_tokens=16, beams=3, top_k=50, length_penalty=2.0, length_decay=(3, 3.0))
    today, then = (session.generate(ROWS, replace(sampling, rules=rules)) for rules in ("today", THEN))
    # 4.31 counts the prompt, so a short text is worth as much as a long one: texts end before the start, or hardly ever.
    assert all(one.finish == "stop" and one.generated_tokens <= 6 for one in today)
    assert all(one.generated_tokens <= 5 or one.finish == "length" for one in then)


def test_a_prompts_text_is_its_own_whatever_the_batch(session: HFSession) -> None:
    sampling = Sampling(max_tokens=12, beams=2, top_k=50, repetition_penalty=1.2, length_decay=(5, 1.5), rules=THEN)
    for wanted in (sampling, replace(sampling, top_k=0, top_p=0.8, temperature=1.3)):
        write = partial(written, session, wanted, ends=[257, *range(5, 250, 50)])  # so that some prompts are done early
        together = write(rows=ROWS)
        assert [write(rows=[row])[0] for row in ROWS] == together == write(rows=ROWS[::-1])[::-1]
        assert len({tuple(ids) for ids, _ in together}) > 4
        others = write(rows=[replace(row, seed=row.seed + 1) for row in ROWS])
        assert sum(one == other for one, other in zip(together, others, strict=True)) < 3


def test_strings_end_no_beam_and_are_cut_off_afterwards(session: HFSession) -> None:
    sampling = Sampling(max_tokens=16, beams=3, top_k=50, length_decay=(0, 9.0), rules=THEN)
    whole = session.generate(ROWS, sampling)
    marks = tuple({one.text[len(one.text) // 2] for one in whole if one.text})
    short = session.generate(ROWS, replace(sampling, stop=marks))
    for one, other in zip(whole, short, strict=True):
        places = [place for mark in marks if (place := one.text.find(mark)) >= 0]
        assert other.text == one.text[: min(places, default=None)].strip()
        assert other.finish == ("stop" if places else one.finish)


def test_continuations_are_drawn_from_the_running_scores_and_ranked() -> None:
    scores = torch.from_numpy(_decode.uniforms(range(20), 2 * 9)).to(torch.float32).view(20, 2, 9) * 4.0
    uniform = torch.from_numpy(_decode.uniforms(range(20, 40), 4)).to(torch.float32)
    totals, beams, tokens = _beams.continuations(scores, uniform, Sampling(temperature=0.5, top_k=3), ends=1)
    assert torch.equal(totals, totals.sort(dim=-1, descending=True).values)
    assert torch.equal(totals, (scores / 0.5)[torch.arange(20)[:, None], beams, tokens])
    assert all(len(set(zip(*row, strict=True))) == 4 for row in zip(beams.tolist(), tokens.tolist(), strict=True))
    best = scores.topk(3).indices[torch.arange(20)[:, None], beams]
    assert (best == tokens[..., None]).any(dim=-1).all(), "the three best tokens of each beam"


def test_drawing_without_replacement() -> None:
    """Each column is the first drawn in proportion to its probability, and the second in proportion to what is left."""
    share, count = torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0]), 40_000
    uniform = torch.from_numpy(_decode.uniforms([11], 2 * count)).to(torch.float32).view(count, 2)
    first, second = _beams.drawn(share.log().expand(count, -1), uniform).unbind(dim=-1)
    assert torch.allclose(torch.bincount(first, minlength=5) / count, share, atol=0.01)
    left = share[None, :].repeat(5, 1).fill_diagonal_(0.0)
    expected = (share[:, None] * left / left.sum(dim=1, keepdim=True)).sum(dim=0)
    assert torch.allclose(torch.bincount(second, minlength=5) / count, expected, atol=0.01) and not (first == second).any()
    # With nothing likely left the best of the rest: never one column twice.
    assert _beams.drawn(torch.tensor([[0.0, -300.0, -200.0]]), torch.tensor([[0.5, 0.5, 0.999]])).tolist() == [[0, 2, 1]]
