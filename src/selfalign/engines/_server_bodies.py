"""What replies of an OpenAI-compatible server must hold; whatever does not is never taken for an answer.

Each reader takes a reply's bytes and raises `Trouble` for what is no such reply at all (cut, not JSON, NaN, another number of
choices, an unknown finish reason …) and `Unfit` for a well-formed one to another question.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from selfalign.engines._server_client import Trouble, Unfit
from selfalign.errors import RunFailed
from selfalign.models.thinking import MARKERS, join_thinking


@dataclass(frozen=True)
class Reply:
    """The text of one completion, its finish reason (stop or length), and the server's counts and name of the model where it gave
    them."""

    text: str
    reason: str
    prompt_tokens: int | None
    generated_tokens: int | None
    model: str = ""


@dataclass(frozen=True)
class Listed:
    """A model in the server's list: its name there, the path of its files, the tokens of its window, as far as the list says."""

    name: str
    root: str
    window: int | None


@dataclass(frozen=True)
class Scored:
    """The log-probability (nats) of one prompt token given those before it, and whether no other token had a higher one."""

    logprob: float
    greedy: bool


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object of a reply with status 200, which must not be an error's."""
    if not body.strip():
        raise Trouble("an empty body")
    try:
        found = json.loads(body.decode("utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise Trouble("a body that is not valid JSON") from None
    if not isinstance(found, dict):
        raise Trouble("a body that is no JSON object")
    if found.get("error"):
        raise Trouble("an error in place of a reply")
    return found


def completion(body: bytes, *, sent: int, max_tokens: int, chat: bool, must_count: bool) -> Reply:
    """The one completion in a reply.

    Args:
        sent: tokens of the prompt, which the server must count too.
        max_tokens: what was asked for at most.
        chat: whether it is a reply of the chat endpoint.
        must_count: whether the server made the tokens itself, so that only its count shows that they are the same.

    Raises:
        RunFailed: the server's content filter withheld the text.
    """
    found = parse(body)
    choice = _only(found, "choices")
    reason = choice.get("finish_reason")
    if reason == "content_filter":
        raise RunFailed(
            "the server's content filter withheld an answer, and what it lets through is no fair sample of the model;"
            " switch the filter off, or leave that prompt out"
        )
    if reason not in ("stop", "length"):
        raise Trouble(f"finish reason {str(reason)[:40]!r}")
    message = choice.get("message")
    text = (_said(message) if isinstance(message, dict) else None) if chat else choice.get("text")
    if not isinstance(text, str):
        raise Trouble("a choice without a text")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise Trouble("a text that is not valid Unicode")
    prompt_tokens, generated = _usage(found, must_count)
    if prompt_tokens is not None and prompt_tokens != sent:
        raise Unfit(
            f"counts {prompt_tokens} prompt tokens where the model's own tokenizer and template make {sent};"
            " serve the same model, and send token ids (engine.prompts=ids) where the server takes them"
        )
    if generated is not None and (generated > max_tokens or (text and not generated)):
        raise Trouble(f"{generated} tokens counted for a text of at most {max_tokens}")
    reply = Reply(text, reason, prompt_tokens, generated, _name(found))
    if not text.strip() and reason == "stop":
        raise Unfit("wrote nothing", reply)
    return reply


def _said(message: dict[str, Any]) -> Any:
    """A message's text, behind the thoughts that a server took out of it (vLLM, llama.cpp)."""
    text, thoughts = message.get("content"), message.get("reasoning_content") or message.get("reasoning")
    if not isinstance(thoughts, str) or not isinstance(text, str | None):
        return text
    return join_thinking(thoughts, text) if text else f"{MARKERS[0][0]}{thoughts}"  # these never ended


def echoed(body: bytes, ids: Sequence[int]) -> list[Scored]:
    """The scores of ids[1:] from `echo` with `logprobs`, behind which one generated token may stand."""
    found = parse(body)
    choice = _only(found, "choices")
    counted, _ = _usage(found, False)
    if counted not in (None, len(ids)):
        raise Unfit(f"counts {counted} tokens in a prompt of {len(ids)}")
    given = choice.get("logprobs")
    own, best = (given.get("token_logprobs"), given.get("top_logprobs")) if isinstance(given, dict) else (None, None)
    if not isinstance(own, list) or not isinstance(best, list):
        raise Unfit("gives no log-probabilities of the prompt for echo with logprobs; try engine.scores=prompt_logprobs, or none")
    if len(own) not in (len(ids), len(ids) + 1) or len(best) != len(own):
        raise Unfit(f"gives {len(own)} log-probabilities for {len(ids)} tokens")
    scores = []
    for value, others in zip(own[1 : len(ids)], best[1 : len(ids)], strict=True):
        if not isinstance(others, dict) or not others:
            raise Unfit("gives no most likely token with each log-probability")
        scores.append(_scored(value, list(others.values())))
    return scores


def prompt_logprobs(body: bytes, ids: Sequence[int]) -> list[Scored]:
    """The scores of ids[1:] from vLLM's `prompt_logprobs`: for each token a table by token id."""
    given = _only(parse(body), "choices").get("prompt_logprobs")
    if not isinstance(given, list):
        raise Unfit("gives no prompt_logprobs; try engine.scores=echo, or none")
    if len(given) != len(ids):
        raise Unfit(f"gives {len(given)} log-probabilities for {len(ids)} tokens")
    scores = []
    for token, table in zip(ids[1:], given[1:], strict=True):
        rows = table if isinstance(table, dict) else {}
        if not isinstance(rows.get(str(token)), dict) or not all(isinstance(row, dict) for row in rows.values()):
            raise Unfit("gives log-probabilities of other tokens than were sent")
        scores.append(_scored(rows[str(token)].get("logprob"), [row.get("logprob") for row in rows.values()]))
    return scores


def embedding(body: bytes) -> list[float]:
    """The one vector in a reply; it may not be all zeros."""
    vector = _only(parse(body), "data").get("embedding")
    if not isinstance(vector, list) or not all(_finite(value) for value in vector) or not any(vector):
        raise Trouble("an embedding that is no vector of numbers")
    return [float(value) for value in vector]


def models(body: bytes) -> list[Listed]:
    """The server's list of models."""
    rows = parse(body).get("data")
    if not isinstance(rows, list) or not all(isinstance(row, dict) and isinstance(row.get("id"), str) for row in rows):
        raise Trouble("a list of models that is none")
    # vLLM's word for the window, and where llama.cpp gives that of one slot.
    metas = [row["meta"] if isinstance(row.get("meta"), dict) else {} for row in rows]
    windows = [(row.get("max_model_len"), meta.get("n_ctx")) for row, meta in zip(rows, metas, strict=True)]
    return [
        Listed(row["id"], str(row.get("root") or ""), next((each for each in said if type(each) is int and each > 0), None))
        for row, said in zip(rows, windows, strict=True)  # `true` is no number of tokens
    ]


def model_of(body: bytes) -> str:
    """What a reply calls the model that gave it; "" where it does not say."""
    return _name(parse(body))


def _name(found: dict[str, Any]) -> str:
    name = found.get("model")
    return name if isinstance(name, str) else ""


def _only(found: dict[str, Any], key: str) -> dict[str, Any]:
    rows = found.get(key)
    if not isinstance(rows, list) or len(rows) != 1 or not isinstance(rows[0], dict) or not _first(rows[0]):
        raise Trouble(f"other {key} than the one asked for")
    choice: dict[str, Any] = rows[0]
    return choice


def _first(row: dict[str, Any]) -> bool:
    place = row.get("index", 0)
    return type(place) is int and place == 0


def _usage(found: dict[str, Any], must_count: bool) -> tuple[int | None, int | None]:
    """(tokens of the prompt, tokens generated); None where the server does not say."""
    usage = found.get("usage")
    if usage is None and not must_count:
        return None, None
    if usage is None:
        raise Unfit("does not count prompt tokens, so that nothing shows which prompt it made; use engine.prompts=ids")
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens")) if isinstance(usage, dict) else (None, None)
    if not all(type(count) is int and count >= 0 for count in counts):
        raise Trouble("token counts that are none")
    return counts


def _scored(value: Any, best: Sequence[Any]) -> Scored:
    if not _finite(value) or not all(_finite(each) for each in best) or value > 1e-3:
        raise Trouble("a log-probability that is none")
    return Scored(float(value), value >= max(best))


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e30 < value < 1e30


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
