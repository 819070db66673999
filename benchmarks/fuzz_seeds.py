"""Mutated seed files against the strict reader: every one must be read or refused with one clear line, and never crash it.

    python benchmarks/fuzz_seeds.py --files 20000

Each file is a valid seed file of a random format that one or two mutations were done to: to its rows (wrong types, missing
fields, duplicates …), to its text (cut quotes, NaN, deep nesting …) or to its bytes (flips, cuts, other encodings …). File i
depends on (--seed, i) alone. Exit code 1 if anything but `SeedError` escaped, or if an accepted or refused file broke a rule.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from selfalign.errors import SeedError
from selfalign.seeds.read import read_seeds

Rows = list[dict[str, Any]]
WORDS = [
    *("how", "do", "I", "bake", "rye", "bread", "on", "2024-01-02", "with", "007", "or", "1e5", "NA", "null", "true"),
    *("ünïcode", "漢字", "🙂", '"quoted"', "a,b", "tab\there", "line\nbreak"),
]


def valid_rows(rng: random.Random) -> Rows:
    names = rng.choice([("prompt", "response"), ("question", "answer"), ("instruction", "output"), ("prompt", "completion")])
    rows: Rows = []
    for index in range(rng.randint(1, 12)):
        prompt, response = (" ".join(rng.choices(WORDS, k=rng.randint(1, 12))) for _ in range(2))
        row = {names[0]: f"{index} {prompt}", names[1]: response}
        rows.append(row | {"id": f"x{index}", "category": "a.b-c", "source": "007"} if rng.random() < 0.5 else row)
    return rows if len({len(row) for row in rows}) == 1 else [dict(list(row.items())[:2]) for row in rows]


# Mutations of rows: before the file is written.


def wrong_type(rng: random.Random, rows: Rows) -> None:
    row = rng.choice(rows)
    row[rng.choice(list(row))] = rng.choice([None, 7, 1.5, True, [], ["a"], {}, {"a": [1, {"b": None}]}, float("nan"), 10**400])


def blank(rng: random.Random, rows: Rows) -> None:
    row = rng.choice(rows)
    row[rng.choice(list(row))] = rng.choice(["", " ", "\t\n", "\u3000"])


def chat(rng: random.Random, rows: Rows) -> None:
    """A valid conversation in one of the usual forms, with more turns, parts, or a mistake in some."""
    role, text = rng.choice([("role", "content"), ("from", "value")])
    for index, row in enumerate(rows):
        turns = [{role: side, text: f"{index} {side}"} for side in ["user", "assistant"] * rng.randint(1, 2)]
        turns[:0] = [{role: "system", text: "Be brief."}] * rng.randint(0, 1)
        if rng.random() < 0.2:
            rng.choice(turns)[rng.choice([role, text, "weight", "tool_calls"])] = rng.choice([None, [], "x", 0, {"a": 1}])
        if rng.random() < 0.2:
            turns[0][text] = [{"type": rng.choice(["text", "image"]), "text": f"{index} part"}]
        row.clear()
        row[rng.choice(["messages", "conversations"])] = turns


def beside(rng: random.Random, rows: Rows) -> None:
    name = rng.choice(["history", "context", "input", "system", "tools", "choices", "image", "metadata", "validation", "id"])
    value = rng.choice(["a text", "", None, [], [["a", "b"]], [["a"]], {"a": "b"}, 7, True, "[1]"])
    for index, row in enumerate(rows):
        row[name] = f"r01-0000{index}" if name == "id" else value


def missing_field(rng: random.Random, rows: Rows) -> None:
    row = rng.choice(rows)
    row.pop(rng.choice(list(row)))


def misspelt_field(rng: random.Random, rows: Rows) -> None:
    name = rng.choice(list(rows[0]))
    for row in rows:
        if name in row:
            row[rng.choice([name.upper(), name + " ", name[:-1], ""])] = row.pop(name)


def extra_field(rng: random.Random, rows: Rows) -> None:
    rng.choice(rows)[rng.choice(["prompt", "answer", "messages", "note", "\0", "x" * 300])] = rng.choice(["a", "", "b\0"])


def duplicate_row(rng: random.Random, rows: Rows) -> None:
    rows.insert(rng.randrange(len(rows) + 1), dict(rng.choice(rows)))


def no_rows(rng: random.Random, rows: Rows) -> None:
    rows[1:] = []
    rows[0].clear()


def bad_character(rng: random.Random, rows: Rows) -> None:
    row = rng.choice(rows)
    row[rng.choice(list(row))] = "ab" + rng.choice("\0\x01\x1b\x7f\ud800\udfff\u2028\r\ufeff\U0010ffff") + "cd"


def long_text(rng: random.Random, rows: Rows) -> None:
    row = rng.choice(rows)
    row[rng.choice(list(row))] = rng.choice(["x", '"', "é,"]) * rng.choice([2**20, 2**20 + 1, 2**21])


def messages(rng: random.Random, rows: Rows) -> None:
    right = ["user", "assistant"]
    roles = rng.choice([right, right, ["system", *right], ["user"], [], ["assistant", "user"], ["user"] * 9])
    for index, row in enumerate(rows):
        row.clear()
        row["messages"] = [{"role": role, "content": f"{index} {role}"} for role in roles]


# Mutations of bytes: after the file is written.


def flip(rng: random.Random, raw: bytes) -> bytes:
    changed = bytearray(raw)
    for _ in range(rng.randint(1, 8)):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def flip_end(rng: random.Random, raw: bytes) -> bytes:
    cut = max(len(raw) - 700, 0)
    return raw[:cut] + flip(rng, raw[cut:])


def cut(rng: random.Random, raw: bytes) -> bytes:
    return raw[: rng.randrange(len(raw) + 1)]


def drop_piece(rng: random.Random, raw: bytes) -> bytes:
    start = rng.randrange(len(raw) + 1)
    return raw[:start] + raw[start + rng.randint(1, 40) :]


def repeat_piece(rng: random.Random, raw: bytes) -> bytes:
    start = rng.randrange(len(raw) + 1)
    end = start + rng.randint(1, 200)
    return raw[:end] + raw[start:end] * rng.randint(1, 5) + raw[end:]


PIECES = [
    *(b'"', b"'", b",", b"\t", b"\n", b"\r", b"\r\n", b"\0", b"{", b"}", b"[", b"]", b":", b"\\", b"\\u0000", b"\\ud83d", b'""'),
    *(
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"null",
        b"\xff",
        b"\xed\xa0\x80",
        b"\xc3",
        b"\xef\xbb\xbf",
        b"\x1a",
        b"\xe2\x80\xa8",
        b"//",
    ),
    *(
        b'{"prompt": "a", "prompt": "b", "response": "c"}\n',
        b'{"prompt": NaN, "response": "c"}\n',
        b"[1, 2]\n",
        b'"text"\n',
        b"7\n",
    ),
]


def insert(rng: random.Random, raw: bytes) -> bytes:
    start = rng.randrange(len(raw) + 1)
    return raw[:start] + rng.choice(PIECES) * rng.choice([1, 1, 1, 2, 50]) + raw[start:]


def encoding(rng: random.Random, raw: bytes) -> bytes:
    name = rng.choice(["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "utf-7"])
    return raw.decode("utf-8", "replace").encode(name, "replace")


def line_ends(rng: random.Random, raw: bytes) -> bytes:
    return raw.replace(b"\r\n", b"\n").replace(b"\n", rng.choice([b"\r\n", b"\r", b"\n\n", b"\n\r", b" \n"]))


def deep(rng: random.Random, raw: bytes) -> bytes:
    levels = rng.choice([20, 40, 900, 5_000, 100_000])
    opening, closing = rng.choice([(b"[", b"]"), (b'{"a":', b"}")])
    nested = opening * levels + b"1" + closing * levels * rng.randint(0, 1)
    return rng.choice([nested, b'{"prompt":"p","response":"r","x":' + nested + b"}", b"[" + nested + b"]", raw + nested])


def huge_line(rng: random.Random, raw: bytes) -> bytes:
    size = rng.choice([3, 5, 10]) * 2**20
    return rng.choice(
        [raw + b"x" * size, b'{"prompt":"' + b"x" * size + b'","response":"r"}', raw + b'"' + b"," * size, b" " * size + raw]
    )


def other_file(rng: random.Random, raw: bytes) -> bytes:
    return rng.choice(
        [gzip.compress(raw, mtime=0), b"", b"\n", b"PK\x03\x04" + raw, rng.randbytes(300), b"PAR1", b"PAR1PAR1", raw + raw]
    )


ROW_MUTATIONS: list[Callable[[random.Random, Rows], None]] = [
    *(wrong_type, blank, missing_field, misspelt_field, extra_field, duplicate_row, no_rows, bad_character, messages),
    *(chat, beside),
]
BYTE_MUTATIONS: list[Callable[[random.Random, bytes], bytes]] = [
    *(flip, flip, flip_end, cut, drop_piece, repeat_piece, insert, insert, encoding, line_ends, deep, other_file),
]


def parquet(table: pa.Table, codec: str, group: int) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression=codec, row_group_size=group)
    return sink.getvalue()


def written(rng: random.Random, rows: Rows, suffix: str) -> bytes:
    if suffix == ".parquet":
        codec, group = rng.choice(["snappy", "zstd", "gzip", "none"]), rng.choice([1, 5, 100])
        try:
            return parquet(pa.Table.from_pylist(rows), codec, group)
        except (pa.ArrowException, UnicodeError, OverflowError):  # rows that Parquet cannot hold
            return parquet(pa.table({"prompt": ["a", "b"], "response": [1.5, 2.5]}), codec, group)
    if suffix in (".csv", ".tsv"):
        text = io.StringIO(newline="")
        columns = list(dict.fromkeys(name for row in rows for name in row))
        quoting = rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
        writer = csv.DictWriter(text, columns, delimiter="," if suffix == ".csv" else "\t", quoting=quoting)
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode("utf-8", "surrogatepass")
    if suffix == ".yaml":
        return yaml.safe_dump({"version": 2, "seed_examples": rows}, allow_unicode=rng.random() < 0.5).encode(
            "utf-8", "surrogatepass"
        )
    lines = [json.dumps(row, ensure_ascii=rng.random() < 0.5) for row in rows]
    if suffix == ".jsonl.gz":
        return gzip.compress("".join(line + "\n" for line in lines).encode("utf-8", "surrogatepass"), mtime=0)
    if suffix == ".jsonl":
        return "".join(line + "\n" for line in lines).encode("utf-8", "surrogatepass")
    array = "[" + ",\n".join(lines) + "]"
    return (array if rng.random() < 0.8 else f'{{"data": {array}}}').encode("utf-8", "surrogatepass")


def mutant(seed: int, index: int) -> tuple[str, str, bytes]:
    """The suffix, the first mutation's name and the bytes of file `index`."""
    rng = random.Random(f"{seed}/{index}")
    suffix = rng.choice([".jsonl", ".json", ".csv", ".tsv", ".parquet", ".jsonl.gz", ".yaml"])
    rows, names = valid_rows(rng), []
    choice = rng.random()
    if 0.05 <= choice < 0.5:
        mutate_rows = long_text if choice < 0.06 else rng.choice(ROW_MUTATIONS)
        mutate_rows(rng, rows)
        names.append(mutate_rows.__name__)
    raw = written(rng, rows, suffix)
    if choice >= 0.4:
        mutate_bytes = huge_line if choice > 0.99 else rng.choice(BYTE_MUTATIONS)
        raw = mutate_bytes(rng, raw)
        names.append(mutate_bytes.__name__)
    return suffix, names[0] if names else "none", raw


def attempt(path: Path) -> str:
    """ "accepted", "refused", or what went wrong in the reader."""
    try:
        examples = read_seeds(path)
    except SeedError as error:
        message = str(error)
        is_clear = message.startswith(str(path)) and message.isprintable() and len(message) < 2000
        return "refused" if is_clear else f"unclear message: {message!r}"
    except (Exception, RecursionError) as error:
        return f"{type(error).__name__}: {error}"
    for example in examples:
        texts = [example.id, example.system, example.prompt, example.response, *chain(*example.history)]
        texts += [*example.metadata, *example.metadata.values()]
        if not (example.prompt.strip() and example.response.strip() and "\0" not in "".join(texts)):
            return f"a bad example was accepted: {example!r}"
        "".join(texts).encode()  # a lone surrogate would stop the run much later
    return "accepted"


def fuzz(files: int, seed: int) -> int:
    counts: dict[str, Counter[str]] = {"accepted": Counter(), "refused": Counter()}
    faults: list[str] = []
    slowest = (0.0, "")
    with tempfile.TemporaryDirectory() as folder:
        for index in range(files):
            suffix, mutation, raw = mutant(seed, index)
            path = Path(folder, f"seeds{suffix}")
            path.write_bytes(raw)
            start = time.perf_counter()
            outcome = attempt(path)
            slowest = max(slowest, (time.perf_counter() - start, f"file {index}, {suffix}, {mutation}"))
            if outcome in counts and (mutation, outcome) != ("none", "refused"):
                counts[outcome].update([mutation, suffix, "total"])
            else:
                faults.append(f"file {index} ({suffix}, {mutation}): {outcome}")
    print(f"| {'first mutation':<16} | {'files':>6} | {'accepted':>8} | {'refused':>8} |")
    print(f"|{'-' * 18}|{'-' * 7}:|{'-' * 9}:|{'-' * 9}:|")
    names = sorted({*counts["accepted"], *counts["refused"]} - {"total"})
    for name in (*names, "total"):
        accepted, refused = counts["accepted"][name], counts["refused"][name]
        print(f"| {name:<16} | {accepted + refused:>6} | {accepted:>8} | {refused:>8} |")
    print(f"\nfiles: {files}\nuncaught exceptions and broken rules: {len(faults)}")
    print(f"slowest file: {slowest[0]:.2f} s ({slowest[1]})")
    print(f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    for fault in faults[:20]:
        print(fault[:500])
    return 1 if faults else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sys.exit(fuzz(options.files, options.seed))
