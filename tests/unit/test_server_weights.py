"""A server that is made to serve trained weights: that it does, that one which does not is found out, and that it ends."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfalign.engines import HF, OpenAI
from selfalign.engines._server_verify import NATS, distance, figures, judge
from selfalign.errors import RunFailed, UserError
from selfalign.evaluators import WinRate
from selfalign.loop.align import align
from selfalign.protocols import Served
from selfalign.scorers import Judge
from selfalign.trainers import SFT, NullTrainer
from selfalign.types import Example, ModelRef, Request, Sampling
from tests.conftest import Run
from tests.e2e.tiny_recipe import tiny
from tests.server import Loopback, alive, model_server
from tests.tiny import tiny_model

SEEDS = tuple(Example(f"s{i}", f"What is {i} and {i}?", f"It is {2 * i}.") for i in range(8))
ONE = [Request("r", prompt="What now?", seed=1)]
SHORT = Sampling(max_tokens=4)
CODE = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The models of rounds 0, 1 and 2, as far as a server is concerned: other weights each."""
    return [str(tiny_model(tmp_path_factory.mktemp("rounds") / "model", seed=seed)) for seed in range(3)]


def started(server: Loopback, model: str = "{model}") -> str:
    """The command of a server program."""
    return f"cd {CODE} && exec {shlex.quote(sys.executable)} -m tests.started_server {server.url} {model}"


def asked(engine: OpenAI, rounds: list[str], round: int) -> tuple[int, list[Mapping[str, Any]]]:
    """How many answers the round's model gave, and what was told of its weights."""
    told: list[Mapping[str, Any]] = []
    others = {f"round {number}": ModelRef(rounds[number]) for number in range(round)}
    with engine.open(engine.check(ModelRef(rounds[round]), SEEDS, "auto"), "auto") as session:
        assert isinstance(session, Served)
        if round:
            session.verify_weights(f"round {round}", SEEDS, others, told.append)
        return len(session.generate(ONE, SHORT)), told


def test_a_command_serves_each_rounds_weights_and_ends_with_them(rounds: list[str]) -> None:
    with model_server(Path(rounds[0]), seconds=1200, started=False, dtype="bfloat16") as server:
        engine = OpenAI(url=server.url, reload="command", command=started(server))
        for round in range(3):
            count, told = asked(engine, rounds, round)
            assert count == 1 and [each["verdict"] for each in told] == ["verified"] * (round > 0), told
    starts = [body for path, body, _ in server.seen if path == "/start"]
    assert [body["model"] for body in starts] == rounds and not any(alive(body["pid"]) for body in starts)


@pytest.mark.parametrize("scores", ["echo", "none"])
def test_old_weights_under_the_new_name_end_the_run(rounds: list[str], scores: Any) -> None:
    with model_server(Path(rounds[0]), seconds=1200, started=False) as server:
        engine = OpenAI(url=server.url, reload="command", command=started(server), scores=scores)
        asked(engine, rounds, 0)
        server.stale = True
        with pytest.raises(RunFailed, match=r"does not serve round 2 but still round 0: on 6 seeds its .* from those of round 2"):
            asked(engine, rounds, 2)
        server.stale = False
        assert asked(engine, rounds, 2)[0] == 1
        assert asked(OpenAI(url=server.url, reload="command", command=started(server), verify_weights=0), rounds, 1) == (1, [])


def test_a_command_that_starts_no_server_is_told(rounds: list[str]) -> None:
    with model_server(Path(rounds[0]), seconds=1200, started=False) as server:
        for command, startup, said in (
            ("echo starting; echo no such GPU >&2; exit 3 # {model}", 60.0, "ended with code 3; it said last: no such GPU"),
            ("true {model}", 0.1, "no server at .* in 0.1 s: nothing answers"),
        ):
            engine = OpenAI(url=server.url, reload="command", command=command, startup=startup)
            with pytest.raises(RunFailed, match=said):
                asked(engine, rounds, 0)
    # One that answers already is somebody else's, unless the command returns and so has restarted it.
    with model_server(Path(rounds[0]), seconds=1200) as server:
        engine = OpenAI(url=server.url, reload="command", command="sleep 60 # {model}", startup=0.1)
        with pytest.raises(RunFailed, match="what answered there before still does"):
            asked(engine, rounds, 0)
        elsewhere = OpenAI(url=server.url, reload="command", command="true {model}")
        assert asked(elsewhere, rounds, 0)[0] == 1


def test_one_server_serves_one_model_at_a_time(rounds: list[str], tmp_path: Path) -> None:
    with model_server(Path(rounds[0]), seconds=1200, started=False) as server:
        engine = OpenAI(url=server.url, reload="command", command=started(server))
        with engine.open(ModelRef(rounds[0]), "auto") as session, engine.open(ModelRef(rounds[1]), "auto") as judge:
            session.generate(ONE, SHORT)
            with pytest.raises(UserError, match="serves one model at a time"):
                judge.generate(ONE, SHORT)
            assert len(session.generate(ONE, SHORT)) == 1
        adapter = ModelRef(rounds[0], str(tmp_path), hash="x")
        with engine.open(adapter, "auto") as session, pytest.raises(UserError, match=r"trainer\.lora_rank=0"):
            session.generate(ONE, SHORT)


SERVE_ANEW: dict[str, Any] = {"reload": "command", "command": "true {model}"}


@pytest.mark.parametrize(
    ("options", "changes", "said"),
    [
        ({"reload": "lora"}, {}, r"loads adapters, and this trainer trains all weights; .*trainer\.lora_rank=16"),
        (SERVE_ANEW, {"trainer": SFT(lora_rank=4)}, r"whole weights, and this trainer trains adapters; .*trainer\.lora_rank=0"),
        (SERVE_ANEW, {"scorers": (Judge(model="base"),)}, "one model at a time, and a part of the recipe asks base"),
        (
            SERVE_ANEW,
            {"evaluators": (WinRate(judge="m/m"),), "rounds": 0},
            "one model at a time, and a part of the recipe asks m/m",
        ),
    ],
)
def test_models_that_the_engine_could_not_be_given_are_told_before_it_is_asked(
    options: dict[str, Any], changes: dict[str, Any], said: str, model_folder: Path, tmp_path: Path
) -> None:
    with model_server(model_folder) as server:
        recipe = replace(tiny(rounds=2), engine=OpenAI(url=server.url, **options), **changes)
        with pytest.raises(UserError, match=said):
            align(recipe, str(model_folder), SEEDS, tmp_path / "run")
    assert not server.seen and not (tmp_path / "run").exists()


def test_what_is_never_asked_of_the_engine_is_not_refused() -> None:
    unmeasured = replace(tiny(rounds=1), evaluators=(), scorers=(Judge(model="base"),))
    for engine in (OpenAI(reload="lora"), OpenAI(**SERVE_ANEW)):  # the trained model is not run, and base is round 1's own
        replace(unmeasured, engine=engine).check()
    replace(tiny(rounds=2), engine=OpenAI(**SERVE_ANEW), scorers=(Judge(model="current"),)).check()
    replace(tiny(rounds=2), engine=OpenAI(reload="lora"), trainer=NullTrainer()).check()  # it does not say what it makes


def test_the_command_line_tells_it_and_so_does_the_check_beforehand(cli: Run, seeds_file: Path, model_folder: Path) -> None:
    for command, more in (("check", ()), ("run", ("--out", "out"))):
        engine = ("--engine", "OpenAI", "--engine.reload", "lora", "--engine.url", "http://127.0.0.1:9/v1")
        done = cli(command, "isara", seeds_file, "--model", model_folder, *engine, *more)
        assert done.returncode == 2 and "engine.reload=lora loads adapters" in done.stderr, done.stderr


def test_an_adapter_to_start_from_is_not_for_a_command(tmp_path: Path, model_folder: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    with pytest.raises(UserError, match=r"starts a server of whole weights, and .* is an adapter"):
        OpenAI(**SERVE_ANEW).check(ModelRef(str(model_folder), str(tmp_path)), SEEDS, "auto")


def test_a_server_does_not_outlive_a_run_that_is_killed(tmp_path: Path) -> None:
    """A shell that ignores SIGTERM and its child: both end when the pipe of the parent closes."""
    line = f"trap '' TERM; sleep 300 & echo $! > {tmp_path}/child; echo $$ > {tmp_path}/shell; while true; do sleep 300; done"
    code = "import selfalign.engines._server_guard as guard, sys, os; guard.GRACE = 0.5; os._exit(guard.main(sys.argv[1]))"
    guard = subprocess.Popen([sys.executable, "-c", code, line], stdin=subprocess.PIPE)
    wait_for(lambda: (tmp_path / "shell").is_file() and (tmp_path / "shell").read_text().endswith("\n"))
    pids = [int((tmp_path / name).read_text()) for name in ("shell", "child")]
    assert all(alive(pid) for pid in pids)
    assert guard.stdin is not None
    guard.stdin.close()  # as the kernel does at a kill -9
    guard.wait(120)
    wait_for(lambda: not any(alive(pid) for pid in pids))


def wait_for(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("served", "own", "old", "kind"),
    [
        ((-2.03, -3.02), (-2.0, -3.0), (-2.5, -3.4), "verified"),
        ((-2.5, -3.4), (-2.0, -3.0), (-2.5, -3.4), "stale"),
        ((-2.3, -3.3), (-2.0, -3.0), (-2.5, -3.4), "stale"),
        ((-1.75, -3.25), (-2.0, -3.0), (-2.5, -3.4), "other"),  # nearer to the new ones, but not by enough
        ((-7.0, -1.0), (-2.0, -3.0), (-2.5, -3.4), "other"),  # nearer to the old ones, but far from both
        ((-1.0, -1.0), (-2.0, -3.0), (-2.5, -3.4), "other"),
        ((-2.001, -3.001), (-2.0, -3.0), (-2.001, -3.001), "indistinguishable"),
        ((-2.0, -3.0), (-2.0, -3.0), (-2.0, -3.0), "indistinguishable"),
        ((-2.0, -3.0), (-2.0, -3.0), (-2.001, -3.001), "verified"),
        ((float("nan"), -3.0), (-2.0, -3.0), (-2.5, -3.4), "other"),
        (("It is two.", "It is ten."), ("It is two.", "It is ten."), ("Maybe.", "No idea."), "verified"),
        # A near tie fell otherwise.
        (("It is two.", "It is nil."), ("It is two.", "It is ten."), ("Maybe.", "No idea."), "verified"),
        (("Maybe.", "No idea."), ("It is two.", "It is ten."), ("Maybe.", "No idea."), "stale"),
        (("It is two.", "It is ten."), ("It is two.", "It is ten."), ("It is two.", "It is ten."), "indistinguishable"),
    ],
)
def test_the_rule(served: Any, own: Any, old: Any, kind: str) -> None:
    verdict = judge(served, own, {"round 1": old}, "round 2")
    assert verdict.kind == kind and "round 2" in verdict.text and "round 1" in verdict.text, verdict


def test_another_number_type_stays_within_the_tolerance(rounds: list[str]) -> None:
    found = []
    for model, dtype in ((rounds[0], "float32"), (rounds[0], "bfloat16"), (rounds[1], "float32")):
        with HF(dtype=dtype, device="cpu").open(ModelRef(model), "auto") as session:
            found.append(figures(session, SEEDS, scored=True))
    assert 0.0 < distance(found[0], found[1]) < NATS < distance(found[0], found[2]) / 2


def test_a_model_is_known_by_its_answers_under_the_seeds_system_prompt(rounds: list[str]) -> None:
    with HF(dtype="float32", device="cpu").open(ModelRef(rounds[0]), "auto") as session:
        bare, under = (figures(session, [replace(SEEDS[0], system=each)], scored=False) for each in ("", "Write in verse."))
    assert bare != under


@pytest.mark.parametrize(
    "options", [{"reload": "command"}, {"reload": "command", "command": "vllm serve"}, {"command": "x {model}"}]
)
def test_a_command_goes_with_its_option_and_names_the_model(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"reload=command and a command with \{model\}"):
        OpenAI(**options)
