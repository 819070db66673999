"""Runs models on any server that speaks OpenAI's HTTP interface: vLLM, SGLang, llama.cpp, `transformers serve`, a gateway."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar, get_args

import numpy as np

from selfalign.engines import _server_bodies as bodies
from selfalign.engines import _server_requests, _server_verify, _server_weights, _weights
from selfalign.engines._requests import in_order
from selfalign.engines._server_client import Call, Client, Rejected, Trouble
from selfalign.engines._server_requests import Extras
from selfalign.engines._texts import Texts, kind_of
from selfalign.errors import RunFailed, UserError
from selfalign.models.names import resolve_ref
from selfalign.models.rendering import IGNORE, NOTES, make_renderer, preflight
from selfalign.models.sizes import odd_windows, window
from selfalign.protocols import Trained
from selfalign.types import Completion, Continuation, Example, FloatArray, Format, Likelihood, ModelRef, Request, Sampling

_T = TypeVar("_T")

Prompts = Literal["ids", "text", "chat"]
Scores = Literal["none", "echo", "prompt_logprobs"]
Reload = Literal["none", "lora", "command"]


@dataclass(frozen=True)
class OpenAI:
    """Generates through a server; the model's name or folder here gives the tokenizer and template that render every prompt.

    So a prompt has the same tokens as with the `HF` engine, whatever the server would make of a conversation, and where the
    server tokenises itself its count must agree.

    A request carries its own random seed, but a server's text may change with the requests around it (rounding, batching):
    a resumed run is byte-identical because finished batches are read from the journal, and two fresh runs need not be equal.

    A server runs the weights it was started with. How it comes to serve a model that the run has trained says `reload`; without
    it such a model is refused unless the server lists its folder. That a server under the right name has the right weights is
    verified before the first answer of a trained model is taken, on a few seeds (`verify_weights`); the base model's are not.
    """

    url: str = "http://127.0.0.1:8000/v1"
    """Where the interface begins, mostly ending in /v1; without user, password or query, as it is part of the run's record."""
    names: dict[str, str] = field(default_factory=dict)
    """The server's name for a model's folder or hub name, where it has another one: {model: name on the server}."""
    prompts: Prompts = "ids"
    """How prompts are sent: as token ids (vLLM, SGLang, llama.cpp), as text (transformers serve), or as a chat's messages, where
    a server offers nothing else: with the template's arguments as chat_template_kwargs, and no way to ask for a new prompt, only
    for answers."""
    scores: Scores = "echo"
    """Where log-probabilities of given texts come from: `echo` with `logprobs` (vLLM, SGLang), vLLM's `prompt_logprobs`, or none
    (llama.cpp, transformers serve). Judges, perplexity and validation need them."""
    extras: Extras = "fields"
    """How decoding is asked for that OpenAI's own fields cannot say, so that no default of the server's changes it: as the
    fields top_k, min_p, repetition_penalty, stop_token_ids and skip_special_tokens, so that marks of thoughts are seen (vLLM,
    SGLang), and samplers (llama.cpp), as a generation_config (transformers serve, which decodes greedily without one), or not at
    all, where a server refuses both; then such defaults hold."""
    context: int | None = None
    """Tokens of prompt and answer together, where the server has fewer than the model; None: as many as the model."""
    reload: Reload = "none"
    """How the server comes to serve a model that the run has trained: not at all; by vLLM's call that loads a LoRA adapter while
    it runs (`lora`); or by starting a server for it (`command`)."""
    command: str = ""
    """With reload=command: the shell line that starts or restarts the server, {model} in place of the model's folder. A server
    that it runs ends with the round's work, before training begins. Part of the run's record, so no key belongs in it."""
    startup: float = 900.0
    """Seconds within which the server must answer after the command was run."""
    verify_weights: int = 6
    """Seeds on which the server must give a trained model's own log-probabilities rather than an earlier model's (with
    scores=none: greedy answers); the models' own ones are computed here, in float32 on the processor. 0 verifies nothing."""
    key_variable: str = ""
    """Name of the environment variable that holds the server's key; the key itself is written nowhere."""
    batch_size: int = 128
    """Requests in one batch of the journal."""
    concurrency: int = 32
    """Requests under way at once; halved where the server is too busy, and slowly raised again."""
    timeout: float = 300.0
    """Seconds one attempt may take in all."""
    patience: float = 900.0
    """Seconds of attempts and waits, for one request, after which the run ends (and can be gone on with)."""
    backoff: float = 0.5
    """Seconds that the wait before a second attempt lasts at most; doubled for each further one, up to a minute."""

    def __post_init__(self) -> None:
        # What is wrong may hold a secret, so neither message shows it.
        if not _server_requests.is_plain_url(self.url):
            raise ValueError("OpenAI: url must be http(s)://host[:port]/path, without user, password, query or fragment")
        if self.key_variable and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.key_variable):
            raise ValueError("OpenAI: key_variable must be the name of an environment variable, not a key")
        for name, least in (("context", 2), ("batch_size", 1), ("concurrency", 1), ("verify_weights", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"OpenAI: {name} = {value} must be at least {least}")
        for name in ("timeout", "patience", "backoff", "startup"):
            if not 0.0 < getattr(self, name) < 1e6:
                raise ValueError(f"OpenAI: {name} = {getattr(self, name)} must be above 0 seconds")
        for name, kind in (("prompts", Prompts), ("scores", Scores), ("extras", Extras), ("reload", Reload)):
            if getattr(self, name) not in (choices := get_args(kind)):
                raise ValueError(f"OpenAI: {name} = {getattr(self, name)!r} is none of {', '.join(choices)}")
        if (self.reload == "command") != bool(self.command) or (self.command and _server_weights.MODEL not in self.command):
            raise ValueError("OpenAI: reload=command and a command with {model} in it go together, and neither without the other")

    def check(self, model: ModelRef, seeds: Sequence[Example], format: Format) -> ModelRef:
        """Resolve the model and check that the seeds render for it; reads its tokenizer and configuration, asks no server.

        Raises:
            UserError: no such model, no usable template or end token, a seed that contains a marker or does not fit the
                window, a key's variable that is not set, prompts=chat without a chat template, reload=command for an adapter, an
                adapter of another base.
        """
        resolved = resolve_ref(model, weights=self.reload == "command")
        if self.reload == "command":
            _server_weights.refuse_adapter(resolved)
        _weights.check_adapter(resolved)
        tokenizer, config = _weights.tokenizer_and_config(resolved)
        renderer = make_renderer(tokenizer, format)
        if self.prompts == "chat" and renderer.format != "chat":
            raise UserError("engine.prompts=chat needs format chat: a server's chat endpoint knows no other; use ids or text")
        told = preflight(renderer, seeds, min(window(config, tokenizer), self.context or 10**9))
        for note in (*told, *(odd_windows(config, tokenizer) if self.context is None else ())):
            NOTES.warning("%s: %s", model.base, note)
        _server_requests.key_in(self.key_variable)
        return resolved

    def check_models(self, trained: Trained | None, others: Sequence[str]) -> None:
        """See `protocols.EngineLimits`; with reload=none the server may yet list any model, and is asked when it is needed."""
        _server_weights.check_models(self.reload, trained, others)

    def check_sampling(self, sampling: Sampling) -> None:
        """See `protocols.EngineLimits`."""
        _server_requests.check_sampling(sampling, self.extras)

    token_lengths = staticmethod(_weights.token_lengths)

    @contextmanager
    def open(self, model: ModelRef, format: Format) -> Iterator[OpenAISession]:
        """A session on the model; the server is first asked (for its models, then for one token) when there is work for it."""
        resolved = model if model.hash else resolve_ref(model, weights=self.reload == "command")
        with closing(OpenAISession(self, resolved, format)) as session:
            yield session


class OpenAISession:
    """`protocols.Session` on one model of a server."""

    def __init__(self, engine: OpenAI, model: ModelRef, format: Format) -> None:
        self._engine, self._ref, self._format = engine, model, format
        self._texts = Texts(model, format, engine.context)
        self.fit, self.render = self._texts.fit, self._texts.render
        self._client: Client | None = None
        self._started: _server_weights.Started | None = None
        self._check: _server_verify.WeightsCheck | None = None
        self._same: _server_requests.SameModel | None = None
        self._name = ""

    def close(self) -> None:
        """End the connections, and the server that was started for this model."""
        for each in (self._client, self._started):
            if each is not None:
                each.close()
        self._client = self._started = None

    def verify_weights(
        self, name: str, seeds: Sequence[Example], others: Mapping[str, ModelRef], tell: Callable[[Mapping[str, Any]], None]
    ) -> None:
        if seeds and self._engine.verify_weights:
            chosen, scored = tuple(seeds)[: self._engine.verify_weights], self._engine.scores != "none"
            self._check = _server_verify.WeightsCheck(name, chosen, others, tell, scored)

    def plan(self, requests: Sequence[Request]) -> list[tuple[int, ...]]:
        return in_order(requests, self._engine.batch_size)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """
        Raises:
            UserError: decoding that servers do not offer, or a request that a chat cannot express.
            RunFailed: the server gave no good answer in time, refused, withheld an answer, or does not serve the model.
        """
        self._engine.check_sampling(sampling)
        if not requests:
            return []
        self._connect()
        replies = self._ask([self._call(request, sampling) for request in requests], "completions")
        return [self._completion(*pair, sampling) for pair in zip(requests, replies, strict=True)]

    def likelihood(self, examples: Sequence[Example], shown: Sequence[Sequence[Example]] = ()) -> list[Likelihood]:
        pairs = self._texts.training_ids(examples, shown, self._room())
        return [Likelihood(one.total, one.tokens) for one in self._scored(pairs)]

    def continuation(self, pairs: Sequence[tuple[str, str]]) -> list[Continuation]:
        """A first text that does not fit the window with the second one loses its beginning, as lm-evaluation-harness does."""
        return self._scored(self._texts.continuation_ids(pairs, self._room()))

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """The server's embeddings, pooled as it was started to: mean pooling must be set there.

        Texts longer than the window are cut at its end; an empty text is embedded as one end token.
        """
        width = self._texts.width
        if not texts:
            return np.zeros((0, width), dtype=np.float32)
        self._connect()
        body = {"model": self._name, "encoding_format": "float"}
        rows = self._texts.embedded_ids(texts, self._texts.context())
        calls = [Call("/embeddings", {**body, "input": row}, bodies.embedding) for row in rows]
        vectors = self._ask(calls, "embeddings, so choose another encoder")
        if wrong := sorted({len(vector) for vector in vectors} - {width}):
            raise RunFailed(f"the server at {self._engine.url} gives vectors of {wrong[0]} numbers, the model's have {width}")
        found = np.array(vectors, dtype=np.float64)
        unit: FloatArray = (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)
        return unit

    def _connect(self) -> None:
        """Have the server serve the model, find it there, have it write one token, and verify its weights; done once."""
        if self._client is not None:
            return
        engine, check = self._engine, self._check
        expected = check and check.expected(self._ref, self._format)  # before a server takes the memory
        key = _server_requests.key_in(engine.key_variable)
        seconds = {"timeout": engine.timeout, "patience": engine.patience, "backoff": engine.backoff}
        client = self._client = Client(engine.url.rstrip("/"), key, concurrency=engine.concurrency, **seconds)
        try:
            if engine.reload == "command":
                occupied = client.answers(_server_requests.MODELS)
                self._started = _server_weights.Started(engine.command, self._ref, engine.url)
                self._started.wait(lambda: client.answers(_server_requests.MODELS), occupied, engine.startup)
            listed = _server_requests.listed_models(client)
            if engine.reload == "lora" and self._ref.adapter is not None:
                self._ask(_server_weights.load_adapter(self._ref, listed), "to load the adapter (engine.reload=lora)")
                names = [_server_weights.adapter_name(self._ref)]
            else:
                names = _server_requests.served_names(self._ref, engine.names, listed, engine.url, self._started is not None)
            hello = self._call(Request("hello", prompt="Hi"), Sampling(max_tokens=1))
            self._name, said = _server_requests.greet(client, hello, names)
            self._same = _server_requests.SameModel(engine.url, self._name, listed)
            self._same.check(hello.path, said)
            _server_requests.check_window(self._name, listed, self._texts.context())
            if check and expected:
                check.compare(self, *expected)
        except BaseException as error:
            self.close()
            if isinstance(error, Rejected):
                raise self._refused(error, "the model") from None
            if isinstance(error, Trouble):
                raise RunFailed(f"the server at {engine.url} {error}") from None
            raise

    def _ask(self, calls: Sequence[Call[_T]], what: str) -> list[_T]:
        assert self._client is not None  # _connect came before
        try:
            return self._client.ask([self._same.only(call) for call in calls] if self._same else calls)
        except Rejected as refusal:
            raise self._refused(refusal, what) from None

    def _refused(self, refusal: Rejected, what: str) -> RunFailed:
        return _server_requests.refused(self._engine.url, self._engine.key_variable, what, refusal)

    def _call(self, request: Request, sampling: Sampling) -> Call[bodies.Reply]:
        prompts, stops = self._engine.prompts, self._texts.stops(kind_of(request))
        body = {"model": self._name, **_server_requests.decoding(sampling, request.seed, stops, self._engine.extras)}
        if prompts == "chat":
            body |= _server_requests.chat(request, self._texts.renderer)
        else:
            body["prompt"] = (
                list(self._texts.ids(request))
                if prompts == "ids"
                else _server_requests.text_for(self._texts.tokenizer, self.render(request))
            )
        if self._engine.extras == "fields" and self._texts.shows_special(request):
            body["skip_special_tokens"] = False
        read = partial(
            bodies.completion,
            sent=len(self._texts.ids(request)),
            max_tokens=sampling.max_tokens,
            chat=prompts == "chat",
            must_count=prompts != "ids",
        )
        return Call("/chat/completions" if prompts == "chat" else "/completions", body, read)

    def _completion(self, request: Request, reply: bodies.Reply, sampling: Sampling) -> Completion:
        raw, marks = reply.text, self._texts.stops(kind_of(request)).strings
        # A server may not know a stop string: the text ends there all the same. The format's can begin it, as a line.
        ended = reply.reason == "stop" or any(mark in "\n" + raw.lstrip() for mark in marks)
        generated = reply.generated_tokens
        if generated is None:
            generated = len(self._texts.tokenizer(raw, add_special_tokens=False)["input_ids"]) + (reply.reason == "stop")
        return self._texts.completed(request, raw, generated, ended, sampling.stop)

    def _scored(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[Continuation]:
        """The labelled tokens of each (ids, labels), all at once from one call for each pair."""
        if not pairs:
            return []
        kind = self._engine.scores
        if kind == "none":
            raise UserError(
                "this needs log-probabilities of given texts, and engine.scores=none says that the server gives none;"
                " use echo or prompt_logprobs where it does, or the HF engine"
            )
        if any(labels[0] != IGNORE for _, labels in pairs):
            raise UserError(f"a text to score does not fit the window of {self._texts.context()} tokens")
        self._connect()
        calls = [_server_requests.scoring(self._name, kind, ids) for ids, _ in pairs]
        found = []
        for rows, (_, labels) in zip(self._ask(calls, f"log-probabilities (engine.scores={kind})"), pairs, strict=True):
            wanted = [row for row, label in zip(rows, labels[1:], strict=True) if label != IGNORE]
            found.append(Continuation(sum(row.logprob for row in wanted), len(wanted), all(row.greedy for row in wanted)))
        return found

    def _room(self) -> int:
        """Tokens of a text to score: one is written behind it."""
        return self._texts.context() - 1
