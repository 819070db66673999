"""The strict reader of seed files and held-out files.

Strict because a seed is multiplied: one wrong row of 64 becomes hundreds of wrong samples. A text is kept byte by byte as it
stands in the file, or the file is refused; what an answer depends on is never left out in silence.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from selfalign.errors import SeedError
from selfalign.seeds.files import read_rows
from selfalign.seeds.gathered import gathered
from selfalign.seeds.labels import category_of, id_of, metadata_of
from selfalign.seeds.layouts import hint, known_fields, nearest
from selfalign.seeds.names import (
    CHATS,
    CHOSEN,
    FORMS,
    HISTORIES,
    KNOWN,
    NESTED,
    OTHER_PASSAGES,
    PASSAGES,
    REJECTED,
    RESPONSES,
    SYSTEMS,
    UNUSABLE,
)
from selfalign.seeds.rows import Malformed, Problem, Row, has_words, json_text, kind, listed, nothing, show, text_of
from selfalign.seeds.tables import NAME, Table, table_rows
from selfalign.seeds.turns import (
    Conversation,
    Turn,
    answer_alone,
    conversation,
    further_fields,
    one_answer,
    read_turns,
    shared_turns,
    with_parts_joined,
)
from selfalign.text import counted, join_task, normalise
from selfalign.types import Example

_REJECTIONS = re.compile(REJECTED + r"(_[1-9]\d*)?")
_EXPECTED = (
    "prompt + response, question + answer, instruction (+ input) + output, prompt + completion, messages, or conversations"
)
_GENERATED = re.compile(r"r\d{2,}-\d{5,}(\.2)?")


def read_seeds(path: str | Path | Table, *, response_required: bool = True) -> tuple[Example, ...]:
    """The examples of a seed file or a held-out file, round 0, `slot` counting them from 0. Or those of a data frame (pandas,
    polars), a data set or a list of dictionaries: its rows are read as those of a file are.

    The format goes by the suffix: .jsonl, .ndjson, .json (an array of objects, an object that holds one, columns as pandas
    writes them, or an object in each line), .csv, .tsv, .yaml, .parquet, .xlsx (its first sheet), each also as .gz; a folder that
    `datasets` saved, or a data set of the Hugging Face hub by its name, `:split` behind either (for hub data sets also
    `:configuration/split`).

    A row holds a prompt (`prompt`, `question`, `instruction` or `query`) and a response (`response`, `answer`, `output`,
    `completion`, or `chosen` with a `rejected` one, which becomes metadata; rows that reject several answers to a prompt in
    favour of the same one become one example). An `input`, `context`, `passage`, `document` or `article`, or a list of them, that
    is not empty follows the prompt after a blank line; `system` becomes the pair's system text; `history` (pairs or turns) its
    earlier turns. Or a row holds `messages` or `conversations`, a list of {"role", "content"} or {"from", "value"}: the last two
    turns are the prompt and its response, those before them its history; turns of one side in a row become one. Prompt and
    completion may be such lists too; of `chosen` and `rejected` conversations what both share is the prompt. Or, as in
    Self-Instruct's seed tasks, it holds `instances`, or, as in InstructLab's, `questions_and_answers`: each is an example
    (where a row has several, `.1`, `.2` … follow its id).

    Other names of the two are read where they cannot be mistaken (`layouts` has them: `q` and `a`, `user` and `assistant` …), as
    are the records of Argilla and Label Studio, rows in an object of their tool, and texts that name their speakers (HH-RLHF,
    Guanaco, ChatML); `read_with_notes` tells what was read as what. A last turn of the user that nothing answers is left out.
    What a tool marks as a bad answer, and an answer beside another, are refused.

    `id` (text or a number) and `category` are optional; an example without an id is called seed-0001 and so on, by its place.
    Ids that a run could give to a sample, as in the exports of an earlier run, get `seed-` before them. Other columns become
    metadata, and are not learned: text as it stands, any other value as its JSON text. Of a run's exports `round` and
    `validation` are left out, and `metadata` is what it was. Prompts that differ in case or white space alone count as
    duplicates, where the same was said before them.

    The turns of a history are no examples by themselves, but where most rows have earlier turns: there the first turn of each
    conversation becomes an example too, `.1` behind its id, as nothing else shows how a conversation begins (our own choice).

    With `response_required=False` a response may be missing, null or blank, and then is "".

    Raises:
        SeedError: one line with the first problem, its file and line (or row), the field and the remedy, and how many
            more rows have one.
    """
    return read_with_notes(path, response_required=response_required)[0]


def read_with_notes(path: str | Path | Table, *, response_required: bool = True) -> tuple[tuple[Example, ...], tuple[str, ...]]:
    """As `read_seeds`, and what reading did to the rows, a sentence each; `notes` has what stands out in the examples."""
    found = _read(path, response_required)
    begun = list(_with_first_turns(found.examples, found.first_alone))
    renamed = list(_with_own_ids(begun))
    return tuple(renamed), (*found.notes(), *_changes(found, begun, renamed))


def read_prompts(path: str | Path) -> tuple[tuple[Example, ...], tuple[str, ...]]:
    """Prompts to be answered, of any format that `read_seeds` takes, and what reading did to the rows, a sentence each.

    A prompt that an earlier row asks is taken once, and no turn of a history becomes a prompt of its own. Metadata: `line`, the
    line of the file, or the row where lines say nothing, alone.

    Raises:
        SeedError: as `read_seeds`.
    """
    read, name = _read(path, response_required=False, repeats=True), str(path)
    found = [
        replace(example, slot=slot, metadata={"line": read.places[example.id].removeprefix(name).lstrip(": ")})
        for slot, example in enumerate(read.examples)
    ]
    answered = sum(bool(example.response) for example in found)
    notes = (
        (answered, f"{Path(name).name}: {counted(answered, 'response')} ignored, the model writes its own"),
        (read.joined, f"{Path(name).name}: {counted(read.joined, 'prompt')} asked by an earlier row already, and taken once"),
    )
    told = (f"{Path(name).name}: {note}" for note in read.notes())
    return tuple(found), (*told, *(text for count, text in notes if count))


class _Reading(NamedTuple):
    """What `_read` makes of a file."""

    examples: list[Example]
    first_alone: set[str]
    """The ids of those whose first turn can be learned alone."""
    places: dict[str, str]
    joined: int
    """Rows that went into the example of an earlier one: further rejected answers or, with `repeats`, any with its prompt."""
    read_as: Counter[str]
    """Rows by what in them was read as what."""

    def notes(self) -> tuple[str, ...]:
        return tuple(f"{counted(count, 'row')}: {what}" for what, count in self.read_as.items())


def _read(path: str | Path | Table, response_required: bool, repeats: bool = False) -> _Reading:
    examples: list[Example] = []
    problems: list[Problem] = []
    first_alone: set[str] = set()
    ids: dict[str, str] = {}
    prompts: dict[tuple[str, str], tuple[str, int]] = {}
    joined, read_as = 0, Counter[str]()
    in_file = isinstance(path, (str, Path))
    for item in gathered(read_rows(path) if isinstance(path, (str, Path)) else table_rows(path)):
        where, names = item.where, ""
        try:
            if isinstance(item, Problem):
                problems.append(item)
                continue
            fields, names = known_fields(item.fields, answers_matter=not repeats)
            read_as.update(filter(None, (item.note, names)))
            for row in _instances(Row(where, fields)):
                where = row.where
                said, example = _example(row.fields, len(examples) + len(problems) + joined, response_required)
                read_as.update(["the last turn is the user's, and left out, as nothing answers it"] if said.unanswered else [])
                if (first := ids.setdefault(example.id, where)) != where:
                    missing = f"is missing, and by its place would be {show(example.id)},"
                    what = missing if nothing(row.fields.get("id")) else f"{show(example.id)} is also"
                    raise Malformed(f"field 'id': {what} the id of {first}; give each row its own")
                key = (example.system, normalise(example.full_prompt))
                first, place = prompts.setdefault(key, (where, len(examples)))
                if first != where:
                    if repeats:
                        joined += 1
                        continue
                    if (both := _with_rejected(examples[place], example)) is not None:
                        examples[place], joined = both, joined + 1
                        continue
                    what = f"the prompt {show(example.prompt)} is the same as that of {first}"
                    raise Malformed(f"{what}; remove one of the two")
                examples.append(example)
                first_alone |= {example.id} if said.first_is_learnable else set()
        except Malformed as error:
            problems.append(Problem(where, f"{error} ({names})" if names else str(error)))
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise SeedError(f"{problems[0].where}: {problems[0].what}{more}")
    if not examples:
        raise SeedError(f"{show(str(path), 500)[1:-1] if in_file else NAME}: has no rows; it must hold at least one example")
    return _Reading(examples, first_alone, ids, joined, read_as)


def _with_rejected(first: Example, again: Example) -> Example | None:
    """The first example of a prompt with one more rejected answer; None where the second is no preference for the same answer."""
    answer, known = again.metadata.get(REJECTED), [name for name in first.metadata if _REJECTIONS.fullmatch(name)]
    if answer is None or not known or again.response != first.response:
        return None
    if answer in (first.metadata[name] for name in known):
        return first
    return replace(first, metadata={**first.metadata, f"{REJECTED}_{len(known) + 1}": answer})


def _changes(found: _Reading, begun: Sequence[Example], renamed: Sequence[Example]) -> Iterator[str]:
    if found.joined:
        rows = counted(found.joined, "row")
        yield f"{rows} reject one more answer in favour of the same one; they went into the first row's example"
    if added := len(begun) - len(found.examples):
        yield f"most rows have earlier turns: {counted(added, 'first turn')} became examples too, .1 behind their ids"
    if changed := [(old.id, new.id) for old, new in zip(begun, renamed, strict=True) if old.id != new.id]:
        yield f"{counted(len(changed), 'id')} of generated samples got seed- before them ({changed[0][0]} is {changed[0][1]})"


def _with_first_turns(examples: Sequence[Example], alone: Collection[str]) -> Iterator[Example]:
    """The examples, and where most have earlier turns the first turn of each conversation before it, if no row asks it alone."""
    is_chat = 2 * sum(bool(example.history) for example in examples) > len(examples)
    asked = {(example.system, normalise(example.prompt)) for example in examples if not example.history}
    ids, slot = {example.id for example in examples}, 0
    for example in examples:
        if is_chat and example.history and example.id in alone:
            prompt, response = example.history[0]
            id, key = f"{example.id}.1", (example.system, normalise(prompt))
            if key not in asked and id not in ids:
                asked.add(key)
                of_it = {name: text for name, text in example.metadata.items() if not _REJECTIONS.fullmatch(name)}
                yield replace(example, id=id, prompt=prompt, response=response, history=(), slot=slot, metadata=of_it)
                slot += 1
        yield replace(example, slot=slot)
        slot += 1


def _with_own_ids(examples: Iterable[Example]) -> Iterator[Example]:
    every = list(examples)
    taken = {example.id for example in every}
    for example in every:
        id = example.id
        while _GENERATED.fullmatch(example.id) and id in taken:
            id = f"seed-{id}"
        taken.add(id)
        yield replace(example, id=id)


def _instances(row: Row) -> Iterator[Row]:
    """A row with a list of inputs or questions as rows of one each; any other row as it is."""
    shared = row.fields
    nested = next((name for name in NESTED if name in shared), "")
    found, others = shared.get(nested), [name for name in (*RESPONSES, *CHATS) if name in shared]
    are_objects = isinstance(found, list) and all(isinstance(instance, dict) for instance in found)
    if not nested or (others and not are_objects):
        yield row
        return
    if others:
        raise Malformed(f"mixes {listed([nested, *others])}; keep one pair of fields and rename the others")
    if not isinstance(found, list) or not found:
        what = "is empty" if found == [] else f"is {kind(found)}, not a list"
        raise Malformed(f"field {show(nested)}: {what}; write objects with input and output into it, or remove the row")
    shared = {name: value for name, value in shared.items() if name != nested}
    several = len(found) > 1
    for number, instance in enumerate(found, start=1):
        where = f"{nested}[{number}]"
        if not isinstance(instance, dict):
            raise Malformed(f"field {show(where)}: is {kind(instance)}, not an object with input and output")
        if twice := [name for name in instance if name in shared]:
            raise Malformed(f"field {show(where)}: has {listed(twice)}, and so has its row; keep one of them")
        own = {"id": f"{shared['id']}.{number}"} if several and not nothing(shared.get("id")) else {}
        yield Row(f"{row.where}, instance {number}" if several else row.where, {**shared, **instance, **own})


def _example(fields: Mapping[str, Any], slot: int, response_required: bool) -> tuple[Conversation, Example]:
    rest = dict(fields)
    for name, why in UNUSABLE.items():
        if not nothing(rest.pop(name, None)):
            raise Malformed(f"field {show(name)}: {why}")
    is_preference = CHOSEN in rest
    said = _conversation(rest, response_required)
    if not nothing(rejected := rest.pop(REJECTED, None)):
        rejected = answer_alone(REJECTED, rejected)
        rest[REJECTED] = text_of({REJECTED: rejected}, REJECTED) if is_preference else rejected
    id = id_of(rest.pop("id", None)) or f"seed-{slot + 1:04}"
    category = category_of(rest.pop("category", None))
    if isinstance(rest.get("validation"), bool) and isinstance(rest.get("round"), int):
        del rest["validation"], rest["round"]
    if isinstance(rest.get("metadata"), dict):
        exported = {name: value for name, value in rest.pop("metadata").items() if value is not None}
        if twice := sorted(exported.keys() & rest.keys()):
            raise Malformed(f"field 'metadata': has {listed(twice)}, and so has its row; rename one of them")
        rest |= exported
    metadata = {name: metadata_of(name, value) for name, value in rest.items()}
    example = Example(id, said.prompt, said.response, slot=slot, category=category, metadata=metadata)
    return said, replace(example, history=said.history, system=said.system)


def _conversation(rest: dict[str, Any], response_required: bool) -> Conversation:
    """All that is said in a row; takes the fields that it uses out of `rest`."""
    _part_preference(rest)
    asking, answering = _form(rest, response_required)
    systems = [text_of({name: with_parts_joined(rest.pop(name, None))}, name, required=False) for name in SYSTEMS]
    turns = [Turn("system", text) for text in systems if text]
    for name in HISTORIES:
        if not nothing(history := rest.pop(name, None)):
            turns += read_turns("history", history)
    turns += _side(rest, asking, "user", blank_end=not answering and not response_required)
    for name, passage in _passages(rest):
        if name in OTHER_PASSAGES and any(passage in turn.text for turn in turns):
            continue  # said already
        if not turns or turns[-1].role != "user":
            raise Malformed(f"field {show(name)}: stands next to {show(asking)}; write it into the turn that it belongs to")
        turns[-1] = Turn("user", join_task(turns[-1].text, passage))
    if answering == CHOSEN:
        rest[CHOSEN] = answer_alone(CHOSEN, rest.get(CHOSEN))
    if answering:
        turns += _side(rest, answering, "assistant", blank_end=not response_required)
    return conversation(asking, turns, response_required=response_required)


def _part_preference(rest: dict[str, Any]) -> None:
    """Where both answers of a preference are whole conversations, what they share becomes the prompt."""
    if not (shared := shared_turns(rest.get(CHOSEN), rest.get(REJECTED))):
        return
    every = json_text(rest[CHOSEN])
    for name in [name for name in (*FORMS, *CHATS) if name in rest and json_text(rest[name]) in every]:
        del rest[name]
    if not any(name in rest for name in (*FORMS, *CHATS)):
        rest["prompt"], rest[CHOSEN], rest[REJECTED] = shared, rest[CHOSEN][-1], rest[REJECTED][-1]


def _passages(rest: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The texts that a prompt is about, with their names; takes them out of `rest`. Several of one column become one text."""
    for name in (*PASSAGES, *OTHER_PASSAGES):
        value = rest.get(name)
        if isinstance(value, list) and all(isinstance(each, str) for each in value):
            value = "\n\n".join(each for each in value if each.strip())
        is_text = not (isinstance(value, list) and value and isinstance(value[0], int))  # but tokens, as Ollama's context
        if (name in PASSAGES and is_text) or (isinstance(value, str) and has_words(value, 2)):
            rest.pop(name, None)
            if passage := text_of({name: value}, name, required=False):
                yield name, passage


def _side(rest: dict[str, Any], name: str, role: str, *, blank_end: bool) -> list[Turn]:
    value = rest.pop(name, None)
    value = one_answer(name, value) if role == "assistant" else value
    rest |= {f"{name}.{field}": values for field, values in further_fields(value).items()}
    if isinstance(value, list) or name in CHATS:
        return read_turns(name, value, blank_end=blank_end)
    return [Turn(role, text_of({name: value}, name, required=role == "user" or not blank_end))]


def _form(fields: Mapping[str, Any], response_required: bool) -> tuple[str, str]:
    """The names of the fields with the prompt and the response; no second one where turns hold both."""
    chats, answers_turns = [name for name in CHATS if name in fields], False
    asking = [name for name in FORMS if name in fields]
    answering = [name for name in RESPONSES if name in fields]
    if chats:  # some sets repeat the first prompt next to the turns, or leave it empty
        said = json_text(fields[chats[0]])
        asking = [name for name in asking if not nothing(fields[name]) and json_text(fields[name]) not in said]
        turns = read_turns(chats[0], fields[chats[0]]) if len(answering) == 1 else []
        answers_turns = bool(turns) and turns[-1].role == "user"
        answering = [name for name in answering if answers_turns or not turns or json_text(fields[name]) not in said]
    if not asking and not chats and (answering or not response_required) and "input" in fields and not nearest(fields, FORMS):
        asking = ["input"]
    if len(asking) > 1 or len(answering) > 1 or len(chats) > 1 or (chats and (asking or (answering and not answers_turns))):
        raise Malformed(f"mixes {listed([*asking, *answering, *chats])}; keep one pair of fields and rename the others")
    if chats:
        return chats[0], "".join(answering)
    if not asking:
        what = f"has no prompt among its fields ({listed(fields) or 'none'})"
        raise Malformed(f"{what}; expected {_EXPECTED}{hint(fields, KNOWN)}")
    usual = FORMS.get(asking[0], "response")
    if not answering and response_required:
        what = f"field {show(usual)}: is missing among {listed(fields)}; expected {_EXPECTED}"
        raise Malformed(f"{what}{hint(fields, RESPONSES)}")
    return asking[0], answering[0] if answering else usual
