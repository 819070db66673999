"""How fast the report is: made, opened in a browser, searched, for a run with many samples.

python benchmarks/report.py --samples 10000

The samples are as long as those of the demo (a prompt of 8 to 20 words, a response of 20 to 80), with eight demonstrations
for the prompt and eight for the response. Needs playwright and chromium; each figure is the median of `--repeats`, the
browser started anew each time, and the largest in brackets.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from selfalign.record.store import Store
from selfalign.report.write import write_report
from selfalign.types import Demonstration, Dropped, Example, Metric, ModelRef, Outcome

ROUNDS, HELD_OUT, SEEDS = 2, 160, 64
RULES = ("cut_off", "repetition", "not_novel", "category_mismatch", "unfinished")
SYLLABLES = ["ba", "de", "fi", "go", "ku", "la", "me", "ni", "po", "ru", "sa", "te", "vi", "wo", "za"]

SHOWN = """
new MutationObserver((_, observer) => {
  if (window.shown || !document.querySelector("#samples .row")) return;
  observer.disconnect();
  requestAnimationFrame(() => setTimeout(() => { window.shown = performance.now(); }));
}).observe(document, {childList: true, subtree: true});
"""
"""Notes when the first samples have been painted, in ms since the navigation began."""

TYPED = """
new Promise((resolve) => {
  const input = document.getElementById("sample-search");
  const began = performance.now();
  new MutationObserver((_, observer) => {
    observer.disconnect();
    requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - began)));
  }).observe(document.getElementById("sample-count"), {childList: true, characterData: true, subtree: true});
  input.value = TEXT;
  input.dispatchEvent(new Event("input"));
})
"""


def words(source: random.Random, low: int, high: int) -> str:
    made = ("".join(source.choices(SYLLABLES, k=source.randint(1, 4))) for _ in range(source.randint(low, high)))
    return " ".join(made).capitalize()


def sample(source: random.Random, round: int, slot: int) -> Example:
    shown = [tuple(Demonstration(f"seed-{i}", source.random()) for i in source.sample(range(SEEDS), 8)) for _ in range(2)]
    texts = (words(source, 8, 20) + "?", words(source, 20, 80) + ".")
    return Example(f"r{round:02d}-{slot:05d}", *texts, round, slot, ("refuse", "help")[slot % 2], "stop", "stop", *shown)


def fill(folder: Path, samples: int) -> None:
    source = random.Random(0)
    with Store.open(folder, {"name": "benchmark"}) as store:
        store.add_seeds([Example(f"seed-{i}", words(source, 8, 20), words(source, 20, 80), slot=i) for i in range(SEEDS)], ())
        store.add_model(0, ModelRef("some/model"))
        per_round = samples // ROUNDS
        for round in range(ROUNDS + 1):
            if round:
                made = [sample(source, round, slot) for slot in range(per_round)]
                half = per_round // 2
                dropped = [Dropped(each, source.choice(RULES), words(source, 3, 12)) for each in made[half:]]
                store.finish_round_samples(round, made[:half], dropped, per_round)
            answers = {
                i: {"id": f"h{i}", "text": words(source, 20, 80), "finish": "stop", "prompt": f"{i}?", "prompt_text": f"{i}?"}
                for i in range(HELD_OUT)
            }
            store.add_batch(round, "refusal", 0, answers, 1.0)
            outcomes = tuple(Outcome(f"h{i}", float(source.random() < 0.3 + 0.2 * round)) for i in range(HELD_OUT))
            mean = statistics.fmean(each.value for each in outcomes)
            store.add_metrics(round, [Metric("refusal", mean, mean - 0.07, mean + 0.07, HELD_OUT, outcomes)])
        store.finish_run(ROUNDS, f"all {ROUNDS} rounds done")


def opened(chromium: str, page_file: Path) -> dict[str, float]:
    """Milliseconds of one visit with a browser of its own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page: Any = browser.new_page(viewport={"width": 1280, "height": 900})
        page.add_init_script(SHOWN)
        limit = time.monotonic() + 60
        page.goto(page_file.as_uri(), wait_until="load")
        # Looked for from outside: Playwright's own waiting needs eval, which the page's policy forbids.
        waiting = "window.shown === undefined || !performance.getEntriesByName('first-contentful-paint').length"
        while page.evaluate(waiting) and time.monotonic() < limit:
            page.wait_for_timeout(5)
        load = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
        paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? NaN")
        found = {"first paint": paint, "load event": load, "first samples drawn": page.evaluate("window.shown")}
        for place, text in enumerate(("b", "ba", "ba 77", "zazaza vivi")):
            found[f"search {text!r}" + (" (first)" if not place else "")] = page.evaluate(TYPED.replace("TEXT", repr(text)))
        page.click("#samples .row") if page.locator("#samples .row").count() else None
        browser.close()
    return found


def told(figures: Sequence[dict[str, float]]) -> Iterator[str]:
    for name in figures[0]:
        values = [each[name] for each in figures]
        yield f"{name}: {statistics.median(values):,.0f} ms [{max(values):,.0f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("needs chromium: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        fill(run, options.samples)
        began = time.perf_counter()
        page = write_report(run)
        print(f"{options.samples:,} samples: page and figures written in {time.perf_counter() - began:.1f} s")
        print(f"page: {page.stat().st_size / 2**20:.1f} MiB")
        for line in told([opened(chromium, page) for _ in range(options.repeats)]):
            print(line)


if __name__ == "__main__":
    main()
