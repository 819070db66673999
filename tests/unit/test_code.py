"""HumanEval and MBPP: what hostile programs cannot do, the layouts, and what becomes of answers."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfalign.errors import RunFailed, UserError
from selfalign.evaluators import Code, _confined
from selfalign.evaluators._confined import run
from selfalign.types import Completion, Metric, Request
from tests.conftest import Run
from tests.files import succeeded, write_rows
from tests.parts import context, foretold

needs_confinement = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="code runs on Linux alone")

# Programs.


REFUSED = """
import ctypes, os, sys
def refused(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except (OSError, ValueError):
        return
    raise AssertionError(call)
def raw(*arguments):
    if ctypes.CDLL(None, use_errno=True).syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno())
parent, place, port = os.getppid(), {place!r}, {port}
secret, own = os.path.join(place, "secret"), os.path.join(place, "own")
"""
HOSTILE = {
    "connects": "import socket; refused(socket.create_connection, ('127.0.0.1', port), 2)",
    "opens a socket below Python": "refused(raw, 41 if os.uname().machine == 'x86_64' else 198, 2, 1, 0)",
    "opens a ring of calls": "refused(raw, 425, 8, bytes(120))",
    "forks": "refused(os.fork)",
    "starts a process": "import subprocess; refused(subprocess.run, [sys.executable, '-c', 'print(1)'])",
    "becomes another program": "refused(os.execv, sys.executable, [sys.executable, '-c', '0'])",
    "kills its parent": "refused(os.kill, parent, 9)",
    "kills everybody": "refused(os.kill, -1, 9)",
    "handles its parent": "refused(os.pidfd_open, parent)",
    "limits its parent": "import resource; refused(resource.prlimit, parent, resource.RLIMIT_NOFILE, (3, 3))",
    "slows its parent down": "refused(os.setpriority, os.PRIO_PROCESS, parent, 19)",
    "reads its parent's environment": "refused(open, f'/proc/{parent}/environ')",
    "reads a file": "refused(open, secret)",
    "lists a folder": "refused(os.listdir, place)",
    "writes a file": "refused(open, own, 'w')",
    "writes in its own folder": "refused(open, 'mine', 'w')",
    "appends to a file": "refused(open, secret, 'a')",
    "empties a file": "refused(os.truncate, secret, 0)",
    "removes a file": "refused(os.remove, secret)",
    "moves a file": "refused(os.rename, secret, own)",
    "links a file": "refused(os.link, secret, own); refused(os.symlink, secret, own)",
    "makes a folder": "refused(os.mkdir, own)",
    "changes a mode": "refused(os.chmod, secret, 0)",
    "changes an owner": "refused(os.chown, secret, 1, 1)",
    "changes a time": "refused(os.utime, secret, (1, 1))",
    "keeps memory behind": "refused(raw, 29 if os.uname().machine == 'x86_64' else 194, 0, 4096, 0o1600)",
    "holds memory in a file": "refused(os.memfd_create, 'x')",
    "raises its limits": "import resource; refused(resource.setrlimit, resource.RLIMIT_AS, (2**40, 2**40))",
    "leaves its namespaces": "refused(raw, 272 if os.uname().machine == 'x86_64' else 97, 0x10000000)",
    "reads its environment": "assert not {'SELFALIGN_TEST_SECRET', 'HOME', 'PATH', 'USER'} & {*os.environ}",
}


@needs_confinement
def test_what_a_hostile_program_cannot_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each program asserts itself that it was refused; from outside nothing has changed."""
    monkeypatch.setenv("SELFALIGN_TEST_SECRET", "x")
    secret = tmp_path / "secret"
    secret.write_text("untouched")
    before = secret.stat()
    with socket.create_server(("127.0.0.1", 0)) as server:
        head = REFUSED.format(place=str(tmp_path), port=server.getsockname()[1])
        names = list(HOSTILE)
        found = dict(zip(names, _confined.run_all([head + HOSTILE[name] for name in names], 20, 1024), strict=True))
    assert {name: ending for name, ending in found.items() if ending != "passed"} == {}
    after = secret.stat()
    assert secret.read_text() == "untouched" and os.listdir(tmp_path) == ["secret"]  # noqa: PTH208
    assert (before.st_mode, before.st_uid, before.st_mtime_ns, before.st_ino) == (
        after.st_mode,
        after.st_uid,
        after.st_mtime_ns,
        after.st_ino,
    )


@needs_confinement
@pytest.mark.parametrize(
    ("program", "ending"),
    [
        ("while True: pass", "stopped"),
        ("import time; time.sleep(1000)", "stopped"),
        ("held = bytearray(10**9)", "stopped"),
        ("held = []\nwhile True: held.append(bytes(10**7))", "stopped"),
        ("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", "stopped"),
        (
            "import os\nfor pipe in range(9):\n  try:\n    while True: os.write(pipe, b'x' * 4096)\n  except OSError: pass",
            "stopped",
        ),
        ("import threading, time\nfor _ in range(8): threading.Thread(target=time.sleep, args=(1000,)).start()", "passed"),
        (
            "import signal\nfor each in signal.valid_signals() - {9, 19}: signal.signal(each, signal.SIG_IGN)\nwhile True: pass",
            "stopped",
        ),
        ("import os; os._exit(0)", "failed"),
        ("import sys; sys.exit(0)", "failed"),
        ("import os; os.abort()", "failed"),
        ("import ctypes; ctypes.string_at(0)", "failed"),
        ("def deep(n): return deep(n + 1)\ndeep(0)", "failed"),
        ("raise BaseException('x' * 10**6)", "failed"),
        ("print('x' * 10**6); import sys; sys.stderr.write('x' * 10**6)", "passed"),
        ("assert 1 == 2", "failed"),
        ("not python", "failed"),
        ("'\udc80'", "failed"),
        ("\0", "failed"),
        ("import numpy, re, heapq, collections; assert numpy.arange(4).sum() == 6", "passed"),
        ("if __name__ == '__main__': raise SystemExit", "passed"),
    ],
)
def test_how_programs_end(program: str, ending: str) -> None:
    began = time.monotonic()
    assert _confined.run_all([program], 1, 512) == [ending]
    assert time.monotonic() - began < 30


def test_a_machine_that_does_not_confine_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loose = tmp_path / "child.py"
    loose.write_text(
        "import json, sys, os\nasked = json.load(sys.stdin)\ntry:\n    exec(asked['program'])\n    os.write(1, b'passed')\n"
        "except BaseException:\n    os.write(1, b'failed')\n"
    )
    broken = tmp_path / "broken.py"
    broken.write_text("raise OSError('Landlock: Function not implemented')")
    for child, said in ((loose, "a process that was to be confined was not"), (broken, "Landlock: Function not implemented")):
        monkeypatch.setattr(_confined, "_CHILD", child)
        _confined.confinement.cache_clear()
        with pytest.raises(UserError, match=f"runs only where the kernel confines it.*{said}"):
            _confined.run_all(["x = 1"], 5, 512)
    monkeypatch.setattr(_confined.sys, "platform", "darwin")
    _confined.confinement.cache_clear()
    with pytest.raises(UserError, match=r"Linux 5\.13 .* and this is darwin"):
        _confined.run_all(["x = 1"], 5, 512)
    monkeypatch.undo()
    _confined.confinement.cache_clear()
    if sys.platform.startswith("linux"):
        assert _confined.run_all(["x = 1"], 5, 512) == ["passed"]


@needs_confinement
def test_a_child_that_cannot_be_made_ready_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = tmp_path / "child.py"
    child.write_text("raise OSError('no seccomp here')")
    monkeypatch.setattr(_confined, "_CHILD", child)
    with pytest.raises(RunFailed, match=r"could not be prepared .*no seccomp here"):
        run("x = 1", 5, 512)


# Problems.

PROMPT = 'from typing import List\n\n\ndef double(x: int) -> int:\n    """Twice x.\n    >>> double(2)\n    4\n    """\n'
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": PROMPT,
    "entry_point": "double",
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-1) == -2\n",
}


def mbpp_row(number: int, **changes: Any) -> dict[str, Any]:
    tests = [f"assert f{number}(2) == {2 * number}"]
    code = f"def f{number}(x):\n  return x * {number}"
    row = {"task_id": number, "text": f"Write f{number}.", "code": code, "test_list": tests, "test_setup_code": ""}
    return {**row, **changes}


def jsonl(path: Path, *rows: dict[str, Any]) -> str:
    write_rows(path, rows)
    return str(path)


def measure(evaluator: Code, write: Callable[[Request], str], asked: list[Request] | None = None) -> dict[str, Metric]:
    def answer(request: Request) -> Completion:
        if asked is not None:
            asked.append(request)
        return Completion(write(request).strip(), "stop")

    metrics = evaluator.evaluate(context(write=answer), ())
    assert foretold(evaluator, (), metrics)
    return {metric.name: metric for metric in metrics}


@needs_confinement
def test_humaneval(tmp_path: Path) -> None:
    """As the tasks' authors run them: head, answer, tests, and a call of them; the plus file has more tests."""
    rows = [{**HUMANEVAL, "task_id": f"HumanEval/{n}"} for n in range(4)]
    plus = [{**row, "test": row["test"] + "    assert candidate(10**9) == 2 * 10**9\n"} for row in rows]
    answers = ["    return 2 * x", "    return x + x if x < 9 else 0", "    return 3 * x", "    while True: pass"]
    files = {
        "humaneval_file": jsonl(tmp_path / "h.jsonl", *rows),
        "humaneval_plus_file": jsonl(tmp_path / "p.jsonl", *plus),
        "unsafe_run_code": True,
        "seconds": 1,
    }
    asked: list[Request] = []
    found = measure(Code(**files), lambda request: answers[int(request.id[-1])], asked)
    assert [request.text for request in asked] == [PROMPT] * 8
    assert [each.value for each in found["humaneval:pass@1"].outcomes] == [1, 1, 0, 0]
    assert [each.value for each in found["humaneval_plus:pass@1"].outcomes] == [1, 0, 0, 0]
    assert found["humaneval:stopped"].value == 0.25 and found["humaneval:pass@1"].n == 4
    assert found["humaneval:pass@1"].unit == "share" and found["humaneval:pass@1"].low > 0
    replies = [
        f"Sure.\n```python\n{PROMPT}    return 2 * x\n```\nDone.",
        "```\ndef double(x):\n    return x + x if x < 9 else 0\n```",
        "```python\n    return 2 * x",
        "I cannot.",
    ]
    found = measure(Code(chat=True, **files), lambda request: replies[int(request.id[-1])], asked)
    assert [each.value for each in found["humaneval:pass@1"].outcomes] == [1, 1, 1, 0]
    assert [each.value for each in found["humaneval_plus:pass@1"].outcomes] == [1, 0, 1, 0]
    assert asked[-1].prompt is not None and PROMPT.rstrip() in asked[-1].prompt and asked[-1].text is None


@needs_confinement
def test_mbpp(tmp_path: Path) -> None:
    """Tasks 11 to 510 are asked behind tasks 2, 3 and 4; a plain list of tests is what passes."""
    rows = [mbpp_row(n) for n in (4, 1, 2, 3, 11, 510, 511)]
    rows[4] |= {"test_setup_code": "base = 11", "test_list": ["assert f11(2) == 2 * base", "assert f11(0) == 0"]}
    path = jsonl(tmp_path / "mbpp.jsonl", *rows)
    asked: list[Request] = []
    found = measure(
        Code(mbpp_file=path, unsafe_run_code=True), lambda request: f"def f11(x): return x * {request.id[-2:]}", asked
    )
    assert [request.id for request in asked] == ["mbpp/11", "mbpp/510"]
    text = str(asked[0].text)
    assert [text.find(f"Write f{n}.") > 0 for n in (2, 3, 4, 11)] == [True] * 4 and "Write f1." not in text
    assert text.index("Write f2.") < text.index("def f2(x)") < text.index("Write f3.") < text.index("Write f11.")
    assert text.endswith("assert f11(2) == 2 * base\nassert f11(0) == 0\n[BEGIN]\n") and text.count("[DONE]") == 3
    assert [each.value for each in found["mbpp:pass@1"].outcomes] == [1, 0]
    sanitized = {
        "task_id": 12,
        "prompt": "Write it.",
        "code": "x",
        "test_imports": ["import math"],
        "test_list": ["assert f(4) == math.sqrt(16)"],
    }
    path = jsonl(tmp_path / "sanitized.jsonl", sanitized)
    found = measure(Code(mbpp_file=path, unsafe_run_code=True, chat=True), lambda _: "```python\ndef f(x): return 4\n```", asked)
    assert found["mbpp:pass@1"].value == 1
    with pytest.raises(UserError, match=r"has 0 of the tasks 2, 3 and 4, and 3 are to be shown; .*--code\.mbpp_shots 0"):
        Code(mbpp_file=path, unsafe_run_code=True).check()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"test": None}, r"h\.jsonl:1: field 'test' is missing"),
        ({"prompt": 3}, r"h\.jsonl:1: field 'prompt' is the number 3"),
        ({"entry_point": "triple"}, r"h\.jsonl:1: the prompt does not define 'triple'"),
        ({"plus_input": [[1]]}, r"h\.jsonl:1: has plus_input.*evalplus/humanevalplus"),
    ],
)
def test_a_row_that_is_no_problem_is_told(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Code(humaneval_file=jsonl(tmp_path / "h.jsonl", {**HUMANEVAL, **changes}), unsafe_run_code=True).check()


def test_no_room_for_a_problem_is_told(tmp_path: Path) -> None:
    evaluator = Code(humaneval_file=jsonl(tmp_path / "h.jsonl", HUMANEVAL), unsafe_run_code=True)
    with pytest.raises(UserError, match=r"HumanEval/0: .* does not fit the model's window with 512 new tokens"):
        evaluator.evaluate(context(write=lambda _: Completion("", "context")), ())


def test_nothing_runs_unless_it_is_said(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    jsonl(tmp_path / "h.jsonl", HUMANEVAL)
    scripted = ("eval", "scripted", "--engine", "Scripted", "--encoder", "Hashed", "--code.humaneval_file", "h.jsonl")
    refused = cli(*scripted)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert "runs code that a model wrote; where you want that, say --unsafe_run_code true" in refused.stderr
    with pytest.raises(UserError, match=r"say --unsafe_run_code true"):
        Code(humaneval_file=str(tmp_path / "h.jsonl")).evaluate(context(), ())
    alone = cli(*scripted[:-2], "--unsafe_run_code", "true", "--held_out", seeds_file)
    assert alone.returncode == 2 and "options of --code change nothing without --code.humaneval_file" in alone.stderr
    if sys.platform.startswith("linux"):
        done = succeeded(cli(*scripted, "--unsafe_run_code", "true", "--json"))
        metrics = json.loads(done.stdout)["model"]["metrics"]
        assert metrics["humaneval:pass@1"]["value"] == 0 and metrics["humaneval:pass@1"]["n"] == 1
