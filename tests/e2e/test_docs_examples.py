"""Every example of docs/your-own-*.md runs as it stands there, and the commands of all pages have real options."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SCRIPTED, Run
from tests.files import succeeded, write_rows

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("your-own-*.md"))
EXAMPLES = {
    name: code
    for page in PAGES
    for code in re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    for name in re.findall(r"\A# (\w+)\.py$", code, re.MULTILINE)
}
COMMANDS = [
    found
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for block in re.findall(r"^```\w*\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    for found in re.findall(r"^(?:\$ )?selfalign (run|preview|check|study) (\w+) (.*)$", block.replace("\\\n", " "), re.MULTILINE)
]
"""(command, recipe, the rest) of all pages, but for recipes in files, which run below."""
SMALL = ("--per_round", 24, "--quiet")


def test_there_is_an_example_of_each_kind() -> None:
    assert sorted(EXAMPLES) == ["brief", "lively", "no_links", "short", "test_my_parts", "tidy"]


def test_a_recipe_is_short() -> None:
    assert len([line for line in EXAMPLES["short"].splitlines()[1:] if line]) <= 15


def example(cli: Run, name: str, seeds: Path, folder: Path, *options: object, code: str = "") -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.py"
    file.write_text(code or EXAMPLES[name], encoding="utf-8")
    out = folder / f"out-{name}"
    engine = [{"--engine": "--inner"}.get(str(word), word) if name == "tidy" else word for word in SCRIPTED]
    done = succeeded(cli("run", f"{file}:{name}", seeds, *engine, *SMALL, *options, "--out", out, "--json"))
    state: dict[str, Any] = json.loads(done.stdout)
    assert state["state"] == "done" and state["recipe"] == name
    assert state["rounds"][1]["candidates"] == 24
    return state


def kept(folder: Path, name: str) -> list[dict[str, Any]]:
    text = (folder / f"out-{name}" / "round-01" / "kept.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_the_recipe(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    state = example(cli, "short", seeds_file, tmp_path, "--words", 26)
    assert len(state["rounds"]) == 3 and state["rounds"][1]["dropped"]["response_long"] > 0
    prompts = {json.loads(line)["prompt"] for line in seeds_file.read_text(encoding="utf-8").splitlines()}
    rows = kept(tmp_path, "short")
    assert rows and {row["prompt"] for row in rows} <= prompts
    assert all(len(row["response"].split()) <= 26 for row in rows)


def test_the_filter(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    state = example(cli, "no_links", seeds_file, tmp_path)
    assert "links" not in state["rounds"][1]["dropped"]
    looks_for_something = EXAMPLES["no_links"].replace('"http"', '"a"')
    told = example(cli, "no_links", seeds_file, tmp_path / "more", "--links.allowed", 8, code=looks_for_something)
    assert told["rounds"][1]["dropped"]["links"] > 0


def test_the_scorer(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    state = example(cli, "lively", seeds_file, tmp_path, "--keep", 0.4)
    assert state["rounds"][1]["dropped"]["low_lively"] > 0
    rows = kept(tmp_path, "lively")
    assert rows and all(0 < row["scores"]["lively"] <= 1 for row in rows)


def test_the_engine(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    example(cli, "tidy", seeds_file, tmp_path)
    plain = kept(tmp_path, "tidy")
    assert plain and any("e" in row["response"] for row in plain)
    code = EXAMPLES["tidy"].replace('"*"', '"e"')
    example(cli, "tidy", seeds_file, tmp_path / "more", code=code)
    assert kept(tmp_path / "more", "tidy") and not any("e" in row["response"] for row in kept(tmp_path / "more", "tidy"))


def test_the_evaluator(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text("".join(json.dumps({"prompt": f"What is {row}?"}) + "\n" for row in range(12)), encoding="utf-8")
    found = {}
    for words in (1, 10_000):
        folder = tmp_path / str(words)
        state = example(cli, "brief", seeds_file, folder, "--held_out", held_out, "--brevity.words", words)
        found[words] = state["rounds"][0]["metrics"]["brief"]
    assert found[1]["value"] < found[10_000]["value"] == 1.0
    assert found[1]["n"] == 12 and found[1]["unit"] == "share"


def checked(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pytest", "-q"], cwd=folder, capture_output=True, text=True)


def test_the_checks(tmp_path: Path) -> None:
    for name, code in EXAMPLES.items():
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    done = checked(tmp_path)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout
    broken = EXAMPLES["no_links"].replace("kept.append(example)", "kept.insert(0, example)")
    (tmp_path / "no_links.py").write_text(broken, encoding="utf-8")
    done = checked(tmp_path)
    assert done.returncode == 1 and "NoLinks: the kept ones are in the order they came" in done.stdout, done.stdout


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "test_my_parts"])
def test_help_has_the_options_of_the_file(cli: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.py").write_text(EXAMPLES[name], encoding="utf-8")
    done = succeeded(cli("run", f"./{name}.py:{name}", "--help"))
    assert "--per_round" in done.stdout and "--engine" in done.stdout


def named_options(text: str) -> set[str]:
    return set(re.findall(r"(?<!\S)--([a-z_][\w.]*)", text))


def test_the_commands_of_the_pages_have_real_options(cli: Run) -> None:
    classes = [("engine", name) for name in ("HF", "OpenAI", "OpenVINO", "Ray", "VLLM")] + [
        ("trainer", "SFT"),
        ("trainer.loss", "CrossEntropy"),
    ]
    parts = set().union(*(named_options(cli("run", "isara", f"--{slot}.help", name).stdout) for slot, name in classes))
    assert {"engine.url", "trainer.lora_rank"} <= parts and len(COMMANDS) > 10
    engines = {name for name in parts if name.startswith("engine.")}
    parts |= {f"win_rate.{name}" for name in engines}  # a judge's own engine
    parts |= {name.replace("engine.", "engine.inner.") for name in engines}  # that of each of Ray's workers
    known = {each: named_options(cli(*each, "--help-all").stdout) | parts for each in {found[:2] for found in COMMANDS}}
    for command, recipe, rest in COMMANDS:
        assert named_options(rest) <= known[command, recipe], (command, recipe, rest)


def test_the_page_about_check_has_its_lines(cli: Run) -> None:
    page = (ROOT / "docs" / "check.md").read_text(encoding="utf-8")
    done = succeeded(cli("check", "isara", "safe_helpful", *SCRIPTED))
    for line in done.stdout.splitlines():
        assert re.search(rf"^{re.escape(line.split(':')[0])}:", page, re.MULTILINE), line


def test_the_page_about_declared_checks_runs(cli: Run, tmp_path: Path) -> None:
    """Its schema and its functions take the answers that it is about and no other, and its Python makes a recipe."""
    page = (ROOT / "docs" / "expect.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(json|python)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (schema,), (functions, recipe) = ([text for kind, text in blocks if kind == wanted] for wanted in ("json", "python"))
    (tmp_path / "ticket.json").write_text(schema)
    (tmp_path / "checks.py").write_text(functions)
    answer = '{"product": "kettle", "urgent": false}'
    rows = [{"prompt": f"Number {row}: please mend my kettle", "response": answer} for row in range(6)]
    rows += [{**rows[0], "prompt": f"Please {row}, mend the kettle", "response": f"Please see kettle {row}."} for row in range(6)]
    write_rows(tmp_path / "seeds.jsonl", rows)
    named = [
        each for rest in re.findall(r"^selfalign run .*$", page, re.MULTILINE) for each in re.findall(r"--expect (\S+)", rest)
    ]
    named += re.findall(r"`--expect (compare\S+)`", page)
    given = [each for text in named for each in ("--expect", text)]
    found = json.loads(cli("check", "isara", "seeds.jsonl", *SCRIPTED, *given, "--validation_share", 0, "--json").stdout)
    failed = {rule["rule"]: rule["dropped"] for rule in found["rules_on_seeds"] if rule["filter"] == "filters.expected"}
    assert failed == {"expected:json_ticket.json": 6, "expected:function_is_polite": 6}
    scope: dict[str, Any] = {}
    exec(recipe, scope)
    assert list(dict(scope["recipe"].named_filters()))[-1] == "filters.expected"
