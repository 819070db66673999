"""Pairs of answers for people to rate, without a word of which model wrote which; the key to that is a file of its own."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from selfalign.errors import UserError
from selfalign.export.answers import answered
from selfalign.models.layouts import fold
from selfalign.record.disk import check_place, whole_file
from selfalign.record.finished import paired_metrics
from selfalign.record.plain import dumps, json_line
from selfalign.record.store import Store
from selfalign.types import Example, Metric, derive_seed, transcript

Rows = Iterable[tuple[str, Mapping[str, Any]]]
"""Rows of a file with their places, as file:line."""
COLUMNS = ("id", "prompt", "a", "b", "rating", "comment")
_LONGEST = 32_767
"""Characters of a cell in Excel, LibreOffice and their kin; what is longer they cut."""
# What no cell should hold, and what would read as one of these; a carriage return is what programs add and take away at will.
_ESCAPED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]|\\(?=u[0-9a-f]{4})")
_FORMULA = ("=", "+", "-", "@", "\t", "\n", "'", "＝", "＋", "－", "＠")  # some programs take the wide ones for plain


class Pair(NamedTuple):
    """A prompt with the answers of both models."""

    id: str
    category: str
    prompt: str
    new: str
    base: str
    metrics: Mapping[str, float] = {}
    """What the new model's answer reaches in a metric minus what the base's does, higher being better."""


class Sides(NamedTuple):
    """Two models that answered the same prompts."""

    new: str
    base: str
    pairs: tuple[Pair, ...]


def of_rounds(new: Store, new_round: int, base: Store, base_round: int, held_out: Sequence[Example] = ()) -> Sides:
    """The answers of two rounds, of one run or of two, to their held-out prompts.

    Args:
        held_out: the prompts as they were given to the runs, for their categories and system texts; without them categories are
            those that a metric goes by (`balance`), if any.

    Raises:
        UserError: as `export_answers`, or the two were not asked the same.
    """
    names = [f"{store.folder}, round {round}" for store, round in ((new, new_round), (base, base_round))]
    mine, theirs = (list(answered(store, round)[1]) for store, round in ((new, new_round), (base, base_round)))
    if list(map(_prompt, mine)) != list(map(_prompt, theirs)):
        raise UserError(f"{names[0]} and {names[1]} answered other held-out prompts: compare answers to the same ones")
    if held_out and [each.full_prompt for each in held_out] != list(map(_prompt, mine)):
        raise UserError(f"--held_out has other prompts than {new.folder} answered: give the file that the run was given")
    metrics = paired_metrics(new, new_round), paired_metrics(base, base_round)
    strata = {each.id: each.stratum for one in metrics[0].values() for each in one.outcomes if each.stratum}
    gained = _gained(*metrics, {other["id"]: one["id"] for one, other in zip(mine, theirs, strict=True)})
    pairs = [
        Pair(
            one["id"],
            held_out[place].category if held_out else strata.get(one["id"], ""),
            fold(held_out[place].system if held_out else "", _prompt(one)),
            one["text"],
            other["text"],
            {name: by_id[one["id"]] for name, by_id in gained.items() if one["id"] in by_id},
        )
        for place, (one, other) in enumerate(zip(mine, theirs, strict=True))
    ]
    return Sides(names[0], names[1], tuple(pairs))


def of_answers(new: tuple[str, Rows], base: tuple[str, Rows]) -> Sides:
    """The answers in two files, each a name and its rows, in the form of `export_answers`; in any order.

    `dataset` is the category, as AlpacaEval has it. A prompt that stands there several times is answered as often.

    Raises:
        UserError: a row that is no answer, or not the same prompts in both.
    """
    (name, mine), (other, theirs) = ((file, _by_prompt(rows)) for file, rows in (new, base))
    if lacking := mine.keys() ^ theirs.keys():
        prompt, _ = min(lacking)
        has, lacks = (name, other) if min(lacking) in mine else (other, name)
        raise UserError(f"{has} answers {_shown(prompt)} and {lacks} does not: both must have the same prompts")
    rows = enumerate(mine.items(), start=1)
    found = (Pair(str(number), category, key[0], text, theirs[key][0]) for number, (key, (text, category)) in rows)
    return Sides(name, other, tuple(found))


def write_pairs(sides: Sides, file: str | Path, key: str | Path, rows: int | None = None, seed: int = 0) -> dict[str, Any]:
    """Writes the pairs for people (`.csv` for a spreadsheet, or `.jsonl`) and the key; the same call writes the same bytes.

    Rows of {"id", "prompt", "a", "b", "rating", "comment"}, the last two empty, in an order drawn at random. Each model stands
    first in half of the rows of a category (one more or less), drawn at random: to take the first answer always is to take no
    side. Prompts that both answer alike, but for white space at the ends, are left out: in the key they count as ties, as in
    `WinRate`.

    In a CSV file, which begins with the mark by which Excel knows UTF-8, control characters stand by their codes (`\\u0000`), and
    cells that a spreadsheet would take for formulas begin with an apostrophe; line breaks stay. `uncell` turns both back.

    Args:
        rows: prompts to draw, each category its share of them, identical answers included; without it all are taken.

    Returns:
        {"pairs", "identical", "drawn", "prompts", "set"}: the counts, and the name of this set of pairs.

    Raises:
        UserError: nothing to rate, a text too long for a spreadsheet, a file that cannot be written, or a key of other pairs in
            the way.
    """
    file, key = Path(file), Path(key)
    _check_places(file, key)
    if rows is not None and rows < 1:
        raise UserError(f"--rows {rows}: draw at least one prompt")
    drawn = _drawn(sides.pairs, rows, seed)
    alike, differing = ([each for each in drawn if (each.new.strip() == each.base.strip()) is same] for same in (True, False))
    first = derive_seed(seed, "first") & 1
    chosen = [(each, "AB"[(place + first) % 2]) for place, each in enumerate(differing)]
    if not chosen:
        raise UserError(f"{sides.new} and {sides.base} answer all {len(drawn)} prompts alike: there is nothing to rate")
    chosen.sort(key=lambda item: derive_seed(seed, "order", item[0].id))
    known: dict[str, Any] = {
        "sides": {"new": sides.new, "base": sides.base},
        "seed": seed,
        "prompts": len(sides.pairs),
        "identical": [{"prompt_id": each.id, "category": each.category} for each in alike],
        "pairs": [
            {
                "prompt_id": each.id,
                "category": each.category,
                "new": letter,
                "sha256": {name: digest(text) for name, text in zip(("prompt", "a", "b"), _texts(each, letter), strict=True)},
                "metrics": each.metrics,
            }
            for each, letter in chosen
        ],
    }
    known = {"set": name_of(known), **known}
    written = [
        dict(zip(COLUMNS, (pair_id(known["set"], number), *_texts(each, letter), "", ""), strict=True))
        for number, (each, letter) in enumerate(chosen, start=1)
    ]
    _write(file, written, key, json.dumps(known, indent=1, ensure_ascii=False) + "\n")
    counts = {"pairs": len(chosen), "identical": len(alike), "drawn": len(drawn), "prompts": len(sides.pairs)}
    return {**counts, "set": known["set"]}


def name_of(key: Mapping[str, Any]) -> str:
    """The name of the set of pairs that a key is of, from all that stands in the key besides it."""
    return "s" + digest(dumps({name: value for name, value in key.items() if name != "set"}))[:8]


def pair_id(name: str, number: int) -> str:
    return f"{name}-{number:03d}"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def cell(text: str) -> str:
    """A text as a cell of a spreadsheet; see `write_pairs`."""
    safe = _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return f"'{safe}" if safe.startswith(_FORMULA) else safe


def uncell(text: str) -> str:
    """The text that `cell` made a cell of, also where a spreadsheet wrote line breaks in its own way."""
    plain = text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("'")
    return re.sub(r"\\u([0-9a-f]{4})", lambda found: chr(int(found[1], 16)), plain)


def _gained(new: Mapping[str, Metric], base: Mapping[str, Metric], ids: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """By metric with a good side, and by the new model's prompt id: its outcome minus the base's, with higher for better.

    `ids` has the new model's id of a prompt by the base's.
    """
    found: dict[str, dict[str, float]] = {}
    for name, metric in new.items():
        if name in base and metric.better != "neither":
            theirs = {ids.get(each.id): each.value for each in base[name].outcomes}
            sign = 1.0 if metric.better == "higher" else -1.0
            gains = {each.id: sign * (each.value - theirs[each.id]) for each in metric.outcomes if each.id in theirs}
            found[name] = {id: gain for id, gain in gains.items() if isfinite(gain)}
    return found


def _drawn(pairs: Sequence[Pair], rows: int | None, seed: int) -> list[Pair]:
    """Category by category, in an order drawn at random within each; of each its share of `rows`, by largest remainders."""
    sizes = Counter(each.category for each in pairs)
    wanted = min(rows or len(pairs), len(pairs))
    shares = {name: wanted * size / len(pairs) for name, size in sizes.items()}
    counts = {name: int(share) for name, share in shares.items()}
    for name in sorted(sizes, key=lambda name: (counts[name] - shares[name], name))[: wanted - sum(counts.values())]:
        counts[name] += 1
    found: list[Pair] = []
    for name in sorted(sizes):
        own = [each for each in pairs if each.category == name]
        found += sorted(own, key=lambda each: derive_seed(seed, "rows", each.id))[: counts[name]]
    return found


def _texts(pair: Pair, letter: str) -> tuple[str, str, str]:
    """prompt, a, b where the new model's answer has this letter."""
    return (pair.prompt, pair.new, pair.base) if letter == "A" else (pair.prompt, pair.base, pair.new)


def _write(file: Path, written: Sequence[Mapping[str, str]], key: Path, text: str) -> None:
    """The key first: pairs without one could never be told apart."""
    table = [[cell(each[name]) for name in COLUMNS] for each in written]
    if file.suffix == ".csv" and (long := next((row for row in table if max(map(len, row)) > _LONGEST), None)):
        text = f"the prompt {_shown(long[1])} has a text"
        raise UserError(f"{text} that a spreadsheet would cut at {_LONGEST:,}: name a .jsonl file")
    try:
        if key.exists() and key.read_bytes() != text.encode():
            remedy = "name another --out or --key, or remove it"
            raise UserError(f"{key} is the key of other pairs, which people may be rating: {remedy}")
        lines = io.StringIO(newline="")
        csv.writer(lines).writerows([COLUMNS, *table])
        whole = lines.getvalue().encode("utf-8-sig") if file.suffix == ".csv" else "".join(map(json_line, written)).encode()
        if file.exists() and file.read_bytes() != whole:
            remedy = "name another --out, or remove it"
            raise UserError(f"{file} is there already with something else in it, such as ratings: {remedy}")
        for place, content in ((key, text.encode()), (file, whole)):
            with whole_file(place) as temporary:
                temporary.write_bytes(content)
    except OSError as error:
        raise UserError(f"{file} or {key} cannot be written: {error.strerror}") from error


def _check_places(file: Path, key: Path) -> None:
    if file.suffix not in (".csv", ".jsonl"):
        raise UserError(f"{file}: pairs are written as .csv, for a spreadsheet, or .jsonl; name one of these")
    if file == key:
        raise UserError(f"{key}: the key must be another file than the pairs, for raters must not see it")
    for place in (file, key):
        check_place(place)


def _prompt(row: Mapping[str, Any]) -> str:
    return transcript(row.get("history", ()), row["prompt"])


def _by_prompt(rows: Rows) -> dict[tuple[str, int], tuple[str, str]]:
    """(answer, category) by prompt, and how often that stood there before."""
    found: dict[tuple[str, int], tuple[str, str]] = {}
    times = Counter[str]()
    for where, fields in rows:
        prompt, answer = (_text(where, fields, name) for name in ("instruction", "output"))
        found[prompt, times[prompt]] = (answer, str(fields.get("dataset") or ""))
        times[prompt] += 1
    return found


def _text(where: str, fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise UserError(f"{where}: has no text {name!r}; `selfalign export RUN --answers FILE` writes such files")
    if re.search("[\ud800-\udfff]", value):
        raise UserError(f"{where}: {name!r} holds half a surrogate pair; remove it")
    return value


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:59]}…")
