"""Parts of the loops beside ISARA and I-SHEEP: Self-Instruct, SELF-GUIDE, ReST."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from selfalign.expect.results import comes_to, result, same_result
from selfalign.filters import LengthRange, NoiseWords, PerPrompt, RisingThreshold
from selfalign.proposers import Repeated, SelfInstruct, TaskInputs
from selfalign.proposers.self_instruct import FLAG, read_list
from selfalign.proposers.task_inputs import shared_instruction
from selfalign.scorers import ExactAnswer
from selfalign.types import Completion, Continuation, Example, Request, Sampling
from tests.parts import calling, context, generated, seeds


def flagged() -> tuple[Example, ...]:
    """Six tasks with an input, of which the last three are classification."""
    return tuple(
        Example(
            f"t{n}", f"Task number {n}.\n\nInput {n}", "yes" if n > 2 else f"A long answer {n}.", slot=n, metadata={FLAG: flag}
        )
        for n, flag in enumerate(["false"] * 3 + ["true"] * 3)
    )


# Self-Instruct.


def read(text: str, count: int = 3, *, cut: bool = False) -> list[tuple[str, str, str]]:
    return [tuple(task) for task in read_list(text, 9, count, cut=cut)]  # type: ignore[misc]


def test_a_numbered_list_gives_its_instructions() -> None:
    assert read("Name a sea.\n10.  Sort\n11. Say 2.5 times\nas much.") == [
        ("Name a sea.", "", ""),
        ("Sort", "", ""),
        ("Say 2.5 times as much.", "", ""),
    ]


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("", ["task 9 is not in its place: 9.", "ends after 1 tasks, 3", "ends"]),
        ("One.\n12. Two.\n11. Three.", ["", "task 10 is not in its place: 12. Two.", ""]),
        ("One.\n10. \n11. Three.", ["", "task 10 is not in its place", ""]),
        ("One.\n- Two.\n* Three.", ["", "ends after 1 tasks", "ends after 1 tasks"]),
    ],
)
def test_malformed_numbered_lists_give_named_problems(text: str, problems: list[str]) -> None:
    tasks = read(text)
    assert len(tasks) == 3
    for (instruction, _, problem), wanted in zip(tasks, problems, strict=True):
        assert bool(instruction) != bool(problem)
        assert (wanted in problem) if wanted else not problem, problem


def test_the_last_instruction_of_a_cut_list_goes() -> None:
    tasks = read("One.\n10. Two and", cut=True)
    assert tasks[0][0] == "One." and "task 10 is cut off" in tasks[1][2]
    assert read("One.\n10. Two and", 2, cut=True) == tasks[:2] and read("One.\n10. Two and", 1, cut=True) == tasks[:1]


def self_instruct(
    answers: dict[str, str],
    *,
    labels: set[str] = frozenset(),
    finish: Any = "stop",
    part: SelfInstruct | None = None,
    **options: Any,
) -> tuple[list[Example], dict[str, list[Request]], list[tuple[str, str]]]:
    """Drafts, the requests of each stage, and the texts judged; `labels` are the instructions called classification."""
    stages: dict[str, list[Request]] = {}
    judged: list[tuple[str, str]] = []

    def generate(stage: str, requests: Sequence[Request], sampling: Sampling) -> list[tuple[Request, Completion]]:
        stages[stage] = list(requests)
        return [(request, Completion(answers[stage], finish if stage != "propose" else "stop")) for request in requests]

    def continuation(stage: str, pairs: Sequence[tuple[str, str]]) -> list[Continuation]:
        judged.extend(pairs)
        yes = [any(text.rsplit("Task: ", 1)[1].startswith(label) for label in labels) for text, _ in pairs]
        return [
            Continuation(-1.0 if (end == " Yes") is is_one else -2.0, 1, False)
            for is_one, (_, end) in zip(yes, pairs, strict=True)
        ]

    ctx = calling(context(**{"pool": (flagged(),), **options}), generate=generate, continuation=continuation)
    drafts = (part or SelfInstruct(human=3, generated=0, per_request=3, examples=4)).propose(ctx, 3)
    return drafts, stages, judged


LIST = "Name a sea.\n5. Sort seas.\n6. Is it a sea?"


def test_input_first_leaves_the_answer_to_the_loop() -> None:
    drafts, stages, _ = self_instruct({"propose": LIST, "input": "Baltic, North"})
    assert [draft.prompt for draft in drafts] == [
        f"{line}\n\nBaltic, North" for line in ("Name a sea.", "Sort seas.", "Is it a sea?")
    ]
    assert {draft.response for draft in drafts} == {""}
    assert [draft.metadata for draft in drafts] == [{"request": "r01-00000", FLAG: "false"}] * 3
    assert set(stages) == {"propose", "input", "label"} and stages["label"] == []
    (asked,) = stages["propose"]
    assert str(asked.text).endswith("\n4.") and [example.id for example in asked.demonstrations]
    for draft, request in zip(drafts, stages["input"], strict=True):
        assert request.id == draft.id
        assert {shown.metadata[FLAG] for shown in request.demonstrations} == {"false"}
        assert str(request.text).endswith(f"Task: {draft.prompt.partition(chr(10))[0]}\nInput:")
        assert "Label:" not in str(request.text)
        shown = [example.id for example in (*asked.demonstrations, *request.demonstrations)]
        assert [demonstration.id for demonstration in draft.prompt_demonstrations] == shown


def test_output_first_writes_the_label_before_the_input() -> None:
    answers = {"propose": LIST, "input": "<noinput>", "label": " no\nInput: The Rhine.\nA river."}
    drafts, stages, judged = self_instruct(answers, labels={"Is it a sea?"})
    assert [draft.prompt for draft in drafts] == ["Name a sea.", "Sort seas.", "Is it a sea?\n\nThe Rhine.\nA river."]
    assert [draft.response for draft in drafts] == ["", "", "no"]
    assert [draft.metadata[FLAG] for draft in drafts] == ["false", "false", "true"]
    (request,) = stages["label"]
    assert {shown.metadata[FLAG] for shown in request.demonstrations} == {"true"}
    assert "\nLabel: yes\nInput: Input " in str(request.text) and str(request.text).endswith("Task: Is it a sea?\nLabel:")
    assert len(judged) == 6
    assert judged[0][0].count(" Yes") == judged[0][0].count(" No") == 2, "examples of both kinds are shown"


@pytest.mark.parametrize(
    ("answers", "finish", "problem"),
    [
        ({"input": "", "label": ""}, "stop", "no input is written"),
        ({"input": "It goes on", "label": ""}, "length", "ran into max_tokens"),
    ],
)
def test_a_task_without_a_usable_input_says_so(answers: dict[str, str], finish: str, problem: str) -> None:
    drafts, _, _ = self_instruct({"propose": LIST, **answers}, finish=finish)
    assert [draft.prompt for draft in drafts] == [""] * 3
    assert drafts[1].metadata["problem"].startswith(f"Sort seas.: {problem}")


@pytest.mark.parametrize("label", ["", "yes", "yes\nInput:", "\nInput: The Rhine."])
def test_a_label_without_an_input_says_so(label: str) -> None:
    drafts, _, _ = self_instruct({"propose": LIST, "input": "x", "label": label}, labels={"Sort"})
    assert [bool(draft.prompt) for draft in drafts] == [True, False, True]
    assert "no label with an input behind it" in drafts[1].metadata["problem"] and drafts[1].response == ""


def test_without_marked_seeds_all_go_input_first() -> None:
    drafts, stages, judged = self_instruct({"propose": LIST, "input": "x"}, pool=(seeds(),))
    assert judged == [] and stages["label"] == [] and all(FLAG not in draft.metadata for draft in drafts)
    assert drafts[0].prompt == "Name a sea.\n\nx"


def test_six_human_and_two_generated_from_the_second_round_on() -> None:
    many = tuple(replace(seed, id=f"s{n}", metadata={}) for n in range(4) for seed in [*flagged()])
    many = tuple(replace(seed, id=f"s{n}") for n, seed in enumerate(many))
    for pool, round, wanted in (((many,), 1, [8, 0]), ((many, generated(1, 9)), 2, [6, 2]), ((many, generated(1, 1)), 2, [7, 1])):
        _, stages, _ = self_instruct({"propose": LIST, "input": "x"}, pool=pool, round=round, part=SelfInstruct(per_request=3))
        origins = [example.round for example in stages["propose"][0].demonstrations]
        assert [origins.count(0), origins.count(1)] == wanted


def test_an_instruction_that_did_not_come_is_not_asked_about() -> None:
    drafts, stages, judged = self_instruct({"propose": "Name a sea.", "input": "x"})
    assert [draft.slot for draft in drafts] == [0, 1, 2]
    assert [bool(draft.prompt) for draft in drafts] == [True, False, False]
    assert len(stages["input"]) == 1 and len(judged) == 2


# SELF-GUIDE.


def one_task() -> tuple[Example, ...]:
    return tuple(Example(f"s{n}", f"Say the colour.\n\nthing {n}", f"colour {n}", slot=n) for n in range(6))


def test_inputs_are_asked_for_below_the_instruction() -> None:
    sent: list[Request] = []

    def write(request: Request) -> Completion:
        sent.append(request)
        return Completion("" if request.id.endswith("2") else "a new thing", "length" if request.id.endswith("1") else "stop")

    drafts = TaskInputs(demonstrations=3).propose(context(pool=(one_task(),), write=write), 3)
    assert [draft.prompt for draft in drafts] == ["Say the colour.\n\na new thing"] * 2 + [""]
    assert [draft.prompt_finish for draft in drafts] == ["stop", "length", "stop"]
    assert [request.id for request in sent] == [draft.id for draft in drafts]
    text = str(sent[0].text)
    assert text.startswith("Task: Say the colour.\n\n") and text.endswith("Input 4:\n") and text.count("Say the colour.") == 1
    assert all(f"Input {n}:\nthing " in text for n in (1, 2, 3))
    assert [shown.id for shown in drafts[0].prompt_demonstrations] == [example.id for example in sent[0].demonstrations]
    assert {request.text for request in sent} != {text}, "each slot draws its own examples"


def test_prompts_without_a_shared_instruction_are_inputs_as_a_whole() -> None:
    assert shared_instruction(one_task()) == "Say the colour."
    assert shared_instruction(seeds()) == ""
    assert shared_instruction([*one_task(), Example("x", "Say the colour.", "red")]) == ""
    drafts = TaskInputs().propose(context(), 1)
    assert drafts[0].prompt == "text of r01-00000"


def test_lengths_far_from_the_seeds_are_dropped() -> None:
    base = tuple(Example(f"s{n}", "word " * n, "word " * (n + 2)) for n in (8, 10, 12))  # mean 10 and 12, deviation 2
    rows = [
        Example(f"r{p}-{r}", "w " * p, "w " * r) for p, r in ((10, 12), (6, 8), (14, 16), (5, 12), (15, 12), (10, 7), (10, 17))
    ]
    result = LengthRange().apply(context(pool=(base,)), rows)
    assert [example.id for example in result.kept] == ["r10-12", "r6-8", "r14-16"]
    assert [drop.rule for drop in result.dropped] == ["prompt_length"] * 2 + ["response_length"] * 2
    assert result.dropped[0].evidence == "5 words, the seeds' lengths allow 6.0 to 14.0"
    assert len(LengthRange(responses_only=True).apply(context(pool=(base,)), rows).kept) == 5
    assert len(LengthRange().apply(context(pool=(base[:1],)), rows).kept) == 7
    with pytest.raises(ValueError, match="deviations = 0"):
        LengthRange(deviations=0)


def test_noise_words_are_those_that_the_seeds_do_not_use() -> None:
    rows = [Example("a", "p", "As an AI, I  write."), Example("b", "p", "I can’t do it."), Example("c", "p", "Plain.")]
    result = NoiseWords().apply(context(pool=((),)), rows)
    assert [example.id for example in result.kept] == ["c"]
    assert [drop.rule for drop in result.dropped] == ["noise", "noise"] and "'as an ai'" in result.dropped[0].evidence
    assert [example.id for example in NoiseWords().apply(context(), rows).kept] == ["b", "c"], "these seeds refuse"
    curly = tuple(Example(f"s{row}", "p", "I can’t do it.") for row in range(2))
    assert [example.id for example in NoiseWords().apply(context(pool=(curly,)), rows).kept] == ["b", "c"]


# ReST.


def test_prompts_are_repeated_side_by_side() -> None:
    drafts = Repeated(samples=3).propose(context(), 18)
    assert [draft.slot for draft in drafts] == list(range(18)) and drafts[7].id == "r01-00007"
    assert [draft.prompt for draft in drafts] == [seed.prompt for seed in seeds() for _ in range(3)]
    assert [draft.prompt_demonstrations[0].id for draft in drafts[:4]] == ["seed-0"] * 3 + ["seed-1"]
    assert drafts[0].category == "care" and {draft.response for draft in drafts} == {""}


def test_less_room_than_seeds_takes_other_ones_each_round() -> None:
    rounds = [[draft.prompt for draft in Repeated(samples=2).propose(context(round=round), 5)] for round in range(1, 20)]
    assert all(len(set(prompts)) == 3 and len(prompts) == 5 for prompts in rounds)
    assert len({tuple(prompts) for prompts in rounds}) > 3
    assert {prompt for prompts in rounds for prompt in prompts} == {seed.prompt for seed in seeds()}
    more = Repeated(samples=2).propose(context(), 15)
    assert len(more) == 15 and {draft.prompt for draft in more} == {seed.prompt for seed in seeds()}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("He has 3 and 4.\n#### 1,250", "1,250"),
        ("#### 7\n\n#### 8\nand 9 more", "8"),
        ("It is 3 + 4 = 7 apples.", "7"),
        ("It costs $1,250.50 in 2020.", "2020"),
        ("It costs $1,250.50.", "$1,250.50"),
        ("-5 degrees", "-5"),
        ("It is 10-2", "2"),
        ("(4)-3", "3"),
        ("It falls by -3.", "-3"),
        ("12,3456 of them", "12,3456"),
        ("Das macht 3,50 €.", "3,50"),
        ("Cela fait 1\u202f250 pommes.", "1\u202f250"),
        ("In 2020 150 came", "150"),
        ("It leaves at 10:30.", "10:30"),
        ("On 2024-03-01, then.", "2024-03-01"),
        ("A third, or 1/3", "1/3"),
        ("Es sind 1'250.", "1'250"),
        ("It falls by −3.", "−3"),
        ("العدد هو ١٬٢٥٠.", "١٬٢٥٠"),
        ("Blue, I think", "Blue, I think"),
        ("", ""),
    ],
)
def test_the_result_of_a_text(text: str, wanted: str) -> None:
    assert result(text) == wanted


@pytest.mark.parametrize(
    ("text", "marker", "wanted"),
    [
        ("So <answer>\n42 km\n</answer>, I think 7", "<answer>", "42 km"),
        (r"Thus \boxed{\frac{1}{2}} of 9", r"\boxed{", r"\frac{1}{2}"),
        ("Answer: Paris.\nDone 3", "Answer:", "Paris."),
        ("It is 12", "<answer>", "12"),
        ("ANSWER : yes\nor 3", "Answer:", "yes"),
        ("9 次。答案：12", "答案:", "12"),
    ],
)
def test_the_result_behind_a_marker(text: str, marker: str, wanted: str) -> None:
    assert result(text, marker) == wanted


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1,250", "$1250.00", True),
        ("72.", "72", True),
        ("50%", "50", True),
        ("0.5", ".5", True),
        ("-5", "5", False),
        ("12", "1,2", False),
        ("3,50 €", "3.5", True),
        ("3,50", "4,50", False),
        ("1.250,50", "1,250.50", True),
        ("1 250", "1250", True),
        ("1 250", "2 250", False),
        ("1.250.000", "1,250,000", True),
        ("1,00,000", "100000", True),
        ("1.2.3", "123", False),
        ("0,125", "0.125", True),
        ("12 apples", "12", False),
        ("Paris.", " paris", True),
        ("", "0", False),
        ("١٬٢٥٠", "1250", True),
        ("١٢٫٥", "12.5", True),
        ("−5", "-5", True),
        ("+7", "7", True),
        ("1’250", "1,250", True),
        ("**42**", "42。", True),
        ("12 ₽", "12", True),
        ("3/4", "0.75", True),
        ("3/4", "3/5", False),
        ("7/0", "7/0", True),
        ("10:30", "9:30", False),
        ("1e3", "1000", True),
        ("1e999999999", "1", False),
        ("(3, 4)", "(3,4)", True),
    ],
)
def test_results_are_compared_as_numbers_where_they_are_numbers(one: str, other: str, same: bool) -> None:
    assert same_result(one, other) is same is same_result(other, one)


@pytest.mark.parametrize(
    ("answer", "wanted", "same"),
    [
        ("It is 12 km.", "12 km", True),
        ("所以是15元。", "15 元", True),
        ("It is 112 km.", "12 km", False),
        ("#### 12 miles", "12 km", False),
        ("In Paris, at 9:30.", "10:30", False),
        ("It is not Paris.", "Paris", False),
    ],
)
def test_an_answer_without_a_marker_may_end_in_the_whole_result(answer: str, wanted: str, same: bool) -> None:
    assert comes_to(answer, wanted) is same


def test_exact_answers_are_rewarded() -> None:
    pool = (Example("s1", "2 + 2?", "Two and two.\n#### 4"), Example("s2", "Which city?", "Paris"))
    rows = [
        Example(f"r{n}", *texts)
        for n, texts in enumerate([("2 + 2?", "It is 4."), ("2 + 2?", "5"), ("Which city?", "paris."), ("?", "4")])
    ]
    scored = ExactAnswer().score(context(pool=(pool,)), rows)
    assert [dict(example.scores) for example in scored[:3]] == [
        {"exact_answer": 1.0},
        {"exact_answer": 0.0},
        {"exact_answer": 1.0},
    ]
    assert scored[3].scores == {} and "no seed has the prompt" in scored[3].metadata["exact_answer_unparsed"]
    assert [example.response for example in scored] == [example.response for example in rows]


def test_the_bound_rises_by_round() -> None:
    rows = [replace(Example(f"r{score}", "p", "r"), scores={"reward": score}) for score in (5.0, 5.5, 6.0, 7.0)]
    part = RisingThreshold("reward", first=5.0, step=1.0, last=6.5)
    kept = {round: [example.id for example in part.apply(context(round=round), rows).kept] for round in (1, 2, 3, 9)}
    assert kept == {1: ["r5.5", "r6.0", "r7.0"], 2: ["r7.0"], 3: ["r7.0"], 9: ["r7.0"]}
    (drop, *_) = part.apply(context(round=2), rows).dropped
    assert (drop.rule, drop.evidence) == ("low_reward", "reward 5, above 6 wanted in round 2")
    assert part.apply(context(), [Example("x", "p", "r")]).dropped[0].rule == "unscored"
    for options in ({"name": "No Name"}, {"step": -1.0}, {"first": float("nan")}):
        with pytest.raises(ValueError, match="RisingThreshold: "):
            RisingThreshold(**options)  # type: ignore[arg-type]


def test_a_prompt_gets_no_more_than_its_share() -> None:
    answers = [("p", "One."), ("p", "one. "), ("p", "Two."), ("q", "One."), ("p", "Three.")]
    rows = [Example(f"r{n}", *texts) for n, texts in enumerate(answers)]
    result = PerPrompt(2).apply(context(), rows)
    assert [example.id for example in result.kept] == ["r0", "r2", "r3"]
    assert [(drop.rule, drop.example.id) for drop in result.dropped] == [("same_answer", "r1"), ("enough_answers", "r4")]
    assert "r0" in result.dropped[0].evidence and "r0, r2" in result.dropped[1].evidence
    assert [drop.example.id for drop in PerPrompt(None).apply(context(), rows).dropped] == ["r1"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Repeated(samples=0), "Repeated: samples = 0"),
        (lambda: TaskInputs(demonstrations=0), "TaskInputs: "),
        (lambda: SelfInstruct(examples=1), "SelfInstruct: examples = 1"),
        (lambda: PerPrompt(0), "PerPrompt: most = 0"),
        (lambda: ExactAnswer(marker=" "), "ExactAnswer: marker"),
        (lambda: ExactAnswer(name="A B"), "ExactAnswer: name"),
    ],
)
def test_options_out_of_range_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
