"""`--order shared`: the same demonstrations, in one order for all prompts."""

from __future__ import annotations

import inspect
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfalign.cli.arms import make_arms
from selfalign.cli.options import parse
from selfalign.cli.run import part_options
from selfalign.cli.study import study_parser
from selfalign.encoders import Hashed
from selfalign.engines import Scripted
from selfalign.engines.openvino import _BLOCK, _by_beginnings
from selfalign.engines.scripted import ScriptedSession
from selfalign.errors import UserError
from selfalign.loop.align import Quiet, align
from selfalign.models.rendering import same_until
from selfalign.recipe import Order
from selfalign.recipes import icl_knn, isara
from selfalign.record.journal import Journal
from selfalign.record.store import Store
from selfalign.trainers import NullTrainer
from selfalign.types import Example, Likelihood, ModelRef, Request, Sampling, in_pool_order
from tests.conftest import SCRIPTED, Run
from tests.files import succeeded
from tests.parts import seeds


def reply(model: ModelRef, request: Request) -> str:
    """Of what is asked alone, whatever is shown before it."""
    draw = random.Random(f"{request.id}{request.prompt}{len(model.base)}")
    return " ".join("".join(draw.choices("abcdefghij", k=5)) for _ in range(9)) + "."


def run(folder: Path, order: Order) -> list[dict[str, Any]]:
    """What two rounds made, kept or dropped, in the order of ids."""
    recipe = replace(
        isara(demonstrations=4),
        per_round=12,
        validation_share=0.0,
        min_yield=0.0,
        engine=Scripted(replies=reply),
        encoder=Hashed(),
        trainer=NullTrainer(),
    )
    align(replace(recipe, order=order), "scripted", seeds(), folder)
    paths = [path for name in ("kept", "dropped") for path in sorted(folder.glob(f"round-*/{name}.jsonl"))]
    made = [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    return sorted(made, key=lambda row: str(row["id"]))


def test_the_same_examples_are_shown_in_the_order_of_the_pool(tmp_path: Path) -> None:
    chosen, shared = run(tmp_path / "chosen", "chosen"), run(tmp_path / "shared", "shared")
    assert len(chosen) == len(shared) == 24
    places = {example.id: (0, example.slot) for example in seeds()}
    places |= {row["id"]: (row["round"], int(row["id"][-5:])) for row in chosen}
    moved = 0
    for before, after in zip(chosen, shared, strict=True):
        for key in ("prompt_demonstrations", "response_demonstrations"):
            was, now = ([one["id"] for one in row[key]] for row in (before, after))
            assert sorted(was) == sorted(now) and now == sorted(now, key=places.__getitem__)
            moved += was != now
        similar = [{one["id"]: one["similarity"] for one in row["response_demonstrations"]} for row in (before, after)]
        assert similar[0] == similar[1]
        assert all(before[key] == after[key] for key in ("id", "prompt", "response"))
    assert moved > 12
    with Store.read(tmp_path / "chosen") as one, Store.read(tmp_path / "shared") as other:
        assert one.identity()["order"] == "chosen" and other.identity()["order"] == "shared"
    with pytest.raises(UserError, match='order = "chosen", now "shared"'):
        run(tmp_path / "chosen", "shared")


def test_what_has_no_room_goes_as_without_it(tmp_path: Path) -> None:
    pairs = [Example(f"s{slot}", f"Question {slot}?", "A word.", slot=slot) for slot in range(6)]
    asked = [Request("r0", tuple(pairs[at] for at in (4, 1, 5, 0)), "What?"), Request("r1", tuple(pairs[:2]), "Why?", text="a b")]
    with Store.open(tmp_path, {"name": "order"}) as store:
        session = ScriptedSession(Scripted(window=20), ModelRef("scripted"))
        journal = Journal(store, 1, session, Quiet(), in_pool_order)
        sent = [one for one, _ in journal.generate("a", asked, Sampling(max_tokens=3))]
    assert [example.id for example in sent[0].demonstrations] == ["s1", "s4"], "the last two chosen have no room"
    assert sent[1] == asked[1]


def test_likelihoods_are_measured_behind_the_same_order(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    class Watching(ScriptedSession):
        def likelihood(self, examples: Sequence[Example], shown: Sequence[Sequence[Example]] = ()) -> list[Likelihood]:
            seen.extend([example.id for example in each] for each in shown)
            return super().likelihood(examples, shown)

    class Engine(Scripted):
        def open(self, model: ModelRef, format: Any) -> Any:
            from contextlib import nullcontext

            return nullcontext(Watching(self, model))

    held_out = [Example(f"h{at}", example.prompt + " And now?", "So.") for at, example in enumerate(seeds()[:4])]
    recipe = replace(icl_knn(demonstrations=5), engine=Engine(), encoder=Hashed(), order="shared")
    align(recipe, "scripted", seeds(), tmp_path, held_out=held_out)
    places = {example.id: example.slot for example in seeds()}
    assert seen and all(len(ids) == 5 and ids == sorted(ids, key=places.__getitem__) for ids in seen)


def test_every_recipe_has_the_option(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    small = ("--rounds", 1, "--per_round", 4, "--min_yield", 0, "--quiet", "--out", tmp_path / "run")
    succeeded(cli("run", "isara", seeds_file, *SCRIPTED, *small, "--order", "shared"))
    with Store.read(tmp_path / "run") as store:
        assert store.identity()["order"] == "shared"
    wrong = cli("check", "self_guide", seeds_file, *SCRIPTED, "--order", "sorted")
    assert wrong.returncode == 2 and "chosen" in wrong.stderr and "shared" in wrong.stderr
    with pytest.raises(UserError, match="order = sorted, must be chosen or shared"):
        replace(isara(), order="sorted").check()


def test_baselines_that_generate_share_the_order() -> None:
    typed = ["isara", "s", "--order", "shared", "--baselines", "one_shot,icl_knn,isara_paper"]
    parser = study_parser(isara)
    arms = make_arms(isara, parser, parse(parser, typed, part_options(isara)), typed, seeds())
    assert [arm.recipe.order for arm in arms] == ["shared", "shared", "chosen", "chosen"]
    assert "order" not in inspect.signature(isara).parameters


def test_a_row_waits_for_the_one_that_computes_its_beginning() -> None:
    draw = random.Random(0)
    for _ in range(200):
        parts = [tuple(draw.choices(range(5), k=draw.randint(1, 60))) for _ in range(4)]
        rows = [sum((draw.choice(parts) for _ in range(draw.randint(1, 5))), ()) for _ in range(draw.randint(1, 24))]
        turns = _by_beginnings(rows)
        assert sorted(place for turn in turns for place in turn) == list(range(len(rows))) and all(turns)
        blocks = [[same_until(one, other) // _BLOCK for other in rows] for one in rows]
        early: list[int] = []
        for turn in turns:
            for place in turn:
                known = max((blocks[place][other] for other in early), default=0)
                assert all(blocks[place][other] <= known for other in turn if other != place)
            early += turn


def test_the_turns_are_as_few_as_the_beginnings_ask_for() -> None:
    head, other = tuple(range(_BLOCK)), tuple(range(1, _BLOCK + 1))
    assert len(_by_beginnings([(1,), (2,), head[:-1], head[:-1]])) == 1, "less than a block is nobody's to wait for"
    assert _by_beginnings([(*head, 7), (*other, 8), (*head, 9), (*head, 8)]) == [[0, 1], [3, 2]]
    assert [len(turn) for turn in _by_beginnings([head] * 5)] == [1, 4]
    assert _by_beginnings([()]) == [[0]]
