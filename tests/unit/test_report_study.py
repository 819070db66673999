"""The page of a study: differences, learning curve, arms' answers side by side; the rules that a run's page explains."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from selfalign.proof.curve import Size, add_curve
from selfalign.proof.verdicts import conclude
from selfalign.record.status import warnings
from selfalign.record.store import Store
from selfalign.report.data import read_run
from selfalign.report.rules import GROUPS, why
from selfalign.report.study import read_study, study_charts, study_page
from selfalign.report.write import write_report
from selfalign.types import Better, Dropped, Example, Metric, ModelRef, Outcome, Unit
from tests.unit.test_report import PAYLOADS, Skeleton, run_folder
from tests.unit.test_verdicts import finished

ROOT = Path(__file__).parents[2]


def texts(svg: str) -> list[str]:
    return [each.text or "" for each in ET.fromstring(svg).iter() if each.tag.rpartition("}")[2] == "text"]


@pytest.mark.parametrize(
    ("better", "unit", "sides", "word"),
    [
        ("higher", "share", ["← loop worse", "loop better →"], "loop is better"),
        ("lower", "share", ["← loop better", "loop worse →"], "loop is worse"),
        ("neither", "number", ["← loop lower", "loop higher →"], "loop is higher"),
    ],
)
def test_differences_are_drawn_from_zero_and_say_who_is_better(
    tmp_path: Path, better: Better, unit: Unit, sides: list[str], word: str
) -> None:
    found = {
        "loop": [finished(0, unit, better, a=[1.0] * 18 + [0.0] * 2)],
        "sft": [finished(0, unit, better, a=[0.0] * 20)],
        "same": [finished(0, unit, better, a=[1.0] * 17 + [0.0] * 3)],
    }
    (tmp_path / "study.json").write_text(json.dumps(conclude(found, "a", held_out=20, random_seeds=[0])))
    study = read_study(tmp_path)
    svg = study_charts(study)["a"].svg
    assert [text for text in texts(svg) if "loop" in text] == sides
    zero = next(each for each in ET.fromstring(svg) if each.attrib.get("class") == "zero")
    dots = {each.attrib["class"]: float(each.attrib["cx"]) for each in ET.fromstring(svg) if each.tag.endswith("circle")}
    (at_zero,) = (each for each in ET.fromstring(svg) if each.text == "0")
    assert zero.attrib["x1"] == at_zero.attrib["x"]
    assert float(zero.attrib["x1"]) < dots["dot c7"] < dots["dot c0"]  # `same` is a little above zero and not told apart
    cells = re.findall(r'<td class="(better|worse|)">([^<]*)</td>', study_page(study))
    assert cells == [(word.split()[-1] if better != "neither" else "", word), ("", "cannot tell")]


def test_rules_that_read_no_meaning_and_the_aims_stand_by_the_verdicts_metric(tmp_path: Path) -> None:
    rule = {"name": "bag of words", "rule": "", "balance": 0.31, "low": 0.2, "high": 0.42, "auc": 0.667}
    other = {**rule, "metric": "expected", "name": "one seed's answer"}
    arms = {name: [finished(0, "share", balance=[1.0, 0.0] * 10)] for name in ("loop", "sft")}
    study = conclude(arms, "balance", held_out=20, random_seeds=[0], shortcuts=[rule, other])
    study["arms"]["sft"]["runs"][0]["aim"] = "aimed at an over-refusal of at most 10%: round 1 itself reaches it"
    (tmp_path / "study.json").write_text(json.dumps(study))
    page = study_page(read_study(tmp_path))
    section = page[page.index('<section id="metric">') : page.index('<section id="diagnostics">')]
    assert re.search(r"<td>bag of words</td>.*31 %.*\[20, 42\].*<td>0.67</td>", section) and "one seed" not in section
    assert "sft, random seed 0: aimed at an over-refusal of at most 10%: round 1 itself reaches it" in section


def test_the_learning_curve_is_drawn_and_said(tmp_path: Path) -> None:
    def arm(mean: float) -> list[Any]:
        return [finished(seed, "share", a=[float(slot < mean) for slot in range(20)]) for seed in range(3)]

    found = {"loop": arm(18), "sft": arm(9), "loop-8": arm(9), "loop-32": arm(12), "sft-8": arm(8)}
    study = conclude({"loop": found["loop"], "sft": found["sft"]}, "a", held_out=20, random_seeds=[0, 1, 2])
    add_curve(study, found, [Size("loop", 8, "loop-8"), Size("sft", 8, "sft-8"), Size("loop", 32, "loop-32")], 64)
    (tmp_path / "study.json").write_text(json.dumps(study))
    page = study_page(read_study(tmp_path))
    assert "Would more examples help? The last ones did help: loop with 64 seeds is better than with 32 on a: +30 points" in page
    section = page[page.index('<section id="curve">') : page.index('<section id="diagnostics">')]
    svg = section[section.index("<svg") : section.index("</svg>") + 6]
    assert {"8", "32", "64"} <= set(texts(svg)) and svg.count("<circle") == 5
    assert re.findall(r"<tr><td>(\d+)</td><td>(\d+) %", section) == [("8", "45"), ("32", "60"), ("64", "90")]
    assert "<td>–</td>" in section  # sft was not measured at 32
    table = page[page.index('<section id="metric">') : page.index('<section id="curve">')]
    assert "loop-8" not in table  # it is compared along the curve alone


def arm_run(folder: Path, text: str) -> None:
    with Store.open(folder, {"name": "arm"}) as store:
        store.add_seeds([Example("s0", "A?", "B")], ())
        store.add_model(0, ModelRef("some/name"))
        rows = {
            i: {"id": f"h{i}", "text": f"{text} {i}", "finish": "stop", "prompt": f"{text} asks {i}", "history": [[text, text]]}
            for i in range(12)
        }
        asked = {0: {"id": "guard-1", "text": "A guard's", "finish": "stop", "prompt": "A guard's question?", "history": []}}
        store.add_batch(0, "guard_answered", 0, asked, 1.0)  # named, and so read, before the held-out prompts
        store.add_batch(0, "held_out", 0, rows, 1.0)
        outcomes = tuple(Outcome(f"h{i}", float(i % 2), text if i % 3 else "other") for i in range(12))
        store.add_metrics(0, [Metric("a", 0.5, 0.4, 0.6, 12, outcomes)])
        store.finish_run(0, "done")


def answered_study(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    found = {"loop": [finished(0, a=[0.0, 1.0] * 6)], "sft": [finished(0, a=[1.0, 0.0] * 6)]}
    study = conclude(found, "a", held_out=12, random_seeds=[0])
    for arm, place in (("loop", "loop/seed-0"), ("sft", "../outside/seed-0")):
        study["arms"][arm]["runs"][0].update(folder=place, best_round=0)
    arm_run(folder / "loop/seed-0", text)
    (folder / "study.json").write_text(json.dumps(study))
    return folder


def test_answers_stand_side_by_side_with_the_way_to_their_runs(tmp_path: Path) -> None:
    folder = answered_study(tmp_path / "study", "words")
    arm_run(tmp_path / "outside/seed-0", "not this study's")
    page = write_report(folder).read_text("utf-8")
    assert "not this study" not in page and "sft: no answers here, its run folder is not here" in page
    section = page[page.index('<section id="answers">') : page.index('<section id="diagnostics">')]
    assert section.count("<article") == 8 and "words asks 0" in section
    shown = re.findall(r"<span>(h\d+)</span><span>(\w+)</span>", section)
    assert [id for id, _ in shown] == ["h0", "h1", "h2", "h3", "h4", "h6", "h5", "h9"]  # the categories by turns
    assert [kind for _, kind in shown] == ["other", "words", "words", "other", "words", "other", "words", "other"]
    assert "<code>selfalign report study/loop/seed-0</code> makes its page" in section and '<a href="./' not in page
    write_report(folder / "loop/seed-0")
    assert page.count('href="./') == 0 and write_report(folder).read_text("utf-8").count('href="./loop/seed-0/report.html"') == 2
    assert 'href="./' not in write_report(folder, tmp_path / "elsewhere.html").read_text("utf-8")


class Addresses(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("href", "src")]


def test_hostile_answers_and_folders_stay_text(tmp_path: Path) -> None:
    harmless = Skeleton(write_report(answered_study(tmp_path / "plain", "words")).read_text("utf-8")).elements
    for number, text in enumerate(PAYLOADS[::7]):
        page = write_report(answered_study(tmp_path / f"s{number}", text)).read_text("utf-8")
        assert Skeleton(page).elements == harmless, text
    for number, place in enumerate(('javascript:alert(1)"><b>', "http://x/y", "a&b '\"")):
        folder = answered_study(tmp_path / f"p{number}", "words")
        study = json.loads((folder / "study.json").read_text())
        study["arms"]["sft"]["runs"][0]["folder"] = place
        (folder / "study.json").write_text(json.dumps(study))
        (folder / place).mkdir(parents=True)
        (folder / place / "report.html").write_text("")
        own = [each for each in Addresses(write_report(folder).read_text("utf-8")).found if not each.startswith("#")]
        assert own and all(re.fullmatch(r"\./[\w/%.-]+/report\.html", each) for each in own)


def test_no_round_0_is_marked_as_the_best(tmp_path: Path) -> None:
    page = write_report(run_folder(tmp_path / "a", [1.0] * 9, [0.0] * 9, best=0)).read_text("utf-8")
    assert "<circle" in page and ", shipped</th>" not in page and 'r="7"' not in page
    page = write_report(run_folder(tmp_path / "b", [0.0] * 40, [1.0] * 30 + [0.0] * 10)).read_text("utf-8")
    assert "round 1, shipped</th>" in page and 'r="7"' in page


@pytest.mark.parametrize("half", [True, False])
def test_a_rule_that_takes_half_of_a_round_is_warned_of(tmp_path: Path, half: bool) -> None:
    with Store.open(tmp_path / "run", {}) as store:
        store.add_seeds([Example("s0", "A?", "B")], ())
        made = [Example(f"r{i}", f"P{i}", "a b", 1, i) for i in range(20)]
        drops = [Dropped(each, "not_novel", "near") for each in made[: 10 if half else 9]]
        drops += [Dropped(each, "surplus", "enough") for each in made[10:]]  # as many as were asked for: no warning
        store.finish_round_samples(1, made[len(drops) :] if half else made[9:10], drops, 20)
        told = warnings(store)
    assert told == (["drops: round 1: one rule, not_novel, took 10 of 20 candidates (50%)"] if half else [])
    assert ("one rule, not_novel, took 10 of 20" in write_report(tmp_path / "run").read_text("utf-8")) == half


def test_an_interrupted_run_shows_the_command_that_goes_on(tmp_path: Path) -> None:
    for name, state in (("alone", "stopped"), ("study/isara/seed-0", "stopped"), ("done", "done")):
        folder = tmp_path / name
        with Store.open(folder, {"name": "isara"}) as store:
            store.add_seeds([Example("s0", "A?", "B")], ())
            if state == "done":
                store.finish_run(0, "no rounds to run")
    (tmp_path / "alone/run.yaml").write_text("recipe: isara\nout: runs/my first\n")
    (tmp_path / "study/study.yaml").write_text(f"recipe: isara\nout: {tmp_path}/study\n")
    (tmp_path / "done/run.yaml").write_text("out: runs/done\n")
    commands = [read_run(tmp_path / name)["go_on"] for name in ("alone", "study/isara/seed-0", "done")]
    assert commands == ["selfalign run --config 'runs/my first/run.yaml'", "selfalign study --config '…/study/study.yaml'", ""]
    assert "<code>selfalign run --config &#39;runs/my first/run.yaml&#39;</code>" in write_report(tmp_path / "alone").read_text()


def test_every_rule_is_explained_in_the_same_words_everywhere() -> None:
    named = set()
    for path in (ROOT / "src/selfalign/filters").glob("*.py"):
        for found in re.finditer(r'"""Rules?: (.*?)"""', path.read_text("utf-8"), re.DOTALL):
            named |= set(re.findall(r"`([a-z_<>]+)`", found[1]))
    named |= set(re.findall(r'Dropped\(\w+, "(\w+)"', (ROOT / "src/selfalign/loop/steps.py").read_text("utf-8")))
    assert {"cut_off", "not_novel", "low_<name>", "no_room", "category_mismatch"} <= named and len(named) > 40
    assert sorted(rule for rule in named if not why(rule.replace("<name>", "quality"))) == []
    assert why("expected:json") and not why("mine")
    written = [f"| {', '.join(f'`{rule}`' for rule in rules)} | {text} |" for _, rules, text in GROUPS]
    docs = (ROOT / "docs/troubleshooting.md").read_text("utf-8").partition("## Rules that drop candidates")[2]
    assert [line for line in docs.splitlines() if line.startswith("| `")] == written
