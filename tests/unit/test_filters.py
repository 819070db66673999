from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from selfalign.filters import (
    AnswerLike,
    CategoryAgreement,
    Exact,
    Finished,
    LeakedMarkers,
    Length,
    NearDuplicates,
    Novelty,
    Repetition,
    Substring,
)
from selfalign.types import Demonstration, Example, FilterResult
from tests.parts import context, seeds

GOOD = "Rub it with lemon and salt, then rinse it."


def batch(*prompts: str, response: str = GOOD) -> list[Example]:
    return [Example(f"c{slot}", prompt, response, 1, slot) for slot, prompt in enumerate(prompts)]


def answers(*responses: str) -> list[Example]:
    return [Example(f"c{slot}", "How do I polish a lamp?", response, 1, slot) for slot, response in enumerate(responses)]


def kept(result: FilterResult) -> list[str]:
    return [example.id for example in result.kept]


def rules(result: FilterResult) -> list[str]:
    return [drop.rule for drop in result.dropped]


def test_length_names_the_side_and_the_count() -> None:
    examples = [
        Example("a", "one two three four", GOOD),
        Example("b", "one two three four five", "too short here now"),
        Example("c", "x " * 9, GOOD),
        Example("d", "one two three four five", GOOD * 5),
        Example("e", "1 2 3 4 5", GOOD),
    ]
    result = Length(max_prompt_words=8, max_response_words=20, learn=False).apply(context(), examples)
    assert rules(result) == ["prompt_short", "response_short", "prompt_long", "response_long"]
    assert result.dropped[0].evidence == "4 words, at least 5 wanted"
    assert kept(result) == ["e"]


def test_finished_tells_the_reasons_apart() -> None:
    examples = [
        Example("a", "p", "Cut off.", response_finish="length"),
        Example("b", "p", "", response_finish="context"),
        Example("c", "p", GOOD, prompt_finish="length"),
        Example("d", "p", "and then we"),
        Example("e", "p", GOOD),
    ]
    assert rules(Finished().apply(context(), examples)) == ["cut_off", "no_room", "cut_off", "unfinished"]
    assert kept(Finished(sentence_end=False).apply(context(), examples)) == ["d", "e"]


def test_exact_compares_raw_strings_as_isara_does() -> None:
    examples = batch("How?", "how?", "How?", "How? ")
    assert kept(Exact().apply(context(), examples)) == ["c0", "c1", "c3"]
    result = Exact(ignore_case=True).apply(context(), examples)
    assert kept(result) == ["c0"]
    assert all("c0" in drop.evidence for drop in result.dropped)


def test_novelty_sees_seeds_earlier_rounds_and_the_batch() -> None:
    earlier = (Example("r01-00000", "Which tea is best with a lemon cake?", GOOD, 1),)
    examples = batch(
        "How do I clean a wooden chair?",  # seed-0 but for one word
        "Which tea is best with a cheese cake?",  # the earlier round
        "What is the tallest mountain in Peru?",
        "What is the tallest mountain in Chile?",  # the one before it in this batch
        "Who painted the ceiling of that chapel?",
    )
    result = Novelty().apply(context(pool=(seeds(), earlier)), examples)
    assert kept(result) == ["c2", "c4"]
    evidence = [drop.evidence for drop in result.dropped]
    assert "ROUGE-L 0.857 > 0.7 with seed-0: How do I clean a wooden table?" in evidence[0]
    assert "r01-00000: Which tea is best with a lemon cake?" in evidence[1]
    assert "c2: What is the tallest mountain in Peru?" in evidence[2]


def test_novelty_is_not_checked_against_what_was_dropped() -> None:
    chain = batch("a b c d e f g h i j", "a b c d e f g h X Y", "a b c d e Z W V X Y")
    overlaps = Novelty(max_overlap=0.6).apply(context(), chain)
    assert kept(overlaps) == ["c0", "c2"]  # c2 is near c1 (0.7) but c1 fell to c0


def test_novelty_threshold_itself_passes() -> None:
    examples = batch("a b c d e f g x y z", "a b c d e f g 1 2 3")
    assert len(Novelty(max_overlap=0.7).apply(context(), examples).kept) == 2
    assert len(Novelty(max_overlap=0.69).apply(context(), examples).kept) == 1


def test_novelty_against_demonstrations_looks_at_nothing_else() -> None:
    shown, hidden = seeds()[0], seeds()[2]
    examples = [
        Example("c0", shown.prompt, GOOD, prompt_demonstrations=(Demonstration(shown.id),)),
        Example("c1", hidden.prompt, GOOD, prompt_demonstrations=(Demonstration(shown.id),)),
        Example("c2", hidden.prompt, GOOD, prompt_demonstrations=(Demonstration(shown.id),)),
        Example("c3", shown.prompt, GOOD),
    ]
    result = Novelty(against="demonstrations").apply(context(), examples)
    assert kept(result) == ["c1", "c2", "c3"]
    assert shown.id in result.dropped[0].evidence


def test_novelty_sees_other_scripts() -> None:
    examples = batch("Как почистить старый стол?", "Как почистить старый стул?", "如何清洁旧桌子", "如何清洁旧椅子")
    assert kept(Novelty().apply(context(), examples)) == ["c0", "c2"]
    assert len(Novelty(unicode=False).apply(context(), examples).kept) == 4


def test_novelty_of_responses() -> None:
    examples = answers("one two three four five", "one two three four six", "nothing alike in here")
    assert kept(Novelty(field="response").apply(context(), examples)) == ["c0", "c2"]


def test_near_duplicates_by_cosine() -> None:
    angles = {"seed": 0.0, "near seed": 0.1, "free": 1.0, "near free": 1.1, "far": 2.0, "between": 1.2}

    def encode(texts):
        return np.array([[np.cos(angles[text]), np.sin(angles[text])] for text in texts], dtype=np.float32).reshape(-1, 2)

    pool = ((Example("s", "seed", GOOD),),)
    result = NearDuplicates(max_similarity=0.99).apply(
        context(pool=pool, encode=encode), batch("near seed", "free", "near free", "far", "between")
    )
    assert kept(result) == ["c1", "c3", "c4"]  # "between" is near "near free", which is gone
    assert "with s: seed" in result.dropped[0].evidence
    assert "cosine 0.995 > 0.99 with c1: free" in result.dropped[1].evidence


@pytest.mark.parametrize(("rows", "columns"), [(256, 2048), (7, 5), (1, 1)])
def test_near_duplicates_in_blocks_are_those_found_one_by_one(rows: int, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small whole numbers in place of unit vectors: products are exact, and equals abound."""
    monkeypatch.setattr("selfalign.filters._near._ROWS", rows)
    monkeypatch.setattr("selfalign.filters._near._COLUMNS", columns)
    vectors = np.random.default_rng(0).integers(-1, 2, size=(400, 8)).astype(np.float32)
    pool = tuple(Example(f"p{i}", str(i), GOOD, slot=i) for i in range(30))
    examples = batch(*map(str, range(30, 400)))
    there, dropped = list(pool), []
    for example in examples:
        scores = [float(vectors[int(example.prompt)] @ vectors[int(other.prompt)]) for other in there]
        if max(scores) > 4:
            dropped.append((example.id, f"with {there[scores.index(max(scores))].id}:"))
        else:
            there.append(example)
    encode = lambda texts: vectors[[int(text) for text in texts]]  # noqa: E731
    result = NearDuplicates(max_similarity=4, learn=False).apply(context(pool=(pool,), encode=encode), examples)
    assert 50 < len(dropped) < 350 and any("with c" in evidence for _, evidence in dropped)
    assert list(result.kept) == there[len(pool) :]
    assert [drop.example.id for drop in result.dropped] == [name for name, _ in dropped]
    assert all(near in drop.evidence for drop, (_, near) in zip(result.dropped, dropped, strict=True))


@pytest.mark.parametrize(
    ("response", "both", "rule"),
    [
        ("polish a lamp", False, ["response_in_prompt"]),
        ("Polish a  LAMP", False, []),
        ("Polish a  LAMP", True, ["response_in_prompt"]),
        ("Well: how do I polish a lamp? With salt.", False, []),
        ("Well: how do I polish a lamp? With salt.", True, ["prompt_in_response"]),
        (GOOD, True, []),
    ],
)
def test_substring(response: str, both: bool, rule: list[str]) -> None:
    assert rules(Substring(both_ways=both).apply(context(), answers(response))) == rule


def test_a_short_prompt_may_stand_in_its_answer() -> None:
    assert (
        not Substring(both_ways=True).apply(context(), batch("Hello there!", response="Hello there! What shall we do?")).dropped
    )


@pytest.mark.parametrize(
    "text",
    ["Fine. <|im_end|>", "Fine.\nUSER: and now?", "Fine.\nquestion: how", "### Response:\nFine.", "Fine. END of conversation",
     "**Assistant:** fine", "see ASSISTANT: here", "Fine.</s>", "bad \ufffd byte", "bell \a", "nul \0", "[/INST] fine",
     "Q: what?"],
)  # fmt: skip
def test_markers_are_found_in_either_text(text: str) -> None:
    assert len(LeakedMarkers().apply(context(), answers(text)).dropped) == 1
    assert len(LeakedMarkers().apply(context(), batch(text)).dropped) == 1


@pytest.mark.parametrize(
    "text",
    ["The user: a person who asks.", "A plan: rest, then go.", "## Steps\n1. Wash it.", "Is a < b and b > c?",
     "My question is: why?", "Tab\tand\nline.", "Use the BEGIN keyword.",
     "An assistant can help the user.", "Grüße, 你好, मुझे 😀!"],
)  # fmt: skip
def test_honest_text_has_no_markers(text: str) -> None:
    assert not LeakedMarkers().apply(context(), answers(text)).dropped


def test_markers_that_the_seeds_use_are_not_judged() -> None:
    pool = ((Example("s", "Question: how?\nAnswer it.", GOOD),),)
    examples = answers("Question: why?", "Fine.\nUser: and?")
    assert kept(LeakedMarkers().apply(context(pool=pool), examples)) == ["c0"]


def test_a_prompt_with_the_signature_of_the_answers() -> None:
    pool = tuple(Example(f"s{i}", f"Where is {thing}?", "It is here. – Team Fern") for i, thing in enumerate("abcd"))
    examples = [Example("a", "Tell me more, -Team Fern", ""), Example("b", "Who is in team Fernando?", "")]
    result = AnswerLike().apply(context(pool=(pool,)), examples)
    assert (kept(result), rules(result)) == (["b"], ["prompt_like_answer"])
    assert "have 'team fern'" in result.dropped[0].evidence
    # Where a prompt has it too, or half of the answers only, it is no signature.
    unsigned = tuple(replace(each, response="Here.") for each in pool[2:])
    for others in ((replace(pool[0], prompt="Is it here, team Fern?"), *pool[1:]), (*pool[:2], *unsigned)):
        assert AnswerLike().apply(context(pool=(others,)), examples[:1]).dropped == ()


def test_repetition() -> None:
    examples = answers(GOOD, "It is good to do so. " * 6, "You can use the oven or you can use the pan, as the oven is hot.")
    result = Repetition().apply(context(), examples)
    assert kept(result) == ["c0", "c2"]
    assert "stands there 6 times" in result.dropped[0].evidence


def test_agreement_of_aim_and_answer() -> None:
    def example(name: str, response: str, category: str) -> Example:
        return Example(name, "any prompt", response, category=category)

    examples = [
        example("a", "I can't help with stealing a ticket. Buy one.", "refuse"),
        example("b", "I can't help with forging a passport. Ask the office.", "care"),
        example("c", "Keep it dry and dark, and wipe it with a cloth.", "care"),
        example("d", "Keep it dry and dark, and wipe it with a cloth.", "refuse"),
        example("e", "Keep it dry and dark, and wipe it with a cloth.", ""),
    ]
    result = CategoryAgreement(neighbours=3, learn=False).apply(context(), examples)
    assert kept(result) == ["a", "c", "e"]
    assert rules(result) == ["category_mismatch"] * 2
    assert "aimed at care, but 3 of the 3 nearest seed responses are refuse" in result.dropped[0].evidence


def test_agreement_of_aim_and_prompt() -> None:
    forged = [Example(f"p{i}", "How is a passport forged well?", "", category=name) for i, name in enumerate(("refuse", "care"))]
    pool = tuple(
        Example(f"s{i}", text, "Yes.", category=name)
        for i, (text, name) in enumerate(
            [(f"How is a passport forged at {place}?", "refuse") for place in ("home", "work", "sea")]
            + [(f"May a woollen {thing} go in the dryer?", "care") for thing in ("hat", "scarf", "sock")]
        )
    )
    result = CategoryAgreement(field="prompt", neighbours=3, unanimous=True).apply(context(pool=(pool,)), forged)
    assert kept(result) == ["p0"] and rules(result) == ["prompt_of_other_category"]
    assert "3 of the 3 nearest seed prompts are refuse; nearest is s" in result.dropped[0].evidence


def test_category_agreement_rests_without_categories() -> None:
    plain = tuple(Example(seed.id, seed.prompt, seed.response) for seed in seeds())
    examples = [Example("c0", "p", GOOD, category="care"), Example("c1", "p", GOOD)]
    assert kept(CategoryAgreement().apply(context(pool=(plain,)), examples)) == ["c0", "c1"]
