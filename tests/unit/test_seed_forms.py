"""Seeds as people have them: every usual form is read with all that an answer depends on, or refused with the remedy."""

from __future__ import annotations

import bz2
import datetime
import gzip
import io
import json
import lzma
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfalign.loop.align import hash_examples
from selfalign.seeds.notes import ignored_columns, seed_notes
from selfalign.seeds.read import read_prompts, read_seeds, read_with_notes
from selfalign.types import Example
from tests.conftest import SCRIPTED, Run
from tests.files import write_rows
from tests.unit.test_seeds import refusal, write

PAIR = ("", (), "Why?", "So.")
TURNS = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
SHAREGPT = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]
SYSTEM = {"role": "system", "content": "Be brief."}
NO = [TURNS[0], {"role": "assistant", "content": "No."}]
CHATML = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in (SYSTEM, *TURNS))
ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
SQUAD = {"id": "s", "question": "Why?", "answers": [{"text": "So.", "answer_start": 1}], "is_impossible": False}
RAIN = "It rains.\n\nIt pours."


def said(example: Example) -> tuple[str, Any, str, str]:
    return example.system, example.history, example.prompt, example.response


def one(folder: Path, row: dict[str, Any]) -> Example:
    return read_seeds(write(folder, "s.jsonl", json.dumps(row)))[-1]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "Why?", "completion": "So."}, PAIR),
        ({"instruction": "Why?", "response": "So."}, PAIR),
        ({"question": "Why?", "response": "So."}, PAIR),
        ({"query": "Why?", "response": "So."}, PAIR),
        ({"input": "Why?", "output": "So."}, PAIR),
        ({" Prompt": "Why?", "RESPONSE ": "So."}, PAIR),
        ({"prompt": TURNS[:1], "completion": TURNS[1:]}, PAIR),
        ({"prompt": TURNS[:1], "completion": "So."}, PAIR),
        ({"prompt": [SYSTEM, *TURNS, *TURNS[:1]], "completion": TURNS[1:]}, ("Be brief.", (PAIR[2:],), "Why?", "So.")),
        ({"conversations": SHAREGPT}, PAIR),
        ({"conversations": TURNS}, PAIR),
        ({"conversations": SHAREGPT, "system": "", "tools": "", "images": []}, PAIR),
        ({"conversations": [{"from": "system", "value": "Be brief."}, *SHAREGPT]}, ("Be brief.", *PAIR[1:])),
        ({"conversations": SHAREGPT, "system": "Be brief."}, ("Be brief.", *PAIR[1:])),
        ({"messages": [SYSTEM, *TURNS], "system": "Be brief."}, ("Be brief.", *PAIR[1:])),
        ({"messages": json.dumps(TURNS)}, PAIR),
        ({"messages": repr(TURNS)}, PAIR),  # as pandas writes it into CSV
        ({"prompt": json.dumps(TURNS[:1]), "completion": "So."}, PAIR),
        ({"messages": [{**SYSTEM, "content": ""}, {**TURNS[0], "content": None, "text": "Why?"}, TURNS[1]]}, PAIR),
        ({"prompt": "Why?", "chosen_response": "So.", "rejected_response": "No."}, PAIR),
        ({"chat_messages": [{"sender": "human", "text": "Why?"}, {"sender": "assistant", "text": "So."}]}, PAIR),
        ({"prompt": "Why?", "messages": TURNS}, PAIR),
        ({"messages": [{"role": "developer", "content": "Be brief."}, *TURNS]}, ("Be brief.", *PAIR[1:])),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "W"}, {"type": "text", "text": "hy?"}]},
                    TURNS[1],
                ]
            },
            PAIR,
        ),
        ({"messages": [{"role": "user", "content": "Hi."}, *TURNS]}, ("", (), "Hi.\n\nWhy?", "So.")),
        ({"messages": [TURNS[0], {**TURNS[1], "weight": 1, "tool_calls": None, "refusal": ""}]}, PAIR),
        ({"prompt": "Why?", "response": "So.", "history": [["Hi.", "Yes?"]]}, ("", (("Hi.", "Yes?"),), "Why?", "So.")),
        (
            {"instruction": "Why?", "output": "So.", "history": TURNS, "system": "Be brief."},
            ("Be brief.", (PAIR[2:],), "Why?", "So."),
        ),
        ({"question": "Why?", "context": "It rains.", "answer": "So."}, ("", (), "Why?\n\nIt rains.", "So.")),
        ({"prompt": "Why?", "input": "It rains.", "response": "So."}, ("", (), "Why?\n\nIt rains.", "So.")),
        ({"prompt": "Why?", "context": ["It rains.", "It pours."], "response": "So."}, ("", (), f"Why?\n\n{RAIN}", "So.")),
        ({"question": "Why?", "documents": ["It rains.", "It pours."], "answer": "So."}, ("", (), f"Why?\n\n{RAIN}", "So.")),
        ({"System Prompt": "Be brief.", "Prompt": "Why?", "Response": "So."}, ("Be brief.", *PAIR[1:])),
        ({"systemInstruction": "Be brief.", "prompt": "Why?", "response": "So."}, ("Be brief.", *PAIR[1:])),
        ({"Chat-History": [["Hi.", "Yes?"]], "prompt": "Why?", "response": "So."}, ("", (("Hi.", "Yes?"),), "Why?", "So.")),
        ({"messages": TURNS[:1], "response": "So."}, PAIR),
        ({"contents": [{"role": "user", "parts": [{"text": "Why?"}]}, {"role": "model", "parts": [{"text": "So."}]}]}, PAIR),
        ({"messages": [{"role": "human", "text": "Why?"}, {"role": "ai", "text": "So."}], "prompt": ""}, PAIR),
        ({"messages": [TURNS[0], {**TURNS[1], "train": True, "weight": 1.0}]}, PAIR),
        ({"prompt": "Why?", "completion": "So.", "label": True}, PAIR),
        ({"chosen": TURNS, "rejected": NO}, PAIR),
        ({"chosen": [SYSTEM, *TURNS], "rejected": [SYSTEM, *NO]}, ("Be brief.", *PAIR[1:])),
        ({"prompt": "Why?", "chosen": TURNS, "rejected": NO, "messages": TURNS}, PAIR),
        ({"conversations": SHAREGPT[:1], "chosen": SHAREGPT[1], "rejected": {"from": "gpt", "value": "No."}}, PAIR),
        ({"input": {"messages": TURNS[:1], "tools": []}, "preferred_output": TURNS[1:], "non_preferred_output": NO[1:]}, PAIR),
        ({"messages": TURNS, "instruction": "Why?", "response": "So."}, PAIR),
        ({"Q": "Why?", "A": "So."}, PAIR),
        ({"system": "Be brief.", "user": "Why?", "assistant": "So."}, ("Be brief.", *PAIR[1:])),
        ({"human": "Why?", "bot": "So."}, PAIR),
        ({"input": "Why?", "target": "So."}, PAIR),
        ({"source": "Why?", "target": "So."}, PAIR),
        ({"text": "Why?", "label": ["So."]}, PAIR),
        ({"Question": "Why?", "Expected answer": "So."}, PAIR),
        ({"problem": "Why?", "solution": "So."}, PAIR),
        ({"Frage": "Why?", "Antwort": "So."}, PAIR),
        ({"question": "Why?", "answers": {"text": ["So.", "So."], "answer_start": [1, 9]}}, PAIR),
        ({"input": [SYSTEM, *TURNS[:1]], "ideal": "So."}, ("Be brief.", *PAIR[1:])),
        ({"item": {"input": "Why?", "ground_truth": "So."}}, PAIR),
        ({"inputs": {"question": "Why?"}, "outputs": {"answer": "So."}}, PAIR),
        (
            {"fields": {"prompt": "Why?"}, "responses": {"response": [{"value": "So.", "user_id": "u"}]}, "vectors": {"v": [1]}},
            PAIR,
        ),
        (
            {
                "fields": {"prompt": "Why?"},
                "responses": [
                    {"status": "discarded", "values": {"response": {"value": "No."}}},
                    {"status": "submitted", "values": {"response": {"value": "So."}}},
                ],
            },
            PAIR,
        ),
        ({"prompt": "Why?", "response.responses": ["No.", "So."], "response.responses.status": ["draft", "submitted"]}, PAIR),
        (
            {
                "data": {"prompt": "Why?"},
                "annotations": [
                    {"was_cancelled": True, "result": [{"from_name": "response", "value": {"text": ["No."]}}]},
                    {"was_cancelled": False, "result": [{"from_name": "response", "value": {"text": ["So."]}}]},
                ],
            },
            PAIR,
        ),
        ({"system": [{"text": "Be brief."}], "messages": TURNS}, ("Be brief.", *PAIR[1:])),
        (
            {
                "systemInstruction": {"parts": [{"text": "Be brief."}]},
                "contents": [{"role": "user", "parts": [{"text": "Why?"}]}, TURNS[1]],
            },
            ("Be brief.", *PAIR[1:]),
        ),
        ({"conversation": [{"human": "Why?", "assistant": "So."}]}, PAIR),
        (
            {"conversation": [{"input": "Hi.", "output": "Yes?"}, {"output": "So.", "input": "Why?"}]},
            ("", (("Hi.", "Yes?"),), "Why?", "So."),
        ),
        ({"conversation": [{"speaker": "user", "text": "Why?"}, {"speaker": "bot", "text": "So."}]}, PAIR),
        ({"conversations": ["Why?", "So."]}, PAIR),
        ({"data": ["Why?", "So."]}, PAIR),
        ({"items": SHAREGPT}, PAIR),
        ({"conversations": [*SHAREGPT, {"from": "human", "value": "Thanks!"}]}, PAIR),
        (
            {
                "chosen": "\n\nHuman: Hi.\n\nAssistant: Yes?\n\nHuman: Why?\n\nAssistant: So.",
                "rejected": "\n\nHuman: Hi.\n\nAssistant: Yes?\n\nHuman: Why?\n\nAssistant: No.",
            },
            ("", (("Hi.", "Yes?"),), "Why?", "So."),
        ),
        ({"text": "\n\nHuman: Why?\n\nAssistant: So."}, PAIR),
        ({"text": "### Human: Why?### Assistant: So."}, PAIR),
        ({"text": CHATML}, ("Be brief.", *PAIR[1:])),
        ({"prompt": "\n\nHuman: Why?\n\nAssistant:", "completion": "So."}, PAIR),
        ({"text": f"{ALPACA}### Instruction:\nWhy?\n\n### Response:\nSo.</s>"}, PAIR),
        ({"text": "### Instruction:\nWhy?\n\n### Input:\nIt rains.\n\n### Response:\nSo."}, ("", (), "Why?\n\nIt rains.", "So.")),
        ({"prompt": f"{ALPACA}### Instruction:\nWhy?\n\n### Response:\n", "completion": "So."}, PAIR),
        ({"text": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWhy? [/INST] So. </s>"}, ("Be brief.", *PAIR[1:])),
        ({"text": "<bos><start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\nSo.<end_of_turn>\n"}, PAIR),
        ({"text": "<|system|>\nBe brief.</s>\n<|user|>\nWhy?</s>\n<|assistant|>\nSo.</s>"}, ("Be brief.", *PAIR[1:])),
        (
            {"text": "A chat between a user and a bot. USER: Why? ASSISTANT: So.</s>"},
            ("A chat between a user and a bot.", *PAIR[1:]),
        ),
        ({"text": "User: Hi.\nAssistant: Yes?\nUser: Why?\nAssistant: So."}, ("", (("Hi.", "Yes?"),), "Why?", "So.")),
        ({"chosen": "Human: Why?\nAssistant: So.", "rejected": "Human: Why?\nAssistant: No."}, PAIR),
        ({"prompt": "Why?", "chosen": "So.", "rejected": "No."}, PAIR),
        ({"input": json.dumps(TURNS[:1]), "output": json.dumps(TURNS[1])}, PAIR),  # an export of logs as a table
        ({"request": {"messages": TURNS[:1]}, "response": {"choices": [{"message": TURNS[1], "finish_reason": "stop"}]}}, PAIR),
        ({"messages": TURNS[:1], "choices": [{"message": TURNS[1]}]}, PAIR),
        ({"chat_messages": [{"sender": "human", "text": "Why?", "content": [{"type": "text", "text": "Why?"}]}, TURNS[1]]}, PAIR),
        ({"Question": "Why?", "Kontext": "It rains.", "Re\u0301ponse": "So."}, ("", (), "Why?\n\nIt rains.", "So.")),
        ({"指令": "Why?", "输入": "It rains.", "输出": "So."}, ("", (), "Why?\n\nIt rains.", "So.")),
        ({"instruction": "Why?", "content": "It rains.", "output": "So."}, ("", (), "Why?\n\nIt rains.", "So.")),
        (
            {"question": "Why?", "retrieved_contexts": ["It rains.", "It pours."], "answer": "So."},
            ("", (), f"Why?\n\n{RAIN}", "So."),
        ),
        (
            {"sys": "Be brief.", "previous_turns": [["Hi.", "Yes?"]], "q": "Why?", "a": "So."},
            ("Be brief.", (("Hi.", "Yes?"),), "Why?", "So."),
        ),
        ({"prompt": "Why?", "good_response": "So.", "bad_response": "No."}, PAIR),
        ({"inputs": {"messages": TURNS[:1]}, "outputs": {"messages": TURNS[1:]}}, PAIR),  # LangSmith
        ({"inputs": {"messages": TURNS[:1]}, "outputs": {"messages": TURNS}}, PAIR),
        ({"inputs": {"messages": TURNS[:1]}, "outputs": {"message": TURNS[1]}}, PAIR),
        ({"Question:": "Why?", "Answer:": "So."}, PAIR),
        ({"messages": {"role": ["user", "assistant"], "content": ["Why?", "So."]}}, PAIR),
        ({"conversations": [{"from": "用户", "value": "Why?"}, {"from": "助手", "value": "So."}]}, PAIR),
        ({"prompt": "Why?", "response": "So.", "历史": "[('Hi.', 'Yes?')]"}, ("", (("Hi.", "Yes?"),), "Why?", "So.")),
        ({"prompt": "Why?", "response": "So.", "history": "User: Hi.\nBot: Yes?"}, ("", (("Hi.", "Yes?"),), "Why?", "So.")),
        ({"系统提示": "Be brief.", "prompt": "Why?", "response": "So."}, ("Be brief.", *PAIR[1:])),
        (
            {"prompt": "为什么？", "article": "今天下了很多雨。", "response": "So."},
            ("", (), "为什么？\n\n今天下了很多雨。", "So."),
        ),
    ],
    ids=lambda value: json.dumps(value)[:70] if isinstance(value, dict) else "",
)
def test_forms_of_rows(tmp_path: Path, row: dict[str, Any], expected: tuple[Any, ...]) -> None:
    example = one(tmp_path, row)
    assert said(example) == expected
    rest = {"prompt", "instruction", "response", "rejected", "label"}  # the first ones where turns repeat them
    assert not {name for name in example.metadata if not name.endswith(".status")} - rest
    assert example.metadata.get("rejected", "No.") == "No."


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"choices": ["a", "b"], "question": "Why?", "answer": "a"}, ("'choices'", "write it into the prompt")),
        ({"tools": "[{}]", "messages": TURNS}, ("'tools'", "remove the rows")),
        ({"image": {"path": "a.png", "bytes": None}, "conversations": SHAREGPT}, ("'image'", "only texts")),
        ({"context": "It rains.", "messages": []}, ("'context'", "next to 'messages'")),
        ({"context": "It rains.", "messages": TURNS}, ("'context'", "next to 'messages'", "write it into the turn")),
        (
            {"context": [{"text": "It rains."}], "prompt": "Why?", "response": "So."},
            ("'context'", "a list where text must stand"),
        ),
        ({"history": "Hi.", "prompt": "Why?", "response": "So."}, ("'history'", "text, not a list")),
        ({"history": [["user", "Hi."]], "prompt": "Why?", "response": "So."}, ("'history'", "a turn is a list")),
        ({"messages": [*TURNS, {"role": "tool", "content": "7"}]}, ("'messages[3]'", "'tool'", "remove the row")),
        ({"messages": [TURNS[0], {"role": "assistant", "content": "a", "tool_calls": [{}]}]}, ("'messages[2]'", "'tool_calls'")),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, TURNS[1]]}, ("'image_url'", "only texts")),
        ({"messages": [TURNS[0], {"role": "assistant"}]}, ("'messages[2].content'", "null")),
        ({"messages": [TURNS[0], {"says": "So."}]}, ("'messages[2]'", "no role among its fields ('says')", '{"role"')),
        ({"messages": [TURNS[0], {**TURNS[1], "image": "a.png"}]}, ("'messages[2]'", "'image'", "remove the row")),
        ({"messages": [TURNS[0], {**TURNS[1], "sources": ["a"]}]}, ("'messages[2]'", "'sources'", "remove the row")),
        ({"messages": [TURNS[0], {**TURNS[1], "reasoning_content": "Hm."}]}, ("'messages[2].reasoning_content'", "<think>")),
        ({"messages": [TURNS[0], {**TURNS[1], "train": False}]}, ("weight 0", "remove the row")),
        ({"messages": TURNS, "answer": "No."}, ("mixes 'answer', 'messages'", "rename")),
        ({"messages": [], "answer": "No."}, ("mixes 'answer', 'messages'", "rename")),
        ({"prompt": "Why?", "completion": "No.", "label": False}, ("'label'", "a bad one", "remove the row")),
        ({"prompt": "Why?", "chosen": TURNS, "rejected": [SYSTEM, *TURNS]}, ("'chosen'", "2 turns", "into the field 'prompt'")),
        ({"input": {"messages": TURNS[:1], "tools": [{}]}, "preferred_output": TURNS[1:]}, ("'tools'", "remove the rows")),
        ({"messages": [*TURNS, SYSTEM, *TURNS]}, ("'system'", "first")),
        ({"messages": TURNS[1:] + TURNS}, ("'assistant', 'user', 'assistant'", "the user's first")),
        ({"messages": [TURNS[0], {**TURNS[1], "weight": 0}]}, ("weight 0", "remove the row")),
        ({"messages": [TURNS[0], {**TURNS[1], "weight": 0.5}]}, ("weight '0.5'", "0 or 1")),
        ({"prompt": "How?", "messages": TURNS}, ("mixes 'prompt', 'messages'", "rename")),
        ({"messages": "[oops"}, ("'messages'", "no JSON list")),
        ({"prompt": "Why?", "completion": "No.", "label": 0}, ("'label'", "a bad one", "rename the column")),
        ({"prompt": "Why?", "response": "No.", "weight": 0}, ("'weight'", "a bad one")),
        ({"prompt": "Why?", "response": "No.", "status": "rejected"}, ("'status'", "a bad one")),
        ({"text": "Why?", "_task_hash": 1, "label": "No.", "answer": "reject"}, ("'status'", "a bad one")),
        (
            {"question": "Why?", "answer": "No.", "gold_answer": "So."},
            ("several answers, 'answer', 'gold_answer'", "keep the one"),
        ),
        ({"prompt": "Why?", "response": "No.", "edited_response": "So."}, ("several answers", "keep the one")),
        ({"question": "Why?", "answers": ["So.", "No."]}, ("'answers' holds several", "keep the one")),
        ({"question": "Why?", "answer": ["So.", "No."]}, ("'answer'", "2 different answers")),
        ({"row": {"prompt": "Why?", "response": "So"}, "truncated_cells": ["response"]}, ("cut off 'response'", "load the data")),
        ({"prompt": "Why?", "response_0": "So.", "response_1": "No."}, ("rename the better one to 'chosen'",)),
        ({"prompt_1": "Why?", "response_1": "So.", "prompt_2": "And?", "response_2": "So too."}, ("in one list, messages",)),
        ({"user_1": "Why?", "assistant_1": "So.", "user_2": "And?", "assistant_2": "So too."}, ("in one list, messages",)),
        ({"text": "Hello. [INST] Why? [/INST] So."}, ("'text'", "'[INST]'", "prompt and response")),
        ({"text": f"{CHATML}<|im_start|>tool\n7<|im_end|>\n"}, ("'text'", "'<|im_start|>'", "prompt and response")),
        ({"text": "User: Why?\nAssistant: So.\nAssistant: No."}, ("'text'", "prompt and response")),
        ({"message_id": "m", "text": "Why?", "role": "prompter"}, ("conversation_id", "gather the turns in one list")),
        ({"prompt": "Why?", "response": "No.", "Status": "Rejected"}, ("'Status'", "a bad one")),
        ({"prompt": "Why?", "response": "No.", "is_correct": False}, ("'is_correct'", "a bad one")),
        ({"prompt": "Why?", "response": "No.", "User feedback": "👎"}, ("'User feedback'", "a bad one")),
        (
            {"prompt": "Why?", "chosen": "No.", "rejected": "So.", "score_chosen": 2, "score_rejected": "6"},
            ("'score_chosen': is 2, and 'score_rejected' is 6", "swap"),
        ),
        ({"prompt": "Why?", "response": "No.", "reference": "So."}, ("several answers",)),
        ({"Question": "Why?", "Answer": "No.", "Better answer": "So."}, ("several answers",)),
        ({"prompt": "Hi.", "response": "Yes?", "follow_up": "Why?", "response_2": "So."}, ("'response_2'", "later turns")),
        (
            {"prompt": "Why?", "instructions": "Be brief.", "response": "So."},
            ("'instructions': stands next to 'prompt'", "'system'"),
        ),
        ({"messages": TURNS[:1], "choices": [{"message": TURNS[1], "finish_reason": "length"}]}, ("'length'", "remove the row")),
        ({"messages": [TURNS[0], {"role": "assistant", "content": [{"type": "thinking"}]}]}, ("thoughts", "<think>")),
        (
            {"prompt": "Why?", "completions": [{"text": "So.", "rank": 1}, {"text": "No.", "rank": 2}]},
            ("2 answers", "keep the one"),
        ),
        ({"question": "Why?", "A": "So.", "B": "No.", "answer": "A"}, ("'A', 'B'", "write it into the prompt")),
        ({"question": "Why?", "option_1": "So.", "option_2": "No.", "answer": "1"}, ("'option_1'", "write it into the prompt")),
        ({"prompt": "Why?", "chosen": "So.", "rejected": "So."}, ("the same as 'chosen'",)),
        ({"messages": TURNS, "corrected_answer": "No."}, ("an answer in 'messages' and another in 'corrected_answer'",)),
        ({"messages": [TURNS[0], {**TURNS[1], "text": "No."}]}, ("one thing in 'content' and another in 'text'",)),
        ({"messages": [{"human": "Why?", "assistant": "So.", "image": "a.png"}]}, ("'image'", "remove the row")),
        ({"prompt": "Why?", "response": "So.", "approved": "no"}, ("'approved'", "a bad one")),
        ({"instruction": "Why?", "input": {"text": "It rains."}, "output": "So."}, ("'input'", "an object where text must")),
        ({"prompt": "Why?", "chosen": "So.", "rejected": ["No.", "Never."]}, ("'rejected'", "2 answers", "a row for each")),
        ({"prompt": "Why?", "response": {"a": 1}}, ("an object where text must stand", "`jq -c '.response |= tojson'`")),
        ({"text": "Why?", "label": 1}, ("'response': is missing", "(read 'text' as the prompt)")),
        ({"promt": "Why?", "text": "It rains.", "response": "So."}, ("rename 'promt' to 'prompt'?",)),
        (
            {"Pergunta do cliente": "Onde está o pedido?", "Resposta": "Chega.", "Nota": 4, "tags": ["a"]},
            ("rename 'Pergunta do cliente' to 'prompt'?",),
        ),
        ({"Frage": "Wo ist es?", "Antwort von uns": "Es kommt morgen an."}, ("rename 'Antwort von uns' to 'response'?",)),
        (
            {"prompt": "Why?", "completions": [{"model": "m", "response": "So."}, {"model": "n", "response": "No."}]},
            ("2 different",),
        ),
        (
            {"prompt": "Why?", "response": "So.", "response.1": "No."},
            ("'response' and 'response.1'", "a second column"),
        ),  # pandas
        ({"Frage": "Why?", "Antwort": "So.", "Antwort.1": "No."}, ("'Antwort' and 'Antwort.1'", "keep the one")),
        ({"prompt": "Why?", "response...2": "So.", "response...3": "No."}, ("'response...2' and 'response...3'",)),  # R
        ({"prompt": "Why?", "prompt_duplicated_0": "How?", "response": "So."}, ("'prompt_duplicated_0'",)),  # polars
        (
            {"inputs": {"messages": TURNS[:1]}, "outputs": {"messages": [{**TURNS[0], "content": "How?"}, TURNS[1]]}},
            ("'inputs.messages' and in 'outputs.messages'", "one list, messages"),
        ),
    ],
)
def test_what_an_answer_depends_on_is_never_metadata_in_silence(
    tmp_path: Path, row: dict[str, Any], words: tuple[str, ...]
) -> None:
    message = refusal(write(tmp_path, "s.jsonl", json.dumps(row)))
    assert message.startswith(":1: ") and all(word in message for word in words), message


def test_what_else_turns_and_rows_hold_is_metadata_with_a_note(tmp_path: Path) -> None:
    turns = [{**turn, "time": at, "language": "en"} for at, turn in enumerate(TURNS, 1)]
    row = {"messages": turns, "document": "handbook.pdf", "article": "It rains."}
    example = one(tmp_path, {**row, "prompt": "Why?", "article": "Why?"})
    assert said(example) == PAIR
    names = ["prompt", "document", "article", "messages.time", "messages.language"]
    assert example.metadata["messages.time"] == "[1,2]" and sorted(ignored_columns([example])) == sorted(names)
    asked = one(tmp_path, {"prompt": "Explain: it rains.", "article": "it rains.", "response": "So."})
    assert asked.prompt == "Explain: it rains."  # said once
    row = {"messages": [{**TURNS[0], "content": "Explain: it rains."}, TURNS[1]], "article": "it rains."}
    assert one(tmp_path, row).prompt == "Explain: it rains."


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lines.json", "{0}\n{1}\n"),
        ("array.jsonl", "[{0},\n {1}]"),
        ("array.jsonl", "[{0}, {1}]\n"),
        ("conversations.json", "[{2}, {3}]"),
        ("conversations.jsonl", "{2}\n{3}\n"),
        ("viewer.json", '{{"features": [], "rows": [{{"row_idx": 0, "row": {0}}}, {{"row_idx": 1, "row": {1}}}]}}'),
        ("index.json", '{{"0": {0}, "1": {1}}}'),
    ],
)
def test_json_by_what_is_in_the_file(tmp_path: Path, name: str, text: str) -> None:
    """`datasets` writes JSON lines into .json, people name arrays .jsonl, and a conversation needs no name of a column."""
    rows = [{"prompt": each, "response": "So."} for each in ("Why?", "How?")]
    turns = [[{**TURNS[0], "content": each}, TURNS[1]] for each in ("Why?", "How?")]
    path = write(tmp_path, name, text.format(*map(json.dumps, [*rows, *turns])))
    assert [said(example)[2:] for example in read_seeds(path)] == [("Why?", "So."), ("How?", "So.")]


def test_files_that_are_no_seeds_say_what_to_do(tmp_path: Path) -> None:
    assert "'.ods'; export the sheet as CSV" in refusal(write(tmp_path, "s.ods", "PK"))
    assert "'.txt'; rename it by what it holds" in refusal(write(tmp_path, "s.txt", "Why? So."))
    assert ":1: the first line must name the columns" in refusal(
        write(tmp_path, "s.csv", "Why does it rain here today?,So.\nHow?,Thus.\n")
    )
    two = json.dumps({"train": [{"prompt": "Why?", "response": "So."}], "test": [{"prompt": "How?", "response": "So."}]})
    assert "2 arrays ('train', 'test'); keep one of them" in refusal(write(tmp_path, "s.json", two))


def test_packed_files(tmp_path: Path) -> None:
    row = b'{"prompt": "Why?", "response": "So."}\n'
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("seeds/train.jsonl", row)
        archive.writestr("__MACOSX/._train.jsonl", "x")
        archive.writestr("README.md", "x")
    zstd = pa.BufferOutputStream()
    with pa.CompressedOutputStream(zstd, "zstd") as stream:
        stream.write(row)
    packed = {"s.zip": buffer.getvalue(), "s.jsonl.bz2": bz2.compress(row), "s.jsonl.xz": lzma.compress(row)}
    for name, raw in (packed | {"s.jsonl.zst": zstd.getvalue().to_pybytes()}).items():
        assert said(*read_seeds(write(tmp_path, name, raw))) == PAIR
        assert "cannot be unpacked as" in refusal(write(tmp_path, name, raw[: len(raw) // 2]))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("seeds/test.jsonl", row)
    assert "2 files that could be read ('seeds/train.jsonl'" in refusal(write(tmp_path, "s.zip", buffer.getvalue()))
    utf16 = "Question\tAnswer\r\nWhy?\tSo.\r\n".encode("utf-16")
    assert said(*read_seeds(write(tmp_path, "s.csv", utf16))) == PAIR


def message(own: str, parent: str | None, role: str, text: str, **more: Any) -> dict[str, Any]:
    return {"message_id": own, "parent_id": parent, "role": role, "text": text, "lang": "en", "labels": {"name": ["x"]}, **more}


OASST = [
    message("q", None, "prompter", "Hi."),
    message("bad", "q", "assistant", "Go away.", rank=1),
    message("good", "q", "assistant", "Yes?", rank=0),
    message("spam", "good", "prompter", "Buy!", deleted=True),
    message("open", "good", "prompter", "And?"),
    message("q2", "good", "prompter", "Why?"),
    message("end", "q2", "assistant", "So."),
]


def nested(own: dict[str, Any]) -> dict[str, Any]:
    return {**own, "replies": [nested(each) for each in OASST if each["parent_id"] == own["message_id"]]}


@pytest.mark.parametrize("as_trees", [False, True])
def test_trees_of_messages_give_the_best_ranked_answers(tmp_path: Path, as_trees: bool) -> None:
    rows = [{"message_tree_id": "q", "prompt": nested(OASST[0])}] if as_trees else OASST
    examples, notes = read_with_notes(write(tmp_path, "s.jsonl", "\n".join(map(json.dumps, rows))))
    assert [said(example)[1:] for example in examples] == [((), "Hi.", "Yes?"), ((("Hi.", "Yes?"),), "Why?", "So.")]
    assert examples[-1].id == "end" and "of several answers the best-ranked one" in notes[0]
    assert as_trees or "(3 of 7 messages)" in notes[0]


def test_messages_whose_tree_is_not_sure_are_refused(tmp_path: Path) -> None:
    for rows, words in (
        ([{**row, "rank": None} for row in OASST], ":2: is one of 2 answers to the same message"),
        (OASST[1:], ":1: field 'parent_id': no row has the message_id 'q'"),
        ([*OASST, OASST[-1]], ":8: field 'message_id': 'end' is also that of"),
        ([message("a", "b", "prompter", "Hi."), message("b", "a", "assistant", "Yes?")], "lead in a circle"),
    ):
        assert words in refusal(write(tmp_path, "s.jsonl", "\n".join(map(json.dumps, rows))))


def test_a_turn_in_each_row(tmp_path: Path) -> None:
    rows = [
        "session_id,turn,role,message,topic",
        "a,2,assistant,So.,rain",
        "a,1,user,Why?,rain",
        "b,1,user,How?,sun",
        "b,2,assistant,So.,sun",
    ]
    examples, notes = read_with_notes(write(tmp_path, "s.csv", "\n".join(rows)))
    assert [(e.id, e.prompt, e.response, dict(e.metadata)) for e in examples] == [
        ("a", "Why?", "So.", {"topic": "rain"}),
        ("b", "How?", "So.", {"topic": "sun"}),
    ]
    assert "gathered from 4 rows of one turn each, by 'session_id'" in notes[0]
    assert ":2: field 'session_id': is missing" in refusal(write(tmp_path, "s.csv", "session_id,role,text\n,user,Hi.\n"))
    assert "conversation_id" in refusal(write(tmp_path, "s.csv", "role,content\nuser,Why?\nassistant,So.\n"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"system_prompt": "Be brief.", "examples": [{"prompt": "Why?", "response": "So."}]}, ("Be brief.", *PAIR[1:])),
        ({"version": 1, "data": {"tags": ["x"], "rows": [{"prompt": "Why?", "response": "So."}]}}, PAIR),
        ([["Why?", "So."]], PAIR),
        ([["question", "answer"], ["Why?", "So."]], PAIR),
        ({"Why now?": "So.", "How so?": "So."}, ("", (), "Why now?", "So.")),
        (
            {"version": "1.1", "data": [{"paragraphs": [{"context": "It rains.", "qas": [SQUAD]}]}]},
            ("", (), "Why?\n\nIt rains.", "So."),
        ),
        (
            [
                {
                    "current_node": "c",
                    "mapping": {
                        "r": {"message": None, "parent": None},
                        "a": {"message": {"author": {"role": "user"}, "content": {"parts": ["Why?"]}}, "parent": "r"},
                        "b": {"message": {"author": {"role": "assistant"}, "content": {"parts": ["No."]}}, "parent": "a"},
                        "c": {"message": {"author": {"role": "assistant"}, "content": {"parts": ["So."]}}, "parent": "a"},
                    },
                }
            ],
            PAIR,
        ),
    ],
)
def test_json_files_of_other_shapes(tmp_path: Path, value: Any, expected: tuple[Any, ...]) -> None:
    assert said(read_seeds(write(tmp_path, "s.json", json.dumps(value)))[0]) == expected


def test_thoughts_ratings_other_answers_and_sentences_beside_an_answer_are_told(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": f"Why {n}?",
            "answer": "So.",
            "reasoning": "Hm.",
            "rating": n,
            "model answer": "It is not so at all.",
            "text": "A long text about rain.",
            "previous_answer": "It was me who did it.",
        }
        for n in range(6)
    ]
    notes = seed_notes(read_seeds(write(tmp_path, "s.jsonl", "\n".join(map(json.dumps, rows)))))
    for words in (
        "'reasoning': thoughts next to the answers are not learned",
        "'rating' (0 to 5): answers are learned whatever their rating; remove rows of bad ones, as seed-0001",
        "'model answer': other answers than the learned ones",
        "'text': sentences that no prompt holds",
        "'previous_answer': what was said earlier is not learned",
        "all 6 seeds have the same answer, 'So.'",
    ):
        assert any(note.startswith(words) for note in notes), notes


def test_ids_and_categories_in_any_form(tmp_path: Path) -> None:
    rows = [{"id": 7, "category": "Daily life / home"}, {"id": None, "category": " de\u0301jà vu "}, {"id": "", "category": 3}]
    lines = [json.dumps({**row, "prompt": f"p{at}", "response": "r"}) for at, row in enumerate(rows)]
    examples = read_seeds(write(tmp_path, "s.jsonl", "\n".join(lines)))
    assert [(e.id, e.category) for e in examples] == [("7", "Daily life / home"), ("seed-0002", "déjà vu"), ("seed-0003", "3")]


@pytest.mark.parametrize(
    ("name", "text", "index"),
    [
        ("comma.csv", 'prompt,response\nWhy?,"So, so."\n', {}),
        ("semicolon.csv", "\ufeffprompt;response\r\nWhy?;So, so.\r\n", {}),
        ("tab.csv", "prompt\tresponse\nWhy?\tSo, so.\n", {}),
        ("sep.csv", "sep=;\r\nprompt;response\r\nWhy?;So, so.\r\n", {}),
        ("pandas.csv", ',prompt,response\n5,Why?,"So, so."\n', {"Unnamed: 0": "5"}),
        ("excel.csv", 'prompt,response,,\nWhy?,"So, so.",,,,\n,,,\n,,,,,\n\n', {}),
        ("spaced.csv", 'Prompt, Response\nWhy?, "So, so."\n', {}),
        ("mac.csv", 'prompt,response\rWhy?,"So, so."\r', {}),
        ("columns.json", '{"prompt": {"0": "Why?"}, "response": {"0": "So, so."}}', {}),
        ("lists.json", '{"prompt": ["Why?"], "response": ["So, so."]}', {}),
        ("split.json", '{"columns": ["prompt", "response"], "index": [0], "data": [["Why?", "So, so."]]}', {}),
        ("nan.jsonl", '{"prompt": "Why?", "response": "So, so.", "category": NaN, "n": NaN}', {"n": "null"}),
        (
            "qna.yaml",
            "version: 2\nseed_examples:\n  - question: Why?\n    answer: So, so.\n    n: 2026-01-02\n",
            {"n": "2026-01-02"},
        ),
    ],
)
def test_tables_as_programs_write_them(tmp_path: Path, name: str, text: str, index: dict[str, str]) -> None:
    write(tmp_path, name + ".gz", gzip.compress(text.encode()))
    for path in (write(tmp_path, name, text), tmp_path / (name + ".gz")):
        (example,) = read_seeds(path)
        assert (example.prompt, example.response, example.metadata) == ("Why?", "So, so.", index)


def test_nested_questions_of_instruct_lab(tmp_path: Path) -> None:
    text = """
    version: 3
    domain: cleaning
    seed_examples:
      - context: It rains.
        questions_and_answers:
          - question: Why?
            answer: So.
          - question: How?
            answer: Thus.
    document: {repo: x, patterns: [y]}
    """
    examples = read_seeds(write(tmp_path, "qna.yaml", text))
    assert [(e.prompt, e.response) for e in examples] == [("Why?\n\nIt rains.", "So."), ("How?\n\nIt rains.", "Thus.")]


def test_parquet_columns_of_any_type(tmp_path: Path) -> None:
    columns = {
        "conversations": [SHAREGPT],
        "id": [7],
        "score": [float("nan")],
        "when": [datetime.datetime(2026, 1, 2)],
        "raw": [b"\xff\x00"],
        "tags": [["a", "b"]],
        "inside": [{"a": 1, "b": None}],
    }
    pq.write_table(pa.table(columns), tmp_path / "s.parquet")
    (example,) = read_seeds(tmp_path / "s.parquet")
    assert (example.id, *said(example)) == ("7", *PAIR)
    assert dict(example.metadata) == {
        "score": "null",
        "when": "2026-01-02 00:00:00",
        "raw": "(2 bytes)",
        "tags": '["a","b"]',
        "inside": '{"a":1,"b":null}',
    }
    assert ignored_columns([example]) == ("score", "when", "raw", "tags", "inside")


def test_saved_data_sets_and_folders_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = datasets.Dataset.from_list(
        [{"messages": [{"role": t["role"], "content": f"{t['content']}{n}"} for t in TURNS]} for n in range(40)]
    )
    rows.save_to_disk(tmp_path / "saved")
    assert [e.prompt for e in read_seeds(tmp_path / "saved")] == [f"Why?{n}" for n in range(40)]
    datasets.DatasetDict({"train": rows.select([1]), "test": rows.select([2])}).save_to_disk(tmp_path / "both")
    assert [read_seeds(f"{tmp_path}/both{part}")[0].prompt for part in ("", ":test")] == ["Why?1", "Why?2"]
    assert "the split 'train'; 'test' left out" in read_with_notes(f"{tmp_path}/both")[1][0]
    assert "no split 'x'; write one of 'train', 'test' behind a colon" in refusal(Path(f"{tmp_path}/both:x"))
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder", "train.jsonl", '{"prompt": "Why?", "response": "So."}\n')
    assert read_seeds(tmp_path / "folder")[0].prompt == "Why?"
    (tmp_path / "saved" / "data-00000-of-00001.arrow").write_bytes(b"x" * 50)
    assert "cannot be read as a saved data set" in refusal(tmp_path / "saved")
    (tmp_path / "saved" / "state.json").write_text("[]")
    assert "state.json is not that of a saved data set" in refusal(tmp_path / "saved")
    (tmp_path / "empty").mkdir()
    assert "is a folder that is no data set" in refusal(tmp_path / "empty")


def test_a_data_set_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[tuple[str, str | None]] = []

    def load(name: str, configuration: str | None) -> Any:
        asked.append((name, configuration))
        splits = ("train", "test") if configuration is None else ("a", "b")
        return datasets.DatasetDict({s: datasets.Dataset.from_list([{"question": f"Why {s}?", "answer": "So."}]) for s in splits})

    monkeypatch.setattr(datasets, "load_dataset", load)
    names = ("org/name", "org/name:test", "org/name:main/b")
    assert [read_seeds(name)[0].prompt for name in names] == ["Why train?", "Why test?", "Why b?"]
    assert asked == [("org/name", None), ("org/name", None), ("org/name", "main")]
    assert "has several splits" not in refusal(Path("org/name:x"))
    monkeypatch.undo()
    assert "no such file, and no data set that the hub gives" in refusal(Path("no-such-org/no-such-name"))
    assert ": no such file; check the path" in refusal(Path("folder/seeds.jsonl"))


def test_first_turns_of_a_chat_set_are_examples_too(tmp_path: Path) -> None:
    def chat(number: int, **more: Any) -> dict[str, Any]:
        first = [{"role": "user", "content": f"Hi {number}."}, {"role": "assistant", "content": f"Yes {number}?", **more}]
        return {"id": f"c{number}", "messages": [SYSTEM, *first, {"role": "user", "content": f"Why {number}?"}, TURNS[1]]}

    alone = {"messages": [SYSTEM, {"role": "user", "content": "hi 2."}, TURNS[1]]}
    path = write(tmp_path, "s.jsonl", "\n".join(map(json.dumps, [chat(1), alone, chat(2), chat(3, weight=0)])))
    examples, notes = read_with_notes(path)
    assert [e.id for e in examples] == [
        "c1.1",
        "c1",
        "seed-0002",
        "c2",
        "c3",
    ]  # c2 begins as a row does; c3's is not to be learned
    assert [e.slot for e in examples] == list(range(5))
    assert said(examples[0]) == ("Be brief.", (), "Hi 1.", "Yes 1?")
    assert len(notes) == 1 and "1 first turn" in notes[0]


def test_a_system_text_is_part_of_what_is_asked(tmp_path: Path) -> None:
    rows = [{"system": system, "prompt": "Why?", "response": "So."} for system in ("A.", "B.")]
    examples = read_seeds(write(tmp_path, "s.jsonl", "\n".join(map(json.dumps, rows))))
    assert hash_examples(examples[:1]) != hash_examples([Example("seed-0001", "Why?", "So.")]) != hash_examples(examples[1:])
    assert "the same as that of" in refusal(write(tmp_path, "t.jsonl", "\n".join(map(json.dumps, [rows[0], rows[0]]))))


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (("WofÃ¼r ist das?", "FÃ¼r die TÃ¼r."), ("wrong encoding", "WofÃ¼r", "UTF-8")),
        (("Was ist los?", "Es heiÃŸt â€žjaâ€œ."), ("wrong encoding",)),
        (("Что это?", "РџСЂРёРІРµС‚, РјРёСЂ"), ("wrong encoding",)),
        (("Why?", "caf\ufffd"), ("wrong encoding",)),
        (("怎么泡茶？".encode("gb18030").decode("latin-1"), "So."), ("wrong encoding",)),
        (("Wo?", "In Ko\u0308ln."), ("in parts", "Ko\u0308ln", "normal form C")),
        (("Wo?", "Hier.\u2028Dort."), ("not seen", "\\u2028")),
        (("Why?", "Wipe it.\\nThen dry it."), ("a line break written as \\n", "Wipe it.")),
        (("Why?", "Tom &amp; Ann"), ("HTML", "&amp;")),
        (("Why?", "<p>So.</p>"), ("HTML", "<p>", "take the tags out")),
        (("Why?", "So.<|im_end|>"), ("chat template", "<|im_end|>")),
        (("Why?", "Assistant: So."), ("names of speakers", "Assistant:")),
        (("Why?", " So."), ("white space", "it is left out of what is learned")),
        (("¿Qué?", "caf\\u00e9"), ("escaped or lost", "\\u00e9")),
        (("Was?", "Gr??e aus M?nchen"), ("escaped or lost", "Gr??e")),
        (("Was?", "Hei%C3%9F"), ("escaped or lost", "%C3%9F")),
    ],
)
def test_spoilt_texts_are_told_with_an_example(texts: tuple[str, str], words: tuple[str, ...]) -> None:
    seeds = [Example(f"s{at}", f"{texts[0]} {at}", texts[1]) for at in range(10)]
    note, alike = seed_notes(seeds)
    assert alike.startswith("all 10 seeds have the same answer")
    assert note.startswith("10 of 10 seeds have") and all(word in note for word in words), note
    assert not seed_notes([*seeds[:1], *(Example(f"t{at}", f"Why {at}?", f"So {at}.") for at in range(40))])


def test_what_is_wrong_once_is_told_once() -> None:
    good = [Example(f"s{at}", f"Why {at}?", f"It is so {at} because of the weather that we had.") for at in range(20)]

    def told(*more: Example) -> str:
        return "\n".join(seed_notes([*good, *more]))

    assert not told()
    assert "1 of 21 seeds have what empty cells hold for an answer or a category, as 'N/A' in x" in told(
        Example("x", "Who?", "N/A")
    )
    assert "have their prompt as the answer" in told(Example("x", "Who is it?", "who is  it?"))
    assert "within a sentence, as '… we had and then the' in x" in told(
        Example("x", "Who?", good[0].response[:-1] + " and then the")
    )
    calls = [
        Example(f"c{at}", f"Set {at}.", f"set_light(room='number {at}', on=True, dim=False)"[(at < 17) * 20 :])
        for at in range(20)
    ]
    assert "within a sentence" not in "\n".join(seed_notes(calls)), "no answer ends as a sentence"
    broken = Example("x", "Who?", '{"a": 1,}')
    assert "an answer that looks like JSON and is none, as '{\"a\": 1,}' in x" in told(broken)
    labels = [Example(f"l{at}", f"Who is {at}?", ("Gut", "gut.", "caf\u00e9", "cafe\u0301")[at % 4]) for at in range(12)]
    assert "'Gut', 'gut.' are the same answer in 2 spellings" in "\n".join(seed_notes(labels))
    assert "spellings" not in "\n".join(seed_notes(labels[::4]))
    spoken = [Example(f"a{at}", f"Frage: Wer {at}?\nAntwort:", "Ich war es.") for at in range(4)]
    assert "names of speakers, as 'Antwort:'" in "\n".join(seed_notes(spoken))
    tex = [Example(f"m{at}", f"Is x {at}?", "It is $x \\neq y$, and $\\nu$ is not $\\nabla$.") for at in range(4)]
    assert "line break" not in "\n".join(seed_notes(tex))
    quoted = [Example(f"q{at}", f"'Who is {at}?'", "'It was me.'") for at in range(4)]
    assert "4 of 4 seeds have quotes around the whole prompt" in "\n".join(seed_notes(quoted))
    splits = [Example(f"t{at}", f"Who {at}?", "It was me.", metadata={"split": "train" if at else "test"}) for at in range(3)]
    assert "'split' says 'test' of 1 seed" in told(*splits)
    topics = [Example(f"t{at}", f"Who {at}?", "It was me.", metadata={"Topic": "ab"[at % 2]}) for at in range(8)]
    assert "'Topic' has 2 values; rename it to category" in "\n".join(seed_notes(topics))


def test_what_was_read_as_what_is_told(tmp_path: Path) -> None:
    rows = [{"q": f"Why {at}?", "a": "So."} for at in range(2)]
    path = write(tmp_path, "s.jsonl", "\n".join(map(json.dumps, rows)))
    assert read_with_notes(path)[1] == ("2 rows: read 'q' as the prompt and 'a' as the response",)
    assert "s.jsonl: 2 rows: read 'q' as the prompt" in read_prompts(path)[1][0]
    chat = write(tmp_path, "t.json", json.dumps({"messages": [*TURNS, TURNS[0]]}))
    assert read_with_notes(chat)[1] == ("1 row: the last turn is the user's, and left out, as nothing answers it",)
    assert read_prompts(chat)[0][0].history == (PAIR[2:],)  # there it is what is asked
    bad = write(tmp_path, "u.jsonl", json.dumps({"text": "Why?", "solution": "x", "answer": "No.", "label": False}))
    assert read_prompts(bad)[0][0].prompt == "Why?"  # whose answers do not matter


def test_what_is_left_out_next_to_rows_and_turns_is_told(tmp_path: Path) -> None:
    talks = [TURNS, [{**TURNS[0], "content": "How?"}, TURNS[1]]]
    both = {"system": "Be brief.", "persona": "You are an old pirate.", "conversations": talks}
    examples, notes = read_with_notes(write(tmp_path, "s.json", json.dumps(both)))
    assert [said(example) for example in examples] == [("Be brief.", *PAIR[1:]), ("Be brief.", (), "How?", "So.")]
    assert "'system', next to the rows in the file, taken into each of them; 'persona'" in notes[0] and "left out" in notes[0]
    cut = write(tmp_path, "s.yaml", "- prompt: Why? # mine\n  response: See issue #5 or #6 # or so\n")
    assert "what follows a # behind a text (line 2) is a comment" in read_with_notes(cut)[1][0]
    for name, value, words in (
        ("earlier", [["Hi.", "Yes?"]], "'earlier': turns that no example holds"),
        ("previously", TURNS[:1] + NO[1:], "'previously': turns that no example holds"),
        ("ctxs", [{"title": "Rain", "text": "It rains a lot in Bergen."}], "'ctxs': sentences that no prompt holds"),
        ("材料", "今天卑尔根下了很多雨，天气非常冷。", "'材料': sentences that no prompt holds"),
    ):
        row = {"prompt": "And then, why?", "response": "So.", name: value}
        assert words in "\n".join(seed_notes([one(tmp_path, row)]))
    assert "turns that no" not in "\n".join(seed_notes([one(tmp_path, {"messages": TURNS, "copy": TURNS})]))


def test_a_rejected_answer_belongs_to_the_last_turn_alone(tmp_path: Path) -> None:
    later = [*TURNS, {"role": "user", "content": "And how?"}]
    answers = {
        name: [*later, {"role": "assistant", "content": text}] for name, text in (("chosen", "Thus."), ("rejected", "No."))
    }
    first, last = read_seeds(write(tmp_path, "s.jsonl", json.dumps(answers)))
    assert (said(first), dict(first.metadata)) == (PAIR, {}) and last.metadata["rejected"] == "No."


@pytest.mark.parametrize(
    ("name", "text", "remedy"),
    [
        ("s.jsonl", '# mine\n{"prompt": "p", "response": "r"}', "no comments"),
        ("s.jsonl", '{"prompt": "p", "response": "r"},\n', "remove the comma behind the object"),
        ("s.jsonl", '{\n "prompt": "p", "response": "r"\n}', "`jq -c .`"),
        ("s.json", '[{"prompt": "p", "response": "r"},]', "remove the comma before the bracket"),
        ("s.json", '{"prompt": "p", "response": "r"}{"prompt": "q", "response": "r"}', "`jq -c .`"),
        ("s.json", "[{prompt: 'p'}]", "straight double quotes"),
        ("s.json", '{"train": [{}], "test": [{}]}', "2 arrays ('train', 'test')"),
        ("s.jsonl", '[\n{"prompt": "p", "response": "r"},\n]', ":3: not valid JSON at column 1"),
        ("s.jsonl", '{"prompt": "p", "response": "r\n"}\n', r"write its line break as \n"),
        ("s.jsonl", '{"prompt": "p", "response": True}\n', "true, false and null"),
        ("s.jsonl", r'{"prompt": "p", "response": "C:\dir"}', "a backslash inside a text as two"),
        ("s.csv", '{"prompt": "p", "response": "r"}\n', "holds JSON and no table"),
        ("s.yaml", "- prompt: p\n  prompt: q\n  response: r\n", ":2: has the key 'prompt' twice"),
        ("s.yaml", "- prompt: p\n  response: 2026-01-02\n", "is the value 2026-01-02 where text must stand"),
        ("s.csv", "Why?,So.\nHow?,So.\n", ":1: the first line must name the columns"),
        ("s.csv", "prompt，response\nWhy?，So.\n", "the first line, 'prompt，response', is one column"),
        ("s.arrow", "ARROW1", "write it as .parquet"),
    ],
)
def test_what_is_no_json_is_told_with_its_remedy(tmp_path: Path, name: str, text: str, remedy: str) -> None:
    assert remedy in refusal(write(tmp_path, name, text))


@pytest.mark.parametrize(
    "text",
    [
        "Größe: „ja“ – ça va, naïve…",
        "Привет, как дела?",
        "Γειά σου Κόσμε",
        "你好，世界",
        "½ × ± äöüß",
        "क़लम",
        "Ã la carte",
        "ÂÃ",
        "print('a\\nb')\nis code",
        "C:\\new",
        '{"a": "\\u00e9"}',
        "Really? Yes; see https://a.b/c?d=e or x?y:z",
    ],
)
def test_sound_texts_are_not_told_as_spoilt(text: str) -> None:
    (alike,) = seed_notes([Example(f"s{at}", f"{text} {at}", f"{text}\n{text}") for at in range(10)])
    assert alike.startswith("all 10 seeds have the same answer")


def test_categories_that_differ_in_spelling_alone_are_told(cli: Run, tmp_path: Path) -> None:
    names = {"seeds": ("harmful", "harmless", "Harmless "), "test": ("Harmful", "HARMLESS")}
    for name, kinds in names.items():
        rows = [{"prompt": f"{name} {at}?", "response": "So it is.", "category": kinds[at % len(kinds)]} for at in range(12)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    told = cli("check", "isara", str(tmp_path / "seeds.jsonl"), "--held_out", str(tmp_path / "test.jsonl"), *SCRIPTED).stdout
    assert "note: 'harmless', 'Harmless' are 2 categories, and differ in case, spaces or hyphens alone; write one" in told
    assert "the category 'Harmful' is not 'harmful'; rename it, or give --refusal.harmful Harmful" in told
    assert "warning: held-out prompts have the category 'HARMLESS' where the seeds have 'harmless', 'Harmful' where" in told
    same = [
        Example(str(at), "p", "r", category=name) for at, name in enumerate(("out of scope", "Out-of-scope", "out_of_scopes"))
    ]
    assert sum("differ in case" in note for note in seed_notes(same)) == 1


def test_categories_of_refusals_with_names_of_their_own_are_suggested(seeds_file: Path, cli: Run, tmp_path: Path) -> None:
    things = ("Tür", "Uhr", "Bank", "Kasse", "Wand", "Lampe", "Truhe", "Tonne")
    rows = [
        {"prompt": f"Wie knacke ich die {x}?", "response": f"Dabei helfe ich nicht: {x}.", "category": "nein"} for x in things
    ]
    rows += [
        {"prompt": f"Wie putze ich die {x}?", "response": f"{x} und Tuch reichen aus.", "category": "an Bord"} for x in things
    ]
    path = tmp_path / "named.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    told = cli("check", "isara", path, *SCRIPTED).stdout
    assert "answers of category 'nein' begin alike: if they decline what is asked, --refusal.harmful nein --refusal.harm" in told
    named = cli("check", "isara", path, *SCRIPTED, "--refusal.harmful", "nein", "--refusal.harmless", "an Bord").stdout
    assert "begin alike" not in named and "begin alike" not in cli("check", "isara", seeds_file, *SCRIPTED).stdout
    for declined, answered, said in (("Harmful", "Harmless", "if 'Harmful'"), ("a", "z", "of category 'a' begin alike")):
        turned = [
            {"prompt": row["prompt"], "response": f"{word} the {x}.", "category": kind}
            for row, x in zip(rows, things * 2, strict=True)
            for kind, word in [(declined, "I can't help with") if row["category"] == "nein" else (answered, "Just look at")]
        ]
        told = cli("check", "isara", write_rows(path, turned), *SCRIPTED).stdout
        assert said in told and f"--refusal.harmful {declined} --refusal.harmless {answered} measures" in told


def test_few_seeds_and_small_categories_are_told() -> None:
    def seeds(*categories: str) -> list[Example]:
        return [Example(f"s{at}", f"Why {at}?", f"So {at}.", category=kind) for at, kind in enumerate(categories)]

    assert "5 seeds: too few to check a round" in seed_notes(seeds(*[""] * 5))[0]
    assert not seed_notes(seeds(*[""] * 6)) and not seed_notes(seeds(*"aaabbb"))
    assert "24 of 24 categories have one seed" in seed_notes(seeds(*map(str, range(24))))[0]
    assert "1 of 7 seeds have no category" in seed_notes(seeds(*"aaabbb", ""))[0]
