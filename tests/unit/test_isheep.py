"""I-SHEEP's parts: lists of tasks as models write them, and every rule hit and missed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from selfalign.engines import Scripted
from selfalign.filters import (
    AnswerChoices,
    AtMost,
    Blacklist,
    CopiedInput,
    EmptyResponse,
    HanCharacters,
    LeftoverLabels,
    Links,
    NextTurns,
    Novelty,
    Placeholders,
    RepeatedInput,
    TaskLength,
    TaskStart,
)
from selfalign.filters.tasks import ISHEEP, SELF_INSTRUCT
from selfalign.proposers import Instructions
from selfalign.proposers.instructions import list_text, read_tasks
from selfalign.protocols import Filter
from selfalign.text import join_task
from selfalign.types import Completion, Example, FinishReason, ModelRef, Request, Sampling
from tests.parts import calling, context, generated, seeds


def item(number: int, instruction: str = "Name a river.", input: str = "<noinput>") -> str:
    return f"{number}. Instruction: {instruction}\n{number}. Input:\n{input}\n"


def written(*items: str) -> str:
    """What a model writes behind "6. Instruction:"."""
    return "###\n".join(items).removeprefix("6. Instruction:")


def read(text: str, count: int = 3, *, cut: bool = False) -> list[tuple[str, str, str]]:
    return [tuple(task) for task in read_tasks(text, 6, count, cut=cut)]  # type: ignore[misc]


# The list.


def asked(*prompts: str, **options: Any) -> str:
    """The list that the proposer shows where these are the seeds' prompts."""
    shown = seeds_with(prompts)
    seen: list[str] = []

    def write(request: Request) -> Completion:
        seen.append(request.text or "")
        return Completion("", "stop")

    Instructions(form="text", **options).propose(context([shown], write), 1)
    return seen[0].partition("The 20 tasks:")[0]


def seeds_with(prompts: Sequence[str]) -> tuple[Example, ...]:
    return tuple(Example(f"seed-{row}", prompt, "x", slot=row) for row, prompt in enumerate(prompts))


ENGLISH_TASKS = ("Write a short letter to your neighbour about the garden.", "Explain why leaves fall in autumn.") * 3
GERMAN_TASKS = (
    "Schreibe einen kurzen Brief an deine Nachbarin über den Garten.",
    "Erkläre, warum im Herbst die Blätter fallen.",
) * 3


def test_the_list_asks_for_the_language_of_the_seeds() -> None:
    assert "5. Everything is in English.\n" in asked(*ENGLISH_TASKS)
    assert "5. Everything is in the language of the first tasks.\n" in asked(*GERMAN_TASKS)
    assert "5. Every task is in one of the languages of the first tasks.\n" in asked(*ENGLISH_TASKS, *GERMAN_TASKS)
    assert "5. Everything is in the language of the first tasks.\n" in asked("x", "y", "z")
    assert "5. Everything is in English.\n" in asked(*GERMAN_TASKS, language="English")


def test_a_list_in_form() -> None:
    text = written(item(6), item(7, "Sum this up:", "A long\n\ntext."), item(8, "Say\nit twice.", "<NoInput>"))
    assert read(text) == [("Name a river.", "", ""), ("Sum this up:", "A long\n\ntext.", ""), ("Say it twice.", "", "")]


@pytest.mark.parametrize(
    "text",
    [
        written(item(6), item(7)).replace("###\n", "\n\n"),
        written(item(6), item(7)).replace("###", "### "),
        written(item(6), item(7)).replace(". I", " . I"),
        written(item(6), item(7)).replace(": ", ":"),
        written(item(6), item(7)) + "###",
        written(item(6), item(7)) + "\n####\n",
    ],
)
def test_small_slips_of_form_are_read(text: str) -> None:
    assert read(text, 2) == [("Name a river.", "", "")] * 2


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("", ["task 6 is not written", "ends after 1 tasks, 3", "ends after 1 tasks, 3"]),
        (" Name a river.", ["task 6 is not written as instruction and input: 6. Instruction: Name a river.", "ends", "ends"]),
        (written(item(6)), ["", "ends after 1 tasks", "ends after 1 tasks"]),
        (written(item(6), item(9), item(8)), ["", "task 7 is not written as instruction and input: 9.", ""]),
        (written(item(6), item(7, ""), item(8, input="")), ["", "task 7 has no instruction", "task 8 has no input"]),
        (written(item(6), "7. Instruction: Name a river.\n6. Input:\nx\n", item(8)), ["", "task 7 is not written", ""]),
        (written(item(6), "7. Input:\nx\n", item(8)), ["", "task 7 is not written as instruction and input: 8.", "ends after 2"]),
        ("\x00\ud83d ### 1. 2. 3.", ["task 6 is not written", "ends", "ends"]),
    ],
)
def test_malformed_lists_give_named_problems(text: str, problems: list[str]) -> None:
    tasks = read(text)
    assert len(tasks) == 3
    for (instruction, _, problem), wanted in zip(tasks, problems, strict=True):
        assert bool(instruction) != bool(problem)
        assert (wanted in problem) if wanted else not problem, problem


def test_items_without_an_input_are_tasks_where_none_is_needed() -> None:
    text = (
        " Name a river.\n6. Output: The Elbe.\n###\n7. Instruction: Name a\nlake. ###\n"
        "8. Instruction: Sort these.\n8. Input:\nb, a\n"
        "9. Instruction:\n9. Output: x\n10. Instruction: Sum up.\n7. Input:\nA text.\n12. Instruction: Name a sea.\n"
        "12. Instruction: Name a bay.\n12. Input:\n\n13. Instruction:\n13. Input:\nx"
    )
    found = read_tasks(text, 6, 8, cut=False, input_needed=False)
    assert [(task.instruction, task.input) for task in found] == [
        ("Name a river.", ""),
        ("Name a lake.", ""),
        ("Sort these.", "b, a"),
        *[("", "")] * 3,
        ("Name a bay.", ""),
        ("", ""),
    ]
    assert all("is not written as instruction and input" in task.problem for task in found[4:6])
    assert all("has no instruction" in found[place].problem for place in (3, 7))
    assert [bool(task.problem) for task in read_tasks(text, 6, 8, cut=False)] == [True, True, False, *[True] * 5]


def test_a_sharp_at_the_end_of_an_instruction_is_its_own() -> None:
    text = " Print hello in C#\n###\n7. Instruction: Add two numbers in F# ###\n"
    assert [task.instruction for task in read_tasks(text, 6, 2, cut=False, input_needed=False)] == [
        "Print hello in C#",
        "Add two numbers in F#",
    ]


def test_the_last_item_of_a_list_that_was_cut_is_half_a_one() -> None:
    text = written(item(6), item(7, input="It begins and"))
    (first, second, third) = read(text, cut=True)
    assert first == ("Name a river.", "", "") and third[2].startswith("the list ends")
    assert second[0] == "" and "task 7 is cut off at max_tokens: 7. Instruction: Name a river." in second[2]
    assert read(text, 2, cut=True) == [first, second]
    assert read(text, 1, cut=True) == [first], "the cut item was nobody's"


def test_the_list_shows_instruction_and_input_and_opens_the_next_number() -> None:
    text = list_text([Example("a", "Sum up.\n\nA text.\n", "x"), Example("b", "Two\nlines.", "y")], 20)
    assert text.startswith("This is a collection of 20 varied tasks")
    assert text.endswith(
        "###\n1. Instruction: Sum up.\n1. Input:\nA text.\n"
        "###\n2. Instruction: Two lines.\n2. Input:\n<noinput>\n"
        "###\n3. Instruction:"
    )
    for requirement in ("verb", "wording", "kinds", "seen, heard", "English", "one or two sentences", "100 words", "<noinput>"):
        assert requirement in text


# The proposer.


def propose(count: int, text: str, finish: FinishReason = "stop", **options: Any) -> tuple[list[Example], list[Request]]:
    part, sent = options.pop("part", Instructions(per_request=3)), []

    def write(request: Request) -> Completion:
        sent.append(request)
        return Completion(text, finish)

    return part.propose(context(write=write, **options), count), sent


def test_every_slot_comes_back_with_its_request() -> None:
    drafts, sent = propose(8, written(item(6), item(7, "Sum up.", "A text.")), round=2)
    assert [draft.slot for draft in drafts] == list(range(8))
    assert [draft.id for draft in drafts] == [f"r02-{slot:05d}" for slot in range(8)]
    assert {draft.round for draft in drafts} == {2}
    assert [request.id for request in sent] == ["r02-00000", "r02-00003", "r02-00006"]
    assert [draft.metadata["request"] for draft in drafts] == [request.id for request in sent for _ in range(3)][:8]
    assert [draft.prompt for draft in drafts[:3]] == ["Name a river.", "Sum up.\n\nA text.", ""]
    assert "ends after 2 tasks" in drafts[2].metadata["problem"] and "problem" not in drafts[0].metadata
    assert len({request.seed for request in sent}) == 3
    for draft, request in zip(drafts, [request for request in sent for _ in range(3)], strict=False):
        assert [shown.id for shown in draft.prompt_demonstrations] == [example.id for example in request.demonstrations]
        assert len(request.demonstrations) == 5
        texts = [shown.prompt for shown in request.demonstrations]
        assert request.text is not None
        assert [f"{n}. Instruction: {text}" in request.text for n, text in enumerate(texts, 1)] == [True] * 5


def test_only_seeds_are_shown_and_all_of_them_in_turn() -> None:
    drafts, sent = propose(90, "", pool=(seeds(), generated(1, 30)), round=2)
    shown = [example for request in sent for example in request.demonstrations]
    assert {example.round for example in shown} == {0}
    assert {example.id for example in shown} == {seed.id for seed in seeds()}
    assert all(len({example.id for example in request.demonstrations}) == 5 for request in sent)
    assert all(draft.prompt == "" for draft in drafts)


def test_generated_tasks_are_shown_where_asked_for() -> None:
    part = Instructions(human=3, generated=2, per_request=3)
    _, sent = propose(30, "", pool=(seeds(), generated(1, 9), generated(2, 9)), round=3, part=part)
    assert all(sorted(min(e.round, 1) for e in request.demonstrations) == [0, 0, 0, 1, 1] for request in sent)
    assert {e.round for request in sent for e in request.demonstrations} == {0, 1, 2}


def test_few_seeds_change_the_numbers() -> None:
    drafts, sent = propose(2, " Go on.\n3. Input:\n<noinput>\n###\n4. Instruction: Stop.\n4. Input:\nx", pool=(seeds()[:2],))
    assert [draft.prompt for draft in drafts] == ["Go on.", "Stop.\n\nx"]
    assert len(sent) == 1 and str(sent[0].text).endswith("3. Instruction:")


def test_a_cut_list_keeps_its_whole_tasks() -> None:
    drafts, _ = propose(3, written(item(6), item(7)), "length")
    assert [draft.prompt_finish for draft in drafts] == ["stop", "length", "length"]
    assert [bool(draft.prompt) for draft in drafts] == [True, False, False]
    drafts, _ = propose(3, "", "context")
    assert {draft.prompt_finish for draft in drafts} == {"context"}


def test_nothing_asked_nothing_given() -> None:
    assert propose(0, "") == ([], [])


def test_the_number_behind_the_last_task_ends_the_text() -> None:
    found: list[Sampling] = []

    def generate(stage: str, requests: Sequence[Request], sampling: Sampling) -> list[tuple[Request, Completion]]:
        found.append(sampling)
        return [(request, Completion("", "stop")) for request in requests]

    part = Instructions(sampling=Sampling(stop=("END",)))
    part.propose(calling(context(), generate=generate), 4)
    assert found[0].stop == ("END", "\n16.")


@pytest.mark.parametrize(
    ("form", "round", "opened"), [("text", 2, False), ("turn", 1, True), ("auto", 1, False), ("auto", 2, True)]
)
def test_the_list_stands_in_an_opened_turn_where_asked(form: Any, round: int, opened: bool) -> None:
    sent: list[Request] = []

    def write(request: Request) -> Completion:
        sent.append(request)
        return Completion("", "stop")

    with Scripted().open(ModelRef("m"), "auto") as session:
        Instructions(form=form).propose(calling(context(write=write, round=round), session=session), 1)
    assert str(sent[0].text).startswith("USER: This is a" if opened else "This is a")
    assert str(sent[0].text).endswith("Instruction:")


@pytest.mark.parametrize("options", [{"human": 0}, {"generated": -1}, {"per_request": 0}])
def test_options_out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"Instructions: {next(iter(options))} = "):
        Instructions(**options)


# The rules.

GOOD = Example(
    "good", "Sort these rivers by length.\n\nRhine, Elbe, Oder", "Rhine, Elbe, Oder, as I can tell.\n\nThe Rhine is longest."
)


def rule(part: Filter, **changes: str) -> tuple[str, str]:
    """(rule, evidence) of GOOD with its instruction, input or response changed; of GOOD itself the filter must keep."""
    instruction, input = GOOD.prompt.split("\n\n")
    prompt = join_task(changes.get("instruction", instruction), changes.get("input", input))
    changed = replace(GOOD, id="changed", prompt=prompt, response=changes.get("response", GOOD.response), slot=1)
    result = part.apply(context(), [GOOD, changed])
    assert GOOD in result.kept
    assert len(result.kept) + len(result.dropped) == 2
    return (result.dropped[0].rule, result.dropped[0].evidence) if result.dropped else ("", "")


HITS: list[tuple[Filter, dict[str, str], str, str]] = [
    (TaskLength(learn=False), {"instruction": "Sort these rivers."}, "instruction_short", "3 words"),
    (TaskLength(), {"instruction": "word " * 151}, "instruction_long", "151 words"),
    *((Blacklist(), {"instruction": f"Please {word} them here."}, "blacklisted", repr(word)) for word in ISHEEP),
    (Blacklist(), {"instruction": "DRAW a river for me."}, "blacklisted", "'DRAW'"),
    (Blacklist(words=SELF_INSTRUCT), {"instruction": "Make a plot of it."}, "blacklisted", "'plot'"),
    (Blacklist(inputs=True), {"input": "The image of a graph."}, "blacklisted", "'image' in: The image of a graph."),
    (Blacklist(inputs=True), {"instruction": "Draw the rivers here."}, "blacklisted", "'Draw' in: Draw"),
    (TaskStart(), {"instruction": "- Sort these rivers."}, "starts_with_punctuation", "'-'"),
    (TaskStart(), {"instruction": "“Sort” these rivers."}, "starts_outside_ascii", "'“'"),
    (TaskStart(), {"instruction": "Übersetze das für mich."}, "starts_outside_ascii", "'Ü'"),
    (TaskStart(phrases=("Write a program",)), {"instruction": "write  a program that sorts."}, "starts_with_phrase", "program"),
    (Placeholders(), {"instruction": "Sort the rivers, noinput."}, "placeholder", "'noinput' in the instruction"),
    (Placeholders(), {"input": "<NoInput>"}, "placeholder", "'NoInput' in the input"),
    (Placeholders(), {"input": "None."}, "placeholder", "'None' in the input"),
    (Placeholders(), {"input": "A letter to <name>."}, "placeholder", "'<name>' in the input"),
    (Placeholders(none=False, brackets=False), {"response": "There is noinput."}, "placeholder", "in the response"),
    (LeftoverLabels(), {"input": "Rhine\nOutput: Rhine"}, "leftover_label", "'Output:'"),
    (LeftoverLabels(), {"instruction": "Instruction: Sort the rivers."}, "leftover_label", "'Instruction:'"),
    (LeftoverLabels(), {"input": "7. Input : Rhine"}, "leftover_label", "'Input :'"),
    (Links(), {"input": "See https://example.org/rivers today"}, "link", "https://example.org/rivers in the prompt"),
    (Links(), {"instruction": "Sort what www.example.org lists."}, "link", "www.example.org"),
    (Links(responses=True), {"response": "See http://example.org."}, "link", "in the response"),
    *(
        (NextTurns(), {"response": f"Rhine.\n {role}: and?"}, "role_line", role)
        for role in ("assistant", "System", "HUMAN", "Question", "output", "User")
    ),
    (NextTurns(), {"response": "Rhine.\nUser what else"}, "role_line", "'User'"),
    (NextTurns(), {"response": "Rhine.\nCan you sort seas too?"}, "asks_back", "'Can you'"),
    (NextTurns(), {"response": "Rhine.\nDo you know seas?"}, "asks_back", "'Do you'"),
    (NextTurns(), {"response": "Rhine.\n\nWhich sea is largest?\n\nThe Pacific."}, "question_paragraph", "Which sea"),
    (AnswerChoices(), {"response": "Answer choices: Rhine, Elbe"}, "answer_choices", "character 0"),
    *((AnswerChoices(), {"response": f"One of\n{letter}. Rhine"}, "option_marker", f"{letter}.") for letter in "ABCDE"),
    (HanCharacters(), {"response": "The Rhine (莱茵河)."}, "han_character", "莱 (U+83B1) at character 11"),
    (HanCharacters(), {"response": "\U00020000"}, "han_character", "U+20000"),
    (RepeatedInput(), {"instruction": "Sort Rhine, Elbe, Oder by length."}, "input_in_instruction", "Rhine, Elbe, Oder"),
    (EmptyResponse(), {"response": " \n"}, "empty_response", "wrote nothing"),
    (CopiedInput(), {"response": "rhine,  Elbe, ODER"}, "response_is_input", "Rhine, Elbe, Oder"),
    (CopiedInput(), {"input": "", "response": "Sort these rivers by length."}, "response_is_input", "Sort these"),
]


@pytest.mark.parametrize(("part", "changes", "name", "evidence"), HITS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_rule_hits_by_name_with_evidence(part: Filter, changes: dict[str, str], name: str, evidence: str) -> None:
    found, why = rule(part, **changes)
    assert found == name
    assert evidence in why


MISSES: list[tuple[Filter, dict[str, str]]] = [
    (TaskLength(), {"instruction": "Sort these four rivers."}),
    (TaskLength(), {"instruction": "word " * 149 + "word"}),
    (TaskLength(), {"input": "word " * 400}),
    (Blacklist(), {"instruction": "Imagine a photographer's profile and mapping."}),
    (Blacklist(), {"input": "The image of a graph."}),
    (Blacklist(words=SELF_INSTRUCT), {"instruction": "Say what music that is."}),
    (Blacklist(words=()), {"instruction": "Draw a picture for me."}),
    (TaskStart(), {"instruction": "3 rivers are to be sorted."}),
    (TaskStart(), {"instruction": "Sort “these” rivers – über all."}),
    (TaskStart(), {"instruction": "Write a program that sorts."}),
    (TaskStart(phrases=("Write a program",)), {"instruction": "Please write a program that sorts."}),
    (Placeholders(), {"instruction": "Is 3 < 4 and 5 > 4 or nonetheless not?"}),
    (Placeholders(), {"response": "None of them, <b>none</b>."}),
    (Placeholders(none=False), {"input": "None."}),
    (Placeholders(brackets=False), {"input": "<p>Rhine</p>"}),
    (LeftoverLabels(), {"instruction": "Say what the input: or output would be."}),
    (LeftoverLabels(), {"response": "Output: Rhine"}),
    (Links(), {"instruction": "Say what http and the www stand for."}),
    (Links(), {"response": "See http://example.org."}),
    (NextTurns(), {"response": "User: is how some logs begin."}),
    (NextTurns(), {"response": "Rhine.\nUsers and outputs"}),
    (NextTurns(), {"response": "Which river is longest?"}),
    (NextTurns(), {"response": "Rhine. Can you see it?\n\nYou can."}),
    (AnswerChoices(), {"response": "A. Rhine"}),
    (AnswerChoices(), {"response": "These:\nF. Rhine\nA.B. Rhine\nEtc. and more"}),
    (HanCharacters(), {"response": "Füße, кошка, ひらがな, 한국어."}),
    (HanCharacters(), {"input": "莱茵河"}),
    (RepeatedInput(), {"input": ""}),
    (RepeatedInput(), {"input": "sort these rivers"}),
    (EmptyResponse(), {"response": "."}),
    (CopiedInput(), {"response": "Rhine, Elbe"}),
]


@pytest.mark.parametrize(("part", "changes"), MISSES)
def test_every_rule_spares_what_it_is_not_about(part: Filter, changes: dict[str, str]) -> None:
    assert rule(part, **changes) == ("", "")


def test_novelty_of_the_instruction_sees_through_new_inputs() -> None:
    same = [replace(GOOD, id=f"r{n}", slot=n, prompt=f"Sort these rivers by length.\n\n{'river ' * n}") for n in (1, 20)]
    assert Novelty().apply(context(), same).dropped == ()
    (drop,) = Novelty(field="instruction").apply(context(), same).dropped
    assert drop.rule == "not_novel" and drop.evidence.endswith("with r1: Sort these rivers by length.")
    assert len(Novelty(field="input").apply(context(), same).kept) == 2


def test_no_more_than_so_many_and_the_first_ones() -> None:
    rows = [replace(GOOD, id=f"r{slot}", slot=slot) for slot in range(5)]
    result = AtMost(3).apply(context(), rows)
    assert list(result.kept) == rows[:3]
    assert [(drop.rule, drop.evidence) for drop in result.dropped] == [
        ("surplus", "number 4 of 5, 3 are kept"),
        ("surplus", "number 5 of 5, 3 are kept"),
    ]
    with pytest.raises(ValueError, match="AtMost: count = 0"):
        AtMost(0)
