from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from selfalign.engines import Scripted
from selfalign.errors import UserError
from selfalign.evaluators._answers import answers
from selfalign.loop.steps import respond
from selfalign.proposers import FewShot
from selfalign.protocols import Context
from selfalign.recipes.isara import isara
from selfalign.types import Completion, Example, Request, Sampling
from tests.parts import calling, context, generated, seeds


def many_seeds(counts: dict[str, int]) -> tuple[Example, ...]:
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    return tuple(Example(f"s{i}", f"Prompt {i}?", f"Response {i}.", slot=i, category=kind) for i, kind in enumerate(kinds))


def recording(**options: object) -> tuple[Context, list[Request]]:
    sent: list[Request] = []

    def write(request: Request) -> Completion:
        sent.append(request)
        return Completion(f"line one of {request.id}\nline two", "length" if request.id.endswith("1") else "stop")

    made = context(write=write, **options)  # type: ignore[arg-type]
    anything: Any = SimpleNamespace(fit=lambda request, max_tokens: request)
    return calling(made, session=anything), sent


def test_drafts_carry_what_was_written_and_shown() -> None:
    ctx, sent = recording(round=3)
    drafts = FewShot(demonstrations=4).propose(ctx, 3)
    assert [draft.id for draft in drafts] == ["r03-00000", "r03-00001", "r03-00002"] == [request.id for request in sent]
    assert [draft.slot for draft in drafts] == [0, 1, 2]
    assert {draft.round for draft in drafts} == {3}
    assert drafts[1].prompt == "line one of r03-00001\nline two"
    assert [draft.prompt_finish for draft in drafts] == ["stop", "length", "stop"]
    for draft, request in zip(drafts, sent, strict=True):
        assert request.prompt is None
        assert draft.response == ""
        assert [d.id for d in draft.prompt_demonstrations] == [example.id for example in request.demonstrations]
        assert all(d.similarity is None for d in draft.prompt_demonstrations)


def test_a_system_prompt_of_all_demonstrations_goes_with_the_draft_its_answer_and_its_evaluation() -> None:
    under = tuple(replace(seed, system="Be brief.") for seed in seeds())
    ctx, sent = recording(pool=(under,))
    drafts = FewShot(demonstrations=3).propose(ctx, 2)
    respond(replace(isara(), engine=Scripted()), ctx, drafts, "respond")
    answers(ctx, drafts, Sampling())
    assert [request.system for request in sent] == ["Be brief."] * 6 == [draft.system for draft in drafts] * 3
    mixed, sent = recording(pool=((*under[:4], *seeds()[4:]),))
    drafts = FewShot(demonstrations=4).propose(mixed, 40)
    assert {"", "Be brief."} == {draft.system for draft in drafts}
    for draft, request in zip(drafts, sent, strict=True):
        alike = sum(each.system == draft.system for each in (*under[:4], *seeds()[4:]))
        assert [each.system for each in request.demonstrations[::-1]][:alike] == [draft.system] * min(alike, 4)


def test_demonstrations_that_did_not_fit_are_not_noted() -> None:
    ctx = context()

    def generate(stage: str, requests: list[Request], sampling: Sampling) -> list[tuple[Request, Completion]]:
        return [(replace(request, demonstrations=request.demonstrations[:1]), Completion("New?", "stop")) for request in requests]

    (draft,) = FewShot(demonstrations=4).propose(calling(ctx, generate=generate), 1)
    assert len(draft.prompt_demonstrations) == 1


@pytest.mark.parametrize(("rounds", "expected"), [(0, [8]), (1, [7, 1]), (2, [6, 1, 1])])
def test_isara_budget_seeds_first(rounds: int, expected: list[int]) -> None:
    pool = (many_seeds({"x": 20}), *(generated(k, 5) for k in range(1, rounds + 1)))
    ctx, sent = recording(pool=pool, round=rounds + 1)
    FewShot(demonstrations=8).propose(ctx, 10)
    for request in sent:
        origins = [example.round for example in request.demonstrations]
        assert origins == sorted(origins)
        assert [origins.count(k) for k in range(rounds + 1)] == expected
        assert len({example.id for example in request.demonstrations}) == 8


def test_empty_rounds_and_few_seeds() -> None:
    ctx, sent = recording(pool=(seeds(), (), generated(2, 3)))
    FewShot(demonstrations=5).propose(ctx, 4)
    assert all([example.round for example in request.demonstrations] == [0, 0, 0, 0, 2] for request in sent)
    ctx, sent = recording()
    FewShot(demonstrations=50).propose(ctx, 1)
    assert sorted(example.id for example in sent[0].demonstrations) == [seed.id for seed in seeds()]


def test_draws_are_uniform_and_belong_to_their_slot() -> None:
    pool = (many_seeds({"x": 10}),)
    (first, sent), (second, again) = recording(pool=pool), recording(pool=pool)
    FewShot(demonstrations=3).propose(first, 1000)
    FewShot(demonstrations=3).propose(second, 50)
    assert sent[:50] == again
    shown = Counter(example.id for request in sent for example in request.demonstrations)
    assert len(shown) == 10
    assert all(230 < count < 370 for count in shown.values())  # 300 expected, standard deviation 14.5
    assert len({request.seed for request in sent}) == 1000


@pytest.mark.parametrize("change", [{"seed": 1}, {"round": 2}])
def test_another_run_or_round_draws_otherwise(change: dict[str, int]) -> None:
    pool = (many_seeds({"x": 30}),)
    (one, sent), (other, differently) = recording(pool=pool), recording(pool=pool, **change)
    FewShot().propose(one, 5)
    FewShot().propose(other, 5)
    assert [r.demonstrations for r in sent] != [r.demonstrations for r in differently]
    assert not {r.seed for r in sent} & {r.seed for r in differently}


def test_aims_in_proportion_at_every_prefix() -> None:
    counts = {"a": 12, "b": 7, "c": 1}
    ctx, sent = recording(pool=(many_seeds(counts),))
    drafts = FewShot(demonstrations=4, aim="seeds").propose(ctx, 100)
    for length in range(1, 101):
        aimed = Counter(draft.category for draft in drafts[:length])
        assert all(abs(aimed[kind] - length * count / 20) <= 1 for kind, count in counts.items())
    for draft, request in zip(drafts, sent, strict=True):
        kinds = [example.category for example in request.demonstrations]
        if draft.category == "c":  # one seed only: others fill up, before it
            assert kinds[-1] == "c"
            assert kinds.count("c") == 1
            assert len(kinds) == 4
        else:
            assert kinds == [draft.category] * 4


def test_aim_holds_for_generated_rounds_too() -> None:
    ctx, sent = recording(pool=(seeds(), generated(1, 6)))
    drafts = FewShot(demonstrations=3, aim="seeds").propose(ctx, 6)
    for draft, request in zip(drafts, sent, strict=True):
        assert {example.category for example in request.demonstrations} == {draft.category}
        assert [example.round for example in request.demonstrations] == [0, 0, 1]


def test_a_seed_without_a_category_is_never_aimed_at_and_stops_no_aim() -> None:
    pool = ((*many_seeds({"a": 5, "b": 5}), Example("plain", "Prompt?", "Response.")),)
    for aim in ("seeds", "balanced"):
        ctx, _ = recording(pool=pool)
        assert Counter(draft.category for draft in FewShot(aim=aim).propose(ctx, 6)) == {"a": 3, "b": 3}
    ctx, _ = recording(pool=((Example("plain", "Prompt?", "Response."),),))
    assert {draft.category for draft in FewShot(aim="balanced").propose(ctx, 5)} == {""}


@pytest.mark.parametrize(
    ("seeds_of", "count", "wanted"),
    [
        ({"a": 20, "b": 20, "c": 20}, 60, {"a": 20, "b": 20, "c": 20}),
        ({"a": 4, "b": 2}, 2, {"b": 2}),
        ({"a": 12, "b": 7, "c": 1}, 40, {"a": 8, "b": 13, "c": 19}),
        (dict.fromkeys("abcde", 12), 256, {"a": 52, "b": 51, "c": 51, "d": 51, "e": 51}),
    ],
)
def test_seeds_and_generated_pairs_approach_equal_shares(seeds_of: dict[str, int], count: int, wanted: dict[str, int]) -> None:
    ctx, _ = recording(pool=(many_seeds(seeds_of),))
    drafts = FewShot(demonstrations=2, aim="balanced").propose(ctx, count)
    assert Counter(draft.category for draft in drafts) == wanted


def test_a_second_round_makes_up_for_what_the_first_one_lost() -> None:
    kept = tuple(example for example in generated(1, 12) if example.category == "care")
    ctx, _ = recording(pool=(seeds(), kept), round=2)
    assert {draft.category for draft in FewShot(demonstrations=2, aim="balanced").propose(ctx, 6)} == {"refuse"}


def test_a_category_can_be_aimed_at_by_name() -> None:
    ctx, _ = recording(pool=(seeds(),))
    assert {draft.category for draft in FewShot(demonstrations=2, aim="refuse").propose(ctx, 6)} == {"refuse"}
    with pytest.raises(UserError, match=r"aim = 'refusal': it is .* or a category of the seeds \(care, refuse\)"):
        FewShot(aim="refusal").aims(seeds(), 3)
