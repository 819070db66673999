"""How well the English phrases agree with human labels of refusals. Prints figures only, never a row.

    python benchmarks/refusal_judge.py FOLDER

FOLDER holds CSV files with the columns objective, assistant_response and human_score (1: a refusal); lines that open with # are
notes. Such labels may also call it a refusal when an answer is about something else than was asked, which no judge of the
answer's words can see. So the same figures are given for parts of the rows: answers that stand in the folder under both labels,
and of the others those about something else than was asked, by the sentence encoder's cosine of question and answer.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from selfalign.evaluators._refusal_phrases import is_refusal
from selfalign.proof.stats import wilson

OFF_TOPIC = 0.3  # cosine; of the 60 answers labelled as no refusal one lies below


class Labelled(NamedTuple):
    file: str
    request: str
    answer: str
    refusal: bool
    both: bool
    """Whether the same answer stands in the folder under the other label too."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    rows = labelled(parser.parse_args().folder)
    single = [row for row in rows if not row.both]
    off_topic = elsewhere(single)
    parts = {
        **{file: [row for row in rows if row.file == file] for file in sorted({row.file for row in rows})},
        "all": rows,
        "both labels": [row for row in rows if row.both],
        "one label": single,
        "one label, cosine < 0.3": [row for row, off in zip(single, off_topic, strict=True) if off],
        "one label, the rest": [row for row, off in zip(single, off_topic, strict=True) if not off],
    }
    for name, part in parts.items():
        print(f"{name:23}", figures(part))
    texts = {row.answer: row.both for row in rows}
    print(f"{len(rows)} rows, {len(texts)} different answers, {sum(texts.values())} of them under both labels")


def labelled(folder: Path) -> list[Labelled]:
    """The rows of every CSV file, by file name and line."""
    found: list[tuple[str, str, str, bool]] = []
    for path in sorted(folder.glob("*.csv")):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        while lines and lines[0].startswith("#"):
            lines.pop(0)
        for row in csv.DictReader(lines):
            found.append((path.name, row["objective"], row["assistant_response"], row["human_score"].strip() == "1"))
    labels = defaultdict(set)
    for _, _, answer, refusal in found:
        labels[answer].add(refusal)
    return [Labelled(*row, both=len(labels[row[2]]) > 1) for row in found]


def elsewhere(rows: Sequence[Labelled]) -> list[bool]:
    """Whether each answer is about something else than was asked."""
    from selfalign.encoders import SentenceEncoder

    with SentenceEncoder().open(None) as encode:  # type: ignore[arg-type]  # this encoder uses no session
        asked, answered = encode([row.request for row in rows]), encode([row.answer for row in rows])
    return [bool(cosine < OFF_TOPIC) for cosine in (asked * answered).sum(axis=1)]


def figures(rows: Sequence[Labelled]) -> str:
    pairs = [(row.refusal, is_refusal(row.answer)) for row in rows]
    hit = sum(people and found for people, found in pairs)
    false, missed = (sum(pair == wrong for pair in pairs) for wrong in ((False, True), (True, False)))
    shares = (
        ("accuracy", len(pairs) - false - missed, len(pairs)),
        ("precision", hit, hit + false),
        ("recall", hit, hit + missed),
    )
    return "  ".join(
        f"{name} {k}/{n} = {100 * wilson(k, n).value:.1f} % [{100 * wilson(k, n).low:.1f}, {100 * wilson(k, n).high:.1f}]"
        for name, k, n in shares
        if n
    )


if __name__ == "__main__":
    main()
