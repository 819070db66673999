"""What the report shows of a run, read from its record into plain data (as JSON knows it)."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import quantiles
from typing import Any

import yaml

from selfalign.record.exports import everything
from selfalign.record.lineage import unanswered
from selfalign.record.plain import flat, portable
from selfalign.record.replay import replay_rows
from selfalign.record.review import DECIDED, decisions, waiting
from selfalign.record.status import status, warnings
from selfalign.record.store import Store
from selfalign.report.verdict import verdict
from selfalign.text import count_words, finite
from selfalign.types import Demonstration, Dropped, Example


def read_run(folder: Path) -> dict[str, Any]:
    """All that the page shows, from one snapshot of the record; also while the run goes on.

    The page is passed on, and where it was made is nobody's business: options, events and reasons are `portable`.

    Raises:
        UserError: no run folder, or one of another version.
    """
    with Store.read(folder) as store, store.snapshot():
        where = status(store)
        where["stopped_because"] = portable(where["stopped_because"])
        rounds = [row["round"] for row in where["rounds"]]
        samples = _samples(store, rounds)
        return {
            "folder": folder.resolve().name,
            **{key: where[key] for key in ("state", "stopped_because", "recipe", "best_round")},
            "rounds": [
                {**row, "model": _model(folder, row["model"]), "losses": _losses(store, row["round"])} for row in where["rounds"]
            ],
            "verdict": verdict(store, where),
            "warnings": portable(warnings(store)),
            "go_on": _go_on(folder, where["state"]),
            "reviews": [row["review"]["text"] for row in where["rounds"] if "review" in row],
            "lengths": [_lengths(round, samples) for round in rounds],
            "samples": samples,
            "held_out": held_out_answers(store, rounds, where["rounds"]),
            "events": [
                {"at": at, "kind": kind, "what": _event(portable(data))} for at, kind, data in store.events() if kind != DECIDED
            ],
            "options": [[name, str(value)] for name, value in flat(portable(store.identity()))],
        }


def _go_on(folder: Path, state: str) -> str:
    """The command that goes on with a run that did not end well, where it has written its options down; else "".

    Of a study's run it is the study's.
    """
    if state not in ("interrupted", "stopped", "failed", "waiting"):
        return ""
    for command, place in (("run", folder / "run.yaml"), ("study", folder.absolute().parent.parent / "study.yaml")):
        try:
            written = yaml.safe_load(place.read_text(encoding="utf-8"))["out"]
        except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
            continue
        return f"selfalign {command} --config {shlex.quote(f'{portable(str(written))}/{place.name}')}"
    return ""


def _samples(store: Store, rounds: Sequence[int]) -> list[dict[str, Any]]:
    """Every candidate by round and slot, then the seeds."""
    found: list[dict[str, Any]] = []
    for round in rounds:
        if round:
            made = [_sample(example, "kept") for example in store.kept(round)]
            made += [_sample(drop.example, "dropped", drop) for drop in store.dropped(round)]
            found += sorted(made, key=lambda row: int(row["slot"]))
    found += [_sample(example, "seed") for example in store.seeds()]
    found += [_sample(example, "validation") for example in store.validation_seeds()]
    found += [
        {**row, "verdict": "replay", "prompt_demonstrations": [], "response_demonstrations": []} for row in replay_rows(store)
    ]
    trained, edited = _trained(store), _edited(store, rounds)
    with store.snapshot() as connection:
        bare = unanswered(connection)
    return [
        {**row, "answered": row["id"] not in bare, "trained": trained.get(row["id"], []), **edited.get(row["id"], {})}
        for row in found
    ]


def _edited(store: Store, rounds: Sequence[int]) -> dict[str, dict[str, str]]:
    """{"before": what the model wrote} of each sample whose answer a person edited; who did is in the record, and stays there."""
    said = {id: each for round in rounds if round != waiting(store) for id, each in decisions(store, round).items()}
    return {id: {"before": each.before} for id, each in said.items() if each.verdict == "edited"}


def _sample(example: Example, verdict: str, drop: Dropped | None = None) -> dict[str, Any]:
    return {
        **everything(example),
        "verdict": verdict,
        "rule": drop.rule if drop else "",
        "evidence": drop.evidence if drop else "",
        "prompt_demonstrations": _links(example.prompt_demonstrations),
        "response_demonstrations": _links(example.response_demonstrations),
    }


def _links(shown: Sequence[Demonstration]) -> list[list[Any]]:
    """[id, similarity]; three digits, as the page shows them: all of them would be a fifth of a large page."""
    return [[each.id, None if each.similarity is None else finite(round(each.similarity, 3))] for each in shown]


def _trained(store: Store) -> dict[str, list[list[Any]]]:
    """Sample id to [round, rule, evidence] of each training that saw it; rule is None where it was trained on."""
    query = "SELECT s.id, t.round, t.rule, t.evidence FROM training t JOIN samples s ON s.number = t.sample ORDER BY t.round"
    found: dict[str, list[list[Any]]] = {}
    with store.snapshot() as connection:
        for id, *rest in connection.execute(query):
            found.setdefault(id, []).append(rest)
    return found


def _losses(store: Store, round: int) -> list[float | None]:
    return [finite(loss) for loss in store.training(round).get("losses", [])]


def _lengths(round: int, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Words of the responses in use after a round: its kept samples (round 0: the seeds)."""
    words = sorted(
        count_words(s["response"]) for s in samples if s["round"] == round and s["verdict"] not in ("dropped", "replay")
    )
    if len(words) < 2:
        low = middle = high = float(words[0]) if words else None
    else:
        tenths = quantiles(words, n=10, method="inclusive")
        low, middle, high = tenths[0], tenths[4], tenths[8]
    return {"round": round, "n": len(words), "low": low, "median": middle, "high": high}


def held_out_answers(store: Store, rounds: Sequence[int], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each held-out prompt with the answer of every round, and what it contributed to each metric.

    Round 0 has no candidates: what the engine wrote there, it wrote for an evaluation, or to be replayed.
    """
    with store.snapshot() as connection:
        stages = [name for (name,) in connection.execute("SELECT DISTINCT stage FROM outputs WHERE round = 0 ORDER BY stage")]
    stages = [name for name in stages if name != "replay"]
    outcomes = {
        (row["round"], name): {each.id: finite(each.value) for each in store.outcomes(row["round"], name)}
        for row in rows
        for name in row["metrics"]
    }
    found: list[dict[str, Any]] = []
    for stage in stages:
        answers: dict[str, dict[int, Mapping[str, Any]]] = {}
        for round in rounds:
            for output in store.done_batches(round, stage).values():
                if "text" in output and output.get("id") is not None:
                    answers.setdefault(output["id"], {})[round] = output
        found += [
            {
                "stage": stage,
                "id": id,
                **_asked(by_round.values()),
                "answers": [
                    {
                        "round": round,
                        "text": answer["text"],
                        "finish": answer.get("finish", ""),
                        "outcomes": {name: by[id] for (r, name), by in outcomes.items() if r == round and id in by},
                    }
                    for round, answer in sorted(by_round.items())
                ],
            }
            for id, by_round in answers.items()
        ]
    return found


def _asked(answers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The prompt, and its earlier turns where it has some; where an evaluation prescribes the whole text, that text."""
    for answer in answers:
        if text := answer.get("prompt") or answer.get("prompt_text"):
            return {"prompt": text, **({"history": answer["history"]} if answer.get("history") else {})}
    return {"prompt": ""}


def _model(folder: Path, path: str | None) -> str:
    """Inside the run folder relative to it."""
    if path is None:
        return ""
    place = Path(path)
    return place.relative_to(folder).as_posix() if place.is_relative_to(folder) else str(portable(path))


def _event(data: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in data.items() if key not in ("pid", "host", "rows", "by"))
