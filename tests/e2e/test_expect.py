"""What a user declares of every answer filters candidates, measures held-out answers and decides the verdict."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from selfalign import align
from selfalign.cli.options import parse
from selfalign.cli.recipe_options import build, part_options, resolved
from selfalign.cli.run import make_parser
from selfalign.encoders import Hashed
from selfalign.engines import Scripted
from selfalign.errors import RunFailed, UserError
from selfalign.evaluators import Expected, Refusal
from selfalign.expect.suggest import suggested, suggestion
from selfalign.filters import Expected as ExpectedFilter
from selfalign.recipe import Recipe
from selfalign.recipes import isara, pretrained
from selfalign.recipes.evaluations import expecting, measured_by
from selfalign.record.status import status
from selfalign.record.store import Store
from selfalign.report.verdict import verdict
from selfalign.trainers import NullTrainer
from selfalign.types import Completion, Example, Metric, ModelRef, Request, Sampling
from tests.conftest import SCRIPTED, Run
from tests.files import result, succeeded
from tests.parts import context

THINGS = (
    "table", "window", "roof", "stove", "lamp", "kettle", "violin", "fence", "radio", "ladder", "drum", "atlas",
)  # fmt: skip
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {"thing": {"type": "string", "pattern": "^[a-z]+$"}, "parts": {"type": "array", "items": {"$ref": "#"}}},
    "required": ["thing"],
    "additionalProperties": False,
}
CHECKS = """
def is_polite(answer):
    return "please" in answer.lower()


def about_the_prompt(answer, prompt):
    return prompt.split()[-1].strip("?.") in answer


def careless(answer):
    return answer.index("please") > 0


def vague(answer):
    return None if "please" in answer else False


def odd(answer, prompt, more):
    return True
"""


def domain(right: Callable[[str], str], category: Callable[[int], str] = lambda _: "") -> list[Example]:
    rows = [(f"What do you know about the old {thing}?", right(thing)) for thing in THINGS]
    return [Example(f"e{row}", *texts, slot=row, category=category(row)) for row, texts in enumerate(rows)]


def written(path: Path, examples: Iterable[Example]) -> Path:
    rows = [{"id": e.id, "prompt": e.prompt, "response": e.response, "category": e.category} for e in examples]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def measured(folder: Path, rows: Sequence[Example], answers: Sequence[str], *expect: str) -> dict[str, Metric]:
    """The metrics of a scripted model that answers so."""
    replies = {row.id: answer for row, answer in zip(rows, answers, strict=True)}
    recipe = replace(pretrained(), engine=Scripted(replies=replies), eval_sampling=Sampling(max_tokens=200))
    align(expecting(recipe, expect), "scripted", (), folder, held_out=rows)
    with Store.read(folder) as store:
        return {metric.name: metric for metric in store.metrics(0)}


DOMAINS: dict[str, tuple[Callable[[str], str], str, tuple[str, ...]]] = {
    "json": (lambda thing: json.dumps({"thing": thing}), "The thing is a {}.", ("json", "json:schema.json")),
    "labels": (lambda thing: ("wood", "metal", "glass")[len(thing) % 3], "stone", ("exact", "regex:wood|metal|glass")),
    "german": (
        lambda thing: f"Bitte stellen Sie das Gerät ({thing}) zurück an seinen Platz und schalten Sie es vorher aus.",
        "Please put the old thing called {} back in its place and switch it off before you do so.",
        ("language:de", "contains", "max_words:16"),
    ),
    "function": (
        lambda thing: f"Please tell me more about the {thing}.",
        "Go away.",
        ("function:checks.py:is_polite", "function:checks.py:about_the_prompt"),
    ),
}


@pytest.mark.parametrize("name", DOMAINS)
def test_a_perfect_model_has_all_and_a_wrong_one_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    right, wrong, expect = DOMAINS[name]
    Path("schema.json").write_text(json.dumps(SCHEMA))
    Path("checks.py").write_text(CHECKS)
    rows = domain(right)
    perfect = measured(tmp_path / "perfect", rows, [row.response for row in rows], *expect)
    bad = measured(tmp_path / "bad", rows, [f"{wrong.format('door')} And that is that." for _ in rows], *expect)
    names = [each for each in perfect if each.startswith("expected")]
    assert names[0] == "expected" and len(names) == 1 + len(expect)
    assert [perfect[each].value for each in names] == [1.0] * len(names)
    assert [bad[each].value for each in names] == [0.0] * len(names)
    assert perfect["expected"].unit == "share" and perfect["expected"].n == 12 and 0.7 < perfect["expected"].low < 0.8
    assert perfect["usual_length"].value == perfect["finished"].value == 1.0
    assert ("in_language" in perfect) is (name in ("german", "function"))
    if name == "german":
        assert (perfect["in_language"].value, bad["in_language"].value) == (1.0, 0.0)


def test_checks_by_category_count_the_rows_they_are_about(cli: Run, tmp_path: Path) -> None:
    rows = domain(lambda thing: "30 Tage, bitte.", lambda row: "Rückgabe = Umtausch" if row % 3 else "größe")
    given = ("--expect", "Rückgabe = Umtausch=contains:30 Tage", "--expect", "größe=max_words:1")
    replies = json.dumps({row.id: row.response for row in rows}, ensure_ascii=False)
    asked = ("--held_out", written(tmp_path / "rows.jsonl", rows), "--engine", "Scripted", "--engine.replies", replies)
    done = succeeded(cli("eval", "scripted", *asked, *given, "--json", "--quiet"))
    found = json.loads(done.stdout)["model"]["metrics"]
    assert (found["expected"]["n"], found["expected"]["value"]) == (12, pytest.approx(8 / 12))
    by_check = {name: (each["n"], each["value"]) for name, each in found.items() if name.startswith("expected:")}
    assert by_check == {"expected:Rückgabe_Umtausch_contains_30_Tage": (8, 1.0), "expected:größe_max_words_1": (4, 0.0)}


def small(write: Callable[[ModelRef, Request], str], *expect: str) -> Recipe:
    recipe = replace(
        isara(demonstrations=3), engine=Scripted(replies=write), encoder=Hashed(), trainer=NullTrainer(), per_round=24, rounds=1
    )
    return expecting(replace(recipe, prompt_filters=(), filters=()), expect)


def writing(answer: Callable[[ModelRef, Request], str]) -> Callable[[ModelRef, Request], str]:
    """A model that asks about numbered things and answers so."""

    def write(model: ModelRef, request: Request) -> str:
        return answer(model, request) if request.prompt else f"What do you know about thing number {request.id[-3:]}?"

    return write


def test_candidates_are_dropped_by_name_and_the_verdict_is_about_what_is_expected(tmp_path: Path) -> None:
    """The base model writes prose, the trained one JSON; of the candidates one in three is prose."""
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    rows = domain(lambda thing: json.dumps({"thing": thing}))

    def answer(model: ModelRef, request: Request) -> str:
        if request.id.startswith("r01"):
            return ('{"thing": "boat"}', '{"thing": "Boat"}', "It floats.")[int(request.id[-5:]) % 3]
        return '{"thing": "boat"}' if "round-01" in model.base else "It floats."

    recipe = small(writing(answer), "json", f"json:{tmp_path / 'schema.json'}")
    held_out = [replace(row, id=f"h{row.slot}", prompt=f"Describe the new {row.slot}, please.") for row in rows]
    align(recipe, "scripted", rows, tmp_path / "run", held_out=held_out)
    with Store.read(tmp_path / "run") as store:
        (_, made), found = status(store)["rounds"], verdict(store, status(store))
        evidence = store.dropped(1)[0].evidence
    assert made["dropped"] == {"expected:json": 8, "expected:json_schema.json": 8} and made["kept"] == 8
    assert evidence.startswith("json:schema.json: $.thing: 'Boat' does not match '^[a-z]+$': ")
    assert found["title"] == "Round 1 is better than the base model" and "expected:json_schema.json" in made["metrics"]
    lead = found["rows"][0]
    assert (lead["name"], lead["before"], lead["after"]) == ("expected", 0.0, 1.0)


def test_seeds_that_are_not_as_expected_stop_the_run(cli: Run, tmp_path: Path) -> None:
    rows = domain(lambda thing: f"Look at the {thing} before you begin.", lambda row: "care" if row % 2 else "repair")
    seeds = written(tmp_path / "seeds.jsonl", rows)
    checked = cli("check", "isara", seeds, *SCRIPTED, "--expect", "repair=json", "--expect", "exact")
    assert checked.returncode == 1 and "expected: repair=json (filter and metric), exact (metric)" in checked.stdout
    stop = next(line for line in checked.stdout.splitlines() if line.startswith("stop: "))
    assert "filters.expected would drop" in stop and "change it by --expect or --without filters.expected" in stop
    told = cli("check", "isara", seeds, *SCRIPTED, "--expect", "repair=json", "--without", "expected", "--json")
    found = json.loads(told.stdout)
    assert told.returncode == 0 and found["stops"] == [] and found["expected"] == {"repair=json": ["metric"]}
    assert any("6 of the 6 seeds are not as repair=json expects, such as e0 (no JSON" in each for each in found["warnings"])
    recipe = replace(small(lambda *_: pytest.fail("a model was asked"), "repair=json"), validation_share=0.0)
    with pytest.raises(RunFailed, match=r"would drop 6 of the 12 seeds \(50%\) as expected:repair_json, such as e0: "):
        align(recipe, "scripted", rows, tmp_path / "out")


def test_a_study_compares_by_what_is_expected(cli: Run, tmp_path: Path) -> None:
    rows = domain(lambda thing: f"Look at the {thing} before you begin.")
    seeds, held_out = written(tmp_path / "seeds.jsonl", rows), tmp_path / "held_out.jsonl"
    written(held_out, [replace(row, id=f"h{row.slot}", prompt=f"And the {row.slot}. one?") for row in rows])
    options = ("--baselines", "one_shot,pretrained", "--repeats", 1, "--rounds", 1, "--per_round", 12, "--validation_share", 0)
    given = ("--expect", "max_words:20", "--expect", "contains:take", "--ignore_seed_rules", "true", "--quiet", "--json")
    asked = ("study", "isara", seeds, *SCRIPTED, "--held_out", held_out, "--out", tmp_path / "s", *options, *given)
    study = result(cli(*asked))
    assert study["metric"] == "expected" and {"expected:max_words_20", "expected:contains_take"} <= study["metrics"].keys()
    assert [each["arm"] for each in study["verdicts"]] == ["one_shot", "pretrained"]
    with Store.read(tmp_path / "s" / "one_shot" / "seed-0") as store:
        assert "selfalign.filters.expected.Expected" in json.dumps(store.identity()["filters"])
    one, other = (tmp_path / "s" / arm / "seed-0" for arm in ("one_shot", "pretrained"))
    for name in ("expected:max_words_20", "max_words:20", "20"):  # as it stands in the table, as it was declared, by its end
        assert json.loads(cli(*asked, "--metric", name).stdout)["metric"] == "expected:max_words_20"
        said = json.loads(cli("compare", other, one, "--metric", name, "--json").stdout)
        assert said["comparison"]["metric"] == "expected:max_words_20"
    wrong = ("--metric", "max_words:2")
    for command in (asked, ("compare", other, one)):
        assert "did you mean expected:max_words_20? There are " in cli(*command, *wrong).stderr


BAD = [
    ("jsno", "--expect jsno: no such check, did you mean json? there are json, json:SCHEMA.json, regex:PATTERN"),
    ("=json", "no such check"),
    ("regex:", "--expect regex:: write it as regex:PATTERN"),
    ("regex:a(b", "'a(b' is no regular expression: missing )"),
    ("exact:x", "no response is a JSON object with the field 'x'"),
    ("compare:checks.py:is_polite", "it must take an answer, a prompt and a reference, and takes (answer"),
    ("max_words:few", "'few' is no number of words; write it as max_words:N, such as max_words:30"),
    ("language:german", "--expect language:german: 'german' is no code of a language"),
    ("json:none.json", "cannot read none.json: No such file or directory"),
    ("json:list.json", "list.json: no JSON Schema, which is an object in braces"),
    ("json:sample.json", "every answer would pass: no word of JSON Schema in it (type, properties …), but city"),
    ("json:wrong.json", "wrong.json: no JSON Schema: $.type: 'strin' is not valid"),
    ("json:lost.json", "$ref '#/$defs/city' leads nowhere"),
    ("json:pattern.json", "pattern.json: no JSON Schema: $.properties.a.pattern: 'a(b' is not a 'regex'"),
    ("json:checks.py", "checks.py: no JSON"),
    ("function:none.py:f", "cannot read none.py"),
    ("function:checks.py:polite", "has no function 'polite'; its functions: is_polite"),
    ("function:checks.py:careless", "on the response of e0: raised ValueError: substring not found"),
    ("function:checks.py:odd", "it must take an answer, or an answer and a prompt, and takes (answer, prompt, more)"),
    ("repiar=json", "no example has the category 'repiar'; did you mean 'repair'? There are care, repair"),
]


@pytest.mark.parametrize(("expect", "words"), BAD, ids=[expect for expect, _ in BAD])
def test_what_cannot_be_used_is_one_line_before_anything_runs(tmp_path: Path, expect: str, words: str) -> None:
    files = {"list": [1], "sample": {"city": "Ulm"}, "wrong": {"type": "strin"}, "lost": {"$ref": "#/$defs/city"}}
    for name, content in {**files, "pattern": {"properties": {"a": {"pattern": "a(b"}}}}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "checks.py").write_text(CHECKS)
    rows = domain(lambda thing: f"Look at the {thing}.", lambda row: "care" if row % 2 else "repair")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError) as error:
        patch.chdir(tmp_path)
        align(small(writing(lambda *_: pytest.fail("a model was asked")), expect), "scripted", rows, tmp_path / "out")
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_bad_line_on_the_command_line_ends_with_2(cli: Run, tmp_path: Path) -> None:
    seeds = written(tmp_path / "seeds.jsonl", domain(lambda thing: f"Look at the {thing}."))
    done = cli("study", "isara", seeds, *SCRIPTED, "--out", tmp_path / "out", "--expect", "json", "--expect", "json")
    assert (done.returncode, done.stderr) == (2, "selfalign: --expect json is given twice\n")


def test_a_generated_pair_has_no_reference() -> None:
    with pytest.raises(UserError, match="exact is no filter: it is measured on held-out answers alone: generated pairs have no"):
        ExpectedFilter(("exact",))
    assert not [part for _, part in expecting(isara(), ["exact"]).named_filters() if isinstance(part, ExpectedFilter)]
    assert [name for name, _ in expecting(isara(), ["json", "contains"]).named_filters()][-1] == "filters.expected"


def test_fields_and_own_comparisons_are_by_each_rows_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = "def same(answer, prompt, reference):\n    return prompt[-1] == '?' and answer[0] == reference[0]\n"
    Path("own.py").write_text(own)
    references = [
        '{"day": "Monday", "who": {"name": "Ann"}, "n": 1}',
        '{"day": "Friday", "n": 0}',
        "I only do dates.",
        '{"day": null}',
    ]
    prompts = ("Why?", "How?", "Who?", "When?")
    rows = [Example(f"h{row}", prompt, text) for row, (prompt, text) in enumerate(zip(prompts, references, strict=True))]
    answers = ['{"n": 1.0, "who": {"name": "ann"}, "day": "monday"}', '{"day": "Sunday", "n": false}', "Monday.", "{}"]
    checks = ("exact:day", "exact:who.name", "exact:n", "exact", "compare:own.py:same")
    found = measured(tmp_path / "run", rows, answers, *checks)
    shares = {
        name.removeprefix("expected:"): (each.value, each.n) for name, each in found.items() if name.startswith("expected:")
    }
    assert shares == {
        "exact_day": (1 / 3, 3),  # null is not "absent"
        "exact_who.name": (1.0, 1),
        "exact_n": (0.5, 2),  # false is not 0
        "exact": (0.25, 4),
        "compare_same": (0.75, 4),
    }
    with pytest.raises(
        UserError, match=r"--expect exact:dya: no response is a JSON object with the field 'dya'; they have day, n$"
    ):
        measured(tmp_path / "other", rows, answers, "exact:dya")


def test_what_backtracks_for_ever_is_a_fail_that_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfalign.expect.patterns.LIMIT", 0.05)
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"properties": {"a": {"pattern": "^(a|aa)+$"}}, "patternProperties": {"^(b|bb)+$": {}}}))
    checks = ("regex:(a|aa)+", f"json:{schema}")
    hostile = ["a" * 80 + "!", json.dumps({"a": "a" * 80 + "!"}), json.dumps({"b" * 80 + "!": 1}), "aa"]
    rows = [Example(f"h{row}", "Why?", "aa") for row in range(len(hostile))]
    texts = {row.id: text for row, text in zip(rows, hostile, strict=True)}
    found = Expected(checks).evaluate(context(write=lambda request: Completion(texts[request.id], "stop")), rows)
    dropped = ExpectedFilter(checks[:1]).apply(context(), [replace(row, response=texts[row.id]) for row in rows]).dropped
    figures = {metric.name: metric.value for metric in found}
    assert figures["expected:regex_a_aa"] == 0.25 and figures["expected"] == 0.0 and figures["expected_unjudged"] == 3
    assert [drop.rule for drop in dropped] == ["expected_unjudged", "expected:regex_a_aa", "expected:regex_a_aa"]
    assert "no verdict within 1 s, the pattern backtracks" in dropped[0].evidence


def test_a_function_that_fails_on_an_answer_is_counted_and_on_all_stops(tmp_path: Path) -> None:
    (tmp_path / "checks.py").write_text(CHECKS)
    rows = [Example(f"h{row}", "Why?", "So please.") for row in range(4)]
    for name in ("careless", "vague"):
        part = Expected((f"function:{tmp_path / 'checks.py'}:{name}",))
        said = context(write=lambda request: Completion("No." if int(request.id[1:]) % 2 else "Yes, please.", "stop"))
        found = {metric.name: metric.value for metric in part.evaluate(said, rows)}
        assert found["expected_unjudged"] == 2 and found["expected"] == (0.5 if name == "careless" else 0.0)
    with pytest.raises(RunFailed, match="comes to no verdict on any of 4 answers: raised ValueError: substring not found"):
        Expected((f"function:{tmp_path / 'checks.py'}:careless",)).evaluate(context(), rows)


def test_another_schema_is_another_run(tmp_path: Path) -> None:
    schema, rows = tmp_path / "schema.json", domain(lambda thing: json.dumps({"thing": thing}))
    schema.write_text(json.dumps(SCHEMA))
    recipe = small(writing(lambda *_: '{"thing": "boat"}'), f"json:{schema}")
    align(recipe, "scripted", rows, tmp_path / "run")
    schema.write_text(json.dumps({**SCHEMA, "required": []}))
    with pytest.raises(UserError, match="content"):
        align(recipe, "scripted", rows, tmp_path / "run")


def test_results_are_compared_with_each_rows_own(tmp_path: Path) -> None:
    texts = ("4 and 3 make 7.\n#### 7", "So it is\n#### 1,250", "Hm.\n#### Paris")
    rows = [Example(f"h{row}", f"Which one, {row}?", text) for row, text in enumerate(texts)]
    found = measured(tmp_path / "run", rows, ["I count 5, then 7.", "It is 1250.00", "#### London"], "result", "result:Hm")
    shares = {name: (each.value, each.n) for name, each in found.items() if name.startswith("expected:")}
    assert shares == {"expected:result": (2 / 3, 3), "expected:result_Hm": (2 / 3, 3)}
    with pytest.raises(UserError, match="result is no filter: it is measured on held-out answers alone"):
        ExpectedFilter(("result",))


def test_check_suggests_what_the_seeds_show(cli: Run, tmp_path: Path) -> None:
    seeds = written(tmp_path / "seeds.jsonl", domain(lambda thing: ("yes (sure)", "no")[len(thing) % 2]))
    told = cli("check", "isara", seeds, *SCRIPTED)
    assert "suggestion: all 12 seeds answer with one of 2 labels: --expect 'regex:no|yes \\(sure\\)' would drop" in told.stdout
    told = cli("check", "isara", seeds, *SCRIPTED, "--expect", "exact")
    assert "suggestion:" not in told.stdout
    assert "warning: expected: exact is not measured: it is about held-out rows (--held_out FILE)" in told.stdout
    rows = [replace(one, prompt=f"And why? {one.prompt}", response=f"They say that it is {one.response}.") for one in domain(str)]
    long = written(tmp_path / "held_out.jsonl", rows)
    told = cli("check", "isara", seeds, *SCRIPTED, "--expect", "exact", "--held_out", long)
    assert "exact asks for the references word for word, and 12 of 12 have more than 5 words" in told.stdout
    told = cli("check", "isara", seeds, *SCRIPTED, "--expect", "result", "--expect", "result:Hm:", "--held_out", long).stdout
    assert "result finds nothing of the kind in 12 of 12 references, such as" in told and "result:Hm: finds nothing" in told
    assert suggestion([json.dumps([n]) for n in range(9)]).startswith("all 9 seeds answer in JSON: --expect json would")
    for none in (
        [str(n) for n in range(9)],
        [json.dumps([1])] * 5,
        ["yes"] * 12,
        [f"Word {n}" for n in range(12)],
        ["A long answer of many words."] * 12,
    ):
        assert suggestion(none) == ""


@pytest.mark.parametrize(
    ("answer", "check"),
    [
        ("### Review\n- **{0}**: {0}", "regex:\\#\\#\\# Review.*"),
        ("SELECT {0} FROM {0};", "regex:.*;"),
        ("What is the {0} good for, and who has one?", "regex:What is the.*good for, and who has one\\?"),
        ("<call>\n{{'thing': '{0}'}}\n</call>", "regex:<call>.*</call>"),
        ("The {0} is here. I hope that helps.", "regex:.*is here\\. I hope that helps\\."),
        ("{0}, or a {0}.", ""),
        ("{0} ہے۔", "regex:.*ہے۔"),
        ("{0}۔", ""),
        ("I count a {0}, and another.\n#### 2", ""),
        ("<think>\nA {0}?\n</think>\n\nYes.", ""),
    ],
)
def test_check_suggests_the_frame_that_all_answers_have(cli: Run, tmp_path: Path, answer: str, check: str) -> None:
    seeds = written(tmp_path / "seeds.jsonl", domain(answer.format))
    said = next((line for line in cli("check", "isara", seeds, *SCRIPTED).stdout.splitlines() if "--expect" in line), "")
    assert said.partition(" --expect '")[2].partition("' would")[0] == check
    if check:
        told = cli("check", "isara", seeds, *SCRIPTED, "--expect", check)
        assert "suggestion" not in told.stdout and "would drop" not in told.stdout and told.returncode == 0


@pytest.mark.parametrize(
    ("answer", "option"),
    [
        ("I count {0}.\n#### {0}", "result"),
        ("Es sind zwei.\nAntwort: {0}", "result:Antwort:"),
        ("共有几个。\n答案：{0}", "'result:答案：'"),
        ("So it is $\\boxed{{{0}}}$", "'result:\\boxed{'"),
    ],
)
def test_check_suggests_the_result_behind_a_mark(answer: str, option: str) -> None:
    seeds = domain(lambda thing: answer.format(sum(map(ord, thing))))
    assert f"--expect {option} would count" in suggested(seeds)
    assert "result" not in suggested([*seeds[1:], replace(seeds[0], response="None.")])


def test_an_option_of_several_texts_is_given_several_times(tmp_path: Path) -> None:
    parser = make_parser(isara, "run")

    def made(*arguments: str) -> tuple[Recipe, str]:
        options = parse(parser, [*arguments], part_options(isara))
        return build(isara, parser, options), resolved(parser, options)

    typed = ("isara", "x.jsonl", "--expect", "json", "--quiet", "--expect=größe=regex:[a-z]=[b]", "--rounds", "1")
    recipe, text = made(*typed, "--refusal.harmful", "weapons", "--refusal.harmful", "other drugs", "--refusal.harmless=garden")
    (refusal,), checks = (
        [part for part in recipe.evaluators if isinstance(part, Refusal)],
        [part.checks for part in recipe.evaluators if isinstance(part, Expected)],
    )
    assert checks == [("json", "größe=regex:[a-z]=[b]")] and recipe.filters[-1] == ExpectedFilter(*checks)
    assert (refusal.harmful, refusal.harmless) == (("weapons", "other drugs"), "garden")
    (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
    assert made("--config", str(tmp_path / "run.yaml"))[0] == recipe
    again, _ = made("--config", str(tmp_path / "run.yaml"), "--expect", "max_words:3", "--without", "expected")
    assert [part.checks for part in again.evaluators if isinstance(part, Expected)] == [("max_words:3",)]
    assert not [part for part in again.filters if isinstance(part, ExpectedFilter)]
    assert Expected(("json", "exact")) in made("isara", "x.jsonl", "--expect", "[json,exact]")[0].evaluators
    less, _ = made(
        "isara", "x.jsonl", "--without", "prompt_filters.novelty", "--rounds", "1", "--without=filters.substring", "--quiet"
    )
    assert not {"Novelty", "Substring"} & {type(part).__name__ for _, part in less.named_filters()} and less.rounds == 1
    with pytest.raises(UserError, match=r"--held_out is given twice, a\.jsonl and b\.jsonl, and takes one: put their rows into"):
        made("isara", "x.jsonl", "--held_out", "a.jsonl", "--held_out=b.jsonl")
    assert made("isara", "x.jsonl")[0] == measured_by(isara())


def test_a_run_that_holds_seeds_out_measures_by_all_of_them(tmp_path: Path) -> None:
    rows = domain(lambda thing: "word " * (4 if thing == "table" else 30 if thing == "violin" else 9) + "end.")
    held_out = [Example(f"h{row}", f"Number {row}?", "One.") for row in range(60)]
    engine = Scripted(replies=writing(lambda _, request: "word " * int(request.id[1:]) + "end."))
    values = set()
    for seed in range(3):
        run = small(engine.replies)  # type: ignore[arg-type]  # the function given just now
        run = replace(run, engine=engine, validation_share=0.5, rounds=0, seed=seed, eval_sampling=Sampling(max_tokens=90))
        align(run, "scripted", rows, tmp_path / str(seed), held_out=held_out)
        with Store.read(tmp_path / str(seed)) as store:
            values |= {metric.value for metric in store.metrics(0) if metric.name == "usual_length"}
    assert values == {len([words for words in range(1, 61) if 5 / 1.5 <= words <= 31 * 1.5]) / 60}
