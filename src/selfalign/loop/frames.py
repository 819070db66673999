"""A run's record as tables for Python: pandas frames, a data set, and HTML for a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any

from selfalign.errors import UserError
from selfalign.record import rows
from selfalign.record.exports import before_columns
from selfalign.record.status import status
from selfalign.record.store import Store
from selfalign.text import printable
from selfalign.types import Example

_KEPT = ("seed", "validation", "kept")


def pairs(folder: Path) -> Any:
    """Seeds and kept samples, one a row: `id`, `round` (0: a seed), `verdict` (seed, validation, kept), `category`, `prompt`,
    `response`, `system` and `history` where any pair has some, a column `score_NAME` for each score, `metadata`."""
    with Store.read(folder) as store:
        found = [(verdict, example) for verdict in _KEPT for example, *_ in store.samples("verdict = ?", verdict)]
    return _frame([{**_row(example), "verdict": verdict} for verdict, example in found], [example for _, example in found])


def dropped(folder: Path) -> Any:
    """The candidates that were dropped, as `pairs`, with `rule` and `evidence`."""
    with Store.read(folder) as store:
        found = store.samples("verdict = 'dropped'")
    written = [{**_row(example), "rule": rule, "evidence": evidence} for example, rule, evidence in found]
    return _frame(written, [example for example, *_ in found])


def metrics(folder: Path) -> Any:
    """A metric of a round's model in each row: `round` (0: the base model), `metric`, `value`, `low`, `high` (95 %), `n`, `unit`,
    `better`."""
    with Store.read(folder) as store:
        found = [(row["round"], store.metrics(row["round"])) for row in status(store)["rounds"]]
    columns = ("round", "metric", "value", "low", "high", "n", "unit", "better")
    values = [(k, m.name, m.value, m.low, m.high, m.n, m.unit, m.better) for k, some in found for m in some]
    return _needed("pandas").DataFrame(values, columns=columns)


def data_set(folder: Path) -> Any:
    """What `selfalign export --data` writes: seeds and kept pairs, without answers that are not to be imitated."""
    with Store.read(folder) as store:
        found = [(v, e) for v in _KEPT for e, *_ in store.samples(f"verdict = ? AND {rows.IMITATED}", v)]
    before = (any(e.system for _, e in found), any(e.history for _, e in found))
    written = [
        {
            "id": e.id,
            "round": e.round,
            "category": e.category,
            "validation": verdict == "validation",
            "prompt": e.prompt,
            "response": e.response,
            **before_columns(e.system, e.history, *before),
        }
        for verdict, e in found
    ]
    return _needed("datasets").Dataset.from_list(written)


def html(folder: Path) -> str:
    """Rounds with their yields and metrics, as a notebook shows a run."""
    with Store.read(folder) as store:
        found = status(store)
    names = list(dict.fromkeys(name for row in found["rounds"] for name in row["metrics"]))
    table = [["round", "candidates", "kept", "dropped", *names]]
    for row in found["rounds"]:
        counts = [str(row["round"]) + (" *" if row["round"] == found["best_round"] else "")]
        counts += [str(row[name]) if row["round"] else "" for name in ("candidates", "kept")]
        drops = ", ".join(f"{rule} {count}" for rule, count in row["dropped"].items())
        table.append([*counts, drops, *(_figure(row["metrics"].get(name)) for name in names)])
    why = found["stopped_because"] or ""
    lines = [f"<p><b>{_safe(found['recipe'])}</b> in {_safe(folder)}: {_safe(found['state'])}. {_safe(why)}</p>", "<table>"]
    for place, row in enumerate(table):
        tag = "td" if place else "th"
        lines.append(f"<tr>{''.join(f'<{tag}>{_safe(cell)}</{tag}>' for cell in row)}</tr>")
    return "\n".join((*lines, "</table>", "<p>* the best round; round 0 is the base model</p>"))


def _figure(metric: Any) -> str:
    if metric is None or metric["value"] is None:
        return ""
    low, high = ("–" if metric[side] is None else f"{metric[side]:.3g}" for side in ("low", "high"))
    return f"{metric['value']:.3g} [{low}, {high}]"


def _safe(text: object) -> str:
    return escape(printable(str(text)))


def _row(example: Example) -> dict[str, Any]:
    e = example
    return {"id": e.id, "round": e.round, "category": e.category, "prompt": e.prompt, "response": e.response}


def _frame(written: Sequence[dict[str, Any]], examples: Sequence[Example]) -> Any:
    before = (any(e.system for e in examples), any(e.history for e in examples))
    scores = sorted({name for e in examples for name in e.scores})
    rest = [
        {
            **before_columns(e.system, e.history, *before),
            **{f"score_{name}": e.scores.get(name) for name in scores},
            "metadata": dict(e.metadata),
        }
        for e in examples
    ]
    return _needed("pandas").DataFrame([{**row, **more} for row, more in zip(written, rest, strict=True)])


def _needed(package: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        raise UserError(f"this needs the package {package}: pip install {package}") from error
