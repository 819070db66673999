"""What a terminal is given: names as they stand, no character that it would obey, no password."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from selfalign.errors import without_passwords
from selfalign.record.store import Store
from selfalign.text import printable
from tests.conftest import SCRIPTED, Run, command
from tests.files import write_rows

ODD = "\x1b]0;title\x07\x9b31mred\u202egnp.exe\u2066\x7f\x85"
OWN = f"""
from dataclasses import dataclass, replace
from selfalign.recipes import isara
from selfalign.types import Dropped, FilterResult, Metric
ODD = {ODD!r}

@dataclass(frozen=True)
class Odd:
    fails: str = ""
    def apply(self, context, examples):
        if self.fails and len(examples) > 1:
            raise RuntimeError(self.fails)
        dropped = [Dropped(each, "[/b][red]rule" + ODD, ODD) for each in examples[1:]] if len(examples) > 1 else []
        return FilterResult(tuple(examples[:1]), tuple(dropped))
    def evaluate(self, context, held_out):
        return [Metric("[bold]metric[/x]", 0.5, 0.4, 0.6, len(held_out))]

def odd(*, fails: str = ""):
    few = replace(isara(), rounds=1, per_round=8, min_yield=0.0, prompt_filters=(), ignore_seed_rules=True)
    return replace(few, name="own[/b]" + ODD, filters=(Odd(fails),), evaluators=(Odd(),))
"""
OPTIONS = (*SCRIPTED[:2], *SCRIPTED[2:], "--quiet")


@pytest.fixture
def own(tmp_path: Path) -> tuple[Any, ...]:
    """`run` and its arguments for the recipe above, on seeds that reverse the direction of writing."""
    rows = [{"prompt": f"How do I clean pot {i}?", "response": f"Wipe pot {i} with a cloth\u202e."} for i in range(9)]
    write_rows(tmp_path / "seeds.jsonl", rows)
    (tmp_path / "held_out.jsonl").write_text("".join(json.dumps({"prompt": f"What is {i}?"}) + "\n" for i in range(3)))
    (tmp_path / "own.py").write_text(OWN)
    return ("run", "./own.py:odd", "seeds.jsonl", "--held_out", "held_out.jsonl", *OPTIONS, "--out", "out")


def test_names_stand_in_tables_as_they_are(cli: Run, own: tuple[Any, ...]) -> None:
    for done in (cli(*own, COLUMNS="300"), cli("status", "out", COLUMNS="300")):
        assert done.returncode == 0, done.stderr
        assert "own[/b]" in done.stdout and "[/b][red]rule" in done.stdout and "[bold]metric[/x]" in done.stdout
        assert printable(done.stdout) == done.stdout


def test_json_has_odd_characters_by_their_codes(cli: Run, own: tuple[Any, ...], tmp_path: Path) -> None:
    assert cli(*own).returncode == 0
    with Store.read(tmp_path / "out") as store:
        dropped = store.dropped(1)[0]
    done = cli("show", "out", dropped.example.id, "--json")
    assert printable(done.stdout) == done.stdout and "\\u009b" in done.stdout and "\\u202e" in done.stdout
    assert json.loads(done.stdout)["evidence"] == ODD == dropped.evidence
    checked = cli("check", *own[1:-3], "--json")
    assert printable(checked.stdout) == checked.stdout and json.loads(checked.stdout)["recipe"] == f"own[/b]{ODD}"


def test_a_traceback_of_a_part_shows_its_text_and_no_password(cli: Run, own: tuple[Any, ...]) -> None:
    done = cli(*own, "--fails", f"no proxy at http://me:geh/e@im@proxy:80/x {ODD}")
    assert done.returncode == 1 and "own.py" in done.stderr and "RuntimeError: no proxy at http://***@proxy:80/x" in done.stderr
    assert printable(done.stderr) == done.stderr and "\\u009b31mred\\u202egnp" in done.stderr
    for told in (done, cli("status", "out"), cli("status", "out", "--json")):
        assert "im@" not in told.stdout + told.stderr and "me:" not in told.stdout + told.stderr


@pytest.mark.parametrize(
    "change",
    [
        {"--model": "http://me:geheim@host/model", "--engine": "HF"},
        {"seeds.jsonl": "https://me:geheim@host/seeds.jsonl"},
        {"--held_out": "ftp://me:geheim@host/held.jsonl"},
        {"./own.py:odd": "http://me:geheim@host/own.py:odd"},
        {"--encoder": "http://me:geheim@host/x"},
        {"--quiet": "--rounds=http://me:geheim@host/x"},
        {"--quiet": "--config=http://me:geheim@host/x.yaml"},
        {"status": "http://me:geheim@host/x"},
        {"--engine": "OpenAI", "--encoder": "Hashed", "--quiet": "--engine.url=http://me:geheim@host/v1"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_no_message_has_the_password_of_an_address(cli: Run, own: tuple[Any, ...], change: dict[str, str]) -> None:
    arguments = list(own)
    for name, value in change.items():
        place = arguments.index(name) if name != "status" else -1
        arguments[place + name.startswith("--") * (not value.startswith("--"))] = value
    done = cli("status", *change.values()) if "status" in change else cli(*arguments)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1 and "geheim" not in done.stderr


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("at http://u:p@h/x?y, and", "at http://***@h/x?y, and"),
        ("postgres://u:p@ss/w@h:1/d", "postgres://***@h:1/d"),
        ("http://token@h", "http://***@h"),
        ("no run in http:/u:p@h/x", "no run in http:/***@h/x"),
        ("'http://u:p@h'", "'http://***@h'"),
        ("mail a@b.c, see https://h/@user and http://h:80/x", "mail a@b.c, see https://h/@user and http://h:80/x"),
    ],
)
def test_credentials_in_addresses(said: str, left: str) -> None:
    assert without_passwords(said) == left


def test_a_reader_who_leaves_is_no_fault(cli: Run, own: tuple[Any, ...], tmp_path: Path) -> None:
    """As `selfalign status RUN | head -0`: the pipe is closed before the table comes."""
    assert cli(*own).returncode == 0
    with subprocess.Popen(
        command("status", "out"), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as told:
        assert told.stdout is not None and told.stderr is not None
        told.stdout.close()
        assert (told.stderr.read(), told.wait(60)) == ("", 0)
