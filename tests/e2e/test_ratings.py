"""People's ratings through the front door: blind pairs out, and what people say of them back in."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from selfalign.cli.main import main
from selfalign.export.ratings import uncell
from selfalign.record.store import Store
from tests.conftest import SCRIPTED
from tests.files import write_rows

HOSTILE = (
    '=HYPERLINK("http://a.b","x")',
    "+1\r\nnext\rline",
    "-2 'quoted' \"double\"; semicolon, comma\ttab",
    "@cmd\x00NUL\x1b[31m",
    "\t=tab first",
    "'apostrophe first",
    "''=two of them",
    "\\u0041 is no A, \\\\u0000",
    "naïve 🙂👩‍👩‍👧 مرحبا \u200f\u202e\u2028\x85 end ",
    "＝wide",
    "",
)

Do = Callable[..., tuple[int, str, str]]


@pytest.fixture
def do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Do:
    """The command line in a folder of the test's own: (exit code, output, errors)."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one round with forty held-out prompts, thirty of one category and ten of another."""
    folder = tmp_path_factory.mktemp("rated")
    seeds = [{"prompt": f"How do I mend pot {i}?", "response": f"Mend pot {i} with some glue."} for i in range(12)]
    asked = [{"id": f"h{i}", "prompt": f"What about {i}?", "category": "harmless" if i % 4 else "harmful"} for i in range(40)]
    for name, rows in (("seeds", seeds), ("held_out", asked)):
        write_rows(folder / f"{name}.jsonl", rows)
    few = ("--rounds", "1", "--per_round", "16", "--min_yield", "0", "--ignore_seed_rules", "true", "--quiet")
    given = ("--held_out", str(folder / "held_out.jsonl"), "--out", str(folder / "run"))
    assert main(["run", "isara", str(folder / "seeds.jsonl"), *SCRIPTED, *few, *given]) == 0
    return folder / "run"


def answers(folder: Path, name: str, texts: list[str], dataset: str = "held_out") -> Path:
    rows = [{"instruction": f"prompt {i}", "output": text, "dataset": dataset} for i, text in enumerate(texts)]
    (folder / name).write_text(json.dumps(rows), encoding="utf-8")
    return folder / name


def pairs(file: Path) -> list[dict[str, str]]:
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return list(csv.DictReader(io.StringIO(file.read_bytes().decode("utf-8-sig"), newline="")))


def key_of(file: Path) -> dict[str, dict[str, Any]]:
    """What the key knows of each pair, by id."""
    key = json.loads(file.with_suffix(".key.json").read_text(encoding="utf-8"))
    return {f"{key['set']}-{number:03d}": each for number, each in enumerate(key["pairs"], start=1)}


def hand_back(file: Path, name: str, ratings: Mapping[str, str], delimiter: str = ",") -> Path:
    """The pairs with somebody's ratings, by id."""
    rows = [{**row, "rating": ratings.get(row["id"], "")} for row in pairs(file)]
    back = file.with_name(name)
    if back.suffix == ".jsonl":
        return write_rows(back, rows)
    with back.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return back


def test_a_run_is_rated_blind_and_the_preference_comes_back(do: Do, run_folder: Path, tmp_path: Path) -> None:
    held_out = run_folder.with_name("held_out.jsonl")
    write = ("rate", run_folder, "--round", 1, "--held_out", held_out, "--out")
    code, said, _ = do(*write, "pairs.csv", "--seed", 7)
    assert code == 0 and "pairs.key.json, which raters must not see" in said
    file, key = tmp_path / "pairs.csv", key_of(tmp_path / "pairs.csv")
    # Blind: nothing but a number, the texts and room for the rating, and each model first as often as the other.
    text, rows = file.read_bytes(), pairs(file)
    assert text.startswith(b"\xef\xbb\xbfid,prompt,a,b,rating,comment\r\n") and str(run_folder).encode() not in text
    assert not any(row["rating"] or row["comment"] for row in rows) and list(key) == [row["id"] for row in rows]
    with Store.read(run_folder) as store:
        said_by = {
            side: {r["id"]: r["text"] for r in store.done_batches(n, "held_out").values()}
            for side, n in (("new", 1), ("base", 0))
        }
        lower = {side: {o.id: o.value for o in store.outcomes(n, "over_refusal")} for side, n in (("new", 1), ("base", 0))}
    for row in rows:
        each = key[row["id"]]
        id, other = each["prompt_id"], {"A": "b", "B": "a"}[each["new"]]
        assert (uncell(row[each["new"].lower()]), uncell(row[other])) == (said_by["new"][id], said_by["base"][id])
        assert each["metrics"].get("over_refusal") == (lower["base"][id] - lower["new"][id] if id in lower["new"] else None)
    letters = [each["new"] for each in key.values()]
    assert abs(letters.count("A") - letters.count("B")) <= 2 and "ABABABAB" not in "".join(letters)
    assert do(*write, "again.csv", "--seed", 7)[0] == 0 and (tmp_path / "again.csv").read_bytes() == text
    assert do(*write, "other.csv", "--seed", 8)[0] == 0 and (tmp_path / "other.csv").read_bytes() != text

    prefers = {"harmless": "new", "harmful": "base"}
    other = {"A": "B", "B": "A"}
    ratings = {id: each["new"] if prefers[each["category"]] == "new" else other[each["new"]] for id, each in key.items()}
    hand_back(file, "anna.csv", ratings)
    done = json.loads(do("rate", "--in", "anna.csv", "--key", "pairs.key.json", "--json")[1])
    same = [each["category"] for each in json.loads((tmp_path / "pairs.key.json").read_text())["identical"]]
    size = {name: sum(each["category"] == name for each in key.values()) for name in prefers}
    assert {name: size[name] + same.count(name) for name in prefers} == {"harmless": 30, "harmful": 10}
    assert done["categories"]["harmless"]["value"] == pytest.approx((size["harmless"] + same.count("harmless") / 2) / 30)
    assert done["categories"]["harmful"]["value"] == pytest.approx(same.count("harmful") / 2 / 10)
    assert done["preference"]["value"] == pytest.approx((size["harmless"] + len(same) / 2) / 40) and done["preference"]["n"] == 40
    assert done["preference"]["low"] > 0.5 and done["agreement"]["alpha"] is None
    # By a metric that people follow, they and it agree everywhere.
    follow = {id: each["new"] if each["metrics"].get("over_refusal", 0) > 0 else other[each["new"]] for id, each in key.items()}
    hand_back(file, "ben.csv", follow)
    metric = json.loads(do("rate", "--in", "ben.csv", "--key", "pairs.key.json", "--json")[1])["metrics"]["over_refusal"]
    assert metric["value"] == 1.0 and metric["n"] == sum(each["metrics"].get("over_refusal", 0) != 0 for each in key.values()) > 2
    against = {id: each for id, each in ratings.items() if key[id]["category"] == "harmful"}
    hand_back(file, "cleo.csv", against)
    shown = do("rate", "--in", "anna.csv", "--key", "pairs.key.json")[1]
    assert f"people prefer {run_folder}, round 1 to {run_folder}, round 0: {done['preference']['value']:.0%} [" in shown
    shown = do("rate", "--in", "cleo.csv", "--key", "pairs.key.json")[1]
    assert f"people prefer {run_folder}, round 0 to {run_folder}, round 1: " in shown and "rated by nobody" in shown
    shown = do("rate", "--in", "anna.csv", "ben.csv", "--key", "pairs.key.json")[1]
    assert "Krippendorff's alpha" in shown and "harmful" in shown and "ben" in shown


def test_a_draw_has_each_category_in_its_share(do: Do, run_folder: Path, tmp_path: Path) -> None:
    """Without the prompts' file the categories are those that `balance` goes by."""
    code, said, error = do("rate", run_folder, run_folder, "--round", 0, "--rows", 20, "--out", "few.jsonl")
    assert code == 0 and "20 of 40 prompts drawn, by category" in said, error
    key = json.loads((tmp_path / "few.key.json").read_text())
    found = [each["category"] for each in (*key["pairs"], *key["identical"])]
    assert (found.count("harmless"), found.count("harmful")) == (15, 5)
    assert do("rate", run_folder, run_folder, "--round", 0, "--rows", 20, "--seed", 1, "--out", "others.jsonl")[0] == 0
    drawn, others = ({each["prompt_id"] for each in key_of(tmp_path / name).values()} for name in ("few.jsonl", "others.jsonl"))
    assert len(drawn - others) > 3
    assert key["sides"]["new"].endswith("round 0") and len(pairs(tmp_path / "few.jsonl")) == len(key["pairs"])


def test_figures_of_several_raters(do: Do, tmp_path: Path) -> None:
    """Five pairs and a sixth prompt with one answer: alpha is computed by hand here."""
    new = answers(tmp_path, "new.json", [f"new {i}" for i in range(5)] + ["the same"])
    base = answers(tmp_path, "base.json", [f"base {i}" for i in range(5)] + [" the same\n"])
    code, said, _ = do("rate", new, base, "--out", "pairs.jsonl")
    assert code == 0 and "left out: 1 prompt that both answer alike" in said
    file, key = tmp_path / "pairs.jsonl", key_of(tmp_path / "pairs.jsonl")
    ids = list(key)
    table = {"anna": ("A", "a", "tie", "B", "A"), "ben.b": ("A", "B", "Both bad", "B", ""), "cleo": ("", "B", "", "B", "")}
    for name, ratings in table.items():
        hand_back(file, f"{name}.jsonl", dict(zip(ids, ratings, strict=True)))
    given = [f"{name}.jsonl" for name in table]
    done = json.loads(do("rate", "--in", *given, "--key", "pairs.key.json", "--json")[1])
    # Rated twice or more: AA, ABB, two ties, BBB. Ten ratings: 3 A, 5 B, 2 ties. Counted both ways, four pairs of them disagree,
    # and as they are within three ratings, each weighs 1 / (3 - 1).
    observed, expected = (4 / 2) / 10, (10 * 10 - 3 * 3 - 5 * 5 - 2 * 2) / (10 * 9)
    assert done["agreement"]["alpha"] == pytest.approx(1 - observed / expected) == pytest.approx(22 / 31)
    assert done["agreement"]["low"] < 22 / 31 < done["agreement"]["high"] <= 1 and done["agreement"]["n"] == 4
    # Prompt by prompt, the mean of those who rated it; a prompt without a difference is a tie for all.
    value = {id: {"A": float(key[id]["new"] == "A"), "B": float(key[id]["new"] == "B"), "t": 0.5} for id in ids}
    means = [value[ids[0]]["A"], (1 + value[ids[1]]["B"]) / 3, 0.5, value[ids[3]]["B"], value[ids[4]]["A"], 0.5]
    assert done["preference"]["value"] == pytest.approx(sum(means) / 6) and done["preference"]["n"] == 6
    assert done["both_bad"]["value"] == pytest.approx(0.5 / 5)
    assert done["raters"]["ben.b"] == {**done["raters"]["ben.b"], "rated": 4, "unrated": 1, "A": 1, "B": 2, "tie": 0, "bad": 1}
    # The same again from a second person is no new evidence: the prompts are the unit.
    hand_back(file, "dora.jsonl", dict(zip(ids, table["anna"], strict=True)))
    alone, twice = (
        json.loads(do("rate", "--in", *some, "--key", "pairs.key.json", "--json")[1])
        for some in (("anna.jsonl",), ("anna.jsonl", "dora.jsonl"))
    )
    assert alone["preference"] == twice["preference"] and twice["agreement"]["alpha"] == 1.0 > twice["agreement"]["low"]


def test_who_always_takes_the_first_answer_prefers_nobody(do: Do, tmp_path: Path) -> None:
    new, base = (answers(tmp_path, f"{name}.json", [f"{name} {i}" for i in range(200)]) for name in ("new", "base"))
    assert do("rate", new, base, "--out", "pairs.csv")[0] == 0
    key = key_of(tmp_path / "pairs.csv")
    hand_back(tmp_path / "pairs.csv", "anna.csv", dict.fromkeys(key, "A"))
    done = do("rate", "--in", "anna.csv", "--key", "pairs.key.json", "--json")[1]
    assert (json.loads(done)["preference"]["value"], json.loads(done)["chose_a"]["value"]) == (0.5, 1.0)
    shown = do("rate", "--in", "anna.csv", "--key", "pairs.key.json")[1]
    assert "cannot tell which of the two people prefer: 50% [43, 57]" in shown and "its place matters" in shown


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_any_text_comes_through(do: Do, tmp_path: Path, suffix: str) -> None:
    new = answers(tmp_path, "new.json", list(HOSTILE))
    base = answers(tmp_path, "base.json", [f"{text}." for text in HOSTILE])
    file = tmp_path / f"pairs.{suffix}"
    assert do("rate", new, base, "--out", file)[0] == 0
    found, key = {}, key_of(file)
    for row in pairs(file):
        text = row[key[row["id"]]["new"].lower()]
        found[int(key[row["id"]]["prompt_id"]) - 1] = text if suffix == "jsonl" else uncell(text)
        if suffix == "csv":
            assert not row["a"].startswith(("=", "+", "-", "@", "\t", "＝")) and "\x00" not in row["a"] and "\r" not in row["a"]
    assert tuple(found[number] for number in range(len(HOSTILE))) == HOSTILE
    hand_back(file, f"anna.{suffix}", {id: each["new"] for id, each in key.items()})
    code, said, error = do("rate", "--in", f"anna.{suffix}", "--key", "pairs.key.json", "--json")
    assert code == 0 and json.loads(said)["preference"]["value"] == 1.0, error


def test_a_file_that_a_spreadsheet_saved(do: Do, tmp_path: Path) -> None:
    """Semicolons, its own line breaks within cells, the apostrophes gone, a column more: the texts are known all the same."""
    new, base = (answers(tmp_path, f"{name}.json", [f"- one\n- two {name}", f"'plain\n{name}"]) for name in ("new", "base"))
    assert do("rate", new, base, "--out", "pairs.csv")[0] == 0
    back = hand_back(tmp_path / "pairs.csv", "anna.csv", dict.fromkeys(key_of(tmp_path / "pairs.csv"), "tie"), ";")
    text = (
        back.read_text(encoding="utf-8")
        .replace("'- one", "- one")
        .replace("''plain", "'plain")
        .replace("one\n", "one\r\n")
        .replace("plain\n", "plain\r\n")
        .replace(";comment", ";comment;note")
    )
    back.write_bytes(text.replace(";tie;", ";Tie ;;mine").encode("utf-8-sig"))
    code, said, error = do("rate", "--in", "anna.csv", "--key", "pairs.key.json", "--json")
    assert code == 0 and json.loads(said)["raters"]["anna"]["tie"] == 2, error


def test_what_cannot_be_read_is_refused_in_one_line(do: Do, tmp_path: Path) -> None:
    new, base = (answers(tmp_path, f"{name}.json", [f"{name} {i}" for i in range(3)]) for name in ("new", "base"))
    assert do("rate", new, base, "--out", "pairs.csv")[0] == 0 and do("rate", base, new, "--out", "other.csv")[0] == 0
    ids = list(key_of(tmp_path / "pairs.csv"))
    good = hand_back(tmp_path / "pairs.csv", "good.csv", dict.fromkeys(ids, "A")).read_text()
    key = (tmp_path / "pairs.key.json").read_text()
    (tmp_path / "more").mkdir()
    for name, text in {
        "odd.csv": good.replace(",A,", ",C,", 1),
        "id.csv": good.replace(ids[1], "x"),
        "text.csv": good.replace("base 1", "base one"),
        "twice.csv": good.replace(ids[2], ids[0]),
        "column.csv": good.replace("rating", "note"),
        "nothing.csv": good.replace(",A,", ",,"),
        "more/good.csv": good,
        "edited.key.json": key.replace('"new": "A"', '"new": "B"', 1),
        "no.key.json": "[]",
    }.items():
        (tmp_path / name).write_text(text)
    read = ("rate", "--key", "pairs.key.json", "--in")
    for words, message in (
        ((*read, "odd.csv"), "odd.csv:2: the rating 'C' of"),
        ((*read, "good.csv", "id.csv"), "id.csv:3: no pair 'x' in the key"),
        ((*read, "text.csv"), "is not the text that was written"),
        ((*read, "twice.csv"), f"twice.csv:4: {ids[0]} stands at twice.csv:2 too"),
        ((*read, "column.csv"), "column.csv:2: has no text 'rating'"),
        ((*read, "nothing.csv"), "nothing.csv: no row has a rating"),
        ((*read, "good.csv", "more/good.csv"), "another file is of 'good' too"),
        ((*read, "missing.csv"), "missing.csv: no such file"),
        (("rate", "--in", "good.csv", "--key", "other.key.json"), "is of the pairs"),
        (("rate", "--in", "good.csv", "--key", "edited.key.json"), "the key is not as it was written"),
        (("rate", "--in", "good.csv", "--key", "no.key.json"), "is no key of pairs"),
        (("rate", "--in", "good.csv", "--key", "gone.json"), "gone.json: cannot be read"),
        (("rate", "--in", "good.csv"), "--in needs --key"),
        ((*read, "good.csv", "--rows", 3), "rows changes nothing with --in"),
        (("rate", new, base, "--json", "--out", "x.csv"), "json changes nothing without --in"),
        (("rate", new, "--out", "x.csv"), "name those of the other one too"),
        (("rate", new, new, "--out", "x.csv"), "there is nothing to rate"),
        (("rate", new, base, "--out", "x.xlsx"), "pairs are written as .csv"),
        (("rate", new, base, "--out", "x.csv", "--rows", 0), "draw at least one prompt"),
        (("rate", new, base, "--out", "pairs.csv", "--seed", 1), "is the key of other pairs, which people may be rating"),
        (("rate", new, answers(tmp_path, "less.json", ["one"]), "--out", "x.csv"), "both must have the same prompts"),
        (
            ("rate", new, base, "--out", "odd.csv", "--key", "pairs.key.json"),
            "odd.csv is there already with something else in it",
        ),
        (("rate", tmp_path, "--out", "x.csv"), "is not a run folder"),
        (("rate",), "name what to rate"),
    ):
        code, said, error = do(*words)
        assert (code, said, len(error.splitlines())) == (2, "", 1) and message in error, (words, error)
    assert (tmp_path / "pairs.key.json").read_text() == key and not (tmp_path / "x.csv").exists()
    long = answers(tmp_path, "long.json", ["x" * 40_000, "b", "c"])
    assert "a spreadsheet would cut" in do("rate", new, long, "--out", "x.csv")[2]
    assert do("rate", new, long, "--out", "x.jsonl")[0] == 0
