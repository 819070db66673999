"""What an OpenAI-compatible server is asked, and under which name it has a model."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from selfalign.engines._requests import undecodable
from selfalign.engines._server_bodies import Listed, Reply, Scored, echoed, model_of, models, prompt_logprobs
from selfalign.engines._server_client import Call, Client, Rejected, Trouble
from selfalign.errors import RunFailed, UserError
from selfalign.models.names import located, resolve_model
from selfalign.models.rendering import Renderer, Stops, under
from selfalign.models.templates import Template
from selfalign.text import printable
from selfalign.types import ModelRef, Request, Sampling

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

MODELS: Call[list[Listed]] = Call("/models", None, models, broken=[])
"""What the server lists; nothing where that fails, as it does for transformers serve without its cache of downloads."""


def chat(request: Request, renderer: Renderer) -> dict[str, Any]:
    """The fields of a body that have the server render: the messages that the template is given here, and its arguments."""
    style = renderer.style
    assert isinstance(style, Template)  # `OpenAI.check` came before
    if request.prompt is None or request.text is not None:
        raise UserError(
            f"{request.id}: a chat can ask for an answer only, not for a new prompt or how a text goes on;"
            " use engine.prompts=ids or text, with a server that has the completions endpoint"
        )
    turns = (*((under(request.system, pair), pair.response) for pair in request.demonstrations), *request.history)
    asked = {"messages": style.messages(request.system, turns, request.prompt)}
    return {**asked, "chat_template_kwargs": dict(style.arguments)} if style.arguments else asked


Extras = Literal["fields", "generation_config", "none"]
"""How decoding beyond OpenAI's own fields is asked for."""


def check_sampling(sampling: Sampling, extras: Extras) -> None:
    unsaid = "top_k without engine.extras" if sampling.top_k > 0 and extras == "none" else ""
    if name := undecodable(sampling) or unsaid:
        raise UserError(f"a server cannot be asked for {name}; leave it out, or use --engine HF")


def greet(client: Client, hello: Call[Reply], names: Sequence[str]) -> tuple[str, str]:
    """The first of a model's names under which the server answers this probe, which is the client's from then on, and what the
    reply calls the model.

    Raises:
        Rejected: the server refuses all of them, or for another reason than the name.
    """
    name, *others = names
    try:
        reply = client.probe_with(replace(hello, body={**(hello.body or {}), "model": name}))
    except Rejected as refusal:
        if not others or refusal.status not in (400, 404):
            raise
        return greet(client, hello, others)
    return name, reply.model


class SameModel:
    """Takes no reply of another model: a gateway whose model is busy or away may answer with one that it falls back on.

    In a reply a server may spell the model's name otherwise than it was asked for (with a date behind it, as a path), so the
    first reply of each endpoint says how it does; only what is listed as another model it can never be. A reply that names
    another one is trouble that may pass by itself: it is asked for again until the patience is over, and the log says so once.
    """

    def __init__(self, url: str, name: str, listed: Sequence[Listed]) -> None:
        root = next((one.root for one in listed if one.name == name), "")
        self._url, self._name, self._warned = url, name, False
        # vLLM answers under the first of several names of one model, which have the same root.
        self._others = {one.name for one in listed if one.name != name and not (root and one.root == root)}
        self._said: dict[str, str] = {}

    def check(self, path: str, said: str) -> None:
        """Raises Trouble: the model that a reply of this endpoint names is not the one that was asked."""
        usual = self._said.get(path, "")
        if said not in self._others and (not usual or said == usual):
            self._said[path] = said
            return
        raise Trouble(
            f"answers as {printable(said)[:80]!r}, not as {printable(usual or self._name)!r}: another model's text is not taken"
        )

    def only(self, call: Call[_T]) -> Call[_T]:
        """The call, which takes no other model's reply."""

        def read(body: bytes) -> _T:
            said = model_of(body)
            try:
                self.check(call.path, said)
            except Trouble as trouble:
                if not self._warned:
                    _log.warning("the server at %s %s; it is asked again", self._url, trouble)
                    self._warned = True
                raise
            return call.read(body)

        return replace(call, read=read)


def served_names(model: ModelRef, names: Mapping[str, str], listed: Sequence[Listed], url: str, started: bool) -> list[str]:
    """The server's name for this very model: the one given for it, or a listed one that is its name or folder.

    Of a server that was just `started` for this model, whatever it calls it, one of several to be tried in order: the folder that
    the command was given (transformers serve lists other models than the one it serves), then the only one listed.

    Raises:
        RunFailed: there is none. Never another model's name, nor that of the base of a trained adapter.
    """
    wanted = model.adapter or model.name
    for own, name in names.items():
        if own == wanted or _resolved(own) == wanted:
            return [name]
    for one in listed:
        if wanted in (one.name, one.root) or _same_folder(one.name, wanted) or _same_folder(one.root, wanted):
            return [one.name]
    if started:
        return [as_in_command(model), *(one.name for one in listed if len(listed) == 1)]
    others = ", ".join(printable(one.name) for one in listed[:5]) or "no models"
    raise RunFailed(
        f"the server at {url} lists {others}, not {wanted}: it cannot run weights that it does not serve, such as those of a"
        " later round; serve that folder, have the server do so (engine.reload: lora for adapters, command for whole weights),"
        " give the server's name for it in engine.names, or use the HF engine"
    )


def as_in_command(model: ModelRef) -> str:
    """What a command that starts a server is given for {model}."""
    folder = Path(located(model.base))
    return str(folder.resolve()) if folder.is_dir() else model.name


def listed_models(client: Client) -> list[Listed]:
    """What the server lists; nothing where it has no list, as some gateways have none."""
    try:
        return client.ask([MODELS])[0]
    except Rejected as refusal:
        if refusal.status in (404, 405, 501):
            return []
        raise


def refused(url: str, key_variable: str, what: str, refusal: Rejected) -> RunFailed:
    remedy = ""
    if refusal.status in (401, 403):
        holds = f"; see what key ${key_variable} holds"
        remedy = holds if key_variable else "; name the variable that holds its key: engine.key_variable"
    return RunFailed(f"the server at {url} refuses {what}: {refusal}{remedy}")


def scoring(name: str, kind: str, ids: Sequence[int]) -> Call[list[Scored]]:
    """For the log-probability of each of the ids but the first: `echo` or `prompt_logprobs`."""
    ask: dict[str, Any] = {"echo": True, "logprobs": 1} if kind == "echo" else {"prompt_logprobs": 1}
    # One token must be written along, for some servers write at least one.
    body = {"model": name, "prompt": ids, "max_tokens": 1, "temperature": 1.0, "top_p": 1.0, **ask}
    return Call("/completions", body, partial(echoed if kind == "echo" else prompt_logprobs, ids=ids))


def check_window(name: str, listed: Sequence[Listed], context: int) -> None:
    """Raises UserError: the server says that its window is narrower than the one prompts are fitted to."""
    # One that was started for a model may list it, and nothing else, under another name than it was asked by (llama.cpp).
    window = next((one.window for one in listed if one.name == name or len(listed) == 1), None)
    if window is not None and window < context:
        raise UserError(f"the server's window has {window} tokens, prompts are fitted to {context}; set engine.context={window}")


def decoding(sampling: Sampling, seed: int, stops: Stops, extras: Extras) -> dict[str, Any]:
    """The fields of a request's body that say how to write; all that have a default elsewhere are said."""
    body: dict[str, Any] = {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": seed % 2**31,  # what the narrowest of the servers take
    }
    if strings := [*stops.strings, *sampling.stop]:
        body["stop"] = strings
    if extras == "generation_config":
        # It stands in place of the model's own, so that the ends are said with it, and no top_k would mean 50.
        config: dict[str, Any] = {"do_sample": sampling.temperature > 0.0, "top_k": sampling.top_k}
        config |= {"eos_token_id": sorted(stops.ids)} if stops.ids else {}
        body["generation_config"] = json.dumps(config)
    if extras == "fields":
        body |= {"top_k": sampling.top_k or -1, "min_p": 0.0, "repetition_penalty": 1.0}
        # llama.cpp's steps and their order. Its own would apply the repetition penalty of the model's generation configuration,
        # which its files carry, and cut at top_p before the temperature, which draws from fewer tokens than others do.
        body["samplers"] = ["temperature", "top_k", "top_p"]
        body |= {"stop_token_ids": sorted(stops.ids)} if stops.ids else {}
    return body


def text_for(tokenizer: Any, text: str) -> str:
    """A rendered prompt as a server's tokenizer wants it, which puts a beginning token there by itself."""
    own = tokenizer.bos_token_id is not None and list(tokenizer("")["input_ids"][:1]) == [tokenizer.bos_token_id]
    return text.removeprefix(str(tokenizer.bos_token)) if own else text


def _resolved(model: str) -> str:
    try:  # of the hub it is known by its name alone: nothing is fetched for a comparison
        return resolve_model(model) if Path(model).expanduser().is_dir() else ""
    except UserError:
        return ""


def _same_folder(listed: str, wanted: str) -> bool:
    # A relative name is an alias on the server's side; that a folder here has the same name would be chance.
    there, here = Path(listed), Path(wanted)
    return bool(listed) and there.is_absolute() and there.is_dir() and here.is_dir() and there.samefile(here)


def key_in(variable: str) -> str:
    """The key in an environment variable; "" where none is named.

    Raises:
        UserError: the variable is not set, or what it holds cannot stand in a header.
    """
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(f"the environment variable {variable}, named by engine.key_variable, is not set")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UserError(f"the environment variable {variable} holds no key: there are spaces or odd characters in it")
    return key


def is_plain_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    plain = url.isascii() and url.isprintable() and not set(url) & set(" @?#\\")
    return plain and parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0
