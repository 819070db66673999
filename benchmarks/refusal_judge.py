"""How well `is_refusal` agrees with human labels. Prints figures only, never a row.

    python benchmarks/refusal_judge.py FOLDER

FOLDER holds CSV files with the columns objective, assistant_response and human_score (1: a refusal); lines that open with # are
notes. Such labels may also call it a refusal when an answer is about something else than was asked, which no rule over the
answer's words can see: the last column counts those among the missed, by the sentence encoder's cosine of question and answer.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from selfalign.encoders.sentence import SentenceEncoder
from selfalign.evaluators.refusal import is_refusal
from selfalign.stats import wilson

OFF_TOPIC = 0.3  # cosine; of the 60 answers labelled as no refusal one lies below


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    everything: list[tuple[bool, bool, bool]] = []
    for path in sorted(parser.parse_args().folder.glob("*.csv")):
        rows = judged(path)
        everything += rows
        print(f"{path.name:20}", figures(rows))
    print(f"{'all':20}", figures(everything))


def judged(path: Path) -> list[tuple[bool, bool, bool]]:
    """(what a person said, what the rules say, whether the answer is about something else) of each row."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    while lines and lines[0].startswith("#"):
        lines.pop(0)
    rows = list(csv.DictReader(lines))
    with SentenceEncoder().open(None) as encode:  # type: ignore[arg-type]  # this encoder uses no session
        asked, answered = (encode([row[name] for row in rows]) for name in ("objective", "assistant_response"))
    return [
        (row["human_score"].strip() == "1", is_refusal(row["assistant_response"]), bool(cosine < OFF_TOPIC))
        for row, cosine in zip(rows, (asked * answered).sum(axis=1), strict=True)
    ]


def figures(rows: list[tuple[bool, bool, bool]]) -> str:
    pairs = [(human, rule) for human, rule, _ in rows]
    hit = sum(human and rule for human, rule in pairs)
    elsewhere = sum(human and not rule and off_topic for human, rule, off_topic in rows)
    false, missed = (sum(pair == wrong for pair in pairs) for wrong in ((False, True), (True, False)))
    shares = (
        ("accuracy", len(pairs) - false - missed, len(pairs)),
        ("precision", hit, hit + false),
        ("recall", hit, hit + missed),
    )
    text = (f"{name} {k}/{n} = {100 * wilson(k, n).value:.1f} % [{100 * wilson(k, n).low:.1f}, {100 * wilson(k, n).high:.1f}]"
            for name, k, n in shares if n)  # fmt: skip
    return "  ".join((*text, f"missed {missed}, of them off topic {elsewhere}"))


if __name__ == "__main__":
    main()
