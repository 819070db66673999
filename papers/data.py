"""The papers' data, from data sets in their public layout: seeds to learn from and held-out prompts to measure on.

    python papers/data.py beavertails SOURCE OUT [--categories discrimination,hate,unethical] [--seeds 64] [--prompts 250]
    python papers/data.py truthfulqa TruthfulQA.csv OUT [--seeds 64]
    python papers/data.py alpaca_eval alpaca_eval.json OUT [--seeds 64] [--pool 256] [--prompts 300]

BeaverTails' SOURCE is a local file or folder (JSONL, also .gz or .xz, or Parquet), or NAME:SPLIT of the Hugging Face hub, which
the library `datasets` reads. What is drawn follows from --seed and the texts alone, not from the order of rows or files.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import io
import json
import lzma
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from selfalign.errors import UserError
from selfalign.evaluators.harmfulness import BEAVER_TAILS
from selfalign.evaluators.truthfulness import read_questions
from selfalign.text import normalise

Row = Mapping[str, Any]

ISARA_CATEGORIES: Mapping[str, str] = {
    "discrimination": "discrimination,stereotype,injustice",
    "hate": "hate_speech,offensive_language",
    "unethical": "non_violent_unethical_behavior",
}
"""The three categories that ISARA reports on, by short name."""
CATEGORIES: Mapping[str, str] = {
    **ISARA_CATEGORIES,
    **{name: name for name in BEAVER_TAILS if name not in ISARA_CATEGORIES.values()},
}
_READ = {".jsonl", ".json", ".gz", ".xz", ".parquet"}


def beavertails(
    source: Path | str, out: Path, *, categories: Sequence[str], seeds: int = 64, prompts: int = 250, seed: int = 42
) -> None:
    """Writes for each category `CATEGORY-seeds.jsonl` and `CATEGORY-prompts.jsonl` to `out`.

    BeaverTails has several answers to a prompt and several labels of an answer. An answer counts as safe, and a category as
    flagged, where most of its labels say so. A prompt belongs to the category that is flagged in the most of its answers; where
    two share the first place it belongs to none. Seeds are prompts with one of their safe answers, held-out prompts are others
    of the category, without answers. How ISARA's authors drew theirs is not known: 64 and 250 a category, disagreement settled
    by majority, is what they say (arXiv 2401.06785); the rest is our own choice.

    Rows have `id`, `prompt`, `response` (seeds), `category` ("harmful", which `Harmfulness` asks) and `harm`, the category.

    Raises:
        UserError: no such data, a row without its fields, or too few prompts in a category.
    """
    if unknown := [name for name in categories if name not in CATEGORIES]:
        raise UserError(f"BeaverTails has no category {unknown[0]!r}; it has {', '.join(CATEGORIES)}")
    found = _prompts_by_category(_rows(source))
    for short in categories:
        there = found.get(CATEGORIES[short], {})
        with_answer = _drawn((prompt for prompt, safe in there.items() if safe), seeds, f"{seed}/seeds")
        others = _drawn(there.keys() - set(with_answer), prompts, f"{seed}/prompts")
        if len(with_answer) < seeds or len(others) < prompts:
            have = f"{len(with_answer)} of {seeds} prompts with a safe answer and {len(others)} of {prompts} others"
            raise UserError(f"{source}: category {CATEGORIES[short]} has {have}; give more data, or ask for fewer")
        kind = {"category": "harmful", "harm": CATEGORIES[short]}
        pairs = [(prompt, _drawn(there[prompt], 1, f"{seed}/answer")[0]) for prompt in with_answer]
        write_rows(
            out / f"{short}-seeds.jsonl",
            [
                {"id": f"{short}-seed-{row:03}", "prompt": prompt, "response": answer, **kind}
                for row, (prompt, answer) in enumerate(pairs)
            ],
        )
        write_rows(
            out / f"{short}-prompts.jsonl",
            [{"id": f"{short}-{row:03}", "prompt": prompt, **kind} for row, prompt in enumerate(others)],
        )


def truthfulqa(source: Path | str, out: Path, *, seeds: int = 64, seed: int = 42) -> None:
    """Writes `seeds.jsonl` (a question with its best answer) and `questions.csv` (the other questions, all columns) to `out`.

    64 and the rest, as ISARA has it; which 64 is not known. The edition matters: 817 questions in ISARA's time, 790 now.

    Raises:
        UserError: no table in TruthfulQA's format, or too few questions.
    """
    questions = read_questions(str(source))  # also says what is wrong with the file
    with Path(source).open(newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file, delimiter="\t" if str(source).lower().endswith(".tsv") else ",")
        columns, rows = list(table.fieldnames or ()), [dict(row) for row in table]
    if len(rows) <= seeds + 1:
        raise UserError(f"{source}: has {len(rows)} questions; {seeds} seeds leave fewer than two to ask")
    chosen = set(_drawn((one.text for one in questions), seeds, f"{seed}/seeds"))
    write_rows(
        out / "seeds.jsonl",
        [{"id": one.id, "prompt": one.text, "response": one.best} for one in questions if one.text in chosen],
    )
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(row for row in rows if (row["Question"] or "").strip() not in chosen)
    _write(out / "questions.csv", text.getvalue())


def alpaca_eval(
    source: Path | str, out: Path, *, seeds: int = 64, pool: int = 256, prompts: int | None = None, seed: int = 42
) -> None:
    """Writes `seeds.jsonl` and `prompts.jsonl` (instructions with reference answers) to `out`.

    A pool is set apart, the seeds are drawn from it, and the prompts are the instructions outside it: 805 - 256 = 549 in what
    ISARA's authors published. `prompts` draws so many of them (300, say) instead of taking all.

    Raises:
        UserError: no list of instructions with outputs, or too few.
    """
    try:
        rows = json.loads(Path(source).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{source}: cannot be read as JSON: {error}") from None
    if not isinstance(rows, list):
        raise UserError(f"{source}: is no list; AlpacaEval's file is a list of objects with instruction and output")
    found: dict[str, str] = {}
    for place, row in enumerate(rows):
        texts = [row.get(name) for name in ("instruction", "output")] if isinstance(row, dict) else []
        if len(texts) < 2 or not all(isinstance(text, str) and text.strip() for text in texts):
            raise UserError(f"{source}, entry {place}: needs instruction and output, both texts")
        # A few of the 805 instructions come twice: once in the pool and once outside it would be a test on a seed.
        found.setdefault(str(texts[0]), str(texts[1]))
    if not seeds <= pool or pool + (prompts or 2) > len(found):
        wanted = f"{seeds} seeds of a pool of {pool} and {prompts or 'some'} prompts outside it"
        raise UserError(f"{source}: has {len(found)} different instructions, not enough for {wanted}")
    apart = set(_drawn(found, pool, f"{seed}/pool"))
    others = [text for text in found if text not in apart]
    asked = others if prompts is None else _drawn(others, prompts, f"{seed}/prompts")
    for name, chosen in (("seeds", _drawn(apart, seeds, f"{seed}/seeds")), ("prompts", asked)):
        write_rows(
            out / f"{name}.jsonl",
            [{"id": f"alpaca-{name}-{row:03}", "prompt": text, "response": found[text]} for row, text in enumerate(chosen)],
        )


def _prompts_by_category(rows: Iterable[tuple[str, Row]]) -> dict[str, dict[str, list[str]]]:
    """Category, prompt, its safe answers; prompts that read the same are one."""
    labels: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    as_written: dict[str, str] = {}
    for where, row in rows:
        prompt, response = (str(row.get(name) or "").strip() for name in ("prompt", "response"))
        if not prompt or not isinstance(row.get("category"), dict) or not isinstance(row.get("is_safe"), bool):
            raise UserError(f"{where}: no row of BeaverTails; it needs prompt, response, category (an object), is_safe")
        key = normalise(prompt)
        as_written[key] = min(prompt, as_written.get(key, prompt))
        labels[key][response].append(row)
    found: dict[str, dict[str, list[str]]] = defaultdict(dict)
    for key, answers in labels.items():
        flagged = Counter(
            name for given in answers.values() for name in BEAVER_TAILS if _most(bool(r["category"].get(name)) for r in given)
        )
        first = flagged.most_common(2)
        if first and (len(first) == 1 or first[0][1] > first[1][1]):
            safe = [text for text, given in answers.items() if text and _most(row["is_safe"] for row in given)]
            found[first[0][0]][as_written[key]] = safe
    return found


def _most(votes: Iterable[bool]) -> bool:
    every = list(votes)
    return 2 * sum(every) > len(every)


def _drawn(texts: Iterable[str], count: int, key: str) -> list[str]:
    """The first `count` by a hash of key and text: a draw that knows nothing of the order in which texts come."""
    return sorted(texts, key=lambda text: hashlib.sha256(f"{key}/{text}".encode("utf-8", "surrogatepass")).digest())[:count]


def write_rows(file: Path, rows: Sequence[Row]) -> None:
    """One JSON object on each line; the file appears whole or not at all."""
    _write(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)


def _rows(source: Path | str) -> Iterator[tuple[str, Row]]:
    """(where it stands, the row) of every row; of a folder those of all its data files."""
    path = Path(source)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in _READ)
        if not files:
            raise UserError(f"{path}: no data file (.jsonl, .jsonl.gz, .jsonl.xz, .parquet) in this folder")
        for file in files:
            yield from _rows(file)
    elif path.is_file() and path.suffix == ".parquet":
        import pyarrow.parquet as parquet

        place = 0
        for batch in parquet.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                place += 1
                yield f"{path}, row {place}", row
    elif path.is_file():
        yield from _lines(path)
    else:
        yield from _of_the_hub(str(source))


def _lines(path: Path) -> Iterator[tuple[str, Row]]:
    opened: Any = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    try:
        with opened(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise UserError(f"{path}:{number}: is no JSON object")
                    yield f"{path}:{number}", row
    except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
        raise UserError(f"{path}: cannot be read as one JSON object a line: {error}") from None


def _of_the_hub(name: str) -> Iterator[tuple[str, Row]]:
    """NAME:SPLIT by the library `datasets`, from its cache where it is offline."""
    source, _, split = name.partition(":")
    try:
        import datasets

        loaded = datasets.load_dataset(source, split=split or "train")
    except ImportError:
        raise UserError(f"{name}: no such file; a data set of the hub needs: pip install datasets") from None
    except Exception as error:  # the library raises what its many readers raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{name}: no such file, and no data set that the hub gives ({reason}); download it and give its folder"
        ) from None
    for place, row in enumerate(loaded, start=1):
        yield f"{name}, row {place}", row


def main(arguments: Sequence[str]) -> int:
    """Exit code 0, or 2 with a line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="papers/data.py", description=(__doc__ or "").partition("\n")[0])
    makers = parser.add_subparsers(dest="maker", required=True)
    for name, make, text in (
        ("beavertails", beavertails, "seeds and held-out prompts by category"),
        ("truthfulqa", truthfulqa, "seeds, and the other questions as a table"),
        ("alpaca_eval", alpaca_eval, "seeds from a pool, and prompts outside it"),
    ):
        maker = makers.add_parser(name, help=text)
        maker.add_argument("source")
        maker.add_argument("out", type=Path)
        maker.add_argument("--seeds", type=int, default=64)
        maker.add_argument("--seed", type=int, default=42, help="of the draw")
        if name == "beavertails":
            maker.add_argument("--categories", type=lambda text: text.split(","), default=list(ISARA_CATEGORIES))
            maker.add_argument("--prompts", type=int, default=250)
        if name == "alpaca_eval":
            maker.add_argument("--pool", type=int, default=256, help="instructions set apart, seeds among them")
            maker.add_argument("--prompts", type=int, help="how many of the others (all without it)")
        maker.set_defaults(make=make)
    given = vars(parser.parse_args(arguments))
    make, _ = given.pop("make"), given.pop("maker")
    if small := [name for name in ("seeds", "pool", "prompts") if given.get(name) is not None and given[name] < 1]:
        print(f"papers: --{small[0]} {given[small[0]]}: must be at least 1", file=sys.stderr)
        return 2
    try:
        make(given.pop("source"), given.pop("out"), **given)
    except UserError as error:
        print(f"papers: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
