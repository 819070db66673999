"""`benchmarks/gpu.py`: its steps, each by itself, whatever the one before came to. What they measure is a GPU's affair."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu", BENCHMARKS / "gpu.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu", found)
    spec.loader.exec_module(found)
    return found


def test_a_step_that_fails_or_hangs_does_not_stop_the_others(
    gpu: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def step(name: str, code: str, limit: float = 60, **more: object) -> object:
        return gpu.Step(name, limit, [sys.executable, "-c", code], **more)

    dies = "import os; os.environ.get('SELFALIGN_FAULT_AT') and os._exit(9)"
    steps = [
        step("fails", "raise ValueError('no such kernel')"),
        step("hangs", "import subprocess; subprocess.run(['sleep', '600'])", 0.2),
        step("skipped", "", needs=["cuda", "nowhere_package"]),
        step("again", dies, dies_at="there"),
        step("lives", "", dies_at="there"),
        step(
            "works", f"open({str(tmp_path / 'works.json')!r}, 'w').write('{{\"method\": \"lora\"}}'); print('seen')", shown=True
        ),
    ]
    options = SimpleNamespace(out=tmp_path, vllm_python="")
    facts = gpu.Found("facts", "ok", figures={"kind": "cpu"})
    found = gpu.take(steps, options, facts, gpu.time.monotonic() + 600)
    wanted = ["ok", "FAILED", "TOOK TOO LONG", "skipped", "ok", "FAILED", "ok"]
    assert [each.result for each in found] == wanted
    assert found[1].why.startswith("exit code 1: ValueError: no such kernel") and found[3].why == "needs cuda and nowhere_package"
    assert found[5].why == "was not killed at there"
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert [each["step"] for each in written] == ["facts", "fails", "hangs", "skipped", "again", "lives", "works"]
    assert "| works | ok |" in gpu.table(found) and "| lora |" in gpu.table(found) and "seen" in capsys.readouterr().out
    left = gpu.take(steps[:1], options, facts, gpu.time.monotonic())
    assert (left[1].result, left[1].why) == ("skipped", "no time is left")


def test_without_a_gpu_the_cheapest_step_runs_and_those_of_cuda_are_skipped(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SystemExit, match="no step nothing; there are: full, lora, qlora"):
        gpu.main(["--out", str(tmp_path / "dry"), "--processor", "--only", "nothing"])
    assert not (tmp_path / "dry").exists()
    assert gpu.main(["--out", str(tmp_path / "dry"), "--processor", "--only", "fp16", "memory"]) == 0
    said = capsys.readouterr().out
    assert "cpu; torch" in said and "| facts | ok |" in said and "| fp16 | skipped |" in said
    assert [each["why"] for each in json.loads((tmp_path / "dry" / "gpu.json").read_text())] == ["", "needs cuda", "needs cuda"]
