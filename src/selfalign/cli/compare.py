"""`selfalign compare DIR DIR`: how two runs differ: options, seeds and results."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfalign.cli.eval import paired
from selfalign.cli.eval_sides import Side, check_alike
from selfalign.cli.eval_table import print_differences
from selfalign.cli.list import is_study, run_row
from selfalign.cli.options import new_parser, parse
from selfalign.cli.table import by_metric, figure, named, print_json, shown, stdout_console, tell, wide_table
from selfalign.errors import UserError
from selfalign.recipes import pretrained
from selfalign.record.finished import Finished, read_run
from selfalign.record.plain import CONTENTS, flat, metric_table, portable
from selfalign.record.store import Store
from selfalign.text import counted
from selfalign.types import Example

LONGEST = 60
"""Characters of an option's value that the table has room for; --json has all of them."""


def main(arguments: Sequence[str]) -> int:
    parser = new_parser("compare", "In what two runs differ: options, seeds, metrics of their best rounds, prompt by prompt.")
    parser.usage = "selfalign compare DIR DIR [--metric NAME] [--json]"
    for name in ("first", "second"):
        parser.add_argument(name, type=str, help="the folder of a run or an evaluation")
    parser.add_argument("--metric", type=str, help="metric of the verdict; by default as `selfalign eval` chooses")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parse(parser, arguments)
    folders = [Path(options.first), Path(options.second)]
    for folder in folders:
        if is_study(folder):
            raise UserError(f"{folder} is a study, and its report compares its arms; name two of them, as {folder}/sft/seed-0")
    if folders[0].resolve() == folders[1].resolve():
        raise UserError(f"{folders[1]}: that is the same run; name another one")
    found = _compared(folders, options.metric)
    if options.json:
        print_json(found)
    else:
        _print(found)
    return 0


def _compared(folders: Sequence[Path], metric: str | None) -> dict[str, Any]:
    """{"runs": [a row of `selfalign list` with "metrics", …], "options": [{"name", "values": [first, second]}], "seeds": {…},
    "comparison": as `selfalign eval --compare` has it, "not_compared": why there is none}.

    The comparison is the second run minus the first one.

    Raises:
        UserError: no runs, or no such metric.
    """
    identities, seeds, runs = [], [], []
    for folder in folders:
        with Store.read(folder) as store:
            identities.append(store.identity())
            seeds.append((store.seeds(), store.validation_seeds()))
            best = store.state().get("best_round")
            runs.append({**run_row(folder), "metrics": {} if best is None else metric_table(store.metrics(best))})
    comparison, why = _comparison(folders, runs, metric)
    about = {"runs": runs, "options": _options(*identities), "seeds": _seeds(*seeds)}
    return {**about, "comparison": comparison, "not_compared": why}


def _options(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What differs of all that a run is made of, by name, as it may be passed on. What is not set there is None."""
    before, after = (dict(flat(portable(dict(each)))) for each in (first, second))
    rows = []
    for name in dict.fromkeys((*before, *after)):
        if (values := [before.get(name), after.get(name)])[0] != values[1]:
            rows.append({"name": name, "values": values, **({"text": "another content"} if name in CONTENTS else {})})
    return rows


def _seeds(*sides: tuple[Sequence[Example], Sequence[Example]]) -> dict[str, Any]:
    """By prompt: how many seeds both runs have, with the same response or another, and the ids of those that one has alone."""
    before, after = ({seed.full_prompt: seed for seed in (*shown, *held)} for shown, held in sides)
    both = [prompt for prompt in before if prompt in after]
    pairs = ((before, after), (after, before))
    return {
        "shown": [len(shown) for shown, _ in sides],
        "validation": [len(held) for _, held in sides],
        "in_both": len(both),
        "other_responses": [before[prompt].id for prompt in both if before[prompt].response != after[prompt].response],
        "only_in": [[seed.id for prompt, seed in one.items() if prompt not in other] for one, other in pairs],
    }


def _comparison(
    folders: Sequence[Path], runs: Sequence[Mapping[str, Any]], metric: str | None
) -> tuple[dict[str, Any] | None, str]:
    if waiting := [row for row in runs if row["state"] != "done"]:
        return None, f"{waiting[0]['folder']} is not done: {waiting[0]['state']}"
    finished: list[Finished] = [read_run(folder, ".", 0, ()) for folder in folders]
    if bare := [row["folder"] for row, run in zip(runs, finished, strict=True) if not run.metrics]:
        return None, f"nothing was measured prompt by prompt in {' and '.join(bare)}; give --held_out to a run"
    try:
        check_alike([Side(str(folder), folder=folder) for folder in folders], pretrained(), ())
    except UserError as error:
        return None, str(error)
    # The newer one first: what is compared is it minus the older one.
    runs_by_name = {str(folder): replace(run, seed=0) for folder, run in zip(folders, finished, strict=True)}
    return paired(dict(reversed(runs_by_name.items())), metric, ()), ""


def _print(found: Mapping[str, Any]) -> None:
    console, runs = stdout_console(), found["runs"]
    for name, row in zip(("first", "second"), runs, strict=True):
        best = "" if row["best_round"] is None else f", best round {row['best_round']} of {row['rounds']}"
        tell(console, f"{name}: {row['folder']} ({row['recipe']}, {row['model']}, {row['state']}{best})")
    options = wide_table("options that differ", "option", "first", "second")
    for row in found["options"]:
        options.add_row(shown(row["name"]), *(shown(_short(row.get("text") or value)) for value in row["values"]))
    console.print(options if found["options"] else shown("options: none differ"))
    tell(console, *_seed_lines(found))
    table = wide_table("metrics of the best rounds, with 95 % intervals", "metric", "first", "second")
    for name, metrics in by_metric(row["metrics"] for row in runs):
        table.add_row(named(name), *map(figure, metrics))
    console.print(table)
    if (comparison := found["comparison"]) is None:
        tell(console, f"not compared prompt by prompt: {found['not_compared']}", style="yellow")
        return
    print_differences(console, comparison, "second minus first")
    tell(console, comparison["sentence"])


def _seed_lines(found: Mapping[str, Any]) -> Iterator[str]:
    seeds, names = found["seeds"], [row["folder"] for row in found["runs"]]
    others = f"{len(seeds['other_responses'])} of them with another response"
    yield f"seeds: {counted(seeds['in_both'], 'prompt')} in both, {others}"
    for name, ids, used, held in zip(names, seeds["only_in"], seeds["shown"], seeds["validation"], strict=True):
        alone = f"; {len(ids)} only here ({', '.join(ids[:5])}{' …' if len(ids) > 5 else ''})" if ids else ""
        yield f"  {name}: {used} shown and trained on, {held} for validation{alone}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else "not set" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
