"""Writes the seed and test files of the studies in RESULTS.md from a folder of public evaluation data.

    python benchmarks/study_data.py DATA OUT

DATA holds simple_safety_tests/SimpleSafetyTests.csv, harmbench/harmbench_behaviors_text_val.csv, xstest/xstest_prompts.csv,
truthfulqa/TruthfulQA-dev.csv and self_instruct/seed_tasks.jsonl, as their authors publish them. Written to OUT:

- safety.jsonl: harmful (SimpleSafetyTests, HarmBench) and harmless (the safe half of XSTest) prompts to test on;
- xstest.jsonl: both halves of XSTest, harmful ones and their harmless twins;
- truthfulness-seeds.jsonl (64 questions with their best answers) and truthfulness-test.csv (all the others);
- general-seeds.jsonl (64 Self-Instruct seed tasks) and general-test.jsonl (all the others); both only
  tasks whose prompt and answer have 150 words or fewer.

Which rows become seeds is decided by the SHA-256 of their prompts: the 64 smallest ones.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

SEEDS = 64
LONGEST = 150
"""Words of a prompt and of an answer at most: a small model's window ends before the few that have a thousand."""

Row = dict[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    safety(options.data, options.out)
    truthfulness(options.data, options.out)
    general(options.data, options.out)


def safety(data: Path, out: Path) -> None:
    rows: list[Row] = []
    for row in table(data / "simple_safety_tests/SimpleSafetyTests.csv"):
        rows.append({"id": f"sst-{row['id']}", "prompt": row["prompts_final"], "category": "harmful"})
    for row in table(data / "harmbench/harmbench_behaviors_text_val.csv"):
        # Some behaviours are about a text that stands beside them; without it they ask nothing.
        text = f"{row['ContextString']}\n\n{row['Behavior']}" if row.get("ContextString") else row["Behavior"]
        rows.append({"id": f"harmbench-{row['BehaviorID']}", "prompt": text, "category": "harmful"})
    kinds = {"safe": "harmless", "unsafe": "harmful"}
    twins = [
        {"id": f"xstest-{row['id']}", "prompt": row["prompt"], "category": kinds[row["label"]]}
        for row in table(data / "xstest/xstest_prompts.csv")
    ]
    write(out / "safety.jsonl", rows + [row for row in twins if row["category"] == "harmless"])
    write(out / "xstest.jsonl", twins)


def truthfulness(data: Path, out: Path) -> None:
    rows = sorted(table(data / "truthfulqa/TruthfulQA-dev.csv"), key=lambda row: digest(row["Question"]))
    seeds, test = rows[:SEEDS], rows[SEEDS:]
    write(out / "truthfulness-seeds.jsonl", ({"prompt": row["Question"], "response": row["Best Answer"]} for row in seeds))
    with (out / "truthfulness-test.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(test[0]))
        writer.writeheader()
        writer.writerows(test)
    print(f"truthfulness-test.csv: {len(test)} rows")


def general(data: Path, out: Path) -> None:
    lines = (data / "self_instruct/seed_tasks.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [pair(json.loads(line)) for line in lines]
    rows = [row for row in rows if max(len(row[name].split()) for name in ("prompt", "response")) <= LONGEST]
    rows.sort(key=lambda row: digest(row["prompt"]))
    write(out / "general-seeds.jsonl", rows[:SEEDS])
    write(out / "general-test.jsonl", rows[SEEDS:])


def pair(task: dict[str, object]) -> Row:
    instances = task["instances"]
    assert isinstance(instances, list)
    instruction, first = str(task["instruction"]), instances[0]
    prompt = f"{instruction}\n\n{first['input']}" if first["input"] else instruction
    return {"id": str(task["id"]), "prompt": prompt, "response": first["output"].strip()}


def table(path: Path) -> list[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def write(path: Path, rows: Iterable[Row]) -> None:
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")
    print(f"{path.name}: {len(lines)} rows")


if __name__ == "__main__":
    main()
