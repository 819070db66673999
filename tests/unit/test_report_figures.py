"""The figures of a report: each says what it shows and which side is better."""

from __future__ import annotations

import ast
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from selfalign.evaluators import LmEval
from selfalign.proof.calibration import Calibration
from selfalign.proof.diversity import OF_THE_JUDGES, SATURATION, SECOND_TURN
from selfalign.proof.kept import GUARD
from selfalign.proof.kept import PARTS as QUESTIONS
from selfalign.proof.spoiling import KINDS
from selfalign.proof.stats import Interval
from selfalign.report import charts
from selfalign.report.charts import LETTERS, Point, forest_chart, interval_chart, shortened
from selfalign.report.data import read_run
from selfalign.report.labels import GUARDS, HELD_OUT, JUDGES, label, meaning
from selfalign.report.page import latest_metrics, metric_charts, metric_groups, run_charts, yield_rows
from selfalign.report.study import outcome, sentence
from selfalign.report.write import write_report
from tests.conftest import SCRIPTED, Run
from tests.files import write_rows

PACKAGE = Path(charts.__file__).parent.parent


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter() if element.tag.rpartition("}")[2] == "text"]


def test_every_metric_of_a_run_has_a_meaning(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    held_out = tmp_path / "held.jsonl"
    turns = ("What is a lock?", "It keeps a door shut.", "Can you open number {i}?", "I can't help with number {i}.")
    rows = []
    for i in range(6):
        said = [{"role": ("user", "assistant")[j % 2], "content": text.format(i=i)} for j, text in enumerate(turns)]
        rows.append({"messages": said, "category": ("harmful", "harmless")[i % 2]})
    write_rows(held_out, rows)
    small = ("--per_round", 24, "--rounds", 2, "--min_yield", 0, "--held_out", held_out, "--quiet")
    found: set[str] = set()
    for recipe, options in (("isara", ("--second_turns.share", 1)), ("isheep", ())):
        out = tmp_path / recipe
        cli("run", recipe, seeds_file, *SCRIPTED, *small, *options, "--out", out)
        run = read_run(out)
        found |= set(latest_metrics(run["rounds"]))
        page = write_report(out).read_text("utf-8")
        drawn = run_charts(run)
        assert set(drawn) == ({"yields", "length", "loss"} if recipe == "isara" else set())  # the other ends at its judge
        for chart in (*drawn.values(), *metric_charts(run).values()):
            assert chart.about and f"<h3>{chart.title}</h3>" in page
    assert {"second_turn_words", "kept_second_turn_mean_words", "calibration_judge_quality_auc_cut", "balance"} <= found
    assert [name for name in found if not meaning(name)] == []


WRITTEN = [path for path in sorted(PACKAGE.glob("evaluators/*.py")) if path.name != "_metrics.py"]
WRITTEN += [PACKAGE / "proof" / "diversity.py", PACKAGE / "proof" / "retrieval.py", PACKAGE / "loop" / "guards.py"]
"""Where metrics get their names, but for those of a judge's calibration."""
PARTS = {
    "turn": ("", SECOND_TURN),
    "GUARD": (GUARD,),
    "part": (*QUESTIONS,),
    "name": {
        "expected": ("expected:json", "expected:refund_max_words_8"),
        "_decision": ("decision_auc", "matched_refusal"),
        "code": ("humaneval", "mbpp"),
        "mt_bench": ("mt_bench_turn_1", "mt_bench_turn_2", "mt_bench_turn_2:math"),
        "diversity": ("prompts", "responses"),
        "harmfulness": ("violence",),
        "_harness_tasks": (
            "arc_easy:acc",
            "gsm8k:exact_match:strict-match",
            "squad:f1",
            *LmEval(ifeval_file="x").metric_names(()),
        ),
        "guards": ("alarms",),  # one of those that `_count` is given
    },
    # `HeldOut`, whose names come as arguments
    "finished": ("finished", "second_turn_finished"),
    "words": ("response_words", "second_turn_words"),
    "log_likelihood": ("log_likelihood", "second_turn_log_likelihood"),
}
"""What stands for each variable in those names, where it is not the same everywhere by file."""


def names_written(path: Path) -> Iterator[str]:
    """The names of all metrics that a file makes."""
    for call in ast.walk(ast.parse(path.read_text("utf-8"))):
        if (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Name)
            and call.func.id in ("Metric", "share", "mean", "_count")
        ):
            if not call.args or isinstance(call.args[0], ast.Starred):
                raise AssertionError(f"{path}:{call.lineno}: a metric without its name in the first place")
            pieces = call.args[0].values if isinstance(call.args[0], ast.JoinedStr) else [call.args[0]]
            yield from map("".join, product(*(_spelt(piece, path.stem) for piece in pieces)))


def _spelt(piece: ast.expr, file: str) -> Iterable[str]:
    if isinstance(piece, ast.Constant):
        return [str(piece.value)]
    what = ast.unparse(piece.value if isinstance(piece, ast.FormattedValue) else piece)
    if what == "SATURATION":
        return [SATURATION]
    found = PARTS[what]  # a KeyError: a new name, which this test must learn and `labels` tell
    return found[file] if isinstance(found, dict) else found


def test_every_metric_that_the_package_can_give_has_a_meaning() -> None:
    some = Interval(0.5, 0.4, 0.6)
    judged = Calibration(
        name="judge", verdict="usable", seeds=6, spoiled=30, auc=some, auc_by_kind=tuple((kind, some) for kind in KINDS),
        mean=7.0, mean_spoiled=5.0, saturation=0.1, entropy=2.0, unparsed=0.0, length_bias=some, repeatability=0.5,
        position_bias=some, sway=some, appeals=6, flagged=1.0,
    )  # fmt: skip
    found = {name for path in WRITTEN for name in names_written(path)}
    found |= {f"{OF_THE_JUDGES[0]}{metric.name}" for metric in judged.metrics()}
    assert {
        "mc2",
        "win_rate_flaws",
        "ifeval:inst_loose",
        "diversity_second_turn_spread",
        "alarms",
        "harmfulness:violence",
    } <= found
    assert sorted(name for name in found if not meaning(name)) == []
    assert sorted({*HELD_OUT, *GUARDS} - found) == [], "told of, and given by nothing"


def test_labels_say_which_side_is_better() -> None:
    assert label("over_refusal", {"better": "lower"}) == "Share of the prompts to answer that are refused; lower is better"
    assert label("my_own", {"better": "higher"}) == "Higher is better"
    assert meaning("kept_second_turn_mean_words") == "mean words of a response, second turns alone"
    assert {f"auc_{kind}" for kind in KINDS} < set(JUDGES)
    assert max(map(len, (*HELD_OUT.values(), *GUARDS.values(), *JUDGES.values()))) < 85  # two lines of a card


def test_only_round_0_is_a_line_to_compare_with() -> None:
    rounds = [Point(1, 0.2, 0.1, 0.3), Point(2, 0.4, 0.3, 0.5)]
    assert 'class="base"' not in interval_chart(rounds, "t")
    chart = interval_chart([Point(0, 0.3, 0.2, 0.4), *rounds], "t", first="seeds")
    assert 'class="base"' in chart
    assert {"seeds", "round 1", "round 2"} <= set(texts(chart))


def run(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    return {"rounds": rounds, "best_round": 1, "lengths": []}


def test_one_round_makes_no_figure() -> None:
    metric = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9, "unit": "share", "better": "higher"}
    row: dict[str, Any] = {"candidates": 0, "losses": [], "metrics": {"refusal": metric}}
    alone = run([{**row, "round": 0}])
    assert run_charts(alone) == metric_charts(alone) == {}
    (group,) = metric_groups(alone)
    assert group["metrics"] == [{"name": "refusal", "better": "higher", "meaning": HELD_OUT["refusal"]}]
    assert "dashed line" not in group["hint"]  # there is none
    assert list(metric_charts(run([{**row, "round": 0}, {**row, "round": 1}]))) == ["refusal"]


def test_large_figures_are_told_in_round_units() -> None:
    drawn = interval_chart([Point(0, 1e6, 0.9e6, 2e6), Point(1, 1.5e6, None, None)], "t")
    assert {"500 k", "1 M", "1.5 M", "2 M"} <= set(texts(drawn))
    small = set(texts(interval_chart([Point(0, -5e3, -6e3, 0), Point(1, 0, -1, 1)], "t")))
    assert {"−6000", "−2000"} <= small


def test_arms_that_differ_at_the_end_are_told_apart() -> None:
    names = [f"isara-trainer.{'x' * 60}={value}" for value in ("0.5", "0.7")]
    drawn = forest_chart([(name, 0.1, 0.0, None, False) for name in names], ("a", "b"), "t")
    shown = [text for text in texts(drawn) if text.startswith("isara-")]
    assert [text[-3:] for text in shown] == ["0.5", "0.7"]
    assert all(len(text) <= LETTERS for text in shown)
    assert shortened("isara-max_overlap=0.5") == "isara-max_overlap=0.5"


def test_what_became_of_the_candidates_adds_up() -> None:
    rounds = [{"candidates": 10, "kept": 4, "dropped": {"b_rule": 5, "kept": 1}}, {"candidates": 4, "kept": 4, "dropped": {}}]
    (*_, whole), *parts = yield_rows(rounds)
    assert [name for name, *_ in parts] == ["kept", "b rule", "kept"]  # a rule of one's own may have any name
    assert [sum(row[at][0] for *_, row in parts) for at in (0, 1)] == [count for count, _ in whole] == [10, 4]
    assert parts[0][2] == [(4, "40 %"), (4, "100 %")]


@pytest.mark.parametrize(
    ("better", "difference", "low", "high", "p", "expected"),
    [
        ("lower", -0.2, -0.3, -0.1, 0.01, "better"),
        ("lower", 0.2, 0.1, None, 0.01, "worse"),
        ("neither", 0.2, 0.1, 0.3, 0.01, "higher"),
        ("higher", 0.2, 0.1, 0.3, 0.2, "cannot tell"),
        ("higher", 0.2, None, 0.3, None, "cannot tell"),
    ],
)
def test_a_study_tells_each_metric_by_its_own_side(
    better: str, difference: float, low: float | None, high: float | None, p: float | None, expected: str
) -> None:
    row = {"difference": difference, "low": low, "high": high, "p_holm": p}
    study = {"metrics": {"m": {"unit": "share", "better": better}}, "comparisons": {"m": {"sft": row}}}
    assert outcome(study, "m", "sft") == expected


def test_sentences_are_set_for_a_page() -> None:
    text = "cannot tell whether a-1 is better than b: -10 points [-30, 11], p = 1, n = 9 prompts"
    page = "Cannot tell whether a-1 is better than b: −10 points [−30, 11], p\u00a0=\u00a01, n\u00a0=\u00a09 prompts."
    assert sentence(text) == page
    assert sentence("self_distill is better than sft", "self_distill") == "self_distill is better than sft."
    asked = "would more examples help? self_distill with 64 seeds is better"
    assert sentence(asked, "self_distill") == "Would more examples help? self_distill with 64 seeds is better."
