"""Kept pairs extended by a second turn: proposed, filtered, trained, exported and measured as conversations."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from selfalign.cli.arms import make_arms
from selfalign.cli.options import parse
from selfalign.cli.run import part_options
from selfalign.cli.study import study_parser
from selfalign.encoders import Hashed
from selfalign.engines import HF, OpenAI, Scripted
from selfalign.errors import UserError
from selfalign.evaluators import HeldOut
from selfalign.export.cards import data_card
from selfalign.export.data import DataFormat, export_data, export_dropped
from selfalign.loop.align import align
from selfalign.loop.preflight import check_examples, split_seeds
from selfalign.models.rendering import IGNORE, make_renderer
from selfalign.proof.alarms import Alarms
from selfalign.protocols import TrainJob
from selfalign.recipe import Recipe, SecondTurns
from selfalign.recipes import isara, isheep, pretrained
from selfalign.record.lineage import lineage, lineage_text
from selfalign.record.store import Store
from selfalign.report.data import read_run
from selfalign.seeds.read import read_seeds
from selfalign.trainers import SFT, NullTrainer
from selfalign.trainers._batches import tokenise
from selfalign.types import Example, Metric, ModelRef, Request, Sampling
from tests.files import write_rows
from tests.parts import context, echo, generated
from tests.tiny import END, START, tiny_model, tiny_tokenizer

FIRST = ("Who has the key?", "Ann has it.")
LATER = Example("later", "And the map?", "It is lost.", history=(FIRST,))
HALF = SecondTurns(share=0.5)


def recipe(**changes: Any) -> Recipe:
    given: dict[str, Any] = {"rounds": 2, "per_round": 40, "min_yield": 0.0, "engine": Scripted(batch_size=8)}
    return replace(isara(), **{**given, **changes}, encoder=Hashed(), trainer=NullTrainer())


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Example, ...]:
    """Twelve single turns in two categories, and the second turns of two of them."""
    rows: list[dict[str, Any]] = []
    for number in range(12):
        turns = [f"How do I mend thing number {number} at home?", f"Take thing {number} apart and clean it. Then wait an hour."]
        rows.append({"id": f"s{number}", "messages": messages(turns), "category": ("care", "repair")[number % 2]})
        if number < 2:
            later = ["And what if it rains all day?", f"Then put thing {number} in the shed until the sun is back."]
            rows.append({"id": f"s{number}.2", "messages": messages([*turns, *later]), "category": rows[-1]["category"]})
    path = write_rows(tmp_path_factory.mktemp("seeds") / "seeds.jsonl", rows)
    return read_seeds(path)


def messages(texts: list[str]) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]


@pytest.fixture(scope="module")
def folder(seeds: tuple[Example, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "half"
    align(replace(recipe(), second_turns=HALF), "scripted", seeds, out)
    return out


def samples(store: Store, round: int) -> list[Example]:
    every = (*store.kept(round), *(drop.example for drop in store.dropped(round)))
    return sorted(every, key=lambda example: example.slot)


def test_every_second_turn_is_a_candidate_of_its_own(folder: Path) -> None:
    with Store.read(folder) as store:
        for number in (1, 2):
            rows, by_id = samples(store, number), {example.id: example for example in samples(store, number)}
            first, later = [e for e in rows if not e.history], [e for e in rows if e.history]
            kept = [example for example in store.kept(number) if not example.history]
            assert len(first) == 40 and len(later) == round(0.5 * len(kept)) > 5
            assert [example.slot for example in rows] == list(range(40 + len(later)))
            told = store.stage(number, "filter")
            assert told == {"candidates": len(rows), "kept": len(store.kept(number)), "dropped": len(store.dropped(number))}
            for example in later:
                before = by_id[example.id.removesuffix(".2")]
                assert before in kept and example.history == ((before.prompt, before.response),)
                assert [shown.id for shown in example.prompt_demonstrations] == [before.id]
            shown = {d.id for example in rows for d in (*example.response_demonstrations, *example.prompt_demonstrations[1:])}
            assert shown and not {name for name in shown if name.endswith(".2")}
        rules = {drop.rule for number in (1, 2) for drop in store.dropped(number) if drop.example.history}
        kept_later = [example for number in (1, 2) for example in store.kept(number) if example.history]
    assert {"not_novel", "prompt_short"} <= rules and kept_later


def test_a_follow_up_that_asks_the_first_question_again_is_not_novel(folder: Path) -> None:
    with Store.read(folder) as store:
        again = [drop for drop in store.dropped(1) if drop.example.history and drop.example.prompt == drop.example.history[0][0]]
    assert again and {drop.rule for drop in again} == {"not_novel"}
    assert all("with r01-" in drop.evidence for drop in again)


def test_without_a_share_nothing_changes(folder: Path, seeds: tuple[Example, ...], tmp_path: Path) -> None:
    align(recipe(), "scripted", seeds, tmp_path / "none")
    with Store.read(folder) as half, Store.read(tmp_path / "none") as none:
        assert not [example for example in samples(none, 1) if example.history]
        assert [e for e in half.kept(1) if not e.history] == list(none.kept(1))
        assert [d for d in half.dropped(1) if not d.example.history] == list(none.dropped(1))
        there, not_there = ({metric.name: metric.n for metric in store.metrics(1)} for store in (half, none))
        assert there["kept_very_short"] == not_there["kept_very_short"] == len(none.kept(1))
        assert there["kept_second_turn_very_short"] == len(half.kept(1)) - len(none.kept(1))
        assert not [name for name in not_there if "second_turn" in name]
    assert "history" not in (tmp_path / "none" / "round-01" / "kept.jsonl").read_text()


def test_exports_hold_the_whole_conversation(folder: Path, tmp_path: Path) -> None:
    with Store.read(folder) as store:
        later = next(example for example in store.kept(1) if example.history)
        wanted = messages([*later.history[0], later.prompt, later.response])
        found = {}
        formats: tuple[DataFormat, ...] = ("messages", "plain", "alpaca", "prompt-completion")
        for format in formats:
            export_data(store, tmp_path / f"{format}.jsonl", format)
            export_data(store, tmp_path / f"{format}.parquet", format)
            found[format] = {row["id"]: row for row in map(json.loads, (tmp_path / f"{format}.jsonl").read_text().splitlines())}
            assert pq.read_table(tmp_path / f"{format}.parquet").to_pylist() == list(found[format].values())
        export_dropped(store, tmp_path / "dropped.jsonl")
        card = data_card(store, format="prompt-completion")
    assert found["messages"][later.id]["messages"] == wanted
    for row in (found["prompt-completion"][name] for name in (later.id, "s3", "s0.2")):  # TRL: all rows, or none
        assert [*row["prompt"], *row["completion"]] == found["messages"][row["id"]]["messages"]
        assert [message["role"] for message in row["completion"]] == ["assistant"]
        assert list(row)[-2:] == ["prompt", "completion"]
    assert "one message: the response" in card and "history" not in card.partition("## Rounds")[0]
    assert found["plain"][later.id]["history"] == found["alpaca"][later.id]["history"] == [list(later.history[0])]
    assert found["plain"]["s3"]["history"] == [] and found["alpaca"][later.id]["instruction"] == later.prompt
    dropped = [json.loads(line) for line in (tmp_path / "dropped.jsonl").read_text().splitlines()]
    assert {bool(row["history"]) for row in dropped} == {True, False}
    assert [e.history for e in read_seeds(tmp_path / "messages.jsonl")] == [
        tuple(map(tuple, row["history"])) for row in found["plain"].values()
    ]


def test_lineage_and_report_show_the_first_turn(folder: Path) -> None:
    with Store.read(folder) as store:
        later = next(example for example in store.kept(1) if example.history)
        told, first = lineage(store, later.id), lineage(store, later.id.removesuffix(".2"))
        text = lineage_text(told)
    assert told["history"] == [list(later.history[0])] and told["sampling"]["prompt"]["max_tokens"] == 31
    assert later.history[0][1] in told["prompt_texts"]["propose_second_turn"]
    assert told["prompt_texts"]["respond_second_turn"].endswith(f"{later.history[0][1]}\n\nUSER: {later.prompt}\nASSISTANT:")
    assert {"id": later.id, "round": 1, "part": "prompt", "similarity": None} in first["shown_in"]["samples"]
    assert f"earlier turns ({first['id']})\n  {later.history[0][0]}\n  → {later.history[0][1]}" in text
    shown = {sample["id"]: sample.get("history") for sample in read_run(folder)["samples"]}
    assert shown[later.id] == [list(turn) for turn in later.history] and shown["s3"] is None


@pytest.mark.parametrize("made", [isheep, isara])
def test_scored_recipes_take_them_too(made: Any, seeds: tuple[Example, ...], tmp_path: Path) -> None:
    options = {"select": "perplexity"} if made is isheep else {}
    parts = {"engine": Scripted(), "encoder": Hashed(), "trainer": NullTrainer(), "second_turns": SecondTurns(share=1.0)}
    align(replace(made(**options), rounds=1, per_round=40, min_yield=0.0, **parts), "scripted", seeds, tmp_path / "run")
    with Store.read(tmp_path / "run") as store:
        later = [example for example in samples(store, 1) if example.history]
    assert later and (made is isara or any(example.scores for example in later))


def test_second_turns_are_drawn_by_the_random_seed() -> None:
    kept = generated(1, 30)
    drawn = [[e.id for e in HALF.propose(context(seed=seed, write=echo), kept, 50)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and len(drawn[0]) == 15
    assert [draft.slot for draft in HALF.propose(context(), kept, 50)] == list(range(50, 65))
    assert HALF.propose(context(), (), 50) == []


# ---- the model


@pytest.mark.parametrize("format", ["chat", "plain", "isara"])
@pytest.mark.parametrize("system", ["", "Be brief."])
def test_the_last_response_alone_is_learned(format: Any, system: str, tmp_path: Path) -> None:
    renderer = make_renderer(tiny_tokenizer(), format)
    job = TrainJob(1, ModelRef("m"), (), (replace(LATER, system=system),), None, format, 0, 1.0, tmp_path, tmp_path)
    rows, lost = tokenise(json.loads(json.dumps(SFT().spec(job)["rows"])), renderer.training_ids, 512)
    (row,), before = rows, renderer.prompt_ids((), LATER.prompt, LATER.history, system)
    assert not lost and list(row.ids[: len(before)]) == before and set(row.labels[: len(before)]) == {IGNORE}
    assert list(row.labels[len(before) :]) == renderer.response_ids(LATER.response) == list(row.ids[len(before) :])
    text = renderer.tokenizer.decode(before, skip_special_tokens=False)
    assert [text.count(part) for part in (*FIRST, LATER.prompt, LATER.response)] == [1, 1, 1, 0]
    assert text.count("Be brief.") == bool(system)
    assert text == renderer.prompt_text((Example("shown", *FIRST),), LATER.prompt, (), system)


def test_the_chat_template_writes_both_turns() -> None:
    renderer = make_renderer(tiny_tokenizer())
    said = "".join(f"{START}{role}\n{text}{END}\n" for role, text in zip(("user", "assistant"), FIRST, strict=True))
    assert renderer.prompt_text((), None, (FIRST,)) == f"{said}{START}user\n"
    assert renderer.prompt_text((), "And?", (FIRST,)) == f"{said}{START}user\nAnd?{END}\n{START}assistant\n"
    shown = Example("d", "Shown?", "So.")
    assert renderer.prompt_text((shown,), "And?", (FIRST,)).index("Shown?") < renderer.prompt_text((shown,), "And?").index("And?")


def test_a_real_model_reads_the_history(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", context=128)
    engine = HF(dtype="float32", device="cpu")
    ref = engine.check(ModelRef(str(model)), (LATER,), "auto")
    long = replace(LATER, id="too-long", history=((FIRST[0], "word " * 30),))
    for part in (engine, OpenAI()):
        with pytest.raises(UserError, match=r"too-long: history, prompt and response take \d+ tokens but the model's window"):
            part.check(ModelRef(str(model)), (long,), "auto")
        with pytest.raises(UserError, match=r"later: its history contains"):
            part.check(ModelRef(str(model)), (replace(LATER, history=((f"a{START}", "b"),)),), "auto")
    with engine.open(ref, "auto") as session:
        alone, behind = session.likelihood([replace(LATER, history=()), LATER])
        assert alone.tokens == behind.tokens and alone.total != behind.total
        asked = Request("r", prompt=LATER.prompt, history=LATER.history, seed=3)
        assert FIRST[1] in session.render(asked) and session.fit(asked, 8) == asked
        assert session.fit(replace(asked, history=long.history), 8) is None
        done = session.generate([asked, replace(asked, history=())], Sampling(max_tokens=8))
        assert done[0].prompt_tokens > done[1].prompt_tokens and done[0].text != done[1].text


# ---- seeds, held-out rows, guards


def test_seeds_of_two_turns_are_trained_on_and_never_shown(seeds: tuple[Example, ...], folder: Path) -> None:
    assert seeds[1].history == ((seeds[0].prompt, seeds[0].response),) and seeds[1].prompt == "And what if it rains all day?"
    with Store.read(folder) as store:
        assert {seed.id for seed in (*store.seeds(), *store.validation_seeds())} == {seed.id for seed in seeds}
        shown = {d.id for round in (1, 2) for e in samples(store, round) for d in e.response_demonstrations}
    assert not shown & {"s0.2", "s1.2"}
    for seed in range(20):
        train, held = split_seeds(seeds, 0.3, seed)
        sides = {example.id: side for side, rows in enumerate((train, held)) for example in rows}
        assert sides["s0"] == sides["s0.2"] and sides["s1"] == sides["s1.2"] and len(sides) == 14
    with pytest.raises(UserError, match="1 seed example without earlier turns: at least 2"):
        check_examples([seed for seed in seeds if seed.history or seed.id == "s0"], (), False, 2)
    with pytest.raises(UserError, match="looks like the id of a generated sample"):
        check_examples([*seeds, replace(LATER, id="r01-00003.2")], (), False, 2)


def test_a_later_turn_is_the_same_only_in_the_same_conversation(seeds: tuple[Example, ...]) -> None:
    other = replace(seeds[1], id="h", history=(FIRST,))
    assert check_examples(seeds, [other], False, 2) == (other,)
    with pytest.raises(UserError, match=r"held-out example h asks the same as seed s0.2"):
        check_examples(seeds, [replace(seeds[1], id="h")], False, 2)


def test_later_turns_are_measured_apart() -> None:
    def write(request: Request) -> Any:
        return replace(echo(request), text="Yes." if request.history else "This is a longer answer, to the end.")

    held_out = [*(replace(LATER, id=f"l{i}") for i in range(3)), *(Example(f"f{i}", "Why?", "So it is.") for i in range(3))]
    found = {metric.name: metric for metric in HeldOut().evaluate(context(write=write), held_out)}
    assert (found["response_words"].value, found["second_turn_words"].value) == (4.5, 1.0)
    assert found["second_turn_finished"].n == 3 and found["finished"].n == 6
    assert [each.id for each in found["second_turn_log_likelihood"].outcomes] == ["l0", "l1", "l2"]
    assert not [m for m in HeldOut().evaluate(context(write=write), held_out[3:]) if m.name.startswith("second_turn")]


def test_the_alarms_watch_each_turn_by_itself() -> None:
    def figures(words: float, short: float) -> list[Metric]:
        pairs = (("kept_median_words", 50.0), ("kept_second_turn_median_words", words), ("kept_second_turn_very_short", short))
        return [Metric(name, value, value, value, 40) for name, value in pairs]

    alarms = Alarms().check({0: [], 1: figures(40.0, 0.05), 2: figures(12.0, 0.3)})
    assert [(alarm.name, alarm.round) for alarm in alarms] == [
        ("kept_second_turn_median_words", 2),
        ("kept_second_turn_very_short", 2),
    ]
    assert all(alarm.text.startswith("round 2, second turns: ") for alarm in alarms)


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ValueError, match=r"SecondTurns: share = 1\.5"):
        SecondTurns(share=1.5)
    with pytest.raises(UserError, match=r"second_turns\.share = 0\.5, must be 0 where nothing is generated"):
        replace(pretrained(), second_turns=HALF).check()
    with pytest.raises(UserError, match=r"second_turns\.share = 0\.0, must be above 0"):
        replace(recipe(), second_turns=SecondTurns(sampling=Sampling())).check()


def test_the_baselines_of_a_study_that_generate_take_them_over(seeds: tuple[Example, ...]) -> None:
    parser, typed = study_parser(isara), ["isara", "s", "--second_turns.share", "0.5", "--vary", "second_turns.share=0"]
    typed += ["--baselines", "pretrained,sft,one_shot,isara_paper"]
    arms = make_arms(isara, parser, parse(parser, typed, part_options(isara)), typed, seeds)
    assert {arm.name: arm.recipe.second_turns.share for arm in arms} == {
        "isara": 0.5,
        "pretrained": 0.0,
        "sft": 0.0,
        "one_shot": 0.5,
        "isara_paper": 0.0,
        "isara-second_turns.share=0": 0.0,
    }
