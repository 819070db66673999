"""The layers of the house: arrows only downward, no cycles, nothing heavy at start."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src" / "selfalign"
PARTS = ("engines", "encoders", "proposers", "retrievers", "scorers", "filters", "trainers", "evaluators")
LAYERS = (
    ("types", "text", "errors", "cache"),
    ("seeds", "protocols"),
    ("models", "record", "expect"),
    ("proof",),
    PARTS,
    ("recipe",),
    ("recipes", "contracts", "loop"),
    ("tracking",),
    ("study",),
    ("report", "export"),
    ("cli",),
    ("__main__", "__init__"),
)
"""The rooms from the ground up: one imports from the storeys below, never from its own."""
FLOOR = {name: floor for floor, names in enumerate(LAYERS) for name in names}
HEAVY = {"torch", "transformers", "peft", "accelerate", "datasets", "sentence_transformers", "sklearn", "pandas", "openvino"}
FILES = sorted(SRC.rglob("*.py"))


def room(path: Path) -> str:
    """The top-level module or folder a file belongs to."""
    parts = path.relative_to(SRC).with_suffix("").parts
    return parts[0]


def imports(path: Path, *, top_level_only: bool) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_arrows_point_down(path: Path) -> None:
    own = room(path)
    assert own in FLOOR, f"{own} has no storey: add it to the table (and to the design)"
    for name in imports(path, top_level_only=False):
        if not name.startswith("selfalign."):
            continue
        other = name.split(".")[1]
        if other in FLOOR and other != own:
            assert FLOOR[other] < FLOOR[own], f"{own} (storey {FLOOR[own]}) imports {name} (storey {FLOOR[other]})"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_heavy_libraries_are_imported_inside_functions(path: Path) -> None:
    if path.name == "_child.py":  # the trainer's child process, never imported by the rest
        return
    roots = {name.split(".")[0] for name in imports(path, top_level_only=True)}
    assert not roots & HEAVY


def test_no_import_cycles() -> None:
    graph: dict[str, set[str]] = {}
    names = {".".join(("selfalign", *path.relative_to(SRC).with_suffix("").parts)): path for path in FILES}
    for name, path in names.items():
        wanted = imports(path, top_level_only=True)
        graph[name] = {other for other in names if any(each == other or each.startswith(other + ".") for each in wanted)} - {name}
    finished: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in finished:
            for other in graph[name]:
                visit(other, (*trail, name))
            finished.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize(
    "code",
    [
        "import selfalign; selfalign.align",
        "from selfalign.cli.main import main; main(['--help'])",
        "from selfalign.cli.main import main; main(['run', 'isara', 'none', '--rounds', 'two'])",  # the options of all parts
    ],
)
def test_start_loads_nothing_heavy(code: str) -> None:
    probe = f"{code}; import sys; print(sorted(set(sys.modules) & {HEAVY!r}))"
    output = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout
    assert output.strip().splitlines()[-1] == "[]"


def test_files_stay_readable() -> None:
    long = {str(path.relative_to(SRC)): count for path in FILES if (count := len(path.read_text().splitlines())) > 400}
    assert not long
