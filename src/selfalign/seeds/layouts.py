"""Rows as other tools write them, brought to the names that `read` knows: wrapped, annotated, with other names of columns, or as
one text with the names of its speakers in it.

Only what cannot be mistaken; a second answer beside the first one is never left out in silence.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from itertools import zip_longest
from typing import Any

from selfalign.seeds.names import (
    ANSWERING,
    ASKING,
    BETTER,
    CHATS,
    CHOSEN,
    EDITED,
    FORMS,
    HISTORIES,
    KNOWN,
    REJECTED,
    RESPONSES,
    SAME,
    TOGETHER,
    UNUSABLE,
    is_known,
    told,
)
from selfalign.seeds.replies import with_reply
from selfalign.seeds.rows import Malformed, has_words, is_conversation, json_text, list_in, listed, nothing, object_in, show
from selfalign.seeds.spoken import MARKS, turns_in
from selfalign.seeds.turns import ROLES, SAID, WHO, joined_chats
from selfalign.seeds.verdicts import refuse_bad

_INPUTS = ("inputs", "inputtext", "textinput", "text", "content")
"""What an instruction is about, where it has no input."""
_TURNS = ("items", "turns", "dialog", "dialogue", "data", "chat", "chat_messages")
_IN_CELLS = ("outputs", "expectedOutput", "expected_output", "reference_outputs")
"""Beside `inputs` or `input`, columns of tables in which LangSmith and Langfuse write such objects as JSON."""
_WRAPPERS = (
    *("row", "item", "record", "body", "request", "fields", "data", "vars"),
    *("inputs", "input", "output", "expected", "target", "expectations", *_IN_CELLS),
    *("request_body", "response_body"),
)
"""Objects in which tools keep the columns of a row: Argilla, Label Studio, promptfoo, the hub's viewer, logs of requests."""
_NOT_SENT = ("discarded", "draft", "rejected", "pending")
_OPTION = re.compile(r"[A-E]|(?i:option|choice|opt)[\s_-]?[A-Ea-e0-9]")
_ONE_OF_TWO = re.compile(r"(?:response|answer|output|completion|conversation)[ab0-9]")
_ASKED_AGAIN = re.compile(r"(?:prompt|question|instruction|query|input|user|human|customer|q)[0-9]")
_COPY = re.compile(r"(.+?)(?:\.{1,3}\d{1,2}|_duplicated_\d{1,2})")
"""A column whose name stood in the header before, as pandas, polars and R write it."""


def known_fields(fields: Mapping[str, Any], *, answers_matter: bool) -> tuple[dict[str, Any], str]:
    """The fields of a row by the names that the reader knows, and what was read as what.

    Args:
        answers_matter: not where prompts alone are read.

    Raises:
        Malformed: two fields of one name, an answer beside another, a row that its tool calls a bad one or cut off.
    """
    row: dict[str, Any] = {}
    opened = _opened(fields)
    if "instructions" in fields and any("type" in each for each in _objects(fields.get("output"))):  # OpenAI's Responses
        fields = {"system" if name == "instructions" else name: value for name, value in fields.items()}
    for name, value in _unwrapped({**fields, **opened}):
        known = SAME.get(told(name), name)
        if known in row:
            raise Malformed(f"has the field {show(known)} twice; rename one")
        row[known] = value
    row = with_reply(row, RESPONSES)
    if "_task_hash" in row and "answer" in row:  # Prodigy's verdict on its row
        row["status"] = row.pop("answer")
        if isinstance(written := row.pop(str(row.get("field_id")), None), str):
            row["response"] = written  # in its text_input
    row = _without_unused(row)
    new = _new_names(row, answers_matter)
    _refuse_copies(row, new, answers_matter)
    said = [f"the JSON in {listed(opened)} as columns"] if opened else []
    said += [f"{show(old)} as {'turns' if name in CHATS else f'the {name}'}" for old, name in new.items()]
    row = {new.get(name, name): value for name, value in row.items() if name not in new.values()}
    if answers_matter and {*row} & {*RESPONSES, *CHATS}:
        refuse_bad(row, {name: told(name) for name in row}, is_preference=REJECTED in row)
    if len(options := [name for name in row if _OPTION.fullmatch(name)]) > 1 and {*row} & {*FORMS}:
        raise Malformed(f"fields {listed(options)}: {UNUSABLE['choices']}")
    if not nothing(row.get(CHOSEN)) and row[CHOSEN] == row.get(REJECTED) and answers_matter:
        raise Malformed("field 'rejected': is the same as 'chosen'; remove the row, or the field")
    old = {name: known for known, name in new.items()}
    said += [f"the texts in {show(old.get(name, name))} as turns" for name in _read_turns(row)]
    if old.get("prompt") == "text" and isinstance(text := row.get("prompt"), str) and (mark := MARKS.search(text)):
        what = f"field 'text': holds a prompt and its response with the marks of a chat template ({show(mark[0])})"
        raise Malformed(f"{what}; write the two into the fields prompt and response, without marks")
    return row, f"read {' and '.join(said)}" if said else ""


def _without_unused(row: dict[str, Any]) -> dict[str, Any]:
    """The row without empty columns of another form than its own, as tables have that were made of rows of several forms."""
    full = {name for name, value in row.items() if not nothing(value)}
    asks, answers = full & {*FORMS, *CHATS}, full & {*RESPONSES, *CHATS}
    unused = ({*FORMS, *CHATS} if asks else set()) | ({*RESPONSES} if answers else set())
    return {name: value for name, value in row.items() if name in full or name not in unused}


def _refuse_copies(row: Mapping[str, Any], new: Mapping[str, str], answers_matter: bool) -> None:
    """Raises Malformed: a second column of what is learned says something else than the first, or nothing says which is first."""
    for name, value in row.items():
        if not (again := _COPY.fullmatch(name)) or nothing(value):
            continue
        known = new.get(again[1]) or SAME.get(told(again[1]), "id")
        first = again[1] if again[1] in row else known if known in row else ""
        first = first or next((each for each in row if each.startswith(f"{again[1]}...")), name)
        if row[first] != value and known != "id" and (answers_matter or known not in RESPONSES):
            what = f"has {show(first)} and {show(name)}, by which programs mean a second column of the same name"
            raise Malformed(f"{what}; keep the one to be learned, and remove the other or rename it, to note_1 for one")


def _read_turns(row: dict[str, Any]) -> Iterator[str]:
    """Puts turns in place of texts that hold them, and names the fields that did."""
    for name in (*FORMS, *CHATS, CHOSEN, REJECTED, "input", *HISTORIES):
        if name == "input" and not str(row.get(name)).lstrip().startswith("["):
            continue  # a passage stays the text that it is
        only_sure = name in (CHOSEN, REJECTED) and bool({*row} & {*FORMS, *CHATS})
        value = row.get(name)
        turns = turns_in(value, only_sure=only_sure) if isinstance(value, str) else _alternating(value) if name in CHATS else []
        whole = name in FORMS and turns[-1:] and turns[-1].get("role", turns[-1].get("from")) in ("assistant", "gpt")
        if turns and not (whole and {*row} & {*RESPONSES}):  # a prompt that an answer follows does not hold that answer
            del row[name]
            row["messages" if whole else name] = turns
            yield name


def hint(row: Mapping[str, Any], wanted: Collection[str]) -> str:
    """What may be meant by a row without a prompt or a response, for a message."""
    if "custom_id" in row or row.get("object") in ("response", "chat.completion"):
        return "; an answer of an interface holds no prompt: put the one of the request with the same id beside it"
    if len(turns := [name for name in row if _ASKED_AGAIN.fullmatch(told(name))]) > 1:
        return f"; {listed(turns)} are several: gather turns of a conversation in one list, messages, and write a row for others"
    if len(sides := [name for name in row if _ONE_OF_TWO.fullmatch(told(name))]) > 1:
        return f"; of {listed(sides)} rename the better one to 'chosen' and a worse one to 'rejected'"
    if several := next((name for name in row if told(name) in ANSWERING and _several(row[name])), ""):
        return f"; {show(several)} holds several: keep the one to be learned, as text"
    if all(isinstance(row.get(name), list) for name in (CHOSEN, REJECTED)):
        return "; 'chosen' and 'rejected' differ before their last turns: keep one turn in each, and what both share as 'prompt'"
    if any(who in row for who in WHO[:-1]) and any(name in row for name in SAID):
        roles = "; write user or assistant for who speaks" if "role" not in row else ""
        return (
            "; one row is one turn: name its conversation in a column conversation_id, or gather the turns in one list, messages"
            f"{roles}"
        )
    both = [name for name in row if told(name) in ASKING or name == "text"]
    if len(both) > 1 and not any(name in row for name in FORMS):
        return f"; {listed(both)} may each be it: rename the one that asks to 'prompt', and the answer to 'response'"
    strange = [name for name in row if not is_known(name)]
    if found := nearest([name for name in row if is_conversation(row[name])], CHATS) or nearest(strange, {*wanted} - {*CHATS}):
        return found
    sentences = [name for name in strange if isinstance(row[name], str) and has_words(row[name], 3)]
    missing = "prompt" if "prompt" in wanted else "response"
    return f"; rename {show(sentences[0])} to {show(missing)}?" if len(sentences) == 1 else ""


def nearest(names: Collection[str], wanted: Collection[str]) -> str:
    """Which name may be a wanted one with a typing error, for a message."""
    for name in names:
        match = difflib.get_close_matches(name[:40].strip().casefold(), wanted, n=1, cutoff=0.7)
        if match and name not in KNOWN:
            return f"; rename {show(name)} to {show(match[0])}?"
    return ""


def _new_names(row: Mapping[str, Any], answers_matter: bool) -> dict[str, str]:
    """What the names of a row's prompt and response are to be, where they are not known ones."""
    plain = {name: told(name) for name, value in row.items() if not nothing(value)}
    answers = [name for name in RESPONSES if name in row]
    better = [name for name in plain if plain[name] in BETTER and "://" not in str(row[name])]
    chats = [name for name in CHATS if name in row]
    if answers_matter:
        _check_one_answer(row, plain, chats, answers, better)
    if chats:
        return dict.fromkeys(_beside_turns(row, chats, answers, answers_matter), "response")
    new: dict[str, str] = {}
    strange = [name for name in plain if plain[name] not in ASKING and plain[name] not in ANSWERING]
    if not any(name in row for name in FORMS) and not nearest(strange, FORMS):
        asking = [name for name in plain if plain[name] in ASKING or (name == "text" and "role" not in row)]
        if len(turns := [name for name in _TURNS if isinstance(row.get(name), list) and name in plain]) == 1:
            new[turns[0]] = "messages"
        elif not answers and asking in ([], ["text"]):
            for asks, replies in TOGETHER:
                pair = [[name for name in plain if plain[name] in side] for side in (asks, replies)]
                if len(pair[0]) == len(pair[1]) == 1 and not _is_number(row[pair[1][0]]):
                    return {pair[0][0]: "prompt", pair[1][0]: "response"}
        if not new and len(asking) == 1 and not (asking == ["text"] and {"input", CHOSEN} & {*row}):
            new[asking[0]] = "prompt"
    new |= _about(row, plain)
    others = better or [name for name in plain if plain[name] in ANSWERING and name not in new]
    is_asked = "prompt" in new.values() or any(name in row for name in (*FORMS, "input"))
    if is_asked and not answers and len(others) == 1 and not _several(row[others[0]]) and not nearest(strange, RESPONSES):
        new[others[0]] = "response"
    return new


def _beside_turns(row: Mapping[str, Any], chats: list[str], answers: list[str], answers_matter: bool) -> list[str]:
    """The column with the response to turns that end with the user's. Raises Malformed: several of them."""
    if answers or not _asked_last(row[chats[0]]):
        return []
    given = [name for name in row if told(name) in ANSWERING and not nothing(row[name])]
    if len(given) > 1 and answers_matter:
        raise Malformed(f"has several answers, {listed(given)}; keep the one to be learned, and rename the others, to note_1")
    return given


def _check_one_answer(
    row: Mapping[str, Any], plain: Mapping[str, str], chats: list[str], answers: list[str], better: list[str]
) -> None:
    """Raises Malformed: a row with several answers; only the user knows which one is to be learned."""
    if chats:
        edited = [name for name in plain if plain[name] in EDITED]
        if edited and json_text(row[edited[0]]) not in json_text(row[chats[0]]):
            what = f"has an answer in {show(chats[0])} and another in {show(edited[0])}"
            raise Malformed(f"{what}; put the one to be learned last there")
        return
    if better and len(answers) + len(better) > 1:
        what = f"has several answers, {listed([*answers, *better])}"
        raise Malformed(f"{what}; keep the one to be learned, and remove the others or rename them, to note_1 for one")
    further = [name for name in plain if answers and _ONE_OF_TWO.fullmatch(plain[name])]
    if further and all(row[name] != row[answers[0]] for name in further):
        what = f"has {listed(answers)} and {listed(further)}; keep the answer to be learned and rename the others"
        raise Malformed(f"{what}, to note_1 for one, or, where they are later turns, write all turns into a list, messages")


def _about(row: Mapping[str, Any], plain: Mapping[str, str]) -> dict[str, str]:
    """The column that an instruction is about, by another name than input. Raises Malformed: a text beside a prompt that may as
    well be the prompt, or its system text."""
    asked = next((row[name] for name in FORMS if isinstance(row.get(name), str)), None)
    if asked is None:
        return {}
    texts = {name: row[name] for name in plain if isinstance(row[name], str) and has_words(row[name], 2)}
    inputs = [name for name in texts if plain[name] in _INPUTS and asked not in texts[name]]
    if "instruction" in row and len(inputs) == 1 and nothing(row.get("input")):
        return {inputs[0]: "input"}
    for name in texts:
        if plain[name] in ASKING and texts[name] not in asked and asked not in texts[name]:
            what = f"stands next to {listed(each for each in FORMS if each in row)}, and the model would not see it"
            raise Malformed(f"field {show(name)}: {what}; rename it to 'context', 'system' or, if it is no part, to note_1")
    return {}


def _unwrapped(fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The fields with those that stand in an object, and with what annotators answered."""
    if isinstance(cut := fields.get("truncated_cells"), list) and cut:
        raise Malformed(f"field 'truncated_cells': the viewer cut off {listed(map(str, cut))}; load the data set itself")
    is_row = not {*map(told, fields)}.isdisjoint((*FORMS, *CHATS))
    wrapped = [name for name in _WRAPPERS if isinstance(fields.get(name), dict) and any(map(is_known, fields[name]))]
    wrapped = [] if is_row else wrapped
    used, answers = {*wrapped, "truncated_cells"}, dict[str, list[Any]]()
    for field, value in fields.items():
        for question, answer, status in _answers(field, value, fields):
            used.add(field)
            known = answers.setdefault(question, [])
            if status not in _NOT_SENT and not nothing(answer) and answer not in known:
                known.append(answer)
    if "responses" in used:
        used.add("vectors")  # Argilla's, of numbers
    yield from ((name, value) for name, value in fields.items() if name not in used)
    chats = [name for name in wrapped if isinstance(fields[name].get("messages"), list)]
    for name in wrapped:
        yield from ((column, value) for column, value in fields[name].items() if len(chats) != 2 or column != "messages")
    if len(chats) == 2:
        yield "messages", joined_chats(*((f"{name}.messages", fields[name]["messages"]) for name in chats))
    yield from answers.items()


def _opened(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The cells with objects as JSON, in a table as LangSmith and Langfuse write it, if they hold what is learned alone."""
    names = [name for name in ("inputs", "input", *_IN_CELLS) if isinstance(fields.get(name), str)]
    cells = {name: object_in(fields[name]) for name in names} if {*_IN_CELLS} & {*names} else {}
    return {name: cell for name, cell in cells.items() if cell and all(map(is_known, cell))}


def _answers(field: str, value: Any, fields: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(name of the question, answer, status) of the records that Argilla and Label Studio write."""
    if field.endswith(".responses") and isinstance(value, list):  # Argilla's data sets on the hub
        statuses = fields.get(f"{field}.status")
        for answer, status in zip_longest(value, statuses[: len(value)] if isinstance(statuses, list) else ()):
            yield field.removesuffix(".responses"), answer, status
    elif field == "responses" and isinstance(value, dict):  # Argilla 2
        for question, given in value.items():
            yield from ((question, each.get("value"), each.get("status")) for each in _objects(given))
    elif field == "responses":  # Argilla 1
        for each in _objects(value):
            given = each.get("values")
            for question, answer in given.items() if isinstance(given, dict) else ():
                yield question, answer.get("value") if isinstance(answer, dict) else answer, each.get("status")
    elif field == "annotations":  # Label Studio
        for each in _objects(value):
            for result in _objects(each.get("result")):
                for answer in _objects([result.get("value")]):
                    first, status = next(iter(answer.values()), None), "discarded" if each.get("was_cancelled") else ""
                    for one in first if isinstance(first, list) else [first]:
                        yield str(result.get("from_name")), one, status
    elif (given := _objects(value)) and len(given) == len(value) and all({"value", "status"} <= each.keys() for each in given):
        yield from ((field, each["value"], each["status"]) for each in given)  # Argilla 1 on the hub


def _is_number(value: Any) -> bool:
    return not isinstance(value, str | list) or (isinstance(value, str) and value.strip().isdigit())


def _several(value: Any) -> bool:
    value = value.get("text") if isinstance(value, dict) else value
    return isinstance(value, list) and all(isinstance(each, str) for each in value) and len({*value}) > 1


def _alternating(value: Any) -> list[dict[str, str]]:
    """A list of texts as turns, the user's first, as LIMA and UltraChat write them."""
    texts = value if isinstance(value, list) and all(isinstance(each, str) for each in value) else []
    return [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]


def _asked_last(chat: Any) -> bool:
    """Whether the last one of these turns is the user's."""
    turns = _objects(list_in(chat) if isinstance(chat, str) else chat)
    return bool(turns) and ROLES.get(str(next((turns[-1][who] for who in WHO if who in turns[-1]), "")).casefold()) == "user"


def _objects(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
