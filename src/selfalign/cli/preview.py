"""`selfalign preview RECIPE SEEDS --model M`: a few candidates with their verdicts, and whether context teaches the model."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.table import Table

from selfalign.cli.check import print_json
from selfalign.cli.run import read
from selfalign.cli.table import compared, figure, shown, stdout_console, wide_table
from selfalign.errors import Interrupted
from selfalign.text import counted, printable
from selfalign.types import SHARES


def main(arguments: Sequence[str]) -> int:
    from selfalign.errors import handle_signals
    from selfalign.loop.preview import preview
    from selfalign.loop.progress import Quiet, on_screen

    if (asked := read(arguments, "preview")) is None:
        return 0
    options = asked.options
    try:
        with (
            handle_signals(),
            TemporaryDirectory(prefix="selfalign-preview-") as folder,
            nullcontext(Quiet()) if options.quiet else on_screen() as progress,
        ):
            found = preview(asked.recipe, options.model, asked.seeds, asked.held_out, Path(folder), progress)
    except Interrupted as stop:
        sys.stderr.write("selfalign: interrupted; a preview keeps nothing\n")
        return 128 + stop.signal_number
    if options.json:
        print_json(found)
        return 0
    sys.stdout.write(printable("".join(f"{line}\n" for line in _samples(found))))
    console = stdout_console()
    console.print(shown(_title(found)), soft_wrap=True)
    console.print(_table(found))
    for text in filter(None, (*(f"warning: {each}" for each in found["warnings"]), found["costs"]["text"], found["sentence"])):
        console.print(shown(text), soft_wrap=True)
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
    for name in dict.fromkeys(name for metrics in ways.values() for name in metrics):
        row = [metrics.get(name) for metrics in ways.values()]
        about = next(each for each in row if each)
        table.add_row(shown(name.replace("_", " ")), str(about["n"]), *map(figure, row), *_difference(found, name, about["unit"]))
    for kind, means in found["by_category"].items():
        for name in dict.fromkeys(name for metrics in means.values() for name in metrics):
            scale, form = (100, "{:.0f}%") if name == "expected" else (1, "{:.2f}")
            cells = [form.format(scale * metrics[name]) if name in metrics else "–" for metrics in means.values()]
            table.add_row(shown(f"{name.replace('_', ' ')}, {kind}"), "", *cells, "", "")
    return table


def _difference(found: Mapping[str, Any], name: str, unit: str) -> tuple[str, str]:
    row = found["differences"].get(name)
    if row is None:
        return "–", "–"
    flips = "" if row["flipped"] is None else f"{row['flipped'] / row['prompts']:.0%}"
    return compared({**row, "minimum_detectable": None}, unit in SHARES, None)[0], flips
