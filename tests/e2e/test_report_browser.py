"""The report in a browser: hostile model output stays text, and the page can be worked with."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from selfalign.report.write import write_report
from selfalign.store import Store
from selfalign.types import Demonstration, Dropped, Example, ModelRef
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

    def __init__(self, browser: Any, file: Path, width: int = 1280) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900})
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
        document.querySelector('#passport .demo')?.click();
        document.getElementById('passport').close();
        return document.getElementById('passport-id').textContent;
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
    for place, pages in enumerate(named_pages(tmp_path / "run", ["a harmless name", *payloads()])):
        for kind, page in enumerate(pages):
            file.write_text(page, encoding="utf-8", newline="")
            watched.page.goto(watched.own)
            found = watched.page.evaluate(SKELETON)
            if not place:
                expected.append(found)
            assert found == expected[kind], payloads()[place - 1]
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


def test_search_filters_and_passport(browser: Any, tmp_path: Path) -> None:
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
    text = page.text_content("#passport")
    for expected in ("r01-00007", "kept", "Question number 7?", "judge", "s3", "similarity 0.250", "Seed question 3?"):
        assert expected in text
    page.click("#passport .demo")
    assert page.text_content("#passport-id") == "s3"
    page.click("#passport-back")
    assert page.text_content("#passport-id") == "r01-00007"
    page.click("#passport-close")
    assert not page.is_visible("#passport")
    watched.check()


def test_ten_thousand_samples_are_drawn_a_page_at_a_time(browser: Any, tmp_path: Path) -> None:
    watched = Watched(browser, plain_run(tmp_path / "run", 10_000))
    assert watched.count() == "10,005 of 10,005 samples"
    assert watched.page.locator("#samples .row").count() == 50
    watched.check()


def test_a_phone_needs_no_sideways_scrolling(browser: Any, tmp_path: Path) -> None:
    watched = Watched(browser, plain_run(tmp_path / "run", 20), width=390)
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= 390
    watched.check()
