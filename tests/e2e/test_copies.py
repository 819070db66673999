"""Arms that ask no model: a seed's own response as the answer, through `selfalign study`."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

from tests.files import write_rows

Run = Callable[..., CompletedProcess[str]]


def test_the_nearest_seeds_answer_is_an_arm_beside_the_models(cli: Run, tmp_path: Path) -> None:
    """Labels that the words of a message give away: the nearest seed knows them, and no model need be trained for it."""
    words = {"billing": "the invoice and the payment", "delivery": "the parcel and the courier"}
    rows = [
        {"prompt": f"Message {number} is about {words[kind]}, case {number}?", "response": kind, "category": kind}
        for number in range(16)
        for kind in words
    ]
    seeds, held_out = tmp_path / "seeds.jsonl", tmp_path / "held_out.jsonl"
    write_rows(seeds, rows[:24])
    write_rows(held_out, rows[24:])
    out = tmp_path / "study"
    done = cli(
        *("study", "pretrained", seeds, "--held_out", held_out, "--model", "scripted", "--out", out, "--engine", "Scripted"),
        *("--encoder", "Hashed", "--expect", "exact", "--metric", "expected", "--repeats", 2, "--quiet"),
        *("--baselines", "copy_nearest,copy_random"),
    )
    assert done.returncode == 0, done.stderr
    study = json.loads((out / "study.json").read_text())
    found = {name: arm["metrics"]["expected"]["value"] for name, arm in study["arms"].items()}
    assert found["copy_nearest"] == 1.0 > found["copy_random"] > 0.0 == found["pretrained"]
    assert {name: len(arm["runs"]) for name, arm in study["arms"].items()} == {
        "pretrained": 1,
        "copy_nearest": 1,  # no random seed changes these two
        "copy_random": 2,
    }
    assert study["arms"]["copy_nearest"]["costs"]["generated_tokens"] == 0
    with sqlite3.connect(out / "copy_nearest/seed-0/run.sqlite") as record:
        answered = record.execute("SELECT json_extract(data, '$.text') FROM outputs WHERE stage = 'held_out'").fetchall()
    assert {text for (text,) in answered} == set(words)
