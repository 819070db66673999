"""How far rules that read no meaning get on tests of refusal, as a table for RESULTS.md.

    python benchmarks/shortcuts.py SEEDS.jsonl TEST.jsonl [TEST.jsonl …] [--encoder]

Every rule is fitted on the seeds alone (`selfalign.proof.shortcuts`); with --encoder also the nearest seed by the default one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from selfalign.encoders import SentenceEncoder
from selfalign.encoders.checked import opened
from selfalign.evaluators import Refusal
from selfalign.proof.shortcuts import audit, given_away, warning
from selfalign.protocols import Encode
from selfalign.seeds.read import read_seeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", type=Path)
    parser.add_argument("tests", type=Path, nargs="+")
    parser.add_argument("--encoder", action="store_true")
    options = parser.parse_args()
    if options.encoder:
        with opened(SentenceEncoder(), None) as encode:  # type: ignore[arg-type]  # it asks no model
            table(options.seeds, options.tests, encode)
    else:
        table(options.seeds, options.tests, None)


def table(seeds: Path, tests: list[Path], encode: Encode | None) -> None:
    ours = Refusal().sides(read_seeds(str(seeds)))
    print(f"seeds: {given_away(ours) or 'no rule of form tells them apart'}\n")
    print("| test | rule | refusal | over-refusal | J | AUC |\n|---|---|---|---|---|---|")
    said = []
    for path in tests:
        theirs = Refusal().sides(read_seeds(str(path), response_required=False))
        rows = audit(ours, theirs, encode)
        for row in rows:
            name = f"{row['name']}, {row['rule']}" if row["rule"] else row["name"]
            refusal, over, j, low, high = (100 * row[key] for key in ("refusal", "over_refusal", "balance", "low", "high"))
            interval = f"{j:.0f} [{low:.0f}, {high:.0f}]"
            print(f"| {path.stem} | {name} | {refusal:.0f} % | {over:.0f} % | {interval} | {row['auc']:.2f} |")
        said.append(f"{path.stem}: {warning(rows) or 'no rule wins'}")
    print("", *said, sep="\n")


if __name__ == "__main__":
    main()
