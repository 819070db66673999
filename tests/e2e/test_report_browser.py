"""The report in a browser: hostile model output stays text, and the page can be worked with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from selfalign.record.store import Store
from selfalign.report.write import write_report
from selfalign.types import Demonstration, Dropped, Example, Metric, ModelRef, Outcome
from tests.unit.test_report import hostile_run, named_pages, payloads

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # Root has no sandbox in a container; the pages are of our own making.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Watched:
    """A page that notes whatever it should not do."""

    def __init__(self, browser: Any, file: Path, width: int = 1280, scheme: str = "light") -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.trouble: list[str] = []
        self.page.on("console", lambda message: self.trouble.append(f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self.trouble.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: (self.trouble.append("dialog"), dialog.dismiss()))
        self.page.on("request", self._requested)
        self.page.add_init_script("window.hits = []; window.hit = (n) => window.hits.push(n); window.alert = window.hit;")
        self.own = file.as_uri()
        self.page.goto(self.own)

    def _requested(self, request: Any) -> None:
        if request.url != self.own:
            self.trouble.append(f"request: {request.url}")

    def check(self) -> None:
        assert self.page.evaluate("window.hits") == []
        assert self.page.url == self.own
        assert self.trouble == []

    def count(self) -> str:
        self.page.wait_for_timeout(250)  # the search waits for a pause in typing
        text: str = self.page.text_content("#sample-count")
        return text


def plain_run(folder: Path, count: int) -> Path:
    """Half of the candidates kept, in two categories, each with a demonstration of the seeds."""
    with Store.open(folder, {"name": "test"}) as store:
        store.add_seeds([Example(f"s{i}", f"Seed question {i}?", f"Seed answer {i}.", slot=i) for i in range(5)], ())
        store.add_model(0, ModelRef("some/name"))
        made = [
            Example(
                f"r01-{i:05d}",
                f"Question number {i}?",
                f"Answer {'zebra' if i == 7 else 'horse'} {i}.",
                1,
                i,
                "even" if i % 2 == 0 else "odd",
                response_demonstrations=(Demonstration("s3", 0.25),),
                scores={"judge": 0.5},
            )
            for i in range(count)
        ]
        half = count // 2
        store.finish_round_samples(1, made[:half], [Dropped(e, "novelty", f"too near to {e.slot}") for e in made[half:]], count)
    return write_report(folder)


def test_hostile_output_runs_no_script(browser: Any, tmp_path: Path) -> None:
    hostile_run(tmp_path / "run", payloads())
    watched = Watched(browser, write_report(tmp_path / "run"))
    page = watched.page
    page.evaluate("for (const more of document.querySelectorAll('.more')) while (!more.hidden) more.click()")
    shown = page.locator("#samples .row .prompt").all_text_contents()
    assert len(shown) == 2 * len(payloads())
    assert set(shown) == set(payloads())
    opened = page.evaluate("""() => [...document.querySelectorAll('#samples .row')].map((row) => {
        row.click();
        document.querySelector('#lineage .demo')?.click();
        document.getElementById('lineage').close();
        return document.getElementById('lineage-id').textContent;
    })""")
    assert len(set(opened)) >= len(payloads())
    assert page.locator("main img, main iframe, main script, main form, main base, main a").count() == 0
    watched.check()


SKELETON = """() => [...document.querySelectorAll('*')].map(
    (element) => element.tagName + ' ' + [...element.attributes].map((attribute) => attribute.name)).join('\\n')"""


def test_hostile_names_run_no_script_and_add_no_element(browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text("<!DOCTYPE html>")
    watched = Watched(browser, file)
    expected: list[str] = []
    names = ["a harmless name", *payloads()[::4]]  # tests/unit/test_report.py has all of them, on both pages
    for place, pages in enumerate(named_pages(tmp_path / "run", names)):
        for kind, page in enumerate(pages):
            if place and kind != place % 2:
                continue
            file.write_text(page, encoding="utf-8", newline="")
            watched.page.goto(watched.own)
            found = watched.page.evaluate(SKELETON)
            if not place:
                expected.append(found)
            assert found == expected[kind], names[place]
            watched.check()
    assert all(each.count("\n") > 50 for each in expected)


def test_the_policy_stops_what_would_get_through(browser: Any, tmp_path: Path) -> None:
    watched = Watched(browser, plain_run(tmp_path / "run", 4))
    watched.page.evaluate("document.body.append(Object.assign(document.createElement('script'), {textContent: 'hit(1)'}))")
    watched.page.evaluate(
        "document.body.append(Object.assign(document.createElement('img'), {src: 'https://example.org/x.png'}))"
    )
    watched.page.wait_for_timeout(100)
    assert watched.page.evaluate("window.hits") == []
    assert len([each for each in watched.trouble if "Content Security Policy" in each]) == 2


def test_search_filters_and_lineage(browser: Any, tmp_path: Path) -> None:
    watched = Watched(browser, plain_run(tmp_path / "run", 120))
    page = watched.page
    assert watched.count() == "125 of 125 samples"
    assert page.locator("#samples .row").count() == 50
    page.click("#sample-more")
    assert page.locator("#samples .row").count() == 100
    for select, value, left in (("verdict", "dropped", 60), ("category", "odd", 30), ("rule", "novelty", 30), ("round", "1", 30)):
        page.select_option(f"#sample-{select}", value)
        assert watched.count() == f"{left} of 125 samples"
    for select in ("verdict", "category", "rule", "round"):
        page.select_option(f"#sample-{select}", index=0)
    page.fill("#sample-search", "ZEBRA answer")
    assert watched.count() == "1 of 125 samples"
    page.click("#samples .row")
    text = page.text_content("#lineage")
    for expected in ("r01-00007", "kept", "Question number 7?", "judge", "s3", "similarity 0.250", "Seed question 3?"):
        assert expected in text
    page.click("#lineage .demo")
    assert page.text_content("#lineage-id") == "s3"
    page.click("#lineage-back")
    assert page.text_content("#lineage-id") == "r01-00007"
    page.click("#lineage-close")
    assert not page.is_visible("#lineage")
    watched.check()


def test_what_is_hidden_is_not_seen(browser: Any, tmp_path: Path) -> None:
    page = Watched(browser, plain_run(tmp_path / "run", 4)).page
    assert page.evaluate("document.getElementById('sample-more').hidden") and not page.is_visible("#sample-more")
    page.click("#samples .row")
    assert not page.is_visible("#lineage-back") and page.is_visible("#lineage-close")
    page.evaluate("for (const each of document.querySelectorAll('main *')) each.hidden = true")
    assert page.evaluate("[...document.querySelectorAll('main *')].filter((each) => each.checkVisibility()).length") == 0


def test_what_was_never_answered_does_not_look_like_an_empty_answer(browser: Any, tmp_path: Path) -> None:
    made = [Example(f"r01-{slot:05d}", f"Question {slot}?", "", 1, slot) for slot in range(2)]
    with Store.open(tmp_path / "run", {"name": "test"}) as store:
        store.add_model(0, ModelRef("some/name"))
        store.add_batch(1, "respond", 0, {0: {"id": made[0].id, "text": "", "finish": "stop"}}, 1.0)
        store.finish_round_samples(1, [], [Dropped(each, "some_rule", "why") for each in made], 2)
    watched = Watched(browser, write_report(tmp_path / "run"))
    assert watched.page.locator("#samples .answer").all_text_contents() == ["(empty)", "(not answered)"]
    watched.page.locator("#samples .row").last.click()
    assert "response(not answered)" in (watched.page.text_content("#lineage-body") or "")
    watched.check()


def test_ten_thousand_samples_are_drawn_a_page_at_a_time(browser: Any, tmp_path: Path) -> None:
    watched = Watched(browser, plain_run(tmp_path / "run", 10_000))
    assert watched.count() == "10,005 of 10,005 samples"
    assert watched.page.locator("#samples .row").count() == 50
    watched.check()


FIRST = "Which is the <b>first</b> of two questions?"


def full_run(folder: Path) -> Path:
    """Three rounds with all that a page can show: earlier turns, more rules than colours, alarms, long words, losses."""
    history = ((FIRST, "It is quokka-blue."),)
    with Store.open(folder, {"name": "test", "a_very_long_name_of_an_option.of_a_part.of_another_part": "x" * 90}) as store:
        seeds = [Example("s0", "Seed question?", "Seed answer."), Example("s1", "Go on?", "On.", slot=1, history=history)]
        store.add_seeds(seeds, ())
        for round in range(3):
            if round:
                ids = [f"r0{round}-{slot:05d}" for slot in range(70)]
                made = [Example(id, f"Question {i}? {'w' * 90}", "A\n" * 9, round, i, "kind") for i, id in enumerate(ids)]
                made[1] = Example(
                    f"{ids[0]}.2", "And the second?", "It is later.", round, 1,
                    prompt_demonstrations=(Demonstration(ids[0]),), history=((FIRST, "Wombat."),),
                )  # fmt: skip
                drops = [Dropped(e, f"a_rule_called_{i % 12}", "because " * 20) for i, e in enumerate(made[30:])]
                store.finish_round_samples(round, made[:30], drops, 70)
                store.event("alarm", {"text": f"round {round}: {'something fell ' * 9}"})
            store.add_model(round, ModelRef(f"/models/{'m' * 60}/{round}"))
            rows = {
                i: {
                    "id": f"h{i}",
                    "text": "Text. " * 40,
                    "finish": "length",
                    "prompt": f"Held {i}? {'v' * 80}",
                    "history": history,
                }
                for i in range(30)
            }
            store.add_batch(round, "held_out", 0, rows, 1.0)
            outcomes = tuple(Outcome(f"h{i}", float(i < 10 * round)) for i in range(30))
            shares = [
                Metric(n, round / 3, 0.0, 1.0, 30, outcomes, "share") for n in ("refusal", "an_own_metric_of_a_longer_name")
            ]
            numbers = [Metric("log_likelihood", -2.513 + round / 100, -2.6, -2.4, 30), Metric("words", 1e6, 9e5, 2e6, 30)]
            store.add_metrics(round, [*shares, *numbers, Metric("kept_very_short", 0.1, 0.0, 0.2 + round / 9, 30, unit="share")])
        store.finish_run(1, "regression: round 2 is worse than round 1")
    return write_report(folder)


def full_study(folder: Path) -> Path:
    """Arms that differ at the end of a long name, better, worse and unclear."""
    names = ["isara", "pretrained", *(f"isara-trainer.learning_rate={value}" for value in ("0.0001", "0.00001"))]
    figure = {"value": 0.513, "low": -0.25, "high": 0.75, "prompts": 1600, "repeats": 3}
    arm = {"costs": {"seconds": 1234567.0}, "runs": [{"folder": "a/seed-0", "best_round": 1, "stopped_because": "done " * 30}]}
    compared = {"difference": 0.2, "low": 0.1, "high": 0.3, "p_value": 0.01, "p_holm": 0.02, "minimum_detectable": 0.1}
    metrics = {name: {"unit": "points", "better": better} for name, better in (("balance", "higher"), ("over_refusal", "lower"))}
    sentence = "it is better: -10 points [-30, 11], p = 0.02, n = 1600 prompts × 3 random seeds " * 2
    folder.mkdir()
    study = {
        "main": "isara",
        "metric": "balance",
        "held_out": 1600,
        "random_seeds": [0, 1, 2],
        "arms": {name: {**arm, "metrics": dict.fromkeys(metrics, figure)} for name in names},
        "metrics": metrics,
        "left_out": {},
        "comparisons": {metric: dict.fromkeys(names[1:], compared) for metric in metrics},
        "verdicts": [{"arm": name, "metric": "balance", "verdict": "better", "sentence": sentence} for name in names[1:]],
    }
    (folder / "study.json").write_text(json.dumps(study))
    return write_report(folder)


OVERFLOWS = """() => {
    const found = [], wide = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth > wide) found.push('the page');
    for (const each of document.querySelectorAll('main *')) {
        if (each.closest('svg, .scroll table, details:not([open]) > :not(summary)')) continue;
        if (each.getBoundingClientRect().right > wide + 0.5) found.push(each.outerHTML.slice(0, 90));
    }
    for (const text of document.querySelectorAll('svg text')) {
        const own = text.getBoundingClientRect(), all = text.ownerSVGElement.getBoundingClientRect();
        if (own.left < all.left - 1 || own.right > all.right + 1 || own.bottom > all.bottom + 1)
            found.push(text.ownerSVGElement.getAttribute('class') + ': ' + text.textContent);
    }
    return found;
}"""
"""What stands beyond the edge of the page or of its chart; tables scroll in their own boxes."""

FAINT = """() => {
    const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
    const light = (c) => c.slice(0, 3).map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const ratio = (a, b) => { const [x, y] = [light(a), light(b)]; return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05); };
    const ground = (element) => {
        for (let each = element; each; each = each.parentElement) {
            const colour = rgb(getComputedStyle(each).backgroundColor);
            if (colour.length === 3) return colour;
        }
        return [255, 255, 255];
    };
    const found = new Set();
    const check = (element, colour, least, what) => {
        const value = ratio(rgb(colour), ground(what === 'border' ? element.parentElement : element));
        const name = element.tagName + ' ' + (element.className.baseVal ?? element.className);
        if (value < least) found.add(what + ' of ' + name + ': ' + value.toFixed(2));
    };
    for (const each of document.querySelectorAll('main *, dialog *')) {
        const style = getComputedStyle(each), inSvg = each.closest('svg');
        if ([...each.childNodes].some((node) => node.nodeType === 3 && node.data.trim()) && each.tagName !== 'title')
            check(each, inSvg ? style.fill : style.color, 4.5, 'text');
        if (each.matches('.part, .line, .bar')) check(each, each.matches('.part') ? style.fill : style.stroke, 3, 'figure');
        if (each.matches('input, select, button:not(.row)')) check(each, style.borderTopColor, 3, 'border');
        if (each.matches('input')) check(each, getComputedStyle(each, '::placeholder').color, 4.5, 'placeholder');
    }
    return [...found];
}"""
"""What falls short of WCAG 2.2 AA: 4.5 for text, 3 for parts of figures and edges of controls."""


@pytest.fixture(scope="module")
def full_pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("full")
    return {"run": full_run(folder / "run"), "study": full_study(folder / "study")}


@pytest.mark.parametrize("kind", ["run", "study"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_off_or_faint(browser: Any, full_pages: dict[str, Path], kind: str, width: int, scheme: str) -> None:
    watched = Watched(browser, full_pages[kind], width, scheme)
    watched.page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    assert watched.page.evaluate(OVERFLOWS) == []
    assert watched.page.evaluate(FAINT) == []
    if kind == "run":
        watched.page.click("#samples .row >> nth=1")
        assert watched.page.evaluate(FAINT) == []
        inside = watched.page.evaluate(
            "(() => { const d = document.getElementById('lineage'); return d.scrollWidth - d.clientWidth; })()"
        )
        assert inside <= 0
    watched.check()


def test_a_conversation_is_found_and_read_by_its_earlier_turns(browser: Any, full_pages: dict[str, Path]) -> None:
    watched = Watched(browser, full_pages["run"])
    page = watched.page
    page.fill("#sample-search", "quokka-blue")
    assert watched.count() == "1 of 142 samples"
    assert "turn 2" in page.text_content("#samples .row") and f"after: {FIRST}" in page.text_content("#samples .row")
    page.fill("#sample-search", "wombat r01-00000.2")
    assert watched.count() == "1 of 142 samples"
    page.click("#samples .row")
    assert page.locator("#lineage .turn").all_inner_texts() == [f"user\n{FIRST}", "assistant\nWombat."]
    page.click("text=open r01-00000")
    assert page.text_content("#lineage-id") == "r01-00000"
    page.keyboard.press("Escape")
    page.fill("#held-search", "quokka-blue")
    page.wait_for_timeout(250)
    assert page.text_content("#held-count") == "30 of 30 prompts"
    assert page.locator("#held .held").first.locator(".turn").all_inner_texts() == [
        f"user\n{FIRST}",
        "assistant\nIt is quokka-blue.",
    ]
    watched.check()


FOCUS = (
    "() => [document.activeElement.id || document.activeElement.className, getComputedStyle(document.activeElement).outlineStyle]"
)


def test_the_keyboard_is_enough(browser: Any, full_pages: dict[str, Path]) -> None:
    watched = Watched(browser, full_pages["run"])
    page = watched.page
    page.focus("#sample-search")
    for expected in ("sample-round", "sample-verdict", "sample-rule", "sample-category", "row", "row"):
        page.keyboard.press("Tab")
        assert page.evaluate(FOCUS) == [expected, "solid"]
    opened = page.evaluate("document.activeElement.textContent")
    page.keyboard.press("Enter")
    assert page.text_content("#lineage-id") == "r01-00000.2"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "open r01-00000"
    page.keyboard.press("Enter")  # the button is gone with the lineage it stood in
    assert page.text_content("#lineage-id") == "r01-00000" and page.evaluate(FOCUS) == ["lineage-back", "solid"]
    page.keyboard.press("Enter")
    assert page.text_content("#lineage-id") == "r01-00000.2" and page.evaluate(FOCUS) == ["lineage-close", "solid"]
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.textContent") == opened
    page.focus("#sample-more")
    page.keyboard.press("Enter")
    assert page.evaluate("[...document.querySelectorAll('#samples .row')].indexOf(document.activeElement)") == 50
    page.focus("#held-more")
    page.keyboard.press("Enter")
    assert page.evaluate("[...document.querySelectorAll('#held .held')].indexOf(document.activeElement)") == 20
    watched.check()


def test_paper_hides_no_text(browser: Any, full_pages: dict[str, Path]) -> None:
    watched = Watched(browser, full_pages["run"], width=700)
    watched.page.emulate_media(media="print")
    closed = "[...document.querySelectorAll('details td')].filter((each) => !each.checkVisibility({contentVisibilityAuto: true}))"
    # The page hears of the other medium a moment later; Playwright's own waiting needs eval, which the page's policy forbids.
    for _ in range(200):
        if not watched.page.evaluate(f"{closed}.length"):
            break
        watched.page.wait_for_timeout(50)
    assert watched.page.evaluate(f"{closed}.length") == 0
    cut = "[...document.querySelectorAll('#samples .said')].filter((each) => each.scrollHeight > each.clientHeight + 1)"
    assert watched.page.evaluate(f"{cut}.length") == 0
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= 700
    watched.check()
