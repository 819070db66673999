"""The model of a context as a model of lm-evaluation-harness. Imported only where the harness is used."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

from lm_eval.api.model import LM
from lm_eval.models.utils import normalize_gen_kwargs

from selfalign.errors import UserError
from selfalign.evaluators._answers import key, written
from selfalign.evaluators._harness_ifeval import TASK as IFEVAL
from selfalign.protocols import Context
from selfalign.seeds.rows import listed, show
from selfalign.types import Completion, Example, Request, Sampling

_log = logging.getLogger(__name__)

_KNOWN = {"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k"}


class ContextModel(LM):  # type: ignore[misc]  # the harness has no types that mypy reads
    """Asks through the run's journal. Stages are named by what is asked, since the journal knows work by that name alone."""

    def __init__(self, context: Context, max_tokens: int, chat: bool, shown: tuple[IO[str], IO[str]]) -> None:
        super().__init__()
        self._context, self._max_tokens, self._chat = context, max_tokens, chat
        self.cut: dict[tuple[str, int], bool] = {}
        """Task and row: whether the length cut one of its answers."""
        self._shown = shown
        """Standard output and error as they are outside of the harness, where the run's own progress belongs."""

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        pairs = [(str(before), str(after)) for before, after in (request.args for request in requests)]
        with self._visible():
            cut = sum(not self._fits(text) for text in dict.fromkeys(before + after for before, after in pairs))
            if cut:
                _log.warning("LmEval: %d texts are longer than the model's window and lose their beginning", cut)
            found = self._context.continuation(f"lm_eval_{key(pairs)}", pairs)
        return [(one.total, one.greedy) for one in found]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        pairs = [("", str(request.args[0])) for request in requests]
        with self._visible():
            for request, (_, text) in zip(requests, pairs, strict=True):
                if not self._fits(text):
                    where = f"LmEval.tasks: {request.task_name}, row {request.doc_id}"
                    raise UserError(f"{where}: {show(text)} does not fit the model's window; split its texts into shorter ones")
            return [one.total for one in self._context.continuation(f"lm_eval_{key(pairs)}", pairs)]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        groups: dict[tuple[Sampling, bool], list[int]] = {}
        for place, request in enumerate(requests):
            sampling = sampling_of(request.task_name, request.args[1], self._max_tokens)
            groups.setdefault((sampling, self._chat or request.task_name == IFEVAL), []).append(place)
        texts = [""] * len(requests)
        for (sampling, chat), places in groups.items():
            with self._visible():
                found = self._write([requests[place] for place in places], sampling, chat)
            for place, completion in zip(places, found, strict=True):
                if completion.finish == "context":
                    task, text = requests[place].task_name, show(str(requests[place].args[0]))
                    room = f"does not fit the model's window with {sampling.max_tokens} new tokens"
                    raise UserError(f"LmEval: {task}: {text} {room}; lower LmEval.num_fewshot or max_tokens")
                texts[place] = completion.text
                row = requests[place].task_name, requests[place].doc_id
                self.cut[row] = self.cut.get(row, False) or completion.finish == "length"
        return texts

    def _write(self, requests: Sequence[Any], sampling: Sampling, chat: bool) -> list[Completion]:
        prompts = [str(request.args[0]) for request in requests]
        # A place next to the prompt's id, because a task may ask the same prompt several times.
        ids = [f"{request.task_name}/{request.doc_id}/{place}" for place, request in enumerate(requests)]
        asked = [Example(id, prompt, "") for id, prompt in zip(ids, prompts, strict=True)]
        return written(self._context, asked, sampling, f"lm_eval_write_{key((prompts, sampling, chat))}", chat=chat)

    def _fits(self, text: str) -> bool:
        # One place is the token that a text without anything before it stands behind.
        return self._context.session.fit(Request("", text=text), 1) is not None

    @contextlib.contextmanager
    def _visible(self) -> Iterator[None]:
        with contextlib.redirect_stdout(self._shown[0]), contextlib.redirect_stderr(self._shown[1]):
            yield


def sampling_of(task: str, asked: Mapping[str, Any], max_tokens: int) -> Sampling:
    """A task's decoding as ours: greedy unless it says do_sample or a temperature, its stop strings, its length up to ours.
    Raises UserError: it asks for something else."""
    options = dict(normalize_gen_kwargs(dict(asked)))
    if unknown := sorted(options.keys() - _KNOWN):
        raise UserError(f"LmEval.tasks: {task} asks for {listed(unknown)} in its generation_kwargs, which is not supported")
    return Sampling(
        max_tokens=min(options["max_gen_toks"], max_tokens),
        # transformers' own default where a task samples at no temperature of its own
        temperature=float(asked.get("temperature", 1.0)) if options["do_sample"] else 0.0,
        top_p=float(options.get("top_p", 1.0)) if options["do_sample"] else 1.0,
        top_k=int(options.get("top_k", 0)) if options["do_sample"] else 0,
        stop=tuple(dict.fromkeys(stop for stop in options["until"] if stop)),
    )
