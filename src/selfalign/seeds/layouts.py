"""Rows as other tools write them, brought to the names that `read` knows: wrapped, annotated, with other names of columns, or as
one text with the names of its speakers in it.

Only what cannot be mistaken; a second answer beside the first one is never left out in silence.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from itertools import zip_longest
from typing import Any

from selfalign.seeds.replies import with_reply
from selfalign.seeds.rows import Malformed, is_conversation, json_text, list_in, listed, nothing, object_in, show
from selfalign.seeds.spoken import MARKS, turns_in
from selfalign.seeds.turns import ROLES, SAID, WHO
from selfalign.seeds.verdicts import refuse_bad

FORMS = {"prompt": "response", "question": "answer", "instruction": "output", "query": "response"}
"""Names of a prompt with the response that mostly goes with it; any response may go with any prompt."""
CHOSEN, REJECTED = "chosen", "rejected"
"""The answers of a preference: the first one is the response, the other is kept as metadata, for recipes that reject it."""
RESPONSES = ("response", "answer", "output", "completion", CHOSEN)
CHATS = ("messages", "conversations", "conversation", "contents")
PASSAGES = ("input", "context", "passage")
"""Texts that a prompt is about; they follow it behind a blank line, as in Alpaca's own prompts."""
OTHER_PASSAGES = (
    *("contexts", "passages", "document", "documents", "article", "paragraph", "background", "excerpt", "source_text"),
    *("reference_text", "retrieved_context", "retrieved_contexts", "retrieved_documents"),
)
"""The same where they hold sentences: a name without a space is that of a file."""
SYSTEMS = ("system", "system_prompt", "system_message", "system_instruction", "system_instructions", "system_text", "sys")
HISTORIES = (
    *("history", "chat_history", "conversation_history", "previous_messages", "message_history"),
    *("dialogue_history", "dialog_history", "previous_turns", "prior_turns"),
)
NESTED = ("instances", "questions_and_answers")
"""Lists of inputs or questions with their answers, as in Self-Instruct's seed tasks and InstructLab's qna.yaml."""
UNUSABLE = {
    **dict.fromkeys(("tools", "functions"), "calls of tools are not learned; remove the rows that need them"),
    "previous_response_id": "the turns before it are not in the row; put them into it, or remove the row",
    **dict.fromkeys(("choices", "options"), "a choice is not shown to the model; write it into the prompt"),
    **dict.fromkeys(
        ("image", "images", "image_path", "image_url", "audio", "audios", "video", "videos"),
        "only texts are learned; remove the rows that need it",
    ),
}
KNOWN = sorted({*FORMS, *RESPONSES, *CHATS})
_SAME = {
    name.replace("_", ""): name
    for name in (*KNOWN, REJECTED, *PASSAGES, *OTHER_PASSAGES, *SYSTEMS, *HISTORIES, *NESTED, *UNUSABLE, "id", "category")
}
for _what in ("response", "answer", "output", "completion"):
    _SAME |= dict.fromkeys((f"chosen{_what}", f"preferred{_what}", f"good{_what}"), CHOSEN)
    _SAME |= dict.fromkeys((f"rejected{_what}", f"nonpreferred{_what}", f"bad{_what}"), REJECTED)
for _what in (
    *("kontext", "contexto", "contexte", "contesto", "kontekst"),
    *("konteks", "контекст", "上下文", "文脈", "맥락", "السياق"),
):
    _SAME[_what] = "context"
_SAME |= {"输入": "input", "입력": "input", "入力": "input"}
"""The names that the reader knows, by how they are told: case, spaces, hyphens and underscores do not count."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SAME |= dict.fromkeys(
    _names("kategorie kategori categoría catégorie categoria kategoria kategorija категория категорія 类别 カテゴリ 카테고리"),
    "category",
)
_ASKING = _names(
    "q prompts questions instructions inputs request problem message userprompt usermessage userquery userquestion userinput"
    " inputtext textinput questiontext prompttext transcript dialogue dialog"
    " frage pregunta pergunta domanda pytanie vraag fråga spørgsmål spørsmål otázka kysymys kérdés întrebare soru câuhỏi"
    " pertanyaan swali вопрос питання ερώτηση שאלה السؤال سؤال سوال پرسش प्रश्न सवाल প্রশ্ন கேள்வி คำถาม"
    " 질문 지시 質問 問題 问题 提问 指令"
)
"""Other names of a prompt; only where a row has none that `read` knows, and one of these."""
_BETTER = frozenset(
    which + what
    for which in _names(
        "ideal expected reference gold golden best better target correct corrected edited revised improved final human"
    )
    for what in ("response", "answer", "output", "completion", "reply")
) | {"ideal", "corrected", "groundtruth", "solution", "expected", "reference"}
"""Names of an answer that may be the one to learn also where another stands beside it; which one it is, the user must say."""
_EDITED = frozenset(name for name in _BETTER if name.startswith(("correct", "edited", "revised", "improved")))
_ANSWERING = _BETTER | _names(
    "a responses answers outputs completions targets target reply generation outputtext targettext answertext responsetext"
    " modelresponse modelanswer modeloutput assistantresponse assistantmessage assistantreply botresponse botmessage longanswer"
    " antwort respuesta resposta risposta réponse odpowiedź odpověď antwoord svar vastaus válasz răspuns cevap yanıt trảlời"
    " jawaban jibu ответ відповідь απάντηση תשובה الجواب الإجابة جواب إجابة پاسخ उत्तर जवाब উত্তর பதில் คำตอบ"
    " 답변 대답 응답 回答 答案 回复 输出"
)
"""Other names of a response; only where a row has none that `read` knows, and one of these."""
_TOGETHER = (
    ({"user", "human", "prompter"}, {"assistant", "bot", "gpt", "chatbot", "ai"}),
    ({"customer", "client", "customermessage", "customerquestion"}, {"agent", "support", "agentreply", "agentresponse"}),
    ({"用户"}, {"助手"}),
    ({"source", "src"}, {"target", "tgt"}),
    ({"text", "sentence", "input"}, {"label"}),
)
"""Names that mean a prompt and its response next to one another; alone they are as often a person, an origin or a class."""
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
        known = _SAME.get(_plain(name), name)
        if known in row:
            raise Malformed(f"has the field {show(known)} twice; rename one")
        row[known] = value
    row = with_reply(row, RESPONSES)
    if "_task_hash" in row and "answer" in row:  # Prodigy's verdict on its row
        row["status"] = row.pop("answer")
        if isinstance(written := row.pop(str(row.get("field_id")), None), str):
            row["response"] = written  # in its text_input
    new = _new_names(row, answers_matter)
    said = [f"the JSON in {listed(opened)} as columns"] if opened else []
    said += [f"{show(old)} as {'turns' if name in CHATS else f'the {name}'}" for old, name in new.items()]
    row = {new.get(name, name): value for name, value in row.items() if name not in new.values()}
    if answers_matter and {*row} & {*RESPONSES, *CHATS}:
        refuse_bad(row, {name: _plain(name) for name in row}, is_preference=REJECTED in row)
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


def _read_turns(row: dict[str, Any]) -> Iterator[str]:
    """Puts turns in place of texts that hold them, and names the fields that did."""
    for name in (*FORMS, *CHATS, CHOSEN, REJECTED, "input"):
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


@lru_cache(4096)  # the rows of a file share their names
def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", unicodedata.normalize("NFC", name).casefold())


def hint(row: Mapping[str, Any], wanted: Collection[str]) -> str:
    """What may be meant by a row without a prompt or a response, for a message."""
    if "custom_id" in row or row.get("object") in ("response", "chat.completion"):
        return "; an answer of an interface holds no prompt: put the one of the request with the same id beside it"
    if len(sides := [name for name in row if _ONE_OF_TWO.fullmatch(_plain(name))]) > 1:
        return f"; of {listed(sides)} rename the better one to 'chosen' and a worse one to 'rejected'"
    if several := next((name for name in row if _plain(name) in _ANSWERING and _several(row[name])), ""):
        return f"; {show(several)} holds several: keep the one to be learned, as text"
    if all(isinstance(row.get(name), list) for name in (CHOSEN, REJECTED)):
        return "; 'chosen' and 'rejected' differ before their last turns: keep one turn in each, and what both share as 'prompt'"
    if any(who in row for who in WHO[:-1]) and any(name in row for name in SAID):
        roles = "; write user or assistant for who speaks" if "role" not in row else ""
        return (
            "; one row is one turn: name its conversation in a column conversation_id, or gather the turns in one list, messages"
            f"{roles}"
        )
    both = [name for name in row if _plain(name) in _ASKING or name == "text"]
    if len(both) > 1 and not any(name in row for name in FORMS):
        return f"; {listed(both)} may each be it: rename the one that asks to 'prompt', and the answer to 'response'"
    return nearest(list(filter(lambda name: is_conversation(row[name]), row)), CHATS) or nearest(row, {*wanted} - {*CHATS})


def nearest(names: Collection[str], wanted: Collection[str]) -> str:
    """Which name may be a wanted one with a typing error, for a message."""
    for name in names:
        match = difflib.get_close_matches(name[:40].strip().casefold(), wanted, n=1, cutoff=0.7)
        if match and name not in KNOWN:
            return f"; rename {show(name)} to {show(match[0])}?"
    return ""


def _new_names(row: Mapping[str, Any], answers_matter: bool) -> dict[str, str]:
    """What the names of a row's prompt and response are to be, where they are not known ones."""
    plain = {name: _plain(name) for name, value in row.items() if not nothing(value)}
    answers = [name for name in RESPONSES if name in row]
    better = [name for name in plain if plain[name] in _BETTER and "://" not in str(row[name])]
    chats = [name for name in CHATS if name in row]
    if answers_matter:
        _check_one_answer(row, plain, chats, answers, better)
    if chats:
        return dict.fromkeys(_beside_turns(row, chats, answers, answers_matter), "response")
    new: dict[str, str] = {}
    strange = [name for name in plain if plain[name] not in _ASKING and plain[name] not in _ANSWERING]
    if not any(name in row for name in FORMS) and not nearest(strange, FORMS):
        asking = [name for name in plain if plain[name] in _ASKING or (name == "text" and "role" not in row)]
        if len(turns := [name for name in _TURNS if isinstance(row.get(name), list) and name in plain]) == 1:
            new[turns[0]] = "messages"
        elif not answers and asking in ([], ["text"]):
            for asks, replies in _TOGETHER:
                pair = [[name for name in plain if plain[name] in side] for side in (asks, replies)]
                if len(pair[0]) == len(pair[1]) == 1 and not _is_number(row[pair[1][0]]):
                    return {pair[0][0]: "prompt", pair[1][0]: "response"}
        if not new and len(asking) == 1 and not (asking == ["text"] and {"input", CHOSEN} & {*row}):
            new[asking[0]] = "prompt"
    new |= _about(row, plain)
    others = better or [name for name in plain if plain[name] in _ANSWERING and name not in new]
    is_asked = "prompt" in new.values() or any(name in row for name in (*FORMS, "input"))
    if is_asked and not answers and len(others) == 1 and not _several(row[others[0]]) and not nearest(strange, RESPONSES):
        new[others[0]] = "response"
    return new


def _beside_turns(row: Mapping[str, Any], chats: list[str], answers: list[str], answers_matter: bool) -> list[str]:
    """The column with the response to turns that end with the user's.

    Raises:
        Malformed: several of them.
    """
    if answers or not _asked_last(row[chats[0]]):
        return []
    given = [name for name in row if _plain(name) in _ANSWERING and not nothing(row[name])]
    if len(given) > 1 and answers_matter:
        raise Malformed(f"has several answers, {listed(given)}; keep the one to be learned, and rename the others, to note_1")
    return given


def _check_one_answer(
    row: Mapping[str, Any], plain: Mapping[str, str], chats: list[str], answers: list[str], better: list[str]
) -> None:
    """
    Raises:
        Malformed: a row with several answers; only the user knows which one is to be learned.
    """
    if chats:
        edited = [name for name in plain if plain[name] in _EDITED]
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
    """The column that an instruction is about, by another name than input.

    Raises:
        Malformed: a text beside a prompt that may as well be the prompt, or its system text.
    """
    asked = next((row[name] for name in FORMS if isinstance(row.get(name), str)), None)
    if asked is None:
        return {}
    texts = {name: row[name] for name in plain if isinstance(row[name], str) and len(row[name].split()) > 1}
    inputs = [name for name in texts if plain[name] in _INPUTS and asked not in texts[name]]
    if "instruction" in row and len(inputs) == 1 and nothing(row.get("input")):
        return {inputs[0]: "input"}
    for name in texts:
        if plain[name] in _ASKING and texts[name] not in asked and asked not in texts[name]:
            what = f"stands next to {listed(each for each in FORMS if each in row)}, and the model would not see it"
            raise Malformed(f"field {show(name)}: {what}; rename it to 'context', 'system' or, if it is no part, to note_1")
    return {}


def _unwrapped(fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The fields with those that stand in an object, and with what annotators answered."""
    if isinstance(cut := fields.get("truncated_cells"), list) and cut:
        raise Malformed(f"field 'truncated_cells': the viewer cut off {listed(map(str, cut))}; load the data set itself")
    is_row = not {*map(_plain, fields)}.isdisjoint((*FORMS, *CHATS))
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
    for name in wrapped:
        yield from fields[name].items()
    yield from answers.items()


def _opened(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The cells with objects as JSON, in a table as LangSmith and Langfuse write it, if they hold what is learned alone."""
    names = [name for name in ("inputs", "input", *_IN_CELLS) if isinstance(fields.get(name), str)]
    cells = {name: object_in(fields[name]) for name in names} if {*_IN_CELLS} & {*names} else {}
    return {name: cell for name, cell in cells.items() if cell and all(map(is_known, cell))}


def is_known(name: str) -> bool:
    """Whether a column of this name can hold what is learned."""
    key = _plain(name)
    return key in _SAME or key in _ASKING or key in _ANSWERING or any(key in side for pair in _TOGETHER for side in pair)


def is_shared(name: str) -> bool:
    """Whether a text of this name beside an array of rows is a part of each of them."""
    return _SAME.get(_plain(name)) in (*FORMS, *SYSTEMS, *PASSAGES, *OTHER_PASSAGES, "category")


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
