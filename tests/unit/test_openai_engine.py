"""The engine over an OpenAI-compatible server, against servers on loopback that do everything wrong a server can."""

from __future__ import annotations

import itertools
import json
import logging
import random
import signal
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from selfalign.engines import HF, OpenAI
from selfalign.engines import _server_bodies as bodies
from selfalign.engines._server_bodies import completion as read_completion
from selfalign.engines._server_client import LONGEST_WAIT, Trouble, Unfit, _Gate, retry_after
from selfalign.engines.openai import OpenAISession
from selfalign.errors import Interrupted, RunFailed, UserError, handle_signals
from selfalign.loop.progress import Quiet
from selfalign.record.journal import Journal
from selfalign.record.store import Store
from selfalign.types import Example, ModelRef, Request, Sampling, derive_seed, with_template_args
from tests.server import BODIES, CHANGES, RETRY_AFTER, STATUSES, Loopback, completion, listing, loopback, model_server
from tests.tiny import CHATML, tiny_tokenizer

QUICK = {"backoff": 0.001, "patience": 120.0, "timeout": 20.0}
SAMPLING = Sampling(max_tokens=24)
SHORT_LIVED = ("reset", "half body", *BODIES, *CHANGES, *STATUSES, "429 negative", "429 in words", "429 long ago")
"""Faults that cost no time."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(tmp_path_factory.mktemp("served") / "model", tiny_tokenizer())


def written(path: Path, tokenizer: Any) -> str:
    """What this engine reads of a model: tokenizer and configuration (its weights are the server's)."""
    from transformers import LlamaConfig

    tokenizer.save_pretrained(path)
    LlamaConfig(vocab_size=264, hidden_size=4, num_attention_heads=2, max_position_embeddings=512).save_pretrained(path)
    (path / "model.safetensors").write_bytes(b"")
    return str(path)


def words(path: str, body: Mapping[str, Any]) -> Any:
    """What a faultless server without a model says: words that follow from prompt and seed."""
    if path == "/models":
        return listing("tiny")
    turns = [f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in body.get("messages", ())]
    asked = body.get("prompt") or "".join(turns) + "<|im_start|>assistant\n"
    size = len(asked) if isinstance(asked, list) else len(tiny_tokenizer()(asked)["input_ids"])
    draw = random.Random(f"{asked} {body.get('seed')}")
    text = " ".join(draw.choice(("alpha", "beta", "gamma", "delta")) for _ in range(1 + draw.randrange(5)))
    reason = "length" if draw.random() < 0.2 else "stop"
    return completion(text, reason, size, min(body["max_tokens"], 6), chat=path == "/chat/completions")


def rows(count: int) -> list[Request]:
    return [Request(f"r{i}", (), f"What is {i}?", derive_seed(1, i)) for i in range(count)]


@contextmanager
def opened(server: Loopback, folder: str, **options: Any) -> Iterator[OpenAISession]:
    engine = OpenAI(**{"url": server.url, "names": {folder: "tiny"}, **QUICK, **options})
    with engine.open(engine.check(ModelRef(folder), (), "auto"), "auto") as session:
        yield session


def stored(server: Loopback, folder: str, out: Path, count: int, **options: Any) -> dict[int, Any]:
    """What the journal holds after `count` requests were answered."""
    with opened(server, folder, **options) as session, Store.open(out, {"test": "server"}) as store:
        Journal(store, 1, session, Quiet()).generate("respond", rows(count), SAMPLING)
        return store.done_batches(1, "respond")


def test_the_stored_rows_are_those_of_a_faultless_server(folder: str, tmp_path: Path) -> None:
    def fault(path: str, body: Mapping[str, Any], before: int) -> str:
        if path == "/models" or before > 1:
            return ""
        return SHORT_LIVED[zlib.crc32(f"{body['prompt']} {before}".encode()) % len(SHORT_LIVED)]

    with loopback(words) as faultless:
        expected = stored(faultless, folder, tmp_path / "good", 150)
    with loopback(words, fault) as faulty:
        found = stored(faulty, folder, tmp_path / "bad", 150)
    assert found == expected and len(found) == 150
    assert {row["finish"] for row in found.values()} == {"stop", "length"}
    assert set(SHORT_LIVED) <= set(faulty.served)


def test_errors_at_random_cost_few_requests_more(folder: str) -> None:
    def fault(path: str, body: Mapping[str, Any], before: int) -> str:
        draw = random.Random(f"{body.get('seed')} {before}")
        return draw.choice(("500", "502", "503", "504")) if path != "/models" and draw.random() < 0.3 else ""

    with loopback(words, fault) as server, opened(server, folder) as session:
        assert len(session.generate(rows(300), SAMPLING)) == 300
    assert server.paths()["/completions"] <= 1.6 * 300


@pytest.mark.parametrize("way", ["hang", "hang in body", "drip", "huge"])
def test_a_reply_without_end_is_cut_off_and_asked_for_again(folder: str, way: str) -> None:
    def fault(path: str, body: Mapping[str, Any], before: int) -> str:
        return way if body.get("max_tokens") == 24 and before == 0 else ""

    with loopback(words) as server, opened(server, folder) as session:
        expected = session.generate(rows(2), SAMPLING)
    with loopback(words, fault) as server, opened(server, folder, timeout=1.5 if way != "huge" else 20.0) as session:
        assert session.generate(rows(2), SAMPLING) == expected
    assert server.served[way] == 2


def test_no_garbage_passes_for_a_reply() -> None:
    draw, good = random.Random(1), completion("a good text", "stop", 5, 3)
    read = partial(read_completion, sent=5, max_tokens=9, chat=False, must_count=False)
    junk: tuple[Any, ...] = (None, [], {}, "", "stop!", -1, 10**400, 1.5, True, [1], {"text": "x"}, [None], "error")
    assert read(json.dumps(good).encode()).text == "a good text"
    refused = 0
    for _ in range(10_000):
        bad = json.loads(json.dumps(good))
        place = draw.choice((bad, bad["choices"][0], bad["usage"]))
        key = draw.choice([key for key in place if key not in ("id", "logprobs", "total_tokens")])
        place[key] = draw.choice([value for value in junk if value != place[key]])
        body = json.dumps(bad).encode()
        if draw.random() < 0.5:
            body = json.dumps(good).encode()[: draw.randrange(len(json.dumps(good)))]
        try:
            reply = read(body)
        except (Trouble, Unfit):
            refused += 1
        else:  # what came through says the same, only with other counts, or a text of another row, which no client can tell
            assert reply.reason == "stop" and reply.text in ("a good text", "stop!", "error"), body
    assert refused > 9_000


def test_a_refusal_for_good_ends_at_the_first_request_and_hides_the_key(
    folder: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TEST_SERVER_KEY", "sk-very-secret-42")
    caplog.set_level(logging.DEBUG)

    def answer(path: str, body: Mapping[str, Any]) -> Any:
        return 401, {"error": {"message": "no such key: sk-very-secret-42\x1b[31m"}}

    refused = pytest.raises(RunFailed, match=r"status 401 .*\$TEST_SERVER_KEY")
    with loopback(answer) as server, opened(server, folder, key_variable="TEST_SERVER_KEY") as session, refused as error:
        session.generate(rows(9), SAMPLING)
    assert len(server.seen) == 1 and server.seen[0][2]["Authorization"] == "Bearer sk-very-secret-42"
    said = f"{error.value} {caplog.text} {asdict(OpenAI(key_variable='TEST_SERVER_KEY'))}"
    assert "secret" not in said and "\x1b" not in said


@pytest.mark.parametrize(
    "options",
    [
        {"url": "http://me:secret@host/v1"},
        {"url": "https://host/v1?api_key=secret"},
        {"url": "ftp://secret"},
        {"url": "http://secret:port/"},
        {"key_variable": "sk-secret"},
        {"concurrency": 0},
        {"prompts": "tokens"},
        {"timeout": 0.0},
        {"context": 1},
    ],
)
def test_options_that_cannot_be_are_refused_without_showing_a_secret(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="OpenAI: ") as error:
        OpenAI(**options)
    assert "secret" not in str(error.value)


def test_a_key_that_is_not_there_is_missed_before_anything_runs(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_SERVER_KEY", raising=False)
    with pytest.raises(UserError, match="TEST_SERVER_KEY"):
        OpenAI(key_variable="TEST_SERVER_KEY").check(ModelRef(folder), (), "auto")
    monkeypatch.setenv("TEST_SERVER_KEY", "two secrets")
    with pytest.raises(UserError, match="TEST_SERVER_KEY") as error:
        OpenAI(key_variable="TEST_SERVER_KEY").check(ModelRef(folder), (), "auto")
    assert "secret" not in str(error.value)


def test_nobody_there_is_told_soon(folder: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with (
        opened(Loopback(url), folder, patience=0.2) as session,
        pytest.raises(RunFailed, match=r"cannot be reached .*ConnectError"),
    ):
        session.generate(rows(1), SAMPLING)


@pytest.mark.parametrize(("url", "proxy"), [("http://1.2.3.999/v1", ""), ("http://host.invalid/v1", "foo://me:secret@proxy")])
def test_an_address_that_cannot_be_is_told_at_once(folder: str, url: str, proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    with opened(Loopback(url), folder) as session, pytest.raises(UserError, match=f"{url} cannot be asked: ") as error:
        session.generate(rows(1), SAMPLING)
    assert "secret" not in str(error.value)


def test_a_server_that_is_away_gets_probes_alone_and_then_the_rest(folder: str) -> None:
    away, served, probes, others = threading.Event(), itertools.count(1), [0], [0]

    def fault(path: str, body: Mapping[str, Any], before: int) -> str:
        if path == "/models":
            return ""
        probe = body["max_tokens"] == 1
        if not away.is_set():
            if not probe and next(served) == 40:  # of whichever row: one row's request may be the last to arrive
                away.set()
            return ""
        if probes[0] < 5:
            probes[0] += probe
            others[0] += not probe
            return "500"
        return ""

    with loopback(words) as server, opened(server, folder) as session:
        expected = session.generate(rows(120), SAMPLING)
    with loopback(words, fault) as server, opened(server, folder, concurrency=4) as session:
        assert session.generate(rows(120), SAMPLING) == expected
    assert probes[0] == 5 and others[0] <= 40  # 8 in a row open the circuit, but good replies under way count them anew
    assert server.most <= 4 + 1


def test_a_busy_server_halves_what_is_under_way_once_for_all_of_it() -> None:
    gate = _Gate(32)
    for _ in range(9):
        gate.busy(1.0)  # all sent before the first answer came
    assert gate.limit == 16
    for _ in range(9):
        gate.busy(gate._halved)
        gate._halved -= 1.0
    assert gate.limit == 1
    for _ in range(3):
        gate.good()
    assert gate.limit == 3  # one after one good reply, one more after two


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        ("3", 3.0),
        ("0.5", 0.5),
        ("1000000", LONGEST_WAIT),
        ("inf", LONGEST_WAIT),
        ("Wed, 21 Oct 2199 07:28:00 GMT", LONGEST_WAIT),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("-5", 0.0),
        ("soon", 0.0),
        ("nan", 0.0),
        ("", 0.0),
    ],
)
def test_retry_after_is_honoured_within_reason(header: str, wait: float) -> None:
    assert retry_after(header) == wait


def test_a_server_that_asks_for_time_gets_no_second_request_before(folder: str) -> None:
    def fault(path: str, body: Mapping[str, Any], before: int) -> str:
        return "429 in 1 s" if body.get("max_tokens") == 24 and before == 0 else ""

    with loopback(words, fault) as server, opened(server, folder) as session:
        assert len(session.generate(rows(1), SAMPLING)) == 1
    assert server.served["429 in 1 s"] == 1 and server.paths()["/completions"] == 3
    assert RETRY_AFTER["429 in 1 s"] == "1"


def test_filtered_cut_and_empty_answers_are_told_apart(folder: str) -> None:
    said = {"text": "", "reason": "stop"}

    def answer(path: str, body: Mapping[str, Any]) -> Any:
        if path == "/models" or body["max_tokens"] == 1:
            return words(path, body)
        return completion(said["text"], said["reason"], len(body["prompt"]), 1)

    with loopback(answer) as server, opened(server, folder) as session:
        empty = session.generate(rows(1), SAMPLING)[0]
        assert (empty.text, empty.finish) == ("", "stop")
        assert server.paths()["/completions"] == 1 + 4  # asked again before it was believed
        said.update(text="It goes on and", reason="length")
        assert session.generate(rows(1), SAMPLING)[0].finish == "length"
        said.update(text="Enough. STOP and more", reason="length")
        assert session.generate(rows(1), replace(SAMPLING, stop=("STOP",)))[0] == replace(empty, text="Enough.")
        said.update(text="", reason="content_filter")
        with pytest.raises(RunFailed, match="content filter"):
            session.generate(rows(1), SAMPLING)


def test_a_model_that_the_server_does_not_serve_is_refused(folder: str, tmp_path: Path) -> None:
    later = tmp_path / "round-01" / "model"
    later.mkdir(parents=True)
    for file in Path(folder).iterdir():
        (later / file.name).write_bytes(file.read_bytes())
    with loopback(words) as server:
        for ref in (ModelRef(str(later), hash="x"), ModelRef(folder, adapter=str(later), hash="x")):
            engine = OpenAI(url=server.url, names={folder: "tiny"}, **QUICK)
            with engine.open(ref, "auto") as session, pytest.raises(RunFailed, match=r"lists tiny, not .*round-01"):
                session.generate(rows(1), SAMPLING)
        assert server.paths()["/completions"] == 0
    with loopback(lambda path, body: listing("new", root=str(later)) if path == "/models" else words(path, body)) as server:
        with OpenAI(url=server.url, **QUICK).open(ModelRef(str(later), hash="x"), "auto") as session:
            session.generate(rows(1), SAMPLING)
        assert {body["model"] for path, body, _ in server.seen if path != "/models"} == {"new"}


@pytest.mark.parametrize(
    ("name", "told"),
    [("tiny", {"max_model_len": 64}), ("tiny", {"meta": {"n_ctx": 64, "n_ctx_train": 512}}), ("x.gguf", {"meta": {"n_ctx": 64}})],
)
def test_a_narrower_window_on_the_server_must_be_said(folder: str, name: str, told: dict[str, Any]) -> None:
    """vLLM tells it in one way, llama.cpp in another, and answers to any name."""

    def answer(path: str, body: Mapping[str, Any]) -> Any:
        return listing(name, **told) if path == "/models" else words(path, body)

    with loopback(answer) as server:
        with opened(server, folder) as session, pytest.raises(UserError, match=r"engine\.context=64"):
            session.generate(rows(1), SAMPLING)
        with opened(server, folder, context=64) as session:
            assert session.generate(rows(1), SAMPLING) and session.fit(Request("r", (), "long " * 20), 24) is None


def test_prompts_go_as_ids_as_text_or_as_a_chat(folder: str) -> None:
    shown = (Example("s", "Where?", "Here."),)
    request = Request("r", shown, "And when?", 7)
    with loopback(words) as server:
        for prompts in ("ids", "text", "chat"):
            with opened(server, folder, prompts=prompts, extras="fields" if prompts == "ids" else "none") as session:
                session.generate([request], replace(SAMPLING, stop=("\n\n",)))
                rendered = session.render(request)
    bodies = [body for path, body, _ in server.seen if path != "/models" and body["max_tokens"] == 24]
    assert tiny_tokenizer().decode(bodies[0]["prompt"]) == rendered == bodies[1]["prompt"]
    assert [turn["content"] for turn in bodies[2]["messages"]] == ["Where?", "Here.", "And when?"]
    assert all(body["seed"] == 7 and body["stop"] == ["\n\n"] for body in bodies)
    assert bodies[0]["top_k"] == -1 and bodies[0]["stop_token_ids"] and "top_k" not in bodies[1]
    assert bodies[0]["samplers"] == ["temperature", "top_k", "top_p"] and "samplers" not in bodies[1]


def test_the_server_renders_a_chat_as_the_template_does_here(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A server that calls the template with what it is sent counts the tokens of our own rendering; another count is refused."""
    shown = (Example("s", "Where?", "Here."), Example("t", "Who?", "Me.", system="Say I."))
    request = Request("r", shown, "And when?", 7, system="Be brief.")
    ask, own = "assistant\n' }}", "message['content']"
    thinks = CHATML.replace(own, f"('<think></think>' if loop.last and message.role == 'assistant' else '') + {own}")
    thinks = thinks.replace(ask, "assistant\n' + ('' if enable_thinking | default(true) else '<think></think>') }}")
    no_system = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    system, folded = ("system", "Be brief."), ("user", "Be brief.\n\nWhere?")
    for name, template, kwargs, first in (
        ("as it is", CHATML, None, system),
        ("thinks", thinks, {"enable_thinking": False}, system),
        ("no system", no_system, None, folded),
    ):
        tokenizer = tiny_tokenizer(template=template)

        def answer(path: str, body: Mapping[str, Any], tokenizer: Any = tokenizer) -> Any:
            if path == "/models":
                return listing("tiny")
            more = body.get("chat_template_kwargs", {})
            text = tokenizer.apply_chat_template(body["messages"], tokenize=False, add_generation_prompt=True, **more)
            return completion("Now.", "stop", len(tokenizer(text)["input_ids"]), 1, chat=True)

        with loopback(answer) as server, opened(server, written(tmp_path / name, tokenizer), prompts="chat") as session:
            assert session.generate([request], SAMPLING)[0].text == "Now."
        body = server.seen[-1][1]
        turns = [(turn["role"], turn["content"]) for turn in body["messages"]]
        assert turns[0] == first and ("user", "Say I.\n\nWho?") in turns and body.get("chat_template_kwargs") == kwargs
    assert "thinks: the chat template can have the model think first" in caplog.text


def said(model: str, text: str, reason: str, stop: tuple[str, ...] = ()) -> tuple[str, str, Any]:
    """Text and finish of a completion of which the server says this, and whether it was to leave special tokens away."""

    def answer(path: str, body: Mapping[str, Any]) -> Any:
        return listing("tiny") if path == "/models" else completion(text, reason, len(body["prompt"]), 1)

    with loopback(answer) as server, opened(server, model) as session:
        found = session.generate(rows(1), replace(SAMPLING, stop=stop))[0]
    return found.text, found.finish, server.seen[-1][1].get("skip_special_tokens")


def test_thoughts_are_no_part_of_an_answer(folder: str, tmp_path: Path) -> None:
    assert said(folder, "<think>\nTwo and two.\n</think>\n\nFour.", "stop") == ("Four.", "stop", None)
    assert said(folder, "<think>\nTwo and", "length") == ("", "length", None)
    assert said(folder, "<think>\nTwo and", "stop") == ("", "length", None)  # ended, but no answer
    marked = tiny_tokenizer()
    marked.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    special = written(tmp_path / "special", marked)
    assert said(special, "[THINK]Two and two.[/THINK]Four.", "stop") == ("Four.", "stop", False)


def test_a_stop_string_cuts_before_white_space_is_stripped(folder: str) -> None:
    assert said(folder, "\nFour.\nFive.", "length", ("\n",))[:2] == ("Four.", "stop")
    assert said(folder, "Four. END ", "length", ("END ",))[:2] == ("Four.", "stop")
    assert said(folder, "Four. END", "length", ("END ",))[:2] == ("Four. END", "length")


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thoughts_that_a_server_takes_out_are_told_too(folder: str, field: str) -> None:
    message: dict[str, Any] = {}
    thought = "<think>\nTwo.\n</think>\n\n"

    def answer(path: str, body: Mapping[str, Any]) -> Any:
        reply = words(path, body)
        if path != "/models":
            reply["choices"][0].update(message=message, finish_reason="length")
        return reply

    with loopback(answer) as server:
        for text, kept, cut in (("Four.", f"{thought}Four.", "Four."), (None, thought, "")):
            message.update({"role": "assistant", "content": text, field: "Two."})
            for format, expected in (("auto", cut), (with_template_args("auto", {"keep_thinking": True}), kept)):
                engine = OpenAI(url=server.url, names={folder: "tiny"}, prompts="chat", **QUICK)
                with engine.open(engine.check(ModelRef(folder), (), format), format) as session:
                    found = session.generate(rows(1), SAMPLING)[0]
                assert (found.text, found.finish) == (expected, "length")


def test_a_generation_config_says_that_and_how_to_sample(folder: str) -> None:
    """Without one transformers serve decodes greedily, and among the 50 best tokens where it does sample."""
    with loopback(words) as server, opened(server, folder, prompts="text", extras="generation_config") as session:
        session.generate(rows(1), SAMPLING)
        session.generate(rows(1), Sampling(max_tokens=24, temperature=0.0, top_k=5))
    bodies = [body for path, body, _ in server.seen if path != "/models" and body["max_tokens"] == 24]
    ends = json.loads(bodies[0]["generation_config"]).pop("eos_token_id")
    found = [json.loads(body.pop("generation_config")) for body in bodies]
    assert found == [{"do_sample": each, "top_k": k, "eos_token_id": ends} for each, k in ((True, 0), (False, 5))]
    assert tiny_tokenizer().eos_token_id in ends and not {"top_k", "min_p", "stop_token_ids"} & {*bodies[0], *bodies[1]}


def test_a_list_of_models_that_fails_for_good_is_none(folder: str) -> None:
    """As that of transformers serve does where there is no cache of downloads."""

    def broken(path: str, body: Mapping[str, Any], before: int) -> str:
        return "500" if path == "/models" else ""

    with loopback(words, broken) as server:
        with opened(server, folder) as session:
            assert len(session.generate(rows(1), SAMPLING)) == 1
        assert server.paths()["/models"] == 4
        with opened(server, folder, names={}) as session, pytest.raises(RunFailed, match="lists no models"):
            session.generate(rows(1), SAMPLING)


def test_a_server_that_was_started_for_a_model_is_asked_for_its_folder_first(folder: str) -> None:
    """One lists other models than it serves (transformers serve), one has a name of its own for it (vLLM)."""
    started = {"reload": "command", "command": "true {model}", "names": {}}
    for listed, takes in (("another/model", folder), ("alias", "alias")):

        def answer(path: str, body: Mapping[str, Any], listed: str = listed, takes: str = takes) -> Any:
            if path == "/models":
                return listing(listed)
            return words(path, body) if body["model"] == takes else (400, {"error": {"message": f"pinned to {takes}"}})

        with loopback(answer) as server, opened(server, folder, **started) as session:
            assert len(session.generate(rows(1), SAMPLING)) == 1
    with (
        loopback(lambda path, body: words(path, body) if path == "/models" else (404, {})) as server,
        opened(server, folder, **started) as session,
        pytest.raises(RunFailed, match="refuses the model: status 404"),
    ):
        session.generate(rows(1), SAMPLING)


def test_another_tokenizer_or_template_on_the_server_is_found_out(folder: str) -> None:
    def answer(path: str, body: Mapping[str, Any]) -> Any:
        return listing("tiny") if path == "/models" else completion("fine", "stop", 3, 1)

    wrong = pytest.raises(RunFailed, match="counts 3 prompt tokens")
    with loopback(answer) as server, opened(server, folder, prompts="text") as session, wrong:
        session.generate(rows(1), SAMPLING)


def test_what_a_server_cannot_do_is_said(folder: str) -> None:
    def answer(path: str, body: Mapping[str, Any]) -> Any:
        if "echo" in body:
            return 400, {"error": {"message": "only no echo is supported"}}
        return (501, {"error": {"message": "no embeddings"}}) if path == "/embeddings" else words(path, body)

    pair = [Example("e", "Where?", "Here.")]
    with loopback(answer) as server:
        with opened(server, folder) as session:
            for wrong in (
                Sampling(beams=2),
                Sampling(repetition_penalty=1.1),
                Sampling(no_repeat_ngram=3),
                Sampling(rules="transformers-4.31"),
            ):
                with pytest.raises(UserError, match="a server cannot be asked for"):
                    session.generate(rows(1), wrong)
            with pytest.raises(RunFailed, match=r"refuses log-probabilities \(engine.scores=echo\): status 400"):
                session.likelihood(pair)
            with pytest.raises(RunFailed, match="refuses embeddings"):
                session.embed(["a text"])
        with (
            opened(server, folder, scores="prompt_logprobs") as session,
            pytest.raises(RunFailed, match=r"try engine\.scores=echo, or none"),
        ):
            session.likelihood(pair)
        with opened(server, folder, scores="none") as session, pytest.raises(UserError, match=r"engine\.scores=none"):
            session.likelihood(pair)
        with (
            opened(server, folder, prompts="chat") as session,
            pytest.raises(UserError, match="a chat can ask for an answer only"),
        ):
            session.generate([Request("r", (), None)], SAMPLING)


def test_a_signal_ends_the_waiting(folder: str) -> None:
    def loops() -> list[str]:
        return [thread.name for thread in threading.enumerate() if "portal" in thread.name]

    def fault(path: str, body: Mapping[str, Any], before: int) -> str:
        if body.get("max_tokens") != 24:
            return ""
        running.extend(loops())
        # To this thread, so that the one that waits is not woken by it: so too comes a signal just before the waiting begins.
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        return "hang"

    running: list[str] = []
    with pytest.raises(Interrupted), handle_signals(), loopback(words, fault) as server, opened(server, folder) as session:
        session.generate(rows(1), SAMPLING)
    assert len(running) == 1 and not loops()


def test_texts_and_scores_are_those_of_the_model_itself(model_folder: Path) -> None:
    pairs = [Example(f"s{i}", f"Question {i}?", f"Answer number {i}.") for i in range(4)]
    asked = [Request(f"r{i}", tuple(pairs[: i % 3]), None if i % 2 else f"What is {i}?", seed=100 + i) for i in range(8)]
    texts = [("Question: Where is it?\nAnswer:", " In the hall."), ("", "Alone.")]
    with HF(dtype="float32", device="cpu").open(ModelRef(str(model_folder)), "auto") as session:
        written = session.generate(asked, SAMPLING)
        likely, following = session.likelihood(pairs), session.continuation(texts)
        greedy = session.generate([Request("g", text="Question:", seed=1)], Sampling(max_tokens=6, temperature=0.0))[0]
    with model_server(model_folder) as server:
        for scores in ("echo", "prompt_logprobs"):
            engine = OpenAI(url=server.url, scores=scores)
            with engine.open(engine.check(ModelRef(str(model_folder)), pairs, "auto"), "auto") as session:
                if scores == "echo":
                    assert session.generate(asked, SAMPLING) == written
                    assert session.generate([Request("g", text="Question:")], Sampling(max_tokens=6, temperature=0.0)) == [greedy]
                found = session.likelihood(pairs)
                assert [one.total for one in found] == pytest.approx([one.total for one in likely], abs=1e-3)
                assert [one.tokens for one in found] == [one.tokens for one in likely]
                again = session.continuation(texts)
                assert [one.total for one in again] == pytest.approx([one.total for one in following], abs=1e-3)
                assert [(one.tokens, one.greedy) for one in again] == [(one.tokens, one.greedy) for one in following]


def test_a_gateway_that_falls_back_on_another_model_is_asked_again(folder: str, tmp_path: Path, caplog: Any) -> None:
    def answer(path: str, body: Mapping[str, Any]) -> Any:
        reply = words(path, body)
        if path == "/models":
            return reply
        size[0] += 1
        if body["max_tokens"] > 1 and size[0] % 2:
            reply["choices"][0].update(text="of another model")
            return {**reply, "model": "tiny-fallback"}
        return {**reply, "model": "tiny-2026-01-31"}  # as servers spell what they were asked for

    size = [0]
    with loopback(answer) as server:
        found = stored(server, folder, tmp_path / "run", 12)
    with loopback(words) as server:
        assert texts(found) == texts(stored(server, folder, tmp_path / "faultless", 12))
    (warning,) = [record.getMessage() for record in caplog.records if "fallback" in record.getMessage()]
    assert "answers as 'tiny-fallback', not as 'tiny-2026-01-31'" in warning and "asked again" in warning


def texts(found: Mapping[int, Any]) -> list[str]:
    return [found[place]["text"] for place in sorted(found)]


@pytest.mark.parametrize("names", [("other", "other"), ("tiny", "gone"), ("tiny", "")])
def test_another_model_s_answer_is_never_taken(folder: str, names: tuple[str, str]) -> None:
    """The first reply's name, and that of those behind it; `other` is listed too."""

    def answer(path: str, body: Mapping[str, Any]) -> Any:
        reply = words(path, body)
        return listing("tiny", "other") if path == "/models" else {**reply, "model": names[body["max_tokens"] > 1]}

    with loopback(answer) as server, opened(server, folder, patience=0.5) as session, pytest.raises(RunFailed) as error:
        session.generate(rows(3), SAMPLING)
    assert f"answers as {names[1]!r}, not as 'tiny'" in str(error.value)


@pytest.mark.parametrize(
    "names", [("tiny", "tiny"), ("/models/tiny.gguf", "/models/tiny.gguf"), ("", ""), ("", "tiny"), ("twin", "twin")]
)
def test_a_server_spells_its_model_s_name_as_it_likes(folder: str, names: tuple[str, str]) -> None:
    def answer(path: str, body: Mapping[str, Any]) -> Any:
        reply = words(path, body)
        if path == "/models":
            return listing("tiny", "twin", root="/models/tiny")
        return {**reply, "model": names[body["max_tokens"] > 1]}

    with loopback(answer) as server, opened(server, folder) as session:
        assert len(session.generate(rows(3), SAMPLING)) == 3


@pytest.mark.parametrize("late", [0.0, 0.05])
def test_a_second_response_is_never_the_next_answer(folder: str, late: float) -> None:
    """A server that sends two responses to each request on a connection that it keeps open, the second at once or later."""

    def injected() -> bytes:
        reply = completion("stolen answer", "stop", 0, 2)
        body = json.dumps({"choices": reply["choices"]}).encode()  # no count that would give it away
        return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    def answer(path: str, body: Mapping[str, Any]) -> Any:
        reply = words(path, body)
        return {key: value for key, value in reply.items() if key != "usage"}

    served: list[int] = []
    with smuggling(answer, injected, late, served) as url, opened(Loopback(url), folder, concurrency=2) as session:
        for _ in range(3):
            found = session.generate(rows(6), SAMPLING)
            assert all(set(each.text.split()) <= {"alpha", "beta", "gamma", "delta"} for each in found)
            time.sleep(2 * late)
    assert len(served) >= 18


@contextmanager
def smuggling(answer: Any, injected: Callable[[], bytes], late: float, served: list[int]) -> Iterator[str]:
    """A server of raw sockets, which keeps connections open whatever it is asked."""

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError, ValueError), connection.makefile("rb") as lines:
            while first := lines.readline():
                headers = dict(line.decode().split(": ", 1) for line in iter(lines.readline, b"\r\n"))
                sent = lines.read(int(headers.get("Content-Length", headers.get("content-length", "0")).strip() or 0))
                body = json.dumps(answer(first.split()[1].decode().removeprefix("/v1"), json.loads(sent or b"{}"))).encode()
                whole = b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: %d\r\n\r\n" % len(body) + body
                connection.sendall(whole + (b"" if late else injected()))
                served.append(1)
                if late:
                    time.sleep(late)
                    connection.sendall(injected())

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


def test_no_wait_goes_beyond_the_patience(folder: str) -> None:
    began = time.monotonic()
    with (
        loopback(words, lambda path, body, before: "429 absurd" if path != "/models" else "") as server,
        opened(server, folder, patience=0.7) as session,
        pytest.raises(RunFailed, match=r"in 0\.7 s of tries"),
    ):
        session.generate(rows(1), SAMPLING)
    assert 0.5 < time.monotonic() - began < 15  # not the minute that `Retry-After` is honoured for otherwise


@pytest.mark.parametrize(
    ("row", "window"),
    [({"max_model_len": True}, None), ({"max_model_len": None, "meta": {"n_ctx": 128}}, 128), ({"max_model_len": "128"}, None),
     ({"max_model_len": False, "meta": {"n_ctx": True}}, None), ({"max_model_len": 1.5}, None), ({"max_model_len": 128}, 128)],
)  # fmt: skip
def test_a_window_is_a_number(row: dict[str, Any], window: int | None) -> None:
    assert bodies.models(json.dumps(listing("tiny", **row)).encode())[0].window == window
