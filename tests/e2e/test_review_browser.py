"""The page of `selfalign review` in a browser: by keyboard and on a phone, with hostile texts, and killed in the middle."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from selfalign.record.review import Decision, open_review, summary
from selfalign.record.store import Store
from selfalign.text import one_line, printable
from selfalign.types import Example
from tests.e2e.test_report_browser import FAINT, OVERFLOWS, browser, pytestmark  # noqa: F401
from tests.e2e.test_review import EDITED, Serve, serve, waiting_run  # noqa: F401
from tests.unit.test_report import payloads

PAIRS = "[...document.querySelectorAll('#pair .said')].map((each) => each.textContent)"


class Watched:
    """A page that notes whatever it should not do."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:  # noqa: F811
        self.page = browser.new_page(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.trouble: list[str] = []
        self.page.on("console", lambda message: self.trouble.append(f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self.trouble.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: (self.trouble.append("dialog"), dialog.dismiss()))
        self.page.on("request", lambda request: request.url.startswith(address) or self.trouble.append(request.url))
        self.page.add_init_script("window.hits = []; window.hit = (n) => window.hits.push(n); window.alert = window.hit;")
        self.page.goto(address)
        self.page.wait_for_selector("#pair:not([hidden])")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)
            self.page.wait_for_selector("body[aria-busy=false]")

    def check(self) -> None:
        assert self.page.evaluate("window.hits") == []
        assert self.trouble == []


def hostile(folder: Path) -> list[str]:
    """A round of which each pair has one payload in every place."""
    found = payloads()
    with Store.open(folder, {"name": "test", "review": True}) as store:
        made = [
            Example(f"p{slot}", text, text, 1, slot, text, history=((text, text),), system=text)
            for slot, text in enumerate(found)
        ]
        store.finish_round_samples(1, made, [], len(made))
    return found


def test_hostile_texts_are_texts(browser: Any, serve: Serve, tmp_path: Path) -> None:  # noqa: F811
    texts = hostile(tmp_path / "run")
    with open_review(tmp_path / "run") as review:
        review.decide([Decision(f"p{place}", "rejected", text) for place, text in enumerate(texts[::2])], "Anna")
    process = serve(tmp_path / "run")
    watched = Watched(browser, process.address)  # type: ignore[attr-defined]
    page = watched.page
    shown = page.evaluate(f"all.pairs.map((pair, place) => {{ go(place); return {PAIRS}; }})")
    assert shown == [[text] * 5 for text in texts]  # system text, an earlier turn, prompt, answer
    metas = page.evaluate(
        "all.pairs.map((pair, place) => { go(place); return document.querySelector('#pair .meta b').textContent; })"
    )
    assert metas[0] == f"rejected: {one_line(printable(texts[0]))}"
    for place in (0, 1, len(texts) - 1):
        page.evaluate(f"go({place})")
        watched.press("e")
        assert page.input_value("#response") == texts[place].replace("\r\n", "\n")
        watched.press("Escape", "r", "Escape")
    assert page.locator("main img, main iframe, main script, main svg, main a, main base, main object, main style").count() == 0
    watched.check()


def test_by_keyboard_and_killed_in_the_middle(browser: Any, serve: Serve, tmp_path: Path) -> None:  # noqa: F811
    run = waiting_run(tmp_path / "run")
    process = serve(run)
    watched = Watched(browser, process.address)  # type: ignore[attr-defined]
    page = watched.page
    assert page.text_content("#progress") == "5 left, 0 decided"
    watched.press("k", "r")
    page.keyboard.type("k is a letter here")
    watched.press("Enter", "u")  # and taken back: the pair is shown again
    assert "p1" in page.text_content("#pair .meta") and "not decided" in page.text_content("#pair .meta")
    watched.press("r")
    page.keyboard.type("wrong")
    watched.press("Enter", "p", "ArrowLeft", "e")
    page.fill("#response", EDITED)
    watched.press("Control+Enter")
    assert page.text_content("#progress") == "3 left, 2 decided"
    process.kill()
    process.wait()
    watched.press("k")
    assert "is recorded" in page.text_content("#message") and page.text_content("#progress") == "3 left, 2 decided"
    with Store.read(run) as store:
        assert summary(store, 1)["text"].endswith("2 of 5 pairs decided (0 kept, 1 rejected, 1 edited)")
    process = serve(run)
    watched = Watched(browser, process.address)  # type: ignore[attr-defined]
    page = watched.page
    assert "p1.2" in page.text_content("#pair .meta") and page.text_content("#progress") == "3 left, 2 decided"
    watched.press("k", "e")
    assert "p3" in page.text_content("#pair .meta") and "teach nothing" in page.text_content("#message")
    page.click("#finish")
    page.click("text=Drop the rest")
    page.wait_for_selector("#pair", state="hidden")
    assert "2 not decided on, dropped" in page.text_content("#progress")
    assert process.wait(60) == 0
    watched.check()
    with Store.read(run) as store:
        said = summary(store, 1)
    assert (said["kept"], said["rejected"], said["edited"], said["rest"]) == (1, 1, 1, "drop")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_blind_and_of_a_sample(browser: Any, serve: Serve, tmp_path: Path, scheme: str) -> None:  # noqa: F811
    process = serve(waiting_run(tmp_path / "run"), "--blind", "--sample", 3)
    phone = {"viewport": {"width": 360, "height": 700}, "color_scheme": scheme, "has_touch": True, "is_mobile": True}
    watched = Watched(browser, process.address, **phone)  # type: ignore[attr-defined]
    page = watched.page
    assert page.text_content("#progress") == "3 left of a sample of 3 (the round has 5), 0 decided"
    assert page.evaluate("all.pairs.filter((pair) => 'scores' in pair || 'category' in pair).length") == 0
    for open_, close in (
        (None, None),
        ("#reject", "#rejecting .cancel"),
        ("#keep", None),
        ("#finish", "#finish-choices button:last-child"),
    ):
        if open_:
            page.tap(open_)
            page.wait_for_selector("body[aria-busy=false]")
        assert page.evaluate(OVERFLOWS) == [] and page.evaluate(FAINT) == []
        if folder := os.environ.get("SELFALIGN_SCREENSHOTS"):
            page.screenshot(path=f"{folder}/{scheme}-{(open_ or '#start')[1:]}.png")
        if close:
            page.tap(close)
    assert page.evaluate("[...document.querySelectorAll('#actions button')].every((each) => each.offsetHeight >= 44)")
    assert page.text_content("#progress") == "2 left of a sample of 3 (the round has 5), 1 decided"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    watched.check()


def test_the_report_follows_a_run(browser: Any, serve: Serve, tmp_path: Path) -> None:  # noqa: F811
    made = [Example(f"r{slot}", f"Question {slot}?", "Answer.", 1, slot) for slot in range(3)]
    with Store.open(tmp_path / "run", {"name": "test"}) as store:
        store.add_seeds([Example("s0", "Why?", "So.")], ())
        address = serve(tmp_path / "run", "--every", 1, name="view").address  # type: ignore[attr-defined]
        page = browser.new_page()
        trouble: list[str] = []
        page.on("console", lambda message: trouble.append(message.text))
        assert page.goto(address).headers["refresh"] == "1"
        assert page.text_content("#sample-count") == "1 of 1 samples" and "running" in page.text_content("#verdict")
        store.finish_round_samples(1, made, [], 3)
        page.wait_for_selector("#samples .row >> nth=3")
    assert "refresh" not in page.goto(address).headers and page.goto(f"{address}run.sqlite").status == 404
    assert not [text for text in trouble if "404" not in text]
