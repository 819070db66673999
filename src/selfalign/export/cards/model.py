"""The model card: lineage, figures with intervals, how the round was chosen, limits, how to load it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any

from selfalign.export.cards._facts import (
    Facts,
    base_name,
    check_license,
    hub_library,
    is_hub_name,
    last_part,
    licence_text,
    options_text,
)
from selfalign.export.cards._markdown import bullets, code, document, fenced, number, one_line, table
from selfalign.proof.diversity import GUARDS, OF_THE_DATA, OF_THE_JUDGES
from selfalign.record.store import Store
from selfalign.text import counted
from selfalign.types import Metric, ModelRef

CHOICE = "validation_log_likelihood"
"""The metric that chooses the round."""

REFUSALS = (
    "Refusals are judged by English phrase rules, or by likeness to the seeds' refusals where a warning says so: a refusal in"
    " other words is not counted, and neither the truth nor the harm of an answer is judged."
)
"""What is to be known of the judges of `evaluators.refusal.Refusal`."""


def model_card(store: Store, round: int, *, license: str | None = None, merged: bool = False) -> str:
    """Markdown with front matter for the model of a round (0: the model as it came).

    Args:
        license: an identifier of the hub's list (apache-2.0, cc-by-4.0 …); None says `unknown`.
        merged: the adapter has been made part of full weights.

    Raises:
        UserError: the round has no model, a licence that is no identifier, or huggingface_hub is not installed.
    """
    hub, chosen = hub_library(), check_license(license)
    with store.snapshot():
        facts = Facts.of(store)
        model, before, after = store.model(round), store.metrics(0), store.metrics(round)
    adapter = model.adapter is not None and not merged and round > 0
    name = f"{base_name(facts.start)}-{facts.recipe}"
    results = [_result(hub, metric) for metric in (*_held_out(after), *_named(after, CHOICE)) if math.isfinite(metric.value)]
    data = hub.ModelCardData(
        license=chosen,
        base_model=facts.start.base if is_hub_name(facts.start.base) else None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["selfalign", "self-alignment"],
        model_name=one_line(name) if results else None,
        eval_results=results or None,
        **({"base_model_relation": "adapter" if adapter else "finetune"} if is_hub_name(facts.start.base) and round else {}),
    )
    return document(
        data.to_yaml(),
        f"# {code(name)}",
        _summary(facts, round),
        ("## How to load it", _loading(facts.start, adapter)),
        ("## Evaluation", _evaluation(round, before, after)),
        ("## How the round was chosen", _choice(facts, round, before, after)),
        ("## Training", _training(facts, round, after)),
        ("## Lineage", _lineage(store, facts, round)),
        ("## Limits", bullets(_limits(facts, round, after))),
        ("## Licence", licence_text(chosen, "the base model and the seed examples")),
    )


def _summary(facts: Facts, round: int) -> str:
    base = code(base_name(facts.start))
    if round == 0:
        return f"{base} as it came, with nothing changed: round 0 of the recipe {code(facts.recipe)}."
    made = sum(row["kept"] for row in facts.rounds if row["round"] <= round)
    return (
        f"{base} after {counted(round, 'round')} of the recipe {code(facts.recipe)}: aligned with "
        f"{counted(facts.seeds, 'seed example')} and {counted(made, 'pair')} that it wrote itself. Made by selfalign "
        f"{version('selfalign')}."
    )


def _loading(start: ModelRef, adapter: bool) -> str:
    tokenizer = 'tokenizer = AutoTokenizer.from_pretrained("THIS_REPOSITORY_OR_FOLDER")'
    if not adapter:
        return fenced(
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f'model = AutoModelForCausalLM.from_pretrained("THIS_REPOSITORY_OR_FOLDER")\n{tokenizer}',
            "python",
        )
    place = start.base if is_hub_name(start.base) else f"FOLDER_OF/{base_name(start)}"
    return fenced(
        "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"base = AutoModelForCausalLM.from_pretrained({one_line(place)!a})\n"
        f'model = PeftModel.from_pretrained(base, "THIS_REPOSITORY_OR_FOLDER")\n{tokenizer}',
        "python",
    )


def _evaluation(round: int, before: Sequence[Metric], after: Sequence[Metric]) -> str:
    if not (_held_out(before) or _held_out(after)):
        return "Nothing was measured on held-out prompts."
    note = "Figures on held-out prompts with their 95 % intervals over prompts, each model for itself."
    return f"{note}\n\n{_compared(round, _held_out(before), _held_out(after))}"


def _compared(round: int, before: Sequence[Metric], after: Sequence[Metric]) -> str:
    """The pretrained model beside that of the round."""
    old, new = ({metric.name: metric for metric in metrics} for metrics in (before, after))
    names = dict.fromkeys((*new, *old))
    rows = [(code(name), _figure(old.get(name)), _figure(new.get(name)), _sizes(old.get(name), new.get(name))) for name in names]
    return table(("metric", "pretrained", f"round {round}", "n"), rows)


def _choice(facts: Facts, round: int, before: Sequence[Metric], after: Sequence[Metric]) -> str:
    best, because = facts.ended.get("best_round"), facts.ended.get("stopped_because")
    if best is None:
        return f"The run is not done: round {round} was named by hand, nothing has chosen it."
    how = (
        f"by the mean log-likelihood per token of the responses of {counted(facts.validation, 'seed example')} held out for "
        "validation"
        if facts.validation
        else "as the last one: no seed examples were held out for validation"
    )
    own = "" if best == round else f" This is round {round}, named by hand."
    text = f"The run chose round {best}, {how}. It ended because: {code(str(because))}.{own}"
    if not _named(after, CHOICE):
        return text
    note = f"{code(CHOICE)} chose the round, so its figure flatters the round chosen."
    return f"{text}\n\n{_compared(round, _named(before, CHOICE), _named(after, CHOICE))}\n\n{note}"


def _training(facts: Facts, round: int, after: Sequence[Metric]) -> str:
    rows = []
    for row, figures in zip(facts.rounds, facts.training, strict=True):
        if 0 < row["round"] <= round and figures:
            losses = figures["losses"]
            loss = f"{number(losses[0])} → {number(losses[-1])}" if losses else "none"
            counts = tuple(f"{row[key]:,}" for key in ("candidates", "kept"))
            weights = (f"{figures['steps']:,}", f"{figures['tokens']:,}", number(figures["seed_weight"]), loss)
            rows.append((str(row["round"]), *counts, *weights))
    if not rows:
        return "None took place."
    heads = ("round", "candidates", "kept", "optimiser steps", "trained tokens", "γ in effect", "loss, first → last step")
    start = {"base": "model as it came", "previous": "model of the round before"}.get(facts.identity.get("start_from", ""))
    origin = f"Each round starts from the {start}.\n\n" if start else ""
    legend = "Tokens are response tokens over all epochs; γ is the share of the loss that came from the seeds."
    data = [(code(m.name), _figure(m), f"{m.n}") for m in after if m.name.startswith(OF_THE_DATA)]
    judges = [(code(m.name), _figure(m), f"{m.n}") for m in after if m.name.startswith(OF_THE_JUDGES)]
    kept = f"\n\nWhat round {round} kept:\n\n{table(('figure', 'value', 'n'), data)}" if data else ""
    if judges:
        kept += f"\n\nHow its judges did on the seeds and spoiled versions of them:\n\n{table(('figure', 'value', 'n'), judges)}"
    return f"{origin}{table(heads, rows)}\n\n{legend}{kept}"


def _lineage(store: Store, facts: Facts, round: int) -> str:
    identity = facts.identity
    rows = [
        ("recipe", code(facts.recipe)),
        ("random seed", code(str(identity.get("seed", "unknown")))),
        ("seed examples", f"{facts.seeds} trained on, {facts.validation} for validation"),
        ("SHA-256 of the seed examples", code(identity.get("seeds_hash") or "unknown")),
        ("SHA-256 of the held-out examples", code(identity.get("held_out_hash") or "unknown")),
        ("base model", code(base_name(facts.start))),
        *((("adapter it came with", code(last_part(facts.start.adapter))),) if facts.start.adapter else ()),
        ("hash of the model as it came", code(facts.start.hash or "unknown")),
        *((f"hash of the model of round {k}", code(store.model(k).hash or "unknown")) for k in _trained(facts, round)),
    ]
    return f"{table(('what', 'value'), rows)}\n\n{options_text(identity)}"


def _limits(facts: Facts, round: int, after: Sequence[Metric]) -> Iterable[str]:
    measured = _held_out(after)
    if measured:
        sizes = sorted({metric.n for metric in measured})
        span = counted(sizes[0], "held-out prompt") if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} held-out prompts"
        yield f"The figures stand on {span}, and say nothing about prompts of other kinds."
    else:
        yield "No held-out prompts were measured: nothing here shows that the model is better than the one it came from."
    yield "They come from one run with one random seed; the intervals do not cover how much another seed would change it."
    if {"refusal", "over_refusal"} & {metric.name for metric in after}:
        parts = [str(part.get("part", "")) for part in facts.identity.get("evaluators", ())]
        if any(part.endswith(".evaluators.refusal.Refusal") for part in parts):  # of another's judge nothing is known
            yield REFUSALS
    if not facts.validation:
        yield "No seed examples were held out for validation, so no round was compared with another before this one was shipped."
    if made := sum(row["kept"] for row in facts.rounds if row["round"] <= round):
        own = f"text it wrote itself ({counted(made, 'pair')})"
        yield f"It was trained on {own}; filters checked its form, no person its content."
    for warning in facts.warnings:
        yield f"The run warned: {code(warning)}."
    if not is_hub_name(facts.start.base):
        yield "The base model was a local folder: only its hash says which one."
    yield "What the base model gets wrong, this one may get wrong too."


def _held_out(metrics: Iterable[Metric]) -> list[Metric]:
    """Those of the evaluators."""
    return [metric for metric in metrics if not metric.name.startswith(GUARDS)]


def _named(metrics: Iterable[Metric], name: str) -> list[Metric]:
    return [metric for metric in metrics if metric.name == name]


def _result(hub: Any, metric: Metric) -> Any:
    """The interval stands in the name: the hub's form has no place for it, and a figure alone would claim too much."""
    kind = "validation seeds" if metric.name == CHOICE else "held-out prompts"
    return hub.EvalResult(
        task_type="text-generation",
        dataset_type=kind.replace(" ", "-"),
        dataset_name=kind,
        metric_type=one_line(metric.name),
        metric_name=one_line(f"{metric.name} (95 % interval {number(metric.low)} to {number(metric.high)}, n = {metric.n})"),
        metric_value=metric.value,
    )


def _trained(facts: Facts, round: int) -> list[int]:
    return [row["round"] for row in facts.rounds if 0 < row["round"] <= round and row["model"] is not None]


def _figure(metric: Metric | None) -> str:
    if metric is None:
        return "not measured"
    return f"{number(metric.value)} [{number(metric.low)}, {number(metric.high)}]"


def _sizes(before: Metric | None, after: Metric | None) -> str:
    return " / ".join(dict.fromkeys(f"{metric.n}" for metric in (before, after) if metric is not None))
