"""The report: what it says follows from the record, and nothing a model wrote becomes markup."""

from __future__ import annotations

import html
import json
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from selfalign.cli.main import main
from selfalign.errors import UserError
from selfalign.record.store import Store
from selfalign.report.charts import Point, interval_chart, line_chart, nice_ticks, stacked_chart
from selfalign.report.data import read_run
from selfalign.report.page import embed, fates, figure, legend, metric_charts, run_page
from selfalign.report.study import read_study, study_page
from selfalign.report.write import write_report
from selfalign.types import Better, Demonstration, Dropped, Example, Metric, ModelRef, Outcome
from tests.conftest import SCRIPTED, Run
from tests.files import succeeded

BITS = (
    "<script>alert({n})</script>",
    "<img src=x onerror=hit({n})>",
    "</script><script>hit({n})</script>",
    "<svg/onload=hit({n})>",
)
FRAMES = (
    "{}",
    '">{}',
    "'>{}",
    "</textarea>{}",
    "</title>{}",
    "</style>{}",
    "<!--{}",
    "-->{}",
    "]]>{}",
    "{{{{{}}}}}",
    "{{% raw %}}{}",
    "\u2028{}",
    "\u202e{}",
    "\x00{}",
    "\x1b[31m{}",
    "<a href='javascript:hit(1)'>{}",
    "<iframe srcdoc='{}'>",
    "<math><mi>{}",
    "<!--<script>{}",
    "javascript:{}",
    "<style>@import 'x'</style>{}",
    "<base href=//x>{}",
    "<meta http-equiv=refresh content=0>{}",
    "<object data=x>{}",
    "<details open ontoggle=hit(1)>{}",
    "&lt;{}",
    "\\u003c{}",
    "<form action=x>{}",
    "<link rel=stylesheet href=//x>{}",
    "<template>{}",
    "<noscript>{}",
    "<dialog open>{}",
    "<input autofocus onfocus=hit(1)>{}",
    "<video><source onerror=hit(1)>{}",
    "<body onload=hit(1)>{}",
    "=1+1{}",
    "@SUM(1){}",
    "`${{{}}}`",
    "\r\n{}",
    "<plaintext>{}",
    "<xmp>{}",
    "<b id=data>{}",
    "<b id=samples>{}",
    "<svg><script>{}",
    "<svg><style>{}",
    "\ufeff{}",
    "</main>{}",
    "</dialog>{}",
    "<option>{}",
    "<select>{}",
)
PAYLOADS = [frame.format(bit.format(n=n)) for n, (frame, bit) in enumerate((f, b) for f in FRAMES for b in BITS)]
"""200 of our own; SELFALIGN_PAYLOADS names a folder with more, as JSON lists of strings or of objects with strings."""


def payloads() -> list[str]:
    found = list(PAYLOADS)
    for path in sorted(Path(os.environ["SELFALIGN_PAYLOADS"]).rglob("*.json")) if "SELFALIGN_PAYLOADS" in os.environ else ():
        found += _strings(json.loads(path.read_text("utf-8")))
    return found


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value.encode("utf-8", "replace").decode()] if value.strip() else []
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for each in inner for text in _strings(each)]


def hostile_run(folder: Path, texts: Sequence[str]) -> None:
    """Each text as prompt, response, category, evidence, rule, metadata, id and held-out answer."""
    with Store.open(folder, {"name": texts[0], texts[1]: texts[2]}) as store:
        seeds = [Example(f"s{i}{text}", text, text, slot=i, category=text, metadata={text: text}) for i, text in enumerate(texts)]
        store.add_seeds(seeds, ())
        store.add_model(0, ModelRef(texts[3]))
        made = [
            Example(
                f"r{i}{text}", text, text, 1, i, text,
                response_demonstrations=(Demonstration(seeds[i].id, 0.5),), scores={text: 0.5},
            )
            for i, text in enumerate(texts)
        ]  # fmt: skip
        half = len(made) // 2
        store.finish_round_samples(1, made[:half], [Dropped(e, e.prompt, e.prompt) for e in made[half:]], len(made))
        for round in (0, 1):
            rows = {
                i: {"id": f"h{i}{text}", "text": text, "finish": "stop", "prompt_text": text, "demonstrations": []}
                for i, text in enumerate(texts)
            }
            store.add_batch(round, texts[4], 0, rows, 1.0)
            outcomes = tuple(Outcome(f"h{i}{text}", float((i + round) % 2)) for i, text in enumerate(texts))
            store.add_metrics(round, [Metric(texts[5], 0.5, 0.4, 0.6, len(texts), outcomes)])
        store.event(texts[6], {texts[7]: texts[8]})
        store.finish_run(1, texts[9])


NAME = "PLACEHOLDER"


def named_pages(folder: Path, texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """For each text the page of a run and that of a study whose names it is: of the run, its folder, recipe, models, metrics,
    rules, categories, events, options and reasons; of the study, its folder, arms, metrics and reasons."""
    with Store.open(folder, {"name": NAME, NAME: NAME}) as store:
        store.add_seeds([Example(f"s{NAME}", NAME, NAME, category=NAME, metadata={NAME: NAME})], ())
        store.add_model(0, ModelRef(NAME))
        made = [Example(f"r{i}{NAME}", NAME, NAME, 1, i, NAME, scores={NAME: 0.5}) for i in range(2)]
        store.finish_round_samples(1, made[:1], [Dropped(made[1], NAME, NAME)], 2)
        for round in (0, 1):
            outcomes = tuple(Outcome(f"h{i}", float(i < 10 + 20 * round)) for i in range(40))
            store.add_metrics(round, [Metric(name, 0.5, 0.4, 0.6, 40, outcomes) for name in (NAME, f"kept_{NAME}")])
        store.event(NAME, {NAME: NAME})
        store.event("alarm", {"text": NAME})
        store.finish_run(1, NAME)
    run = {**read_run(folder), "folder": NAME}
    assert NAME in run["verdict"]["sentence"]
    arms = {f"main {NAME}": 0.7, f"other {NAME}": 0.5}
    figure = {"low": 0.4, "high": 0.9, "prompts": 9, "repeats": 2}
    compared = {"difference": 0.2, "low": 0.1, "high": 0.3, "p_value": 0.01, "p_holm": 0.02, "minimum_detectable": 0.1}
    study = {
        "main": f"main {NAME}",
        "metric": NAME,
        "held_out": 9,
        "random_seeds": [0, 1],
        "arms": {
            name: {
                "metrics": {NAME: {"value": value, **figure}},
                "costs": {"seconds": 1.0},
                "runs": [{"folder": NAME, "best_round": 1, "stopped_because": NAME}],
            }
            for name, value in arms.items()
        },
        "metrics": {NAME: {"unit": "share", "better": "lower"}},
        "left_out": {NAME: NAME},
        "comparisons": {NAME: {f"other {NAME}": compared}},
        "verdicts": [{"arm": f"other {NAME}", "metric": NAME, "verdict": "better", "sentence": NAME}],
    }
    (folder / "study.json").write_text(json.dumps(study))
    study = {**read_study(folder), "folder": NAME}
    for text in texts:
        yield run_page(renamed(run, text)), study_page(renamed(study, text))


def renamed(value: Any, text: str) -> Any:
    if isinstance(value, dict):
        return {renamed(key, text): renamed(inner, text) for key, inner in value.items()}
    if isinstance(value, list):
        return [renamed(inner, text) for inner in value]
    return value.replace(NAME, text) if isinstance(value, str) else value


class Skeleton(HTMLParser):
    """The elements of a page with the names of their attributes, without any text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, ...]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, *(name for name, _ in attrs)))


def run_folder(folder: Path, before: Sequence[float], after: Sequence[float], best: int | None = 1) -> Path:
    """A finished run with one metric, `refusal`, of 0 and 1."""
    with Store.open(folder, {"name": "test"}) as store:
        store.add_seeds([Example("s0", "A?", "one two three"), Example("s1", "B?", "one", slot=1)], ())
        store.add_model(0, ModelRef("some/name"))
        made = [Example(f"r{i}", f"P{i}", "a b", 1, i) for i in range(5)]
        store.finish_round_samples(1, made[:3], [Dropped(e, "novelty", "near") for e in made[3:]], 5)
        for round, values in enumerate((before, after)):
            mean = sum(values) / len(values)
            outcomes = tuple(Outcome(f"h{i:03d}", value) for i, value in enumerate(values))
            store.add_metrics(round, [Metric("refusal", mean, mean, mean, len(values), outcomes, "share")])
        if best is not None:
            store.finish_run(best, "the one round is done")
    return folder


@pytest.mark.parametrize(
    ("before", "after", "title", "words"),
    [
        (
            [0.0] * 40,
            [1.0] * 30 + [0.0] * 10,
            "Round 1 is better than the base model",
            "refusal 0 % → 75 %, +75 points [+58,",
        ),
        ([1.0] * 40, [1.0] * 10 + [0.0] * 30, "Round 1 is worse than the base model", "refusal 100 % → 25 %, −75 points"),
        ([0.0, 1.0] * 20, [1.0, 0.0] * 20, "Cannot tell whether round 1 is better", "missed more often than one time in five"),
        ([0.0], [1.0], "Cannot tell whether round 1 is better", "[−100, +100]"),
        (
            [0.0] * 5,
            [1.0] * 5,
            "Cannot tell whether round 1 is better",
            "+100 points [−100, +100]. Fewer than 6 prompts cannot tell two models apart.",
        ),
    ],
)
def test_the_verdict_follows_from_the_figures(
    tmp_path: Path, before: list[float], after: list[float], title: str, words: str
) -> None:
    found = read_run(run_folder(tmp_path / "run", before, after))["verdict"]
    assert found["title"] == title
    assert words in found["sentence"]


def test_the_verdict_says_what_it_is_not(tmp_path: Path) -> None:
    kept = read_run(run_folder(tmp_path / "a", [0.0] * 9, [0.0] * 9, best=0))["verdict"]
    assert kept["title"] == "No round was better than the base model"
    with Store.open(tmp_path / "data", {}) as store:
        store.add_seeds([Example("s0", "A?", "B")], ())
        store.finish_evaluation(0, [Metric("finished", 0.5, 0.2, 0.8, 9, (), "share")], 0.0)
        store.finish_round_samples(1, (Example("r01-00000", "C?", "D.", 1),), (), 1, 0.0)
        store.finish_run(0, "the one round is done; nothing was trained")
    assert read_run(tmp_path / "data")["verdict"]["title"] == "No round was trained"
    running = read_run(run_folder(tmp_path / "b", [0.0] * 9, [1.0] * 9, best=None))["verdict"]
    assert "the newest one evaluated, not the best" in running["notes"][0]
    with Store.open(tmp_path / "c", {}) as store:
        store.add_seeds([Example("s0", "A?", "B")], ())
    assert read_run(tmp_path / "c")["verdict"]["title"] == "Cannot tell"
    assert write_report(tmp_path / "c").is_file()


def test_a_run_that_failed_says_so_first(tmp_path: Path) -> None:
    """A judge refused in round 1: that round has the judge's figures, and none on held-out prompts."""
    outcomes = tuple(Outcome(f"h{i}", 1.0) for i in range(9))
    folder, judge = tmp_path / "run", Metric("calibration_judge_quality_auc", 0.5, 0.4, 0.6, 12)
    measured = [Metric("refusal", 1.0, 0.7, 1.0, 9, outcomes, "share")]
    for metrics, told in (([], "No round of this run"), (measured, "Only the base model")):
        with pytest.raises(UserError), Store.open(folder, {"name": "isheep"}) as store:
            store.add_seeds([Example("s0", "A?", "B")], ())
            store.add_metrics(0, metrics)
            store.add_metrics(1, [judge])
            raise UserError("the judge is swayed, by -0.20 [-inf, 0.10]")
        found = read_run(folder)["verdict"]
        assert (found["title"], found["rows"], found["notes"]) == ("The run failed", [], [])
        assert found["sentence"].startswith(told)
    page = write_report(folder).read_text("utf-8")
    assert '<p class="notes failed">The run ended: the judge is swayed, by −0.20 [−inf, 0.10].</p>' in page
    assert page.count("by −0.20 [−inf, 0.10]") == 3, "once for each of the two events, too"


def test_a_run_without_rounds_claims_no_comparison(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run", {"name": "pretrained"}) as store:
        store.add_seeds([Example("s0", "A?", "B")], ())
        store.add_metrics(0, [Metric("refusal", 0.5, 0.4, 0.6, 9)])
        store.finish_run(0, "no rounds to run")
    assert read_run(tmp_path / "run")["verdict"]["title"] == "No round to compare"


@pytest.mark.parametrize(("better", "told"), [("lower", "worse"), ("neither", "higher")])
def test_the_metric_says_which_side_is_better(tmp_path: Path, better: Better, told: str) -> None:
    folder = run_folder(tmp_path / "run", [0.0] * 40, [0.0] * 40)
    with Store.open(folder, {"name": "test"}) as store:
        for round in (0, 1):
            outcomes = tuple(Outcome(f"h{i:03d}", 2.0 * round + i % 3) for i in range(40))
            store.add_metrics(round, [Metric("errors", 2.0 * round + 1, 0.0, 4.0, 40, outcomes, better=better)])
    (row,) = (row for row in read_run(folder)["verdict"]["rows"] if row["name"] == "errors")
    assert (row["verdict"], row["share"], row["before"], row["after"]) == (told, False, 1.0, 3.0)


def test_prompts_of_one_side_only_are_told(tmp_path: Path) -> None:
    found = read_run(run_folder(tmp_path / "run", [0.0] * 20, [1.0] * 25))["verdict"]
    assert found["rows"][0]["n"] == 20
    assert any(note.startswith("5 prompts are not compared") for note in found["notes"])


def test_the_command_writes_the_page(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    held_out = tmp_path / "held.jsonl"
    held_out.write_text(
        "".join(json.dumps({"prompt": f"What is number {i}?", "response": "It is that."}) + "\n" for i in range(6))
    )
    out = tmp_path / "run"
    given = ("--model", tmp_path / "models" / "base", "--held_out", held_out, "--per_round", 16, "--rounds", 1, "--out", out)
    succeeded(cli("run", "isara", seeds_file, *SCRIPTED, *given))
    assert (shown := cli("report", out)).returncode == 0, shown.stderr
    page = (out / "report.html").read_text("utf-8")
    data = embedded(page)
    with Store.read(out) as store:
        expected = {e.id for e in (*store.seeds(), *store.validation_seeds(), *store.kept(1))} | {
            drop.example.id for drop in store.dropped(1)
        }
    assert {sample["id"] for sample in data["samples"]} == expected
    assert [each["prompt"] for each in data["held_out"]] == [f"What is number {i}?" for i in range(6)]
    assert {answer["round"] for each in data["held_out"] for answer in each["answers"]} == {0, 1}
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", page)
    # A page is passed on: it names no folder of the machine it was made on.
    assert '<td class="text">model</td><td class="text">…/base</td>' in page
    assert str(tmp_path) not in page and shown.stdout == f"{out / 'report.html'}\n"
    assert not (out / "report").exists()
    first = (out / "report.html").read_bytes()
    assert cli("report", out, "--out", tmp_path / "other.html").returncode == 0
    assert (tmp_path / "other.html").read_bytes() == first
    for bad in (tmp_path / "x.pdf", tmp_path / "no" / "x.html"):
        failed = cli("report", out, "--out", bad)
        assert failed.returncode == 2
        assert len(failed.stderr.splitlines()) == 1


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("hostile") / "run"
    hostile_run(folder, payloads())
    yield write_report(folder)


@pytest.mark.parametrize("out", [(), ("--out", "page.html")])
def test_a_folder_that_is_not_there_is_named(
    out: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", "runs/frist", *out]) == 2
    assert capsys.readouterr().err == "selfalign: runs/frist is not the folder of a run or a study: there is no such folder\n"


def test_no_payload_becomes_markup(hostile_page: Path) -> None:
    page = hostile_page.read_text("utf-8")
    assert len(PAYLOADS) == len(set(PAYLOADS)) == 200
    head, tail = page.index('id="data">'), page.index("</script>", page.index('id="data">'))
    assert not set("<>&\u2028\u2029") & set(page[head + len('id="data">') : tail])
    outside = page[:head] + page[tail:]
    for text in payloads():
        if "<" in text:
            assert text not in outside
    tags = re.findall(r"<([a-z!?/][^\s>]*)", outside, re.IGNORECASE)
    assert not {tag.lower() for tag in tags} & {
        "img",
        "iframe",
        "object",
        "base",
        "form",
        "math",
        "template",
        "video",
        "plaintext",
    }
    assert [tag for tag in tags if tag == "script"] == ["script", "script"]
    assert not re.search(r"<[^>]*\son\w+=", outside)
    assert {row["prompt"] for row in embedded(page)["samples"]} == set(payloads())


def test_names_become_no_markup(tmp_path: Path) -> None:
    first, *rest = named_pages(tmp_path / "run", ["a harmless name", *payloads()])
    expected = [Skeleton(page).elements for page in first]
    assert all(len(elements) > 50 for elements in expected)
    assert len(rest) >= 200
    for text, pages in zip(payloads(), rest, strict=True):
        assert [Skeleton(page).elements for page in pages] == expected, text


def test_hidden_elements_win_over_the_style_of_the_page(hostile_page: Path) -> None:
    style = re.search(r"<style>(.*?)</style>", hostile_page.read_text("utf-8"), re.DOTALL)
    assert style is not None and re.search(r"(?:^|\})\s*\[hidden\] *\{ *display: *none *!important", style[1])


def test_no_value_of_a_study_becomes_markup(tmp_path: Path) -> None:
    """A payload in place of each value in turn, numbers included, as a study.json that came from elsewhere may have it."""
    folder, pages = tmp_path / "run", 0
    for _ in named_pages(folder, ["a harmless name"]):
        pass
    study = json.loads((folder / "study.json").read_text("utf-8"))
    plain = Skeleton(write_study(folder, study)).elements
    for place, text in zip(leaves(study), cycle(payloads()), strict=False):
        found = write_study(folder, placed(study, place, text))
        assert found == "" or set(Skeleton(found).elements) <= set(plain), (place, text)
        pages += bool(found)
    assert pages > 15  # the rest is refused: a main arm or a metric that is not there, a word for a number


def write_study(folder: Path, study: Any) -> str:
    """The page; "" where the file is refused."""
    (folder / "study.json").write_text(json.dumps(study), "utf-8")
    try:
        return write_report(folder).read_text("utf-8")
    except UserError:
        return ""


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from leaves(each, (*path, key))
    if not inner:
        yield path


def placed(value: Any, path: tuple[Any, ...], text: str) -> Any:
    if not path:
        return text
    changed = dict(value) if isinstance(value, dict) else list(value)
    changed[path[0]] = placed(value[path[0]], path[1:], text)
    return changed


def test_the_policy_allows_this_style_and_script_alone(hostile_page: Path) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', hostile_page.read_text("utf-8"))
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy[1]


def test_embedded_json_comes_back() -> None:
    value = {"a": "</script><!--&\u2028\u2029\x00 \U0001f642"}
    assert json.loads(embed(value)) == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        embed(float("nan"))


def test_charts_hold_their_figures() -> None:
    assert nice_ticks(0.13, 0.43) == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert nice_ticks(3.0, 3.0)[0] < 3.0 < nice_ticks(3.0, 3.0)[-1]
    chart = ET.fromstring(interval_chart([Point(0, 0.2, 0.1, 0.3), Point(1, 0.6, None, None, True)], "<t>"))
    circles = [element for element in chart if element.tag == "circle"]
    assert float(circles[0].attrib["cy"]) > float(circles[1].attrib["cy"])
    drawn = ET.fromstring(stacked_chart([("r", [("kept", 3, 0), ("a", 1, 4)])], "t"))
    bars = [element for element in drawn if element.tag == "rect"]
    assert [bar.attrib["class"] for bar in bars] == ["part c0", "part c4"]
    assert float(bars[0].attrib["width"]) == pytest.approx(3 * float(bars[1].attrib["width"]), rel=1e-3)
    broken = ET.fromstring(line_chart([("one", [3.0, 2.0, None, 1.0])], "t"))
    assert [element.tag for element in broken if element.tag in ("polyline", "circle")] == ["polyline", "circle"]


def test_metrics_are_grouped_and_told_without_empty_intervals(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", [0.0] * 20, [1.0] * 20)
    with Store.open(folder, {"name": "test"}) as store:
        for round in (0, 1):
            still = Metric("overlap_exact", 0.0, 0.0, 0.0, 3, unit="count")
            length = Metric("kept_mean_words", 3.0 + round, 2.0, 5.0, 3)
            judged = Metric("calibration_judge_quality_auc", 0.8, 0.7, 0.9, 16)
            store.add_metrics(round, [still, length, Metric("validation_change", 0.5, 0.4, 0.6, 3), judged])
    page = write_report(folder).read_text("utf-8")
    folded = ("What a round trains on", "The judges that filter", "The choice of the round")
    titles = ["<h2>Held-out metrics by round</h2>", *(f"<details><summary>{title}</summary>" for title in folded)]
    places = [page.index(title) for title in titles]
    assert places == sorted(places)
    # What people read first stands before what they look up, and all of it in the bar of contents.
    order = [page.index(f'id="{name}"') for name in ("verdict", "metrics", "browse", "candidates", "diagnostics", "making")]
    assert order == sorted(order) and places[0] < order[2] < places[1]
    assert re.findall(r'<a href="#(\w+)">', page) == ["verdict", "metrics", "browse", "candidates", "diagnostics", "making"]
    judge, change = ("calibration judge quality auc", 2), ("validation change", 3)
    for name, group in (("refusal", 0), ("overlap exact", 1), ("kept mean words", 1), judge, change):
        part = page[places[group] : [*places, page.index("<summary>Costs")][group + 1]]
        assert re.search(f"<tr><td>{name}[&<]", part)
    assert set(metric_charts(read_run(folder))) == {
        "refusal", "kept_mean_words", "calibration_judge_quality_auc", "validation_change"
    }  # fmt: skip
    assert figure({"value": 3.0, "low": 3.0, "high": 3.0, "unit": "count"}, False) == ("3", "")
    assert figure({"value": 3.0, "low": 3.0, "high": 3.0, "unit": "number"}, False) == ("3.00", "")
    assert figure({"value": 1.0, "low": 1.0, "high": 1.0, "unit": "share"}, True) == ("100 %", "")
    assert figure({"value": 3.0, "low": 2.0, "high": None, "unit": "number"}, False) == ("3.00", "[2.00, ∞]")
    assert figure({"value": 0.5, "low": None, "high": 0.75, "unit": "share"}, True) == ("50 %", "[−∞, 75]")


def test_a_rule_has_one_colour_in_every_run() -> None:
    one = {"candidates": 10, "kept": 1, "dropped": {"near_duplicate": 7, "cut_off": 1, "mine": 1}}
    other = {"candidates": 10, "kept": 3, "dropped": {"not_novel": 3, "low_my_score": 2, "near_duplicate": 1, "cut_off": 1}}
    colours = [{name: colour for name, _, colour in fates(row)} for row in (one, other)]
    assert colours[0] == {"kept": 0, "cut off": 1, "near duplicate": 4, "mine": 7}
    assert colours[1] == {"kept": 0, "cut off": 1, "near duplicate": 4, "not novel": 4, "low my score": 6}
    for row in (one, other):
        assert sum(count for _, count, _ in fates(row)) == 10
        assert [colour for *_, colour in fates(row)] == sorted(colour for *_, colour in fates(row))
    assert legend([one, other])[2] == (4, "not new: near duplicate, not novel")


def test_a_study_shows_its_arms(tmp_path: Path) -> None:
    figure = {"value": 0.5, "low": 0.4, "high": None, "prompts": 9, "repeats": 2}
    arm = {"runs": [{"folder": "a/seed-0", "best_round": 1, "stopped_because": "<b>"}], "costs": {"seconds": 1234.0}}
    compared = {"difference": 0.1, "low": 0.0, "high": 0.2, "p_value": 0.01, "p_holm": 0.02, "minimum_detectable": None}
    study = {
        "main": "<img src=x>",
        "metric": "balance",
        "held_out": 9,
        "random_seeds": [0, 1],
        "arms": {name: {**arm, "metrics": {"balance": figure}} for name in ("<img src=x>", "sft")},
        "metrics": {"balance": {"unit": "points", "better": "higher"}},
        "left_out": {"other": "it is missing"},
        "comparisons": {"balance": {"sft": compared}},
        "verdicts": [{"arm": "sft", "metric": "balance", "verdict": "better", "sentence": "it is <i>better</i>"}],
    }
    (tmp_path / "study.json").write_text(json.dumps(study))
    page = write_report(tmp_path).read_text("utf-8")
    assert "<img" not in page
    assert "<i>" not in page
    assert "Balance: <img src=x> is better than sft" in html.unescape(page)
    assert "1,234" in page
    for text, message in (("{", "cannot be read"), ('{"arms": {}}', "not a study of this version"), ("[]", "not a study")):
        (tmp_path / "study.json").write_text(text)
        with pytest.raises(UserError, match=message):
            write_report(tmp_path)


def embedded(page: str) -> dict[str, Any]:
    start = page.index('id="data">') + len('id="data">')
    found: dict[str, Any] = json.loads(page[start : page.index("</script>", start)])
    return found
