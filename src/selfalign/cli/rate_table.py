"""What people's ratings mean, as a person reads it: who is preferred, by whom, and how far they agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from selfalign.cli.table import shown, stdout_console, wide_table
from selfalign.proof.ratings import CHOICES
from selfalign.proof.stats import too_few
from selfalign.text import counted


def print_ratings(found: Mapping[str, Any]) -> None:
    console = stdout_console()
    for side in ("new", "base"):
        console.print(shown(f"{side}: {found['sides'][side]}"), soft_wrap=True)
    table = wide_table("preference for the new model", "category", "prompts", "preference")
    for name, figure in found["categories"].items() if len(found["categories"]) > 1 else ():
        table.add_row(shown(name or "(none)"), str(figure["n"]), _share(figure))
    table.add_row("all", str(found["preference"]["n"]), _share(found["preference"]))
    console.print(table)
    columns = ("preference", "rated", "unrated", *CHOICES, "A of A and B")
    table = wide_table("raters", "rater", *columns)
    for name, row in found["raters"].items():
        counts = (str(row[each]) for each in ("rated", "unrated", *CHOICES))
        table.add_row(shown(name), _share(row["preference"]), *counts, _share(row["chose_a"]))
    console.print(table)
    if found["metrics"]:
        table = wide_table("agreement with metrics", "metric", "n", "share")
        for name, figure in found["metrics"].items():
            table.add_row(shown(name.replace("_", " ")), str(figure["n"]), _share(figure))
        console.print(table)
    for line in _lines(found):
        console.print(shown(line), soft_wrap=True)


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    agreement = found["agreement"]
    if agreement["alpha"] is not None:
        span = f"{agreement['alpha']:.2f} [{agreement['low']:.2f}, {agreement['high']:.2f}]"
        alike = f"two ratings of a pair are the same {agreement['same']:.0%} of the time"
        yield f"agreement: Krippendorff's alpha {span} on {counted(agreement['n'], 'pair')} rated twice or more; {alike}"
        if agreement["low"] <= 0:
            yield "raters may agree no more than chance would have it: the preference says little"
    else:
        why = "fewer than two pairs have two ratings" if agreement["n"] < 2 else "only one rating was ever given"
        yield f"agreement: not known, for {why}"
    if found["both_bad"]["value"]:
        yield f"neither answer will do: {_share(found['both_bad'])} of the ratings"
    if (place := found["chose_a"]) is not None:
        drawn = "" if place["low"] <= 0.5 <= place["high"] else ": its place matters, which draws the preference towards 50 %"
        yield f"the first answer was chosen {_share(place)} of the times that one was preferred{drawn}"
    if found["identical"]:
        yield f"{counted(found['identical'], 'prompt')} that both answer alike count as ties"
    if found["unrated"]:
        yield f"{found['unrated']} of {counted(found['pairs'], 'pair')} rated by nobody, and left out"
    yield sentence(found)


def sentence(found: Mapping[str, Any]) -> str:
    """The verdict: whether the interval leaves out one half."""
    figure, (new, base) = found["preference"], (found["sides"][side] for side in ("new", "base"))
    n = f"n = {counted(figure['n'], 'prompt')} × {counted(len(found['raters']), 'rater')}"
    few = too_few(figure["n"], "prompts")
    if few or figure["low"] <= 0.5 <= figure["high"]:
        return f"cannot tell which of the two people prefer: {_share(figure)} for {new}, {n}{f'; {few}' if few else ''}"
    if figure["value"] > 0.5:
        return f"people prefer {new} to {base}: {_share(figure)}, {n}"
    turned = {"value": 1 - figure["value"], "low": 1 - figure["high"], "high": 1 - figure["low"]}
    return f"people prefer {base} to {new}: {_share(turned)}, {n}"


def _share(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return "–"
    value, low, high = (f"{100 * figure[name]:.0f}" for name in ("value", "low", "high"))
    return f"{value}% [{low}, {high}]"
