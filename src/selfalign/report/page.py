"""One autoescaping template, one style sheet, one script: a page that needs no network and runs nothing from its data."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from selfalign.proof.diversity import OF_THE_CHOICE, OF_THE_DATA, OF_THE_JUDGES
from selfalign.report.charts import COLOURS, Chart, Point, interval_chart, line_chart, stacked_chart
from selfalign.report.labels import ARROWS, SIDES, label, meaning
from selfalign.report.rules import FAMILIES, KEPT, colour, why
from selfalign.report.verdict import difference_text, number, p_text, size_text, typeset, words
from selfalign.text import printable
from selfalign.types import SHARES

_READ = "The bars are the intervals, a large point is the round that ships, the dashed line the base model."
_SIDES = "Intervals are 95 %. ↑\u00a0higher is better, ↓\u00a0lower is better."
_DATA = "The examples that a round kept."
_JUDGED = "How well each judge separated the seeds from spoiled versions of them before a round was filtered by it."
_CHOSEN = "On the seeds held out for it; the change is that against the best round before."
GROUPS = (
    ("Held-out metrics by round", "base model", _SIDES, _READ, ()),
    ("What a round trains on", "seeds", _DATA, "The dashed line is what the seeds have.", OF_THE_DATA),
    ("The judges that filter", "not judged", _JUDGED, "", OF_THE_JUDGES),
    ("The choice of the round", "base model", _CHOSEN, "", OF_THE_CHOICE),
)
"""(title, what round 0 is, hint, how to read its charts, what the names of its metrics begin with); the first one has what no
other one claims."""


def render(template: str, data: Mapping[str, Any], **shown: Any) -> str:
    """A page from a template of this package; `data` goes into it for the script, `shown` to the template."""
    import jinja2
    from markupsafe import Markup

    style, script = _asset("page.css"), _asset("elements.js") + _asset("page.js")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) or not isinstance(value, str) else printable(value),
    )
    environment.filters |= {each.__name__: each for each in (number, figure, interval, words, typeset)}
    environment.filters |= {"difference": difference_text, "p_value": p_text, "size": size_text}
    sources = f"style-src {_source(style)}; script-src {_source(script)}"
    policy = f"default-src 'none'; {sources}; img-src data:; base-uri 'none'; form-action 'none'"
    # Markup is only what this package wrote itself: its style, its script, its charts, and JSON without a `<`.
    own = {"style": Markup(style), "script": Markup(script), "data": Markup(embed(data)), "policy": Markup(policy)}
    return environment.get_template(template).render(**own, arrows=ARROWS, sides=SIDES, markup=Markup, **shown)


def embed(data: Any) -> str:
    """JSON that cannot end the script element it stands in, nor break a line where JavaScript would."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for mark in ("<", ">", "&", "\u2028", "\u2029"):
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text


def run_page(run: Mapping[str, Any]) -> str:
    """The page of a run, as `read_run` gives it."""
    rounds = [row for row in run["rounds"] if row["candidates"]]
    browsed = {"samples": run["samples"], "held_out": run["held_out"]}
    return render(
        "template.html.j2",
        browsed,
        run=run,
        charts=run_charts(run),
        groups=metric_groups(run),
        held_out_metrics=GROUPS[0][0],
        shares=share_names(run),
        yields=yield_rows(rounds),
        costs=cost_rows(run["rounds"]),
    )


def run_charts(run: Mapping[str, Any]) -> dict[str, Chart]:
    """Those of the candidates (`yields`), of the responses' `length` and of the training `loss`, as far as the run has them."""
    charts = {}
    if made := [row for row in run["rounds"] if row["candidates"]]:
        drawn = stacked_chart([(f"round {row['round']}", fates(row)) for row in made], "candidates kept and dropped by rule")
        about = "Each is kept or dropped by one rule, whose colour is the same in every run"
        charts["yields"] = Chart("candidates by round", about, drawn, legend(made))
    lengths = [Point(r["round"], r["median"], r["low"], r["high"]) for r in run["lengths"] if r["n"]]
    if len(lengths) > 1:
        about = "Median with 10th to 90th percentile: the seeds, then what each round kept; no side is better"
        drawn = interval_chart(lengths, "words of a response by round", first="seeds")
        charts["length"] = Chart("words of a response", about, drawn)
    if lines := [(f"round {row['round']}", row["losses"]) for row in run["rounds"] if any(x is not None for x in row["losses"])]:
        about = "Nats per response token, by optimiser step; it should fall"
        names = [(min(place, COLOURS - 1), name) for place, (name, _) in enumerate(lines)]
        charts["loss"] = Chart("training loss", about, line_chart(lines, "training loss by step"), names)
    return charts


def metric_charts(run: Mapping[str, Any]) -> dict[str, Chart]:
    """By metric; that of one round, or of a figure that never moves, is left out."""
    charts, shares = {}, share_names(run)
    for name, metric in latest_metrics(run["rounds"]).items():
        points = metric_points(run, name)
        if len(points) > 1 and any((point.low, point.value, point.high) != (points[0].value,) * 3 for point in points):
            drawn = interval_chart(points, f"{words(name)} by round", name in shares, _group_of(name)[1])
            charts[name] = Chart(words(name), label(name, metric), drawn)
    return charts


def metric_groups(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """{"title", "first", "hint", "metrics", "charts"} of each group that has a metric; of a metric {"name", "better", "meaning"},
    the last where no chart shows it."""
    latest, charts, found = latest_metrics(run["rounds"]), metric_charts(run), []
    for group in GROUPS:
        title, first, hint, reading, _ = group
        there = {name: metric["better"] for name, metric in latest.items() if _group_of(name) is group}
        if there:
            rows = [
                {"name": name, "better": better, "meaning": "" if name in charts else meaning(name)}
                for name, better in there.items()
            ]
            drawn = [charts[name] for name in there if name in charts]
            hint += f" {reading}" if drawn and reading else ""
            found.append({"title": title, "first": first, "hint": hint, "metrics": rows, "charts": drawn})
    return found


def _group_of(name: str) -> tuple[str, str, str, str, tuple[str, ...]]:
    return next((group for group in GROUPS[1:] if name.startswith(group[-1])), GROUPS[0])


def latest_metrics(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Each metric as the last round that has it gives it."""
    return {name: metric for row in rounds for name, metric in row["metrics"].items()}


def share_names(run: Mapping[str, Any]) -> set[str]:
    """The metrics shown in per cent: those that are shares in every round."""
    units = [(name, metric["unit"]) for row in run["rounds"] for name, metric in row["metrics"].items()]
    return {name for name, _ in units} - {name for name, unit in units if unit not in SHARES}


def figure(metric: Mapping[str, Any], share: bool) -> tuple[str, str]:
    """(value, interval); no interval for a figure of the set as it stands, and no decimals for a count."""
    value, low, high = metric["value"], metric["low"], metric["high"]
    if value is not None and low == value == high:
        return f"{value:,.0f}" if metric["unit"] == "count" else number(value, share), ""
    return number(value, share), interval(metric, share)


def interval(metric: Mapping[str, Any], share: bool) -> str:
    """[low, high], in the unit of the value before it."""
    low, high = (number(metric[side], share).removesuffix(" %") for side in ("low", "high"))
    return f"[{low if metric['low'] is not None else '−∞'}, {high}]"


def metric_points(run: Mapping[str, Any], name: str) -> list[Point]:
    found = [(row["round"], row["metrics"].get(name)) for row in run["rounds"]]
    return [
        Point(round, metric["value"], metric["low"], metric["high"], 0 < round == run["best_round"])
        for round, metric in found
        if metric is not None and metric["value"] is not None
    ]


def rule_names(rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rule that dropped most first."""
    total = Counter[str]()
    for row in rounds:
        total.update(row["dropped"])
    return sorted(total, key=lambda rule: (-total[rule], rule))


def yield_rows(rounds: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, list[tuple[int, str]]]]:
    """(what became of the candidates, why, (count, share of the round's candidates) by round)."""
    whole = [row["candidates"] for row in rounds]
    counts = [("kept", "", [row["kept"] for row in rounds])]
    counts += [(words(rule), why(rule), [row["dropped"].get(rule, 0) for row in rounds]) for rule in rule_names(rounds)]
    if given := [row.get("given", {"candidates": 0, "kept": 0}) for row in rounds if any("given" in each for each in rounds)]:
        given_why = "with a prompt of the user's own file, instead of one that the model wrote"
        keys = (("given", "candidates"), ("given, kept", "kept"))
        counts += [(name, given_why, [each[key] for each in given]) for name, key in keys]
    parts = [(name, text, [(n, f"{100 * n / of:.0f} %") for n, of in zip(row, whole, strict=True)]) for name, text, row in counts]
    return [("all", "", [(count, "") for count in whole]), *parts]


def legend(rounds: Sequence[Mapping[str, Any]]) -> list[tuple[int, str]]:
    """The colours of the bars, each with the rules that have it."""
    named: dict[int, list[str]] = {KEPT: []}
    for rule in rule_names(rounds):
        named.setdefault(colour(rule), []).append(words(rule))
    return [(each, f"{FAMILIES[each]}: {', '.join(rules)}" if rules else FAMILIES[each]) for each, rules in sorted(named.items())]


def fates(row: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """What became of a round's candidates, (name, count, colour), in one order in every run."""
    dropped = sorted((colour(rule), words(rule), count) for rule, count in row["dropped"].items())
    return [("kept", int(row["kept"]), KEPT), *((name, count, shade) for shade, name, count in dropped)]


def cost_rows(rounds: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str], str]]:
    """(what, by round, in all): seconds by stage, and tokens."""
    stages = dict.fromkeys(stage for row in rounds for stage in row["seconds"])
    found = []
    for stage in stages:
        seconds = [row["seconds"].get(stage, 0.0) for row in rounds]
        found.append((f"{words(stage)}, s", [f"{each:,.1f}" if each else "–" for each in seconds], f"{sum(seconds):,.1f}"))
    seconds = [sum(row["seconds"].values()) for row in rounds]
    found.append(("all seconds", [f"{each:,.1f}" for each in seconds], f"{sum(seconds):,.1f}"))
    for kind, title in (("prompt", "tokens read"), ("generated", "tokens generated"), ("trained", "tokens trained on")):
        tokens = [row["tokens"][kind] for row in rounds]
        found.append((title, [f"{each:,}" if each else "–" for each in tokens], f"{sum(tokens):,}"))
    return found


def _asset(name: str) -> str:
    return files("selfalign.report").joinpath(name).read_text("utf-8")


def _source(text: str) -> str:
    """A source expression of a content security policy that allows exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
