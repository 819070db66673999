"""What a round was trained on, for other trainers: a folder of data with what LLaMA-Factory, axolotl or TRL needs to read it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from selfalign.errors import UserError
from selfalign.export.data import Said, messages
from selfalign.models.names import located, may_be_on_hub
from selfalign.models.rendering import Renderer, folder_renderer
from selfalign.record import rows
from selfalign.record.disk import free_folder, whole_folder
from selfalign.record.exports import best_round, write_lines
from selfalign.record.store import Store
from selfalign.text import counted
from selfalign.types import PREFERRED

TrainerFormat = Literal["llama-factory", "axolotl", "trl"]
_TURNS = ("system", "human", "gpt")
_OPTIMIZERS = {"adamw": "adamw_torch", "adamw_8bit": "adamw_8bit", "paged_adamw_8bit": "paged_adamw_8bit"}
_LORA = {"lora_rank": "r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout", "lora_target": "target_modules"}
_LOSSES = {"": False, "CrossEntropy": False, "DPO": True}
"""Of losses that others have: whether they prefer answers to others."""


@dataclass(frozen=True)
class Folder:
    """What was written."""

    folder: Path
    files: tuple[str, ...]
    rows: int
    """For training: pairs, or pairs of a preferred and a rejected answer."""
    validation: int
    left_out: Mapping[str, tuple[str, ...]]
    """Ids of the rows that are in no file, by why."""
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """For a person."""
        where = f"in {self.folder}: {', '.join(self.files)}"
        said = [f"{counted(self.rows, 'row')} to train on, {self.validation} held out, {where}"]
        for why, ids in self.left_out.items():
            some = f"{', '.join(ids[:5])}{' …' if len(ids) > 5 else ''}"
            said.append(f"left out: {counted(len(ids), 'row')} ({why}): {some}")
        return [*said, *(f"note: {note}" for note in self.notes)]


@dataclass(frozen=True)
class _Row:
    id: str
    said: Said
    rejected: str | None = None
    """An answer that the response is preferred to."""


def export_for_trainer(store: Store, folder: str | Path, format: TrainerFormat, round: int | None = None) -> Folder:
    """Writes the rows that a round's model (without one, the best round's) was trained on to `train.jsonl` in a new folder, the
    held-out seeds to `validation.jsonl`, and the trainer's own file: `dataset_info.json`, `axolotl.yaml` or `train.py`.

    Raises:
        UserError: the round was not trained or its loss is none of the trainer's, or the folder is taken or cannot be written.
    """
    remedy = f"--format {format} writes a folder of files, so name a new one with --data"
    target = free_folder(folder, remedy)
    chosen = best_round(store) if round is None else round
    trainer = store.identity().get("trainer") or {}
    loss = str((trainer.get("loss") or {}).get("part", "")).rpartition(".")[2]
    if loss not in _LOSSES:
        instead = "; --format preference writes its pairs" if loss == "Ditto" else ""  # a teacher's corrections are no pairs
        raise UserError(f"--format {format}: no such trainer has the loss {loss} of this run{instead}")
    train, validation, left_out = _rows(store, chosen, _LOSSES[loss])
    if not train:
        raise UserError(f"round {chosen} of {store.folder} was not trained on anything: name one that was, with --round N")
    notes = list(_uncarried(store, trainer))
    own: dict[str, str] = {}
    if format == "trl":
        own["train.py"], asked = _script(store, chosen, trainer, loss, bool(validation))
        shapes = [_for_trl(row, asked) for row in (*train, *validation)]
    else:
        name = f"selfalign_{store.identity().get('name', 'run')}"
        shapes = [_sharegpt(row, masks=format == "axolotl") for row in (*train, *validation)]
        write = _dataset_info if format == "llama-factory" else _axolotl
        file, text = write(name, _LOSSES[loss], bool(validation))
        own[file] = text
        if format == "llama-factory" and any(row.said.history for row in train):
            notes.append("some rows have earlier turns: give mask_history: true, so that the last answer alone is learned")
    data = {"train.jsonl": shapes[: len(train)], **({"validation.jsonl": shapes[len(train) :]} if validation else {})}
    with whole_folder(target, remedy) as temporary:
        for file, some in data.items():
            write_lines(temporary / file, some)
        for file, text in own.items():
            (temporary / file).write_text(text, "utf-8")
    return Folder(target, (*data, *own), len(train), len(validation), left_out, tuple(notes))


def _rows(store: Store, round: int, preferences: bool) -> tuple[list[_Row], list[_Row], dict[str, tuple[str, ...]]]:
    """(rows to train on, held-out rows, ids of the others by why)."""
    columns = "samples.id, metadata, history, prompt, response"
    order = "ORDER BY samples.round, slot, number"
    joined = f"FROM training JOIN samples ON samples.number = training.sample WHERE training.round = ? {order}"
    with store.snapshot() as connection:
        used = connection.execute(f"SELECT training.rule, {columns} {joined}", (round,)).fetchall()
        held = connection.execute(f"SELECT {columns} FROM samples WHERE verdict = 'validation' {order}").fetchall()
        kept = "verdict IN ('seed', 'kept', 'replay') AND number NOT IN (SELECT sample FROM training WHERE round = ?)"
        others = connection.execute(f"SELECT id FROM samples WHERE {kept} {order}", (round,)).fetchall()
    left: dict[str, list[str]] = {}
    for rule, id, *_ in used:
        if rule is not None:
            left.setdefault(f"the run's training dropped it: {rule}", []).append(id)
    if others:
        left[f"not trained on in round {round}"] = [id for (id,) in others]
    there = {id: _row(id, history, prompt, response) for rule, id, _, history, prompt, response in used if rule is None}
    train = list(there.values())
    if preferences:
        better = {id: json.loads(metadata).get(PREFERRED) for rule, id, metadata, *_ in used if rule is None}
        pairs = [(there[other], there[id]) for id, other in better.items() if other in there]
        train = [_Row(worse.id, chosen.said, worse.said.response) for chosen, worse in pairs]
        alone = there.keys() - {row.id for pair in pairs for row in pair}
        if alone:
            left["in no pair of two answers"] = [id for id in there if id in alone]
    validation = [_row(id, *texts) for id, _, *texts in held if texts[-1].strip()]
    if unanswered := [id for id, *_, response in held if not response.strip()]:
        left["held out, without an answer"] = unanswered
    if preferences and validation:
        left["held out, with one answer alone"] = [row.id for row in validation]
        validation = []
    return train, validation, {why: tuple(ids) for why, ids in left.items()}


def _row(id: str, history: str, prompt: str, response: str) -> _Row:
    return _Row(id, Said(*rows.said_before(history), prompt, response))


def _uncarried(store: Store, trainer: Mapping[str, Any]) -> Iterator[str]:
    """What of the run no other trainer does."""
    weight, loss = store.identity().get("seed_weight"), trainer.get("loss") or {}
    if weight is not None:
        yield f"the run gave the seeds the share {weight:g} of the loss (--seed_weight): other trainers count every token alike"
    if loss.get("first_tokens"):
        yield f"the run balanced the first {counted(loss['first_tokens'], 'token')} of answers by category: other trainers do not"


def _sharegpt(row: _Row, masks: bool) -> dict[str, Any]:
    """{"id", "conversations"} in ShareGPT's form, with "chosen" and "rejected" apart for pairs of answers.

    With `masks` the answers of earlier turns are marked not to be trained on, as the run does not train on them.
    """
    turns: list[dict[str, Any]] = [{"from": role, "value": text} for role, text in row.said.turns(*_TURNS)]
    if row.rejected is not None:
        return {"id": row.id, "conversations": turns[:-1], "chosen": turns[-1], "rejected": {**turns[-1], "value": row.rejected}}
    if masks:
        turns = [{**turn, "train": place == len(turns) - 1} for place, turn in enumerate(turns)]
    return {"id": row.id, "conversations": turns}


def _dataset_info(name: str, preferences: bool, validation: bool) -> tuple[str, str]:
    """LLaMA-Factory's entries, by the page of its data formats."""
    ranking = {"ranking": True} if preferences else {}
    columns = {"messages": "conversations", **({"chosen": "chosen", "rejected": "rejected"} if preferences else {})}
    roles = zip(("system_tag", "user_tag", "assistant_tag"), _TURNS, strict=True)
    tags = {"role_tag": "from", "content_tag": "value", **dict(roles)}
    parts = {name: "train.jsonl", **({f"{name}_validation": "validation.jsonl"} if validation else {})}
    entries = {
        part: {"file_name": file, "formatting": "sharegpt", **ranking, "columns": columns, "tags": tags}
        for part, file in parts.items()
    }
    return "dataset_info.json", json.dumps(entries, indent=2) + "\n"


def _axolotl(name: str, preferences: bool, validation: bool) -> tuple[str, str]:
    """The entries of axolotl's configuration, by the pages of its dataset formats."""
    import yaml

    common: dict[str, Any] = {
        "ds_type": "json",
        "split": "train",
        "type": "chat_template.default" if preferences else "chat_template",
        "field_messages": "conversations",
        "message_property_mappings": {"role": "from", "content": "value"},
        "roles": {role: [turn] for role, turn in zip(("system", "user", "assistant"), _TURNS, strict=True)},
    }
    if preferences:
        common |= {"field_chosen": "chosen", "field_rejected": "rejected"}
    else:
        common |= {"roles_to_train": [], "train_on_eos": "turn", "message_field_training": "train"}
    entries: dict[str, Any] = {"rl": "dpo"} if preferences else {}
    entries["datasets"] = [{"path": "train.jsonl", **common}]
    if validation:
        entries["test_datasets"] = [{"path": "validation.jsonl", **common}]
    note = f"# {name}: paths from the folder that axolotl is started in\n"
    return "axolotl.yaml", note + yaml.safe_dump(entries, sort_keys=False)


def _script(store: Store, round: int, trainer: Mapping[str, Any], loss: str, validation: bool) -> tuple[str, Renderer]:
    """TRL's script with the run's settings, and the renderer of the run's prompts. Raises UserError: the run's trainer is another
    than SFT, or its tokenizer is not on this machine."""
    from jinja2 import Environment, StrictUndefined

    identity = store.identity()
    if str(trainer.get("part", "")).rpartition(".")[2] != "SFT":
        what = "--format trl writes the settings of the trainer SFT"
        raise UserError(f"{what}, and this run has another one; use --format messages")
    start = store.model(0) if identity.get("start_from") == "base" or round < 2 else store.model(round - 1)
    folder = Path(located(start.base))
    if not folder.is_dir():
        gone, instead = f"reads the tokenizer of {start.base}, which is not on this machine", "use --format messages"
        if start.base != store.model(0).base:
            gone = f"begins with the weights of round {round - 1}, as round {round} did, and they were removed"
            instead = "name --round 1, or train with --keep_weights all"
        raise UserError(f"--format trl {gone}; {instead}")
    renderer = folder_renderer(folder, identity.get("format", "auto"))
    adapter, steps = trainer["method"] in ("lora", "qlora"), identity.get("steps") or []
    rate = trainer["learning_rate"] or trainer["full_rate"] * (10 if adapter else 1)
    settings = {
        "learning_rate": rate * identity.get("learning_rate_decay", 1.0) ** (round - 1),
        "num_train_epochs": trainer["epochs"],
        "max_steps": (steps[round - 1] if steps else 0) or trainer["max_steps"] or -1,
        "per_device_train_batch_size": min(trainer["batch_size"], trainer["micro_batch"]),
        "gradient_accumulation_steps": max(1, trainer["batch_size"] // trainer["micro_batch"]),
        "gradient_checkpointing": bool(trainer["gradient_checkpointing"]),
        "optim": _OPTIMIZERS[trainer["optimizer"]],
        "lr_scheduler_type": {"constant": "constant_with_warmup"}.get(trainer["schedule"], trainer["schedule"]),
        **{name: trainer[name] for name in ("weight_decay", "max_grad_norm", "adam_beta1", "adam_beta2")},
        "max_length": trainer["max_length"],
        "seed": identity.get("seed", 0),
    }
    if loss == "DPO":
        given = trainer["loss"]
        settings |= {"beta": given["beta"], "label_smoothing": given["label_smoothing"]}
        if given["sft_weight"]:
            settings |= {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, given["sft_weight"]]}
    else:
        settings["completion_only_loss"] = True
    lora = {theirs: trainer[ours] for ours, theirs in _LORA.items()}
    name, at, revision = start.base.partition("@") if may_be_on_hub(start.base) else (start.base, "", "")
    template = files("selfalign.export").joinpath("train.py.j2").read_text("utf-8")
    return Environment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(template).render(
        title=f"Round {round} of {identity.get('name', 'a run')}",
        preferences=loss == "DPO",
        validation=validation,
        model=repr(name),
        revision=repr({"revision": revision} if at else {}),
        adapter=repr(start.adapter),
        lora=lora if adapter and start.adapter is None else None,
        qlora=trainer["method"] == "qlora",
        settings=settings,
        warmup=trainer["warmup"],
        half=trainer["precision"] in ("auto", "bf16"),
    ), renderer


def _for_trl(row: _Row, renderer: Renderer) -> dict[str, Any]:
    """TRL's conversational form; plain texts where the run uses no chat template."""
    said, answers = row.said, {"chosen": row.said.response, "rejected": row.rejected}
    if row.rejected is None:
        answers = {"completion": row.said.response}
    if renderer.format != "chat":
        prompt = renderer.prompt_text((), said.prompt, said.history, said.system)
        return {"id": row.id, "prompt": prompt, **{name: renderer.response_text(str(text)) for name, text in answers.items()}}
    asked = messages(said)[:-1]
    shape = {"id": row.id, "prompt": asked, **{name: [{"role": "assistant", "content": text}] for name, text in answers.items()}}
    arguments = dict(getattr(renderer.style, "arguments", {}))
    return {**shape, "chat_template_kwargs": arguments} if arguments else shape
