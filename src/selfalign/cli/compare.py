"""`selfalign compare DIR DIR`: how two runs differ: options, seeds and results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfalign.cli.check import print_json
from selfalign.cli.eval import paired
from selfalign.cli.eval_sides import Side, check_alike
from selfalign.cli.list import is_study, run_row
from selfalign.cli.options import new_parser, parse
from selfalign.errors import UserError
from selfalign.recipes import pretrained
from selfalign.record.finished import Finished, read_run
from selfalign.record.plain import CONTENTS, flat, metric_table, portable
from selfalign.record.store import Store
from selfalign.text import counted
from selfalign.types import Example


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
    found = compared(folders, options.metric)
    if options.json:
        print_json(found)
        return 0
    from selfalign.cli.compare_table import print_comparison

    print_comparison(found)
    return 0


def compared(folders: Sequence[Path], metric: str | None = None) -> dict[str, Any]:
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
    return {
        "runs": runs,
        "options": _options(*identities),
        "seeds": _seeds(*seeds),
        "comparison": comparison,
        "not_compared": why,
    }


def _options(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What differs of all that a run is made of, by name, as it may be passed on. What is not set there is None."""
    before, after = (dict(flat(portable(dict(each)))) for each in (first, second))
    rows = []
    for name in dict.fromkeys((*before, *after)):
        if (values := [before.get(name), after.get(name)])[0] != values[1]:
            rows.append({"name": name, "values": values, **({"text": "another content"} if name in CONTENTS else {})})
    return rows


def _seeds(
    first: tuple[Sequence[Example], Sequence[Example]], second: tuple[Sequence[Example], Sequence[Example]]
) -> dict[str, Any]:
    """By prompt: how many seeds both runs have, with the same response or another, and the ids of those that one has alone."""
    before, after = ({seed.full_prompt: seed for seed in (*side[0], *side[1])} for side in (first, second))
    both = [prompt for prompt in before if prompt in after]
    return {
        "shown": [len(first[0]), len(second[0])],
        "validation": [len(first[1]), len(second[1])],
        "in_both": len(both),
        "other_responses": [before[prompt].id for prompt in both if before[prompt].response != after[prompt].response],
        "only_in": [
            [seed.id for prompt, seed in one.items() if prompt not in other] for one, other in ((before, after), (after, before))
        ],
    }


def _comparison(
    folders: Sequence[Path], runs: Sequence[Mapping[str, Any]], metric: str | None
) -> tuple[dict[str, Any] | None, str]:
    waiting = [row for row in runs if row["state"] != "done"]
    if waiting:
        return None, f"{waiting[0]['folder']} is not done: {waiting[0]['state']}"
    finished: list[Finished] = [read_run(folder, ".", 0, ()) for folder in folders]
    if bare := [row["folder"] for row, run in zip(runs, finished, strict=True) if not run.metrics]:
        return None, f"nothing was measured prompt by prompt in {' and '.join(bare)}; give --held_out to a run"
    try:
        check_alike([Side(str(folder), folder=folder) for folder in folders], pretrained(), ())
    except UserError as error:
        return None, str(error)
    # The newer one first: what is compared is it minus the older one.
    named = {str(folder): replace(run, seed=0) for folder, run in zip(folders, finished, strict=True)}
    return paired(dict(reversed(named.items())), metric, ()), ""


def facts(found: Mapping[str, Any]) -> list[str]:
    """The seeds' part in sentences."""
    seeds, (first, second) = found["seeds"], (row["folder"] for row in found["runs"])
    lines = [
        f"seeds: {counted(seeds['in_both'], 'prompt')} in both, {len(seeds['other_responses'])} of them with another response"
    ]
    for name, ids, shown, held in zip((first, second), seeds["only_in"], seeds["shown"], seeds["validation"], strict=True):
        alone = f"; {len(ids)} only here ({', '.join(ids[:5])}{' …' if len(ids) > 5 else ''})" if ids else ""
        lines.append(f"  {name}: {shown} shown and trained on, {held} for validation{alone}")
    return lines
