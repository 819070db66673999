"""`selfalign preview RECIPE SEEDS --model M`: a few candidates with their verdicts, and whether context teaches the model."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from selfalign.cli.check import tried
from selfalign.cli.run import read
from selfalign.cli.table import by_metric, compared, figure, named, print_json, stdout_console, tell, wide_table
from selfalign.errors import Interrupted
from selfalign.text import counted, printable
from selfalign.types import SHARES


def main(arguments: Sequence[str]) -> int:
    from selfalign.loop.preview import preview

    if (asked := read(arguments, "preview")) is None:
        return 0
    try:
        found = tried(asked, preview, "preview")
    except Interrupted as stop:
        sys.stderr.write("selfalign: interrupted; a preview keeps nothing\n")
        return 128 + stop.signal_number
    if asked.options.json:
        print_json(found)
        return 0
    sys.stdout.write(printable("".join(f"{line}\n" for line in _samples(found))))
    console = stdout_console()
    tell(console, _title(found))
    console.print(_table(found))
    tell(console, *(f"warning: {each}" for each in found["warnings"]), found["costs"]["text"], found["sentence"])
    return 0


def _samples(found: Mapping[str, Any]) -> Iterator[str]:
    if not found["samples"]:
        yield f"samples: none, recipe {found['recipe']} generates nothing"
        return
    for sample in found["samples"]:
        kept = ", ".join(filter(None, ("kept", sample["use"])))
        verdict = kept if sample["rule"] is None else f"dropped by {sample['rule']}: {sample['evidence']}"
        yield f"{sample['id']}{' (' + sample['category'] + ')' if sample['category'] else ''}: {verdict}"
        for prompt, response in sample["history"]:
            yield from _indented("said before", f"{prompt}\n→ {response}")
        yield from _indented("prompt", sample["prompt"])
        yield from _indented("answer", sample["response"] or "(none)")
        if sample["scores"]:
            yield f"  scores: {', '.join(f'{name} {value:.3g}' for name, value in sample['scores'].items())}"
        for name in ("prompt", "response"):
            if ids := [_near(each) for each in sample[f"{name}_demonstrations"]]:
                yield f"  shown for the {'answer' if name == 'response' else name}: {', '.join(ids)}"
        yield ""


def _near(demonstration: Mapping[str, Any]) -> str:
    near = demonstration["similarity"]
    return f"{demonstration['id']}" + ("" if near is None else f" {near:.2f}")


def _indented(name: str, text: str) -> Iterator[str]:
    first, *others = text.split("\n")
    yield f"  {name}: {first}"
    yield from (f"    {line}" for line in others)


def _title(found: Mapping[str, Any]) -> str:
    from selfalign.loop.preview import WAYS

    by = WAYS[found["decided_by"]["shown"]]
    prompts = f"{counted(found['prompts'], 'seed')} as prompts, shown up to {found['demonstrations']} others"
    return f"{prompts}; difference: {by} minus without, prompt by prompt"


def _table(found: Mapping[str, Any]) -> Table:
    from selfalign.loop.preview import WAYS

    ways = found["metrics"]
    table = wide_table("", "metric", "n", *(WAYS[way] for way in ways), "difference", "flips")
    for name, row in by_metric(ways.values()):
        about = next(each for each in row if each)
        table.add_row(named(name), str(about["n"]), *map(figure, row), *_difference(found, name, about["unit"]))
    for kind, means in found["by_category"].items():
        for name, row in by_metric(means.values()):
            scale, form = (100, "{:.0f}%") if name == "expected" else (1, "{:.2f}")
            cells = ["–" if mean is None else form.format(scale * mean) for mean in row]
            table.add_row(named(f"{name}, {kind}"), "", *cells, "", "")
    return table


def _difference(found: Mapping[str, Any], name: str, unit: str) -> tuple[str, str]:
    row = found["differences"].get(name)
    if row is None:
        return "–", "–"
    flips = "" if row["flipped"] is None else f"{row['flipped'] / row['prompts']:.0%}"
    return compared({**row, "minimum_detectable": None}, unit in SHARES, None)[0], flips
