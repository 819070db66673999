"""Cards: what a model or a data set is, where it came from and what is known against it, as the Hugging Face hub reads it.

Every figure and every limit follows from the record of the run; the words stand in `model_card.md.j2` and `dataset_card.md.j2`.
Text of models, seeds and files is hostile: in the front matter it is one line written by a YAML library, in the body it is code.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from selfalign.errors import UserError
from selfalign.models.names import BUNDLED_FROM, BUNDLED_LICENSE, is_bundled
from selfalign.proof.diversity import GUARDS, OF_THE_DATA, OF_THE_JUDGES
from selfalign.record import rows
from selfalign.record.joined import since_round
from selfalign.record.plain import escaped, portable
from selfalign.record.status import status, warnings
from selfalign.record.store import Store
from selfalign.text import counted, printable
from selfalign.types import Metric, ModelRef

CHOICE = "validation_log_likelihood"
"""The metric that chooses the round."""
UNKNOWN = "unknown"
"""The hub's own word for a licence nobody has named; we never choose one."""

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")
_HUB_NAME = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)
_HASHES = ("model", "adapter", "model_hash", "seeds_hash", "held_out_hash")
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (math.inf, "1M<n<10M"))
_CATEGORIES_AT_MOST = 30
_OUR_JUDGE = ".evaluators.refusal.Refusal"
_SYSTEM = ("system", "instructions before the whole conversation; empty for rows without any")
_HISTORY = ("history", "earlier turns of the conversation, [prompt, response] each; empty for most rows")
_CONVERSATIONAL = (
    ("prompt", "messages: the system text and the earlier turns, where there are some, and the prompt"),
    ("completion", "one message: the response"),
)
_FOR_ALL = (
    ("id", "names the pair in its run"),
    ("round", "0: a seed example; k: generated in round k"),
    ("category", "the kind of prompt, where the seeds have categories"),
    ("validation", "whether the seed example was held out to choose the best round"),
    ("metadata", "other columns of the seed file, and notes on generated pairs; there where any pair has some"),
)
_FIELDS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "plain": (("prompt", "the prompt"), ("response", "the response")),
    "messages": (("messages", "system, user and assistant turns; the last two are the prompt and its response"),),
    "prompt-completion": (("prompt", "the prompt"), ("completion", "the response")),
    "alpaca": (("instruction", "the prompt"), ("input", "always empty"), ("output", "the response")),
    "preference": (
        ("prompt", "the prompt"),
        ("chosen", "the preferred answer"),
        ("rejected", "the answer that it is preferred to"),
    ),
    "sharegpt": (("conversations", "system, human and gpt turns; the last two are the prompt and its response"),),
}
# Within backticks these mean nothing, to no renderer and in no table cell; all else becomes an entity.
_HARMLESS = re.compile(r"[\w .,:;+/%()='\"…→@#?!*^~$\[\]{}-]+")


def model_card(store: Store, round: int, *, license: str | None = None, merged: bool = False) -> str:
    """Markdown with front matter for the model of a round (0: the base model).

    Args:
        license: an identifier of the hub's list (apache-2.0, cc-by-4.0 …); None says `unknown`, or of the bundled model its own.
        merged: the adapter has been made part of full weights.

    Raises:
        UserError: the round has no model, or a licence that is no identifier.
    """
    import huggingface_hub as hub

    chosen = check_license(license)
    with store.snapshot() as connection:
        shared, made = _shared(store), [row for row in status(store)["rounds"] if 0 < row["round"] <= round]
        rejected, taught = connection.execute(f"{rows.LEFT_OUT} AND round <= ?", (round,)).fetchone()
        start, model, before, after = store.model(0), store.model(round), store.metrics(0), store.metrics(round)
        hashes = [(row["round"], store.model(row["round"]).hash) for row in made if row["model"] is not None]
        training = [(row, figures) for row in made if (figures := store.training(row["round"]))]
        ended, noted = portable(store.state()), portable(warnings(store))
    identity, hub_base = store.identity(), start.name if _is_hub_name(start.name) else None
    bundled = is_bundled(start.base)
    origin = BUNDLED_FROM if bundled else hub_base
    adapter = model.adapter is not None and not merged and round > 0
    name = f"{_base_name(start)}-{identity.get('name', 'selfalign')}"
    results = [_result(hub, m) for m in after if (_held_out(m) or m.name == CHOICE) and math.isfinite(m.value)]
    relation: dict[str, Any] = {"base_model_relation": "adapter" if adapter else "finetune"} if origin and round else {}
    data = hub.ModelCardData(
        license=BUNDLED_LICENSE if bundled and license is None else chosen,
        base_model=origin,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["selfalign", "self-alignment"],
        model_name=one_line(name) if results else None,
        eval_results=results or None,
        **relation,
    )
    return _card(
        hub.ModelCard,
        data,
        **shared,
        **_measured(before, after),
        name=name,
        round=round,
        adapter=adapter,
        local=hub_base is None,
        place=ascii(hub_base or one_line(f"FOLDER_OF/{_base_name(start)}")),
        made=sum(row["kept"] for row in made) - rejected - taught,
        rejected=rejected,
        taught=taught,
        best=ended.get("best_round"),
        point=next((data for *_, data in store.events("aim") if data["round"] == round != data["of"]), None),
        because=code(str(ended.get("stopped_because"))),
        starts_from={"base": "base model", "previous": "model of the round before"}.get(identity.get("start_from", "")),
        trained=[_trained(row, figures) for row, figures in training],
        warnings=[code(warning) for warning in noted],
        our_judge=any(str(each.get("part", "")).endswith(_OUR_JUDGE) for each in identity.get("evaluators", ())),
        lineage=_lineage(store, shared, hashes),
    )


def data_card(store: Store, *, license: str | None = None, file: str = "data.jsonl", format: str = "plain") -> str:
    """Markdown with front matter for the pairs of a run, as `export_data` writes them to `file` in the form `format`.

    Raises:
        UserError: a format that does not exist, or a licence that is no identifier.
    """
    import huggingface_hub as hub

    chosen = check_license(license)
    if format not in _FIELDS:
        raise UserError(f"no data format {format!r}: use one of {', '.join(_FIELDS)}")
    with store.snapshot() as connection:
        in_data = f"verdict NOT IN ('dropped', 'replay') AND {rows.REJECTED if format == 'preference' else rows.IMITATED}"
        shared, made, categories = _shared(store, in_data), status(store)["rounds"], _categories(store, in_data)
        by_round = dict(connection.execute(f"SELECT round, count(*) FROM samples WHERE {in_data} GROUP BY round"))
        with_system, later = rows.has_system(connection, in_data), rows.has_later_turn(connection, in_data)
    pairs = sum(by_round.values())
    data = hub.DatasetCardData(
        license=chosen,
        pretty_name=one_line(f"{store.identity().get('name', 'selfalign')}: {counted(pairs, 'pair')}"),
        task_categories=["text-generation"],
        annotations_creators=["machine-generated"],
        size_categories=[next(name for limit, name in _SIZES if pairs < limit)],
        tags=["selfalign", "self-alignment", "synthetic"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": _glob_safe(Path(file).name)}]}],
    )
    fields = _CONVERSATIONAL if (with_system or later) and format == "prompt-completion" else _FIELDS[format]
    if format in ("plain", "alpaca"):
        fields += (*((_SYSTEM,) if with_system else ()), *((_HISTORY,) if later else ()))
    counts = ((k["round"], k["candidates"], sum(k["dropped"].values()), by_round.get(k["round"], 0)) for k in made[1:])
    return _card(
        hub.DatasetCard,
        data,
        **shared,
        pairs=pairs,
        preference=format == "preference",
        file=Path(file).name,
        fields=[(code(name), meaning) for name, meaning in (*_FOR_ALL, *fields)],
        yields=[("0", "", "", f"{by_round.get(0, 0):,} seed examples"), *([f"{n:,}" for n in row] for row in counts)],
        drops=[(row["round"], code(rule), f"{n:,}") for row in made for rule, n in row["dropped"].items()],
        categories=categories,
        lineage=_generation(store, [row["round"] - 1 for row in made if row["kept"]]) if shared["kept"] else (),
    )


def check_license(license: str | None) -> str:
    """The licence as the hub spells it; `unknown` where none is given.

    Raises:
        UserError: no identifier; whether the hub knows it, only the hub can say.
    """
    if license is not None and not _LICENSE.fullmatch(license):
        raise UserError(f"license {license[:80]!r} is no identifier of the hub: write it as apache-2.0, mit, cc-by-4.0, other …")
    return license or UNKNOWN


def code(text: str) -> str:
    """Text that may hold anything as a code span, with marks of any kind as entities."""
    line = one_line(text)
    if _HARMLESS.fullmatch(line):
        return f"`{line}`"
    return "<code>" + "".join(c if c.isalnum() or c == " " else f"&#{ord(c)};" for c in line) + "</code>"


def one_line(text: str) -> str:
    """One line without control characters and marks that reverse the direction of writing."""
    return " ".join(printable(text).split())


def _card(kind: Any, data: Any, **shown: Any) -> str:
    template = files("selfalign.export").joinpath(f"{kind.repo_type}_card.md.j2").read_text("utf-8")
    written = {"version": version("selfalign"), "code": code, "table": _table, "counted": counted}
    return f"{kind.from_template(data, template_str=template, **written, **shown)}\n"


def _shared(store: Store, where: str = rows.IMITATED) -> dict[str, Any]:
    """What both templates show of a run; samples are counted where a condition holds."""
    with store.snapshot() as connection:
        counts = dict(connection.execute(f"SELECT verdict, count(*) FROM samples WHERE {where} GROUP BY verdict"))
    identity = store.identity()
    return {
        "recipe": code(str(identity.get("name", "selfalign"))),
        "base": code(_base_name(store.model(0))),
        "reviews": [row["review"]["text"] for row in status(store)["rounds"] if "review" in row],
        "options": _fenced(portable({key: value for key, value in identity.items() if key not in _HASHES})),
        **{verdict: counts.get(name, 0) for verdict, name in (("seeds", "seed"), ("validation", "validation"), ("kept", "kept"))},
    }


def _lineage(store: Store, shared: Mapping[str, Any], hashes: Iterable[tuple[int, str]]) -> list[tuple[str, str]]:
    identity, start = store.identity(), store.model(0)
    late = len(since_round(store))
    joined = f" ({late} of them joined on the way)" if late else ""
    return [
        ("recipe", shared["recipe"]),
        ("random seed", code(str(identity.get("seed", UNKNOWN)))),
        ("seed examples", f"{shared['seeds']} trained on{joined}, {shared['validation']} for validation"),
        ("SHA-256 of the seed examples", code(identity.get("seeds_hash") or UNKNOWN)),
        ("SHA-256 of the held-out examples", code(identity.get("held_out_hash") or UNKNOWN)),
        ("base model", shared["base"]),
        *((("its revision", code(start.base.removeprefix(f"{start.name}@"))),) if start.base != start.name else ()),
        *((("adapter it came with", code(Path(start.adapter).name)),) if start.adapter else ()),
        ("hash of the base model", code(start.hash or UNKNOWN)),
        *((f"hash of the model of round {round}", code(hash or UNKNOWN)) for round, hash in hashes),
    ]


def _generation(store: Store, writers: Iterable[int]) -> list[tuple[str, str]]:
    identity = store.identity()
    return [
        ("base model", code(_base_name(store.model(0)))),
        *((f"hash of the model that wrote round {k + 1}", code(store.model(k).hash or UNKNOWN)) for k in writers),
        ("prompts proposed by", _part(identity.get("proposer"))),
        ("demonstrations chosen by", _part(identity.get("retriever"))),
        ("responses sampled with", _part(identity.get("sampling"))),
        ("random seed", code(str(identity.get("seed", UNKNOWN)))),
    ]


def _part(options: Any) -> str:
    """A part by its class name with its options."""
    if not isinstance(options, Mapping):
        return UNKNOWN
    rest = {key: value for key, value in options.items() if key != "part"}
    return f"{code(str(options.get('part', UNKNOWN)).rpartition('.')[2])} {code(_readable(portable(rest)))}"


def _categories(store: Store, where: str) -> list[tuple[str, str]]:
    with store.snapshot() as connection:
        query = f"SELECT category, count(*) FROM samples WHERE {where} GROUP BY category ORDER BY 2 DESC, 1"
        found = [(code(name) if name.strip() else "none given", n) for name, n in connection.execute(query)]
    shown, rest = found[:_CATEGORIES_AT_MOST], found[_CATEGORIES_AT_MOST:]
    more = [(f"{len(rest)} more", sum(n for _, n in rest))] if rest else []
    return [(name, f"{n:,}") for name, n in (*shown, *more)]


def _trained(row: Mapping[str, Any], figures: Mapping[str, Any]) -> tuple[Any, ...]:
    losses = figures["losses"]
    loss = f"{_number(losses[0])} → {_number(losses[-1])}" if losses else "none"
    counts = (f"{each:,}" for each in (row["candidates"], row["kept"], figures["steps"], figures["tokens"]))
    return (row["round"], *counts, _number(figures["seed_weight"]), loss)


def _measured(before: Sequence[Metric], after: Sequence[Metric]) -> dict[str, Any]:
    """What the model card shows of the metrics of the base model and of the round's."""
    sizes = sorted({metric.n for metric in after if _held_out(metric)})
    many = f"{sizes[0]} to {sizes[-1]} held-out prompts" if len(sizes) > 1 else ""
    return {
        "compared": _compared(filter(_held_out, before), filter(_held_out, after)),
        "choice": _compared(*([metric for metric in side if metric.name == CHOICE] for side in (before, after))),
        "chooses": CHOICE,
        "of_the_data": [(code(m.name), _figure(m), m.n) for m in after if m.name.startswith(OF_THE_DATA)],
        "of_the_judges": [(code(m.name), _figure(m), m.n) for m in after if m.name.startswith(OF_THE_JUDGES)],
        "prompts": many or (counted(sizes[0], "held-out prompt") if sizes else ""),
        "refusals": {"refusal", "over_refusal"} & {metric.name for metric in after},
    }


def _held_out(metric: Metric) -> bool:
    """Whether an evaluator measured it, and not a guard."""
    return not metric.name.startswith(GUARDS)


def _compared(before: Iterable[Metric], after: Iterable[Metric]) -> list[tuple[str, ...]]:
    """The base model next to the round's model."""
    old, new = ({metric.name: metric for metric in metrics} for metrics in (before, after))
    found = []
    for name in dict.fromkeys((*new, *old)):
        sides = (old.get(name), new.get(name))
        sizes = " / ".join(dict.fromkeys(f"{metric.n}" for metric in sides if metric is not None))
        found.append((code(name), *(_figure(side) if side else "not measured" for side in sides), sizes))
    return found


def _result(hub: Any, metric: Metric) -> Any:
    """The interval stands in the name: the hub's form has no place for it, and a figure alone would claim too much."""
    kind = "validation seeds" if metric.name == CHOICE else "held-out prompts"
    return hub.EvalResult(
        task_type="text-generation",
        dataset_type=kind.replace(" ", "-"),
        dataset_name=kind,
        metric_type=one_line(metric.name),
        metric_name=one_line(f"{metric.name} (95 % interval {_number(metric.low)} to {_number(metric.high)}, n = {metric.n})"),
        metric_value=metric.value,
    )


def _figure(metric: Metric) -> str:
    return f"{_number(metric.value)} [{_number(metric.low)}, {_number(metric.high)}]"


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return UNKNOWN
    return f"{value:.3f}" if math.isfinite(value) else ("∞" if value > 0 else "-∞")


def _readable(value: Any, indent: int | None = None) -> str:
    """JSON in the letters of every script; only what is no letter of any, or turns the direction of writing, as its code."""
    return escaped(json.dumps(value, ensure_ascii=False, indent=indent))


def _fenced(value: Any) -> str:
    text = _readable(value, indent=1)
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"{fence}json\n{text}\n{fence}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines: list[Sequence[Any]] = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _is_hub_name(base: str) -> bool:
    """By its form alone: the card must not change with what lies in the working folder."""
    return _HUB_NAME.fullmatch(base) is not None and ".." not in base and "--" not in base


def _base_name(model: ModelRef) -> str:
    return model.name if _is_hub_name(model.name) else Path(model.base).name or model.base


def _glob_safe(name: str) -> str:
    """The hub reads data files as patterns."""
    return re.sub(r"([*?\[])", r"[\1]", one_line(name))
