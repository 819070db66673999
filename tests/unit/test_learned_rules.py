"""What filters learn from the seeds: new pairs of whatever kind the seeds are pass the default recipe, and faults do not."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from selfalign.filters import (
    AnswerChoices,
    Blacklist,
    CategoryAgreement,
    CopiedInput,
    Exact,
    Finished,
    Language,
    LeakedMarkers,
    LeftoverLabels,
    Length,
    LengthRange,
    Links,
    NearDuplicates,
    NextTurns,
    Novelty,
    Placeholders,
    RepeatedInput,
    Repetition,
    Substring,
    TaskLength,
    TaskStart,
    published,
)
from selfalign.loop.steps import apply_filters
from selfalign.proof.seed_rules import harmful, rules_on_seeds, void_on_seeds
from selfalign.protocols import Filter
from selfalign.recipes import isara, isara_paper, isheep, self_instruct
from selfalign.types import Example
from tests.conftest import SCRIPTED, Run
from tests.files import write_rows
from tests.parts import context

THINGS = ("kettle", "garden gate", "violin", "ladder", "winter coat", "water meter", "atlas", "drum", "candle", "window", "lamp",
          "engine", "brass bell", "tent", "sledge", "carpet", "mirror", "fountain pen", "rowing boat", "wool hat")  # fmt: skip
WARES = ("やかん", "門", "窓", "はしご", "コート", "地図", "太鼓", "ろうそく", "バイオリン", "鐘")
LIST = "\n".join(f"- {each} for the {{0}}" for each in ("a hammer", "a file", "a cloth", "some oil"))
FORMS = {
    "label": ("Is this review of a {0} good or bad: 'It broke after {1} days'?", "bad"),
    "extraction": ("Which thing is named here: 'Ann has a {0} with number {1}'?", "{0}"),
    "sum": ("What is {1} + 3?", "{1}7"),
    "JSON": ("Turn into JSON: a {0} for {1} euros.", '{{"item": "{0}", "price": {1}}}'),
    "lines of JSON": ("Turn into lines: a {0} for {1} euros.", '{{"item": "{0}"}}\n{{"price": {1}}}'),
    "SQL": ("Write SQL that lists each {0} of 19{1}.", "SELECT name FROM wares WHERE kind = '{0}' AND year = 19{1}"),
    "Python": ("Write a function that counts each {0}.", "def count(rows):\n    return sum(row == '{0}' for row in rows)"),
    "pipes": ("Sum the prices of each {0} in Elixir.", "rows |> Enum.filter({0}) |> Enum.sum()"),
    "YAML": ("Describe the {0} as YAML.", "item: {0}\nuser: ann\nprice: {1}"),
    "struck out": ("Strike out the word {0} in HTML.", "<p>We sell a <s>{0}</s> no longer.</p>"),
    "quiz": ("Write a quiz card about a {0}.", "Q: What is a {0}?\nA: A thing with number {1}."),
    "poem": ("Write two lines about a {0}.", "The {0} stands beside the door,\nIt sings of days that are no more"),
    "list": ("List what I need to mend a {0}.", LIST),
    "correction": ("Correct this: She have mended the {0} yesterdays.", "She mended the {0} yesterday."),
    "emoji": ("How do I clean a {0} at home?", "Wipe the {0} with a dry cloth. Have fun! 🩷"),
    "long": ("Explain in detail how to mend a {0}.", "Look at part {1} of the {0}, and note what you see there. " * 40),
    "letter": ("Write a note of thanks for the {0}.", "Many thanks for the lovely {0}, we like it.\n\nBest wishes,\nAnn"),
    "form feed": ("Print two pages on the {0}.", "All about the {0}.\x0cPage {1} is empty."),
    "translation": ("Translate: The {0} is old and number {1} stays.", "Es ist sehr alt und die Nummer {1} bleibt hier stehen."),
}


def filled(form: tuple[str, str], things: Sequence[str] = THINGS, name: str = "p") -> list[Example]:
    return [Example(f"{name}{i}", *(text.format(thing, 10 + 3 * i) for text in form), slot=i) for i, thing in enumerate(things)]


def rules(filters: Sequence[Filter], seeds: Sequence[Example], examples: Sequence[Example]) -> dict[str, str]:
    result = apply_filters(context(pool=(tuple(seeds),)), filters, examples)
    return {drop.example.id: drop.rule for drop in result.dropped}


def dropped(seeds: Sequence[Example], examples: Sequence[Example]) -> dict[str, str]:
    """By the default recipe, its comparison by embedding left out: the encoder here knows words alone."""
    recipe = isara()
    compared = [part for part in recipe.prompt_filters if not isinstance(part, NearDuplicates)]
    first = rules(compared, seeds, [replace(each, response="") for each in examples])
    return first | rules(recipe.filters, seeds, [each for each in examples if each.id not in first])


@pytest.mark.parametrize("name", FORMS)
def test_new_pairs_of_the_seeds_form_pass_and_their_copies_do_not(name: str) -> None:
    pairs = filled(FORMS[name])
    assert dropped(pairs[:10], pairs[10:]) == {}
    copies = [replace(each, id=f"copy of {each.id}") for each in pairs[:10]]
    assert set(dropped(pairs[:10], copies).values()) == {"not_novel"}


@pytest.mark.parametrize(
    ("form", "response", "rule"),
    [
        ("JSON", '{"item": "cup", "pri', "unfinished"),
        ("lines of JSON", '{"item": "cup"}\n{"pr', "unfinished"),
        ("label", "The review says that the cup broke and so it is", "unfinished"),
        ("extraction", "Ann has a tea cup with number", "response_in_prompt"),
        ("list", "- a cloth for the cup\n" * 4 + "- a cloth for the cup", "repetition"),
        ("long", "Look at it. " * 90, "repetition"),
        ("correction", "She mended the cup yesterday.\nUser: and now?", "marker"),
        ("pipes", "rows <|im_end|> Enum.sum()", "marker"),
        ("emoji", "Wipe the cup \x07 dry. Have fun! 🩷", "control_character"),
        ("translation", "It is very old and the number 99 stays where it has been.", "other_language"),
    ],
)
def test_faults_are_faults_in_every_form(form: str, response: str, rule: str) -> None:
    fault = Example("fault", FORMS[form][0].format("tea cup", 99), response)
    assert dropped(filled(FORMS[form])[:10], [fault]) == {"fault": rule}


def test_scripts_and_languages() -> None:
    polite = (
        "{0}の手入れを教えてください。",
        "{0}を乾いた布で拭くようにしてください。箱に入れるようにしてください。月に一度は見てください。",
    )
    pairs = filled(polite, WARES)
    assert dropped(pairs[:5], pairs[5:]) == {}
    english = Example("e", "お茶のいれ方を教えてください。", "Pour hot water on the leaves and wait for three minutes.")
    assert dropped(pairs, [english]) == {"e": "other_language"}
    thai = [
        Example(f"t{i}", *texts)
        for i, texts in enumerate(
            [("ควรตรวจอะไรก่อนซื้อจักรยานมือสอง", "ดูรอยร้าวที่โครง หมุนล้อทั้งสอง"), ("ทำไมแมวร้องตอนกลางคืน", "มันอาจหิวหรือเบื่อ เล่นกับมันก่อนนอน"),
             ("ทำไมเค้กของฉันยุบตรงกลาง", "เปิดเตาเร็วเกินไป หรือใส่ผงฟูมากเกินไป"), ("สำรองรูปในโทรศัพท์อย่างไร", "คัดลอกลงดิสก์ แล้วตรวจว่าเปิดได้")]
        )
    ]  # fmt: skip
    assert dropped(thai[:3], thai[3:]) == {}
    turkish = [Example(f"u{i}", f"{word} nasıl onarılır?", "Önce temizleyin.") for i, word in enumerate(("Kapı", "Masa", "Çit"))]
    assert rules([TaskStart()], turkish[:2], turkish[2:]) == {}, "no seed begins outside ASCII, but they are not English"


def test_a_language_that_a_few_seeds_have_is_none_of_theirs() -> None:
    german = filled(("Wie repariere ich das Ding Nummer {1}?", "Reinige zuerst das Ding Nummer {1} und lass es dann trocknen."))
    english = Example("e", "How do I mend the thing?", "Clean the thing first and let it dry for a while.")
    assert rules([Language()], [*german[:9], english], [english, *german[10:]]) == {"e": "other_language"}
    assert rules([Language()], [*german[:5], *[english] * 5], [english, *german[10:]]) == {}
    assert rules([Language()], filled(FORMS["label"]), [english, *german]) == {}, "the language of labels cannot be told"


CAN = "Can you"
LIFTED: list[tuple[Filter, tuple[str, str]]] = [
    (TaskStart(), ("¿Cómo arreglo {0}?", "Así.")),
    (TaskStart(), ("- mend the {0}", "Do.")),
    (TaskStart(phrases=("Mend",)), ("Mend the {0}!", "Do.")),
    (TaskLength(), ("Mend {0}!", "Do.")),
    (TaskLength(max_words=9), ("Mend the old {0} " + "well and " * 10, "Do.")),
    (Blacklist(), ("Draw a map of the {0} for me.", "Done.")),
    (Placeholders(), ("Mark up <b>{0}</b> or none.", "Done: noinput.")),
    (LeftoverLabels(), ("Input: {0}", "Done.")),
    (Links(responses=True), ("Read www.example.org/{1}.", "Done at https://example.org.")),
    (RepeatedInput(), ("Say {0} twice.\n\n{0}", "Done.")),
    (CopiedInput(), ("Say this.\n\n{0}", "{0}")),
    (AnswerChoices(), ("Ask about a {0}.", "Answer choices: one\nA. {0}\nB. {1}")),
    (NextTurns(), ("Play on: {0}.", f"User: {{0}}\nSystem: {{1}}\n{CAN} mend it?\n\nOr what?")),
    (Length(max_prompt_words=2, max_response_words=2), ("Mend the old {0}.", "Take a long look at it.")),
    (Substring(both_ways=True), ("Say again the words {0} and {1}.", "Say again the words {0} and {1}. There.")),
    (Repetition(), ("Mend it " * 9 + "{0}.", "Mend it. " * 9)),
    (Finished(), ("Mend {0}.", "So do {0},")),
    (Novelty(), ("Mend the old and broken thing with number {1} for me.", "Done.")),
    (Novelty(), ("Is {1} + 3 or {1} - 3 or {1} x 3 more?", "Done.")),
    (Novelty(field="instruction"), ("Sort the words of this text.\n\n{0} and then {1}", "Done.")),
    (NearDuplicates(max_similarity=0.3), ("Mend the old {0} now.", "Done.")),
]


LEARN_FROM_ONE = (Blacklist, Placeholders, LeftoverLabels, Length, TaskLength, Novelty, NearDuplicates)
"""What a single seed has is part of the domain; or the seeds are compared with one another."""


@pytest.mark.parametrize(("part", "form"), LIFTED, ids=lambda value: type(value).__name__ if not isinstance(value, tuple) else "")
def test_each_rule_gives_way_to_what_seeds_do_and_not_to_one_of_them(part: Filter, form: tuple[str, str]) -> None:
    pairs = filled(form)
    plain = filled(("How does one keep thing {1} of these clean?", "Wipe the thing with a cloth, number {1} too."))
    assert rules([part], pairs[:10], pairs[10:]) == {}
    (as_published,) = published(part)
    assert rules([as_published], pairs[:10], pairs[10:])
    if not isinstance(part, LEARN_FROM_ONE):
        assert rules([part], [*plain, *pairs[:1]], pairs[10:])


def test_no_length_of_a_seed_is_far() -> None:
    seeds = [Example(f"s{i}", "Mend it.", "word " * (12 if i == 7 else 1)) for i in range(12)]
    new = [Example("a", "Mend it.", "word " * 11), Example("b", "Mend it.", "word " * 13)]
    assert rules([LengthRange()], seeds, new) == {"b": "response_length"}
    assert rules([LengthRange(learn=False)], seeds, new) == {"a": "response_length", "b": "response_length"}


def test_published_leaves_what_does_not_learn() -> None:
    assert published(Exact(), Length()) == (Exact(), Length(learn=False))
    for recipe in (isara_paper(), self_instruct()):
        filters = (*recipe.prompt_filters, *recipe.pair_filters, *recipe.filters)
        assert not any(getattr(part, "learn", False) for part in filters)


def test_what_a_prompt_has_its_answer_may_have() -> None:
    asked = Example("a", "What does |> do in Elixir?", "The sign |> hands on what stands before it.")
    unasked = Example("b", "What is Elixir?", "A language with |> in it.")
    assert rules([LeakedMarkers()], [], [replace(asked, response="")]) == {"a": "marker"}, "a prompt must not have it by itself"
    assert rules([LeakedMarkers()], [], [asked, unasked]) == {"a": "marker", "b": "marker"}
    known = Example("s", "Explain |> to me.", "It hands on.")
    assert rules([LeakedMarkers()], [known], [asked, unasked]) == {}
    role = Example("c", "Who is\nuser: in this file?", "See the line\nuser: ann")
    assert [drop.evidence for drop in LeakedMarkers().apply(context(), [role]).dropped] == [
        "the prompt contains 'user:' at character 6"
    ]


def two_directions(texts: Sequence[str]) -> np.ndarray:
    """Texts with "good" in them point one way, others another; what follows a # turns them a little."""
    angle = [float(text.partition("#")[2] or 0) + (0.0 if "good" in text else 1.5) for text in texts]
    return np.array([[np.cos(each), np.sin(each)] for each in angle], dtype=np.float32).reshape(-1, 2)


def test_agreement_rests_where_the_seeds_do_not_agree_by_it() -> None:
    def seeds(kind: Callable[[int], str]) -> tuple[Example, ...]:
        return tuple(Example(f"s{i}", "p", f"{('good', 'other')[i % 2]}#0.0{i}", category=kind(i)) for i in range(12))

    wrong = [Example("a", "p", "good#0.1", category="y")]
    part = CategoryAgreement(unanimous=True)
    clear, mixed = seeds(lambda i: "xy"[i % 2]), seeds(lambda i: "xy"[i // 2 % 2])
    assert [drop.rule for drop in part.apply(context((clear,), encode=two_directions), wrong).dropped] == ["category_mismatch"]
    assert not CategoryAgreement().apply(context((mixed,), encode=two_directions), wrong).dropped
    alone = seeds(lambda i: f"kind {i}")
    assert not part.apply(context((alone,), encode=two_directions), wrong).dropped


def test_near_duplicates_of_seeds_that_all_look_alike_are_the_copies() -> None:
    seeds = tuple(Example(f"s{i}", f"good {i}", "r") for i in range(6))
    new = [Example("a", "good 9", "r"), Example("b", "GOOD  3", "r"), Example("c", "good 9", "r")]
    result = NearDuplicates().apply(context((seeds,), encode=two_directions), new)
    assert [drop.example.id for drop in result.dropped] == ["b", "c"]
    assert result.dropped[0].evidence == "the same text as s3: GOOD  3"


# The rules on the seeds.


def named(filters: Sequence[Filter]) -> list[tuple[str, Filter]]:
    return [(f"filters.{type(part).__name__.lower()}", part) for part in filters]


def test_a_rule_that_would_drop_seeds_is_named_with_share_example_and_option() -> None:
    labels = filled(FORMS["label"])
    (found,) = rules_on_seeds(named([Length(learn=False), Length(), Exact(), Finished()]), None, labels)
    assert (found.filter, found.rule, found.dropped, found.of, found.share) == ("filters.length", "response_short", 20, 20, 1.0)
    assert found.text == (
        "filters.length would drop 20 of the 20 seeds (100%) as response_short, such as p0: 1 word, at least 5 wanted; "
        "change it by --filters.length.learn true or --filters.length.min_response_words or --without filters.length"
    )
    assert harmful([found]) == [found]


@pytest.mark.parametrize("end", ["- salt\n- flour", "It is at https://a.example/help", "Այո, այսպես է:"])
def test_endings_that_a_round_would_keep_stop_no_run(cli: Run, tmp_path: Path, end: str) -> None:
    """With either of the two left out, the other one is no more than a tenth of the rest."""
    asked = [f"What shall I do about a {each} that I found?" for each in THINGS[:12]]
    rows = [{"prompt": text, "response": end if at < 2 else f"Keep it, as number {at}."} for at, text in enumerate(asked)]
    seeds = write_rows(tmp_path / "seeds.jsonl", rows)
    done = cli("check", "isara", seeds, *SCRIPTED, "--validation_share", 0.0)
    assert done.returncode == 0, done.stdout
    assert "- salt" in end or "none of them drops any" in done.stdout


@pytest.mark.parametrize("count", [10, 80])
def test_each_seed_is_judged_by_the_others(count: int) -> None:
    things = [f"{a}{b}" for a in "bdfghklmnp" for b in "aeiouxyz"][:count]
    odd = Example("odd", "How is a thing like this kept clean by people at home?", "So. " * 90)
    seeds = [*filled(FORMS["correction"], things), odd]
    (found,) = rules_on_seeds(named([Novelty(), Repetition()]), None, seeds)
    assert (found.rule, found.dropped, found.of, found.example) == ("repetition", 1, count + 1, "odd")
    assert harmful([found]) == []


def test_prompt_filters_see_prompts_alone_and_what_needs_more_is_left_out() -> None:
    seeds = filled(("Mend the good {0}, please.", "User: {0}"))
    filters = [("prompt_filters.marker", LeakedMarkers()), ("prompt_filters.near", NearDuplicates())]
    assert rules_on_seeds(filters, None, seeds) == []
    assert rules_on_seeds(filters, two_directions, seeds) == []


def test_void_rules_are_named() -> None:
    texts = (
        ("怎样才能让面包保持一个星期的新鲜？", "把面包用布包好，放在干燥的盒子里。"),
        ("为什么我的番茄叶子变黄了？", "多半是水浇得太多。两次浇水之间要让土壤干一干。"),
        ("手机里的照片怎么备份？", "复制到硬盘，再放一份在家以外的地方。"),
    )
    chinese = [Example(f"s{i}", *pair) for i, pair in enumerate(texts)]
    (novelty,) = void_on_seeds(named([Novelty(unicode=False), Novelty(), Length()]), chinese)
    assert novelty.startswith("filters.novelty counts words of a-z and 0-9 alone, which 3 of 3 seeds are not written in")
    (words,) = void_on_seeds(named(isheep().pair_filters), chinese)
    assert words == "filters.nextturns, filters.answerchoices: lists of English words, which say nothing of texts in zh"
    assert void_on_seeds(named([Novelty(unicode=False), NextTurns()]), filled(FORMS["long"])) == []


def test_what_is_learned_of_pairs_needs_both_of_them() -> None:
    two = [Example("a", "How do I clean a kettle?", "Wipe it."), Example("b", "How do I clean a drum?", "Wipe it.")]
    others = [Example(f"o{i}", text, "So.") for i, text in enumerate(("Where is the key?", "Whose turn is it now?"))]
    for seeds in (two, [*others, *two]):
        assert rules_on_seeds(named([Novelty()]), None, seeds) == []
        assert {each.dropped for each in rules_on_seeds(named([Novelty(learn=False)]), None, seeds)} == {2}


PIRATE, POET = "You are a pirate.", "You are a poet."


def test_what_seeds_ask_again_under_another_system_prompt_or_later_is_no_copy(cli: Run, tmp_path: Path) -> None:
    asked = [f"How do I mend the {thing}?" for thing in THINGS[:12]]
    personas = [
        {"system": system, "prompt": prompt, "response": f"{word}, with glue number {place}."}
        for place, prompt in enumerate(asked)
        for system, word in ((PIRATE, "Arr"), (POET, "O dawn"))
    ]
    chats = [
        {
            "prompt": ("Why?", "Are you sure?")[place % 2],
            "response": f"It is number {place}.",
            "history": [[prompt, "With glue."]],
        }
        for place, prompt in enumerate(asked)
    ]
    for rows in (personas, chats):
        done = cli("check", "isara", write_rows(tmp_path / "seeds.jsonl", rows), *SCRIPTED, "--json")
        found = json.loads(done.stdout)
        assert (done.returncode, found["stops"], found["rules_on_seeds"]) == (0, [], []), done.stderr


@pytest.mark.parametrize("part", [Novelty(), NearDuplicates()])
def test_copies_within_one_conversation_stay_copies(part: Filter) -> None:
    first = [Example(f"p{i}", f"How do I mend the {thing}?", "Arr.", system=PIRATE) for i, thing in enumerate(THINGS[:8])]
    same = [replace(seed, id=f"o{i}", system=POET) for i, seed in enumerate(first)]
    later = [replace(seed, id=f"l{i}", prompt="Why?", history=((seed.prompt, "Arr."),)) for i, seed in enumerate(first)]
    other, copy = (
        Example("other", "Where can I buy a cup of tea?", "", system=POET),
        Example("copy", first[0].prompt, "", system=POET),
    )
    follow_up = Example("later", "Why?", "", history=((other.prompt, "At home."),), system=POET)
    again = replace(follow_up, id="again", prompt=other.prompt)
    pool = (first + same + later, [other])
    result = part.apply(context(pool=[tuple(each) for each in pool]), [copy, follow_up, again, replace(other, id="twin")])
    assert [each.id for each in result.kept] == ["later"], "asked in its own conversation for the first time"
    alone = part.apply(context(pool=(tuple(first), (other,))), [copy, follow_up, again])
    assert {drop.example.id for drop in alone.dropped} == {"copy", "again"}, "no seed asks the same elsewhere"
    assert {drop.rule for drop in (*result.dropped, *alone.dropped)} == {"not_novel" if part == Novelty() else "near_duplicate"}
