"""A run that goes wrong says so, stops where it shall, and says it once."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from selfalign.loop.guards import HITS_STORED, compare
from selfalign.proof.stats import paired_difference
from selfalign.record.store import Store
from tests.conftest import SCRIPTED, Run
from tests.e2e.guarded_recipe import TEST_PROMPT
from tests.files import succeeded, write_rows

RECIPES = Path(__file__).parent / "guarded_recipe.py"


def run(cli: Run, recipe: str, seeds: Path, out: Path, *options: object) -> dict[str, Any]:
    done = succeeded(cli("run", f"{RECIPES}:{recipe}", seeds, "--model", "scripted", "--quiet", "--json", "--out", out, *options))
    status: dict[str, Any] = json.loads(done.stdout)
    return status


def events(out: Path, kind: str) -> list[dict[str, Any]]:
    with Store.read(out) as store:
        return [data for _, name, data in store.events() if name == kind]


@pytest.fixture
def held_out_file(tmp_path: Path) -> Path:
    path = tmp_path / "held_out.jsonl"
    path.write_text("".join(json.dumps({"prompt": p, "response": "Yes."}) + "\n" for p in (TEST_PROMPT, "Is the moon far?")))
    return path


def test_a_round_that_falls_back_is_a_regression(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    """ISARA's OPT-350M: a first round that helps, a second one worse than the base model (29.5 to 34.9)."""
    status = run(cli, "moody", seeds_file, tmp_path / "out")
    assert status["best_round"] == 1 and len(status["rounds"]) == 3
    because = status["stopped_because"]
    assert because.startswith("regression: round 2 is worse than round 1 on the 6 validation seeds")
    assert "-0.2000 [-0." in because and "p = 0.031" in because and "rolled back to round 1" in because
    change = [row["metrics"].get("validation_change") for row in status["rounds"]]
    assert change[0] is None and change[1]["low"] > 0 and change[2]["high"] < 0
    assert [event["verdict"] for event in events(tmp_path / "out", "validation")] == ["better", "regression"]


def test_a_change_within_noise_is_called_so(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    status = run(cli, "moody", seeds_file, tmp_path / "down", "--moods", "[0.0,-0.001]")
    assert status["best_round"] == 0
    assert status["stopped_because"].startswith("round 1 is no better than round 0 (within noise) on the 6 validation seeds")
    assert "-0.0010 [-0." in status["stopped_because"] and ", p = 0." in status["stopped_because"]
    status = run(cli, "moody", seeds_file, tmp_path / "up", "--moods", "[0.0,0.001]", "--rounds", 1)
    assert status["best_round"] == 1
    assert status["stopped_because"].startswith("the one round is done; round 1 is better than round 0 (within noise)")


def test_a_small_loss_drops_a_trained_round_only_if_asked_to(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    options = ("--moods", "[0.0,0.1,0.099]", "--rounds", 2)
    status = run(cli, "moody", seeds_file, tmp_path / "worse", *options)
    assert status["best_round"] == 2
    assert "round 2 is no better than round 1 (within noise)" in status["stopped_because"]
    assert status["stopped_because"].endswith("; kept as the newer one")
    status = run(cli, "moody", seeds_file, tmp_path / "no_better", *options, "--roll_back", "no_better")
    assert status["best_round"] == 1 and status["stopped_because"].endswith("; rolled back to round 1")


@pytest.mark.parametrize(("last", "best"), [(0.2, 3), (-0.2, 1)])
def test_no_round_falls_before_the_one_that_learns_the_seeds_answers(
    cli: Run, seeds_file: Path, tmp_path: Path, last: float, best: int
) -> None:
    status = run(cli, "moody", seeds_file, tmp_path / "out", "--moods", f"[0.0,0.1,-0.1,{last}]", "--train_seeds", "last")
    found = [(event["verdict"], event["text"].rpartition("; ")[2]) for event in events(tmp_path / "out", "validation")]
    assert found[1] == ("regression", "kept as the newer one") and len(found) == 3
    assert status["best_round"] == best and ("has not learned the seeds' own" in status["stopped_because"]) == (best == 1)


@pytest.mark.parametrize(("share", "count", "p"), [(0.2, 2, 0.5), (0.3, 4, 0.125)])
def test_few_validation_seeds_that_agree_roll_nothing_back(
    cli: Run, seeds_file: Path, tmp_path: Path, share: float, count: int, p: float
) -> None:
    """Their differences lie within 0.04 of each other, so that Student's t says p < 0.01 of two."""
    checked = cli("check", f"{RECIPES}:moody", seeds_file, "--model", "scripted", "--validation_share", share)
    assert "warning: fewer than 6 validation seeds cannot tell two models apart" in checked.stdout
    status = run(
        cli, "moody", seeds_file, tmp_path / "out", "--moods", "[0.0,0.5,-0.5]", "--rounds", 2, "--validation_share", share
    )
    assert status["best_round"] == 2
    up, down = events(tmp_path / "out", "validation")
    assert (up["verdict"], down["verdict"]) == ("better within noise", "no better within noise")
    assert up["p_value"] == down["p_value"] == p
    few = "; fewer than 6 validation seeds cannot tell two models apart"
    assert up["text"].startswith(f"round 1 is better than round 0 (within noise) on the {count} validation seeds")
    unchecked = f"{few}; kept as the newer one; the newest round is shipped unchecked"
    assert up["text"].endswith(few) and unchecked in status["stopped_because"]
    shown = cli("status", tmp_path / "out")
    assert shown.returncode == 0 and "cannot tell two models apart" in " ".join(shown.stdout.split())
    assert "validation_change" not in status["rounds"][2]["metrics"]  # its interval would be without end


@pytest.mark.parametrize("rule", ["worse", "no_better"])
def test_few_validation_seeds_roll_nothing_back_to_the_base_model(cli: Run, seeds_file: Path, tmp_path: Path, rule: str) -> None:
    options = ("--moods", "[0.0,-0.5,-0.9]", "--rounds", 2, "--validation_share", 0.2, "--roll_back", rule)
    status = run(cli, "moody", seeds_file, tmp_path / "out", *options)
    assert status["best_round"] == 2 and "the newest round is shipped unchecked" in status["stopped_because"]
    assert all("kept as the newer one" in event["text"] for event in events(tmp_path / "out", "validation"))


def test_small_losses_do_not_add_up_unseen(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    status = run(cli, "moody", seeds_file, tmp_path / "out", "--moods", "[0.0,0.1,0.09,0.05]")
    assert [event["verdict"] for event in events(tmp_path / "out", "validation")][1:] == ["no better within noise", "regression"]
    assert status["best_round"] == 1 and "round 3 is worse than round 1" in status["stopped_because"]


def test_the_four_verdicts() -> None:
    old = [-2.0, -2.1, -2.2, -1.9, -2.3, -2.05]
    shifts = {"better": 0.3, "better within noise": 0.01, "no better within noise": -0.01, "regression": -0.3}
    for kind, shift in shifts.items():
        new = [value + shift + 0.05 * (-1) ** place for place, value in enumerate(old)]
        assert compare(2, 1, paired_difference(new, old), 6, False)[0] == kind
    assert compare(1, 0, paired_difference(old, old), 6, False)[0] == "no better within noise"
    kind, text = compare(1, 0, paired_difference([-9.0], [-2.0]), 1, False)
    assert kind == "no better within noise" and text.endswith(
        "per token -7.0000; fewer than 6 validation seeds cannot tell two models apart; rolled back to round 0"
    )  # one seed alone proves nothing


def test_a_collapse_is_told_and_the_run_goes_on(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status = run(cli, "collapse", seeds_file, out)
    assert status["best_round"] == 2 and len(status["rounds"]) == 3
    metrics = [row["metrics"] for row in status["rounds"]]
    assert metrics[1]["alarms"]["value"] == 0
    assert metrics[2]["alarms"]["value"] == len(events(out, "alarm")) >= 2
    assert metrics[2]["kept_median_words"]["value"] == 2 and metrics[2]["kept_very_short"]["value"] == 1
    assert metrics[0]["kept_median_words"]["value"] > 10  # those of the seeds
    assert {event["name"] for event in events(out, "alarm")} >= {"kept_median_words", "kept_very_short"}
    assert {(event["round"], event["action"]) for event in events(out, "alarm")} == {(2, "warn")}
    table = " ".join(cli("status", out).stdout.split())
    assert "alarm: round 2: median words of a response 2, below 0.5 of the" in table


def test_a_collapse_ends_the_run_before_it_trains(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status = run(cli, "collapse", seeds_file, out, "--alarms.action", "stop")
    assert status["best_round"] == 1 and status["state"] == "done"
    assert status["stopped_because"].startswith("alarm in round 2: median words of a response 2, below")
    assert status["rounds"][2]["model"] is None and status["rounds"][2]["kept"] == 24
    assert "alarms" in json.loads((out / "round-02" / "metrics.json").read_text())
    assert run(cli, "collapse", seeds_file, out, "--alarms.action", "stop") == status
    quiet = run(cli, "collapse", seeds_file, tmp_path / "off", "--alarms.action", "off")
    assert quiet["best_round"] == 2 and "alarms" not in quiet["rounds"][2]["metrics"] and not events(tmp_path / "off", "alarm")


def test_a_threshold_can_be_switched_off(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    off = [f"--alarms.{name}=null" for name in ("median_words", "very_short", "very_short_rise", "distinct_2", "spread")]
    status = run(cli, "collapse", seeds_file, tmp_path / "out", "--alarms.action", "stop", *off)
    assert status["best_round"] == 2
    done = cli("run", "isara", seeds_file, *SCRIPTED, "--alarms.repeats", 2, "--out", tmp_path / "bad")
    assert done.returncode == 2 and "alarms.repeats = 2" in done.stderr and len(done.stderr.splitlines()) == 1


def test_only_the_round_shipped_is_measured_if_asked(cli: Run, seeds_file: Path, held_out_file: Path, tmp_path: Path) -> None:
    """Round 2 falls, so round 1 is opened once more; killed before its figures are written, the run ends with the same ones."""
    told = ("--held_out", held_out_file)
    every = run(cli, "moody", seeds_file, tmp_path / "every", *told)
    shipped = ("moody", seeds_file, tmp_path / "shipped", *told, "--evaluate", "shipped")
    arguments = ("run", f"{RECIPES}:{shipped[0]}", shipped[1], "--model", "scripted", "--quiet", "--out", *shipped[2:])
    assert cli(*arguments, SELFALIGN_FAULT_AT="evaluate.before-commit:2").returncode == -signal.SIGKILL
    status = run(cli, *shipped)
    assert status["best_round"] == every["best_round"] == 1 and status["stopped_because"] == every["stopped_because"]
    measured = [row["metrics"].get("log_likelihood") for row in status["rounds"]]
    wanted = [row["metrics"].get("log_likelihood") for row in every["rounds"]]
    assert all(wanted) and measured == [wanted[0], wanted[1], None]
    kept = [[row["kept"] for row in each["rounds"]] for each in (status, every)]
    assert kept[0] == kept[1]
    assert "log_likelihood" in json.loads((tmp_path / "shipped" / "round-01" / "metrics.json").read_text())


@pytest.mark.parametrize(
    "point", ["guards.before-commit:3", "guards.after-commit:3", "choose.before-commit:2", "choose.after-commit:2"]
)
def test_a_killed_run_tells_nothing_twice(cli: Run, seeds_file: Path, tmp_path: Path, point: str) -> None:
    wanted = run(cli, "collapse", seeds_file, tmp_path / "whole")
    arguments = ("run", f"{RECIPES}:collapse", seeds_file, "--model", "scripted", "--quiet", "--out", tmp_path / "out")
    assert cli(*arguments, SELFALIGN_FAULT_AT=point).returncode == -signal.SIGKILL
    status = run(cli, "collapse", seeds_file, tmp_path / "out")
    assert [row["metrics"] for row in status["rounds"]] == [row["metrics"] for row in wanted["rounds"]]
    for kind in ("alarm", "validation", "overlap"):
        assert events(tmp_path / "out", kind) == events(tmp_path / "whole", kind)


def test_a_prompt_of_the_test_ends_the_run(cli: Run, seeds_file: Path, held_out_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status = run(cli, "leak", seeds_file, out, "--held_out", held_out_file)
    assert status["best_round"] == 1 and status["rounds"][2]["model"] is None
    assert status["stopped_because"].count(repr(TEST_PROMPT)) == 2 and "allow_overlap" in status["stopped_because"]
    metrics = status["rounds"][2]["metrics"]
    assert (metrics["overlap_exact"]["value"], metrics["overlap_near"]["value"]) == (3, 21)  # slots 3, 13 and 23
    assert status["rounds"][1]["metrics"]["overlap_exact"]["value"] == 0
    (event,) = events(out, "overlap")
    assert (event["round"], event["exact"], event["near"], len(event["hits"])) == (2, 3, 21, HITS_STORED)
    assert event["hits"][0]["training"] == "r02-00003" and event["hits"][0]["kind"] == "exact"
    assert event["hits"][-1]["held_out_text"] == TEST_PROMPT != event["hits"][-1]["training_text"]
    assert "overlap: round 2: 3 pairs" in " ".join(cli("status", out).stdout.split())
    # What the message names goes on with the same run, and ends as if it had been said at once.
    permitted = ("--held_out", held_out_file, "--allow_overlap", "true")
    allowed = run(cli, "leak", seeds_file, out, *permitted)
    assert allowed["best_round"] == 2 and allowed["rounds"][2]["metrics"]["overlap_exact"]["value"] == 3
    assert [event["text"] for event in events(out, "granted")] == ["allow_overlap = false, now true"]
    at_once = run(cli, "leak", seeds_file, tmp_path / "at_once", *permitted)
    assert [row["metrics"] for row in allowed["rounds"]] == [row["metrics"] for row in at_once["rounds"]]
    assert not events(tmp_path / "at_once", "granted")
    again = ("run", f"{RECIPES}:leak", seeds_file, "--model", "scripted", "--quiet", "--out", out, "--held_out", held_out_file)
    done = cli(*again)
    assert done.returncode == 2 and "allow_overlap = true, now false" in done.stderr


@pytest.mark.parametrize("evaluator", ["truthfulness", "ifeval"])
def test_a_prompt_that_an_evaluator_brings_ends_the_run(cli: Run, seeds_file: Path, tmp_path: Path, evaluator: str) -> None:
    file = tmp_path / ("questions.csv" if evaluator == "truthfulness" else "rows.jsonl")
    if evaluator == "truthfulness":
        columns = "Question,Best Answer,Correct Answers,Incorrect Answers"
        file.write_text(f'{columns}\nWhat is air?,A gas,A gas,A fish\n"{TEST_PROMPT}",So,So,No\n')
        option, hit = "--truthfulness.file", "truthfulqa-"
    else:
        rows = [{"key": n, "prompt": text, "kwargs": [{}]} for n, text in enumerate(("Use no commas.", TEST_PROMPT))]
        file.write_text("".join(json.dumps(row | {"instruction_id_list": ["punctuation:no_comma"]}) + "\n" for row in rows))
        option, hit = "--lm_eval.ifeval_file", "ifeval/1"
    text = file.read_text()
    status = run(cli, "leak", seeds_file, tmp_path / "out", option, file)
    assert status["best_round"] == 1 and "allow_overlap" in status["stopped_because"]
    (event,) = events(tmp_path / "out", "overlap")
    assert event["exact"] == 3 and event["hits"][0]["held_out"].startswith(hit)
    assert event["hits"][0]["training_text"] == event["hits"][0]["held_out_text"] == TEST_PROMPT
    allowed = run(cli, "leak", seeds_file, tmp_path / "allowed", option, file, "--allow_overlap", "true")
    assert allowed["best_round"] == 2 and allowed["rounds"][2]["metrics"]["overlap_exact"]["value"] == 3
    # A seed among them (one that is shown, not held out for validation) is told before anything is written.
    seed = json.loads(seeds_file.read_text().splitlines()[1])["prompt"]
    file.write_text(text.replace("What is air?", seed).replace("Use no commas.", seed))
    known = cli("run", f"{RECIPES}:leak", seeds_file, "--model", "scripted", "--out", tmp_path / "no", option, file)
    assert known.returncode == 2 and len(known.stderr.splitlines()) == 1 and not (tmp_path / "no").exists()
    assert hit[:6] in known.stderr and "of an evaluator asks the same as" in known.stderr
    file.write_text(text)
    # The same model measured afterwards on those prompts: it has seen one of them.
    measured = ("eval", tmp_path / "allowed", "--engine", "Scripted", "--encoder", "Hashed", option, file, "--quiet")
    refused = cli(*measured)
    assert refused.returncode == 2 and f"held-out example {hit}" in refused.stderr and "was trained on" in refused.stderr
    assert cli(*measured, "--allow_overlap").returncode == 0


def test_seeds_of_the_test_are_allowed_only_by_name(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    done = cli("run", f"{RECIPES}:leak", seeds_file, "--model", "m", "--held_out", seeds_file, "--out", tmp_path / "no")
    assert done.returncode == 2 and "asks the same as seed" in done.stderr
    status = run(cli, "leak", seeds_file, tmp_path / "yes", "--held_out", seeds_file, "--allow_overlap", "true")
    assert status["rounds"][0]["metrics"]["overlap_exact"]["value"] == 10  # those shown; two are held out for validation


def test_a_damaged_model_is_trained_again_and_told(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(cli, "moody", seeds_file, out, "--rounds", 1)
    (file,) = (out / "round-01" / "model").glob("*.json")
    file.write_text("{}")
    again = cli("run", f"{RECIPES}:moody", seeds_file, "--model", "scripted", "--quiet", "--out", out, "--rounds", 1)
    assert again.returncode == 0
    assert "damaged-model: the model of round 1 is trained again" in " ".join(again.stdout.split())


@pytest.fixture
def many_seeds(tmp_path: Path) -> Path:
    verbs, things = ("clean", "mend", "paint", "store"), ("table", "window", "roof", "stove", "chair", "floor")
    rows = [
        {"prompt": f"How do I {verb} the {thing} in the old house today?", "response": f"Take the {thing} and {verb} it slowly."}
        for verb in verbs
        for thing in things
    ]
    path = tmp_path / "many.jsonl"
    return write_rows(path, rows)


def test_prompts_that_were_shown_nothing_near_and_a_metric_that_turned(cli: Run, many_seeds: Path, tmp_path: Path) -> None:
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text(
        "".join(json.dumps({"prompt": f"Is {n} more than {n + 3}?", "response": "No."}) + "\n" for n in range(14))
    )
    for _ in range(2):  # the second time nothing is left to do, and nothing is said twice
        status = run(cli, "wander", many_seeds, tmp_path / "out", "--held_out", held_out)
    out, page = tmp_path / "out", tmp_path / "report.html"
    far, turns = ([event["text"] for event in events(out, kind)] for kind in ("retrieval", "oscillation"))
    assert [text.partition(" than all")[0] for text in far] == [
        f"round {k}: 80% of 40 prompts lie farther from every example they were shown" for k in (1, 2)
    ]
    kept, dropped = ([json.loads(line) for line in (out / f"round-02/{half}.jsonl").open()] for half in ("kept", "dropped"))
    near = [row["id"] for row in (*kept, *dropped) if max(d["similarity"] for d in row["response_demonstrations"]) > 0.85]
    share = (len(kept) - len(near)) / (40 - len(near))
    assert len(near) == 8 and {*near} < {row["id"] for row in kept}
    assert (
        f"than all 18 seeds lie from the nearest other seed (cosine below 0.85); answers to them were kept {share:.0%}" in far[1]
    )
    assert "those to the others 100%" in far[1]
    assert json.loads((out / "round-02/metrics.json").read_text())["diversity_far_from_shown"]["value"] == 0.8
    assert [text.partition(" turned")[0] for text in turns] == ["finished", "response words", "usual length"]  # and no other one
    assert (
        "from 8.0 to 19.0 in rounds 0 to 1 (+11.0 [" in turns[1] and "then from 19.0 to 8.0 in rounds 1 to 2 (-11.0 [" in turns[1]
    )
    assert cli("report", out, "--out", page).returncode == 0
    shown = (cli("status", out).stdout, page.read_text())
    assert all(text[:60] in each.replace("\n", " ") for each in shown for text in (*far, *turns))
    assert status["best_round"] == 2


def test_examples_drawn_at_random_are_not_far_and_two_prompts_turn_nothing(
    cli: Run, many_seeds: Path, held_out_file: Path, tmp_path: Path
) -> None:
    status = run(cli, "wander", many_seeds, tmp_path / "out", "--at_random", "true", "--held_out", held_out_file)
    assert not events(tmp_path / "out", "retrieval") and not events(tmp_path / "out", "oscillation")
    assert all("diversity_far_from_shown" not in row["metrics"] for row in status["rounds"])


def test_where_each_is_shown_its_own_category_the_twins_of_another_one_set_no_limit(
    cli: Run, many_seeds: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in many_seeds.open()]
    twins = [{**row, "prompt": row["prompt"].replace("old", word), "category": word} for row in rows for word in ("old", "new")]
    write_rows(many_seeds, twins)
    out, small = tmp_path / "out", ("--rounds", 2, "--validation_share", 0, "--quiet")
    succeeded(cli("run", "self_distill", many_seeds, *SCRIPTED, *small, "--out", out))
    assert not events(out, "retrieval")
    assert json.loads((out / "round-01/metrics.json").read_text())["diversity_far_from_shown"]["value"] < 0.2
