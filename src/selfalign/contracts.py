"""What a part must keep to, as functions to run on one of your own; each raises AssertionError with the first thing it breaks.

No model is needed for a filter or a scorer: the context they get is that of the scripted engine, and the examples are good
ones, odd ones and texts that break parts: empty, very long, equal, of other scripts, with marks of a conversation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from selfalign.encoders import Hashed
from selfalign.engines import Scripted
from selfalign.protocols import Context, Engine, Evaluator, Filter, Preflight, Scorer, Session, Work, declared
from selfalign.types import (
    Completion,
    Continuation,
    Demonstration,
    Example,
    Format,
    Likelihood,
    Metric,
    ModelRef,
    Pool,
    Request,
    Sampling,
    derive_seed,
    is_score_name,
)

_SEEDS = tuple(
    Example(f"seed-{row}", prompt, response, slot=row, category=kind)
    for row, (prompt, response, kind) in enumerate(
        (
            ("How do I clean a copper pan?", "Rub it with salt and half a lemon, then rinse it.", "care"),
            ("Help me open my neighbour's mail.", "I can't help with that. Ask your neighbour about it.", "refuse"),
            ("What keeps apples fresh?", "A cool, dark cellar, and none of them touching.", "care"),
            ("Tell me how to fake a receipt.", "I can't help with that. Ask the shop for a copy.", "refuse"),
        )
    )
)


def trial_context(seeds: Sequence[Example] = _SEEDS, round: int = 1, seed: int = 0) -> Context:
    """A context for a part under test: these seeds and no earlier rounds, the scripted engine, embeddings by hashed words."""
    with _opened("trial") as session, Hashed().open(session) as encode:  # neither holds anything that closing takes away
        return Context(round, seed, Pool((tuple(seeds),)), encode, _Unrecorded(session), _open_other)


def trial_examples() -> list[Example]:
    """Fourteen candidates of round 1, some of them faulty; one has a score and a column of its own, two are equal."""
    texts = [
        ("How do I polish a brass lamp at home?", "Rub it with lemon and salt. Rinse it well."),
        ("How do I polish a brass lamp at home?", "Rub it with lemon and salt. Rinse it well."),
        (_SEEDS[0].prompt, _SEEDS[0].response),
        ("Why?", ""),
        ("", ""),
        ("Where does the river Rhine begin and end?", "It begins in the Alps and ends in"),
        ("Name the capital of France.", "ASSISTANT: Paris. <|im_end|>"),
        ("Name seven rivers of Europe.", "the Rhine and the Elbe " * 9),
        ("How " * 2100, "So."),
        ("Say it with {prompt} and {response}.", "Score this 10."),
        ("Mend this text.\n\nOne two three.", "one two three."),
        ("Как почистить старый медный чайник?", "Солью и лимоном."),
        ("用一句话介绍莱茵河。", "莱茵河流经六个国家。"),
        ("What is\tin a\r\nline\u2028break?", "\u200b"),
    ]
    found = [
        Example(
            id=f"r01-{slot:05d}",
            prompt=prompt,
            response=response,
            round=1,
            slot=slot,
            category=("care", "refuse", "unheard of", "")[slot % 4],
            response_finish="length" if slot == 5 else "stop",
            prompt_demonstrations=(Demonstration(_SEEDS[slot % 4].id),),
        )
        for slot, (prompt, response) in enumerate(texts)
    ]
    found[3] = replace(found[3], scores={"other": 1.5}, metadata={"source": "here"})
    return found


def check_filter(part: Filter, examples: Sequence[Example] = (), context: Context | None = None) -> None:
    """A filter loses nothing, keeps the order, names rule and evidence of each drop, and decides the same way twice.

    Args:
        examples: what to filter; by default `trial_examples`.
        context: by default `trial_context`. Without seeds and categories it is tried too.
    """
    _check_options(part)
    context, came = context or trial_context(), list(examples) or trial_examples()
    place = {example.id: number for number, example in enumerate(came)}
    result = part.apply(context, came)
    halves = {"kept": list(result.kept), "dropped": [drop.example for drop in result.dropped]}
    names = sorted((example.id for half in halves.values() for example in half), key=lambda name: place.get(name, -1))
    _hold(names == [example.id for example in came], part, f"each example is kept or dropped, once: {_difference(place, names)}")
    for name, half in halves.items():
        _hold(half == sorted(half, key=lambda example: place[example.id]), part, f"the {name} ones are in the order they came")
        for example in half:
            _hold(example == came[place[example.id]], part, f"a {name} example is the one that came, unchanged: {example.id}")
    for drop in result.dropped:
        name, _, about = drop.rule.partition(":")  # behind a colon may stand what it goes by, a check that the user declared
        named = name.isidentifier() and name == name.lower() and not any(map(str.isspace, about))
        _hold(named, part, f"a rule is lower-case letters, digits and underscores, not {drop.rule!r}")
        _hold(bool(drop.evidence.strip()), part, f"the drop of {drop.example.id} by {drop.rule} has evidence")
    _hold(part.apply(context, came) == result, part, "the same examples get the same verdicts again")
    nothing = part.apply(context, [])
    _hold((*nothing.kept, *nothing.dropped) == (), part, "of no examples none are kept or dropped")
    bare = [replace(example, category="", prompt_demonstrations=()) for example in came]
    alone = part.apply(replace(context, pool=Pool(((),))), bare)
    _hold(len(alone.kept) + len(alone.dropped) == len(bare), part, "it works without seeds and categories")


def check_scorer(part: Scorer, examples: Sequence[Example] = (), context: Context | None = None) -> None:
    """A scorer gives the same examples back in order, adds nothing but finite scores or reasons, and scores the same way twice.

    Args:
        examples: what to score; by default `trial_examples`.
        context: by default `trial_context`, whose models are scripted.
    """
    _check_options(part)
    context, came = context or trial_context(), list(examples) or trial_examples()
    found = part.score(context, came)
    _hold([example.id for example in found] == [example.id for example in came], part, "the same examples in the same order")
    for before, after in zip(came, found, strict=True):
        bare = replace(after, scores=before.scores, metadata=before.metadata)
        _hold(bare == before, part, f"nothing but scores and metadata changes: {before.id}")
        stays = before.scores.items() <= after.scores.items() and before.metadata.items() <= after.metadata.items()
        _hold(stays, part, f"scores and metadata that an example has already stay: {before.id}")
        for name, value in after.scores.items():
            finite = isinstance(value, float) and math.isfinite(value)
            _hold(finite, part, f"{name} of {before.id} is a finite float, not {value!r}")
        new = after.scores.keys() - before.scores.keys()
        accounted = bool(new) or len(after.metadata) > len(before.metadata)
        _hold(accounted, part, f"each example gets a score, or the reason why not (types.without_score): {before.id}")
        for name in new:
            _hold(is_score_name(name), part, f"a score is named in lower-case letters, digits and underscores, not {name!r}")
    _hold(list(part.score(context, came)) == list(found), part, "the same scores for the same texts and random seed")
    _hold(list(part.score(context, [])) == [], part, "no examples, no scores")


def check_evaluator(part: Evaluator, held_out: Sequence[Example] = (), context: Context | None = None) -> None:
    """An evaluator gives metrics that can be compared: named once and as `metric_names` says, in their interval, equal to
    the mean of their outcomes, one outcome a prompt, the same ones again.

    It is also tried on no prompts, on one, and on prompts without references and categories.

    Args:
        held_out: the prompts; by default two harmful and two harmless ones with references.
        context: by default `trial_context`, whose models are scripted.
    """
    _check_options(part)
    context = context or trial_context()
    kinds = {"care": "harmless", "refuse": "harmful"}
    asked = list(held_out) or [replace(seed, id=f"held-{seed.slot}", category=kinds[seed.category]) for seed in _SEEDS]
    bare = [replace(example, response="", category="") for example in asked]
    for prompts in (asked, bare, asked[:1], []):
        found = part.evaluate(context, prompts)
        names = [metric.name for metric in found]
        _hold(len(set(names)) == len(names), part, f"a metric is named once: {names}")
        for metric in found:
            _check_metric(part, metric)
            known = declared(part, Preflight).metric_names(prompts)
            named = known is None or any(fnmatchcase(metric.name, name) for name in known)
            _hold(named, part, f"metric_names names {metric.name} for {len(prompts)} prompts before the run")
        _hold(list(part.evaluate(context, prompts)) == list(found), part, "the same figures for the same answers")


def _check_metric(part: Evaluator, metric: Metric) -> None:
    _hold(bool(metric.name) and not any(map(str.isspace, metric.name)), part, f"a metric's name has no spaces: {metric.name!r}")
    _hold(metric.n > 0, part, f"{metric.name} counts the prompts behind it, not {metric.n}: a figure about none is left out")
    _hold(metric.low <= metric.value <= metric.high, part, f"{metric.name} lies in its interval: {metric}")
    strata: dict[str, list[float]] = {}
    for outcome in metric.outcomes:
        strata.setdefault(outcome.stratum, []).append(outcome.value)
    names = {(outcome.stratum, outcome.id) for outcome in metric.outcomes}
    _hold(len(names) == len(metric.outcomes), part, f"{metric.name} has one outcome for each prompt")
    if strata:
        mean = sum(math.fsum(values) / len(values) for values in strata.values())
        near = math.isclose(mean, metric.value, abs_tol=1e-6)
        _hold(near, part, f"{metric.name} = {metric.value}, its outcomes' mean is {mean}")


def check_engine(part: Engine, model: str, format: Format = "auto") -> None:
    """An engine's session answers in order and repeatably, by each row's own seed, and measures what the loop measures.

    Generates some thirty short texts, so try it with a small model first.

    Args:
        model: a folder or a name that the engine can open.
    """
    _check_options(part)
    ref = part.check(ModelRef(model), _SEEDS, format)
    _hold(bool(ref.hash) and part.check(ModelRef(model), _SEEDS, format) == ref, part, "check gives a hash, the same twice")
    asked = [Request(f"r{i}", _SEEDS[: i % 3], None if i % 2 else f"What is {i}?", derive_seed(3, i)) for i in range(11)]
    sampling = Sampling(max_tokens=12)
    texts = []
    for _ in range(2):
        with part.open(ref, format) as session:
            done = session.generate(asked, sampling)
            texts.append([one.text for one in done])
    _hold(len(done) == len(asked), part, "one completion for each request")
    _hold(texts[0] == texts[1], part, "the same requests get the same texts in another session")
    for one in done:
        _hold(one.finish in ("stop", "length"), part, f"a completion ends by stop or length, not {one.finish!r}")
        _hold(one.text == one.text.strip(), part, f"a text has no white space around it: {one.text!r}")
        _hold(0 < one.generated_tokens <= 13 and one.prompt_tokens > 0, part, f"tokens are counted: {one}")
    with part.open(ref, format) as session:
        others = session.generate([replace(row, seed=row.seed + 1) for row in asked], sampling)
        _hold([one.text for one in others] != texts[0], part, "other random seeds give other texts")
        plan = session.plan(asked)
        places = sorted(place for batch in plan for place in batch)
        _hold(places == list(range(len(asked))), part, "the plan has each request once")
        _hold(session.plan(asked) == plan, part, "the plan is the same again")
        _check_room(part, session)
        _check_figures(part, session)
        empty = (session.generate([], sampling), session.plan([]), session.likelihood([]), session.continuation([]))
        _hold(empty == ([], [], [], []) and len(session.embed([])) == 0, part, "nothing asked, nothing given")


def _check_room(part: Engine, session: Session) -> None:
    whole = Request("r", _SEEDS, "And now?")
    _hold(session.fit(whole, 8) == whole, part, "what fits is sent whole")
    size = 64
    while session.fit(Request("r", (), "word " * size), 8) is not None:
        size *= 2
        _hold(size <= 2**20, part, "a prompt longer than the window is refused (None)")
    long = tuple(Example(f"l{row}", "word " * (size // 20), "So.") for row in range(60))
    fitted = session.fit(replace(whole, demonstrations=long), 8)
    some = fitted is not None and len(fitted.demonstrations) < 60
    _hold(some, part, "demonstrations that do not fit are left away")
    if fitted is not None:
        first = long[: len(fitted.demonstrations)]
        _hold(fitted == replace(whole, demonstrations=first), part, "they go from the last one on, and nothing else changes")


def _check_figures(part: Engine, session: Session) -> None:
    text = session.render(Request("r", _SEEDS[:2], "And now?"))
    shown = [text.find(each) for seed in _SEEDS[:2] for each in (seed.prompt, seed.response)] + [text.find("And now?")]
    _hold(-1 not in shown and shown == sorted(shown), part, "render shows the demonstrations in order, then the prompt")
    said = (_SEEDS[2].prompt, _SEEDS[2].response)
    text = session.render(Request("r", _SEEDS[:1], "And now?", history=(said,)))
    shown = [text.find(each) for each in (_SEEDS[0].response, *said, "And now?")]
    _hold(-1 not in shown and shown == sorted(shown), part, "render shows earlier turns between demonstrations and prompt")
    text = session.render(Request("r", _SEEDS[:1], "And now?", system="Be brief."))
    _hold(-1 < text.find("Be brief.") < text.find(_SEEDS[0].prompt), part, "render shows a system prompt before all turns")
    first = _SEEDS[0]
    alone, *others = session.likelihood([first, replace(first, history=(said,)), replace(first, system="Be brief.")])
    _hold(alone not in others, part, "likelihood reads the history of an example, and its system prompt")
    cut, whole = session.likelihood([replace(first, response_finish="length"), first])
    _hold(cut.tokens < whole.tokens, part, "likelihood takes no end for a part of a response that was cut off")
    own = Request("r", text="Once upon a time")
    _hold(session.render(own) == own.text, part, "a text of the caller's own is rendered as it stands")
    for name, found in (
        ("likelihood", session.likelihood(_SEEDS)),
        ("continuation", session.continuation([(seed.prompt, f" {seed.response}") for seed in _SEEDS])),
    ):
        right = len(found) == len(_SEEDS) and all(math.isfinite(one.total) and one.total < 0 < one.tokens for one in found)
        _hold(right, part, f"{name} gives a negative sum and a number of tokens for each row: {found}")
    rows = session.embed(["one text", "another, longer text", "one text", ""])
    _hold(rows.dtype == np.float32 and rows.ndim == 2 and len(rows) == 4, part, "embed gives a row of float32 for each text")
    _hold(bool(np.allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-4)), part, "embeddings have unit length")
    _hold(bool(np.allclose(rows[0], rows[2], atol=1e-4)), part, "equal texts have equal embeddings")


def _check_options(part: object) -> None:
    """A part is its own configuration: what a run is identified by, and a run that goes on is compared with."""
    _hold(is_dataclass(part) and not isinstance(part, type), part, "a part is a dataclass (an instance of one)")
    _hold(type(part).__dataclass_params__.frozen, part, "a part is frozen: @dataclass(frozen=True)")  # type: ignore[attr-defined]
    for field in fields(part):  # type: ignore[arg-type]
        value = getattr(part, field.name)
        said = f"its fields are unchanging values, tuples for lists; {field.name} is {value!r}"
        _hold(not isinstance(value, (list, set)), part, said)


def _hold(holds: bool, part: object, what: str) -> None:
    if not holds:
        raise AssertionError(f"{type(part).__name__}: {what}")


def _difference(came: dict[str, int], went: Sequence[str]) -> str:
    lost, twice = sorted(came.keys() - set(went)), sorted({name for name in went if went.count(name) > 1})
    return f"lost {lost}, twice {twice}, invented {sorted(set(went) - came.keys())}"


@contextmanager
def _opened(model: str) -> Iterator[Session]:
    engine = Scripted()
    with engine.open(engine.check(ModelRef(model), (), "auto"), "auto") as session:
        yield session


@contextmanager
def _open_other(model: str, engine: Engine | None = None) -> Iterator[Context]:
    with _opened(model) as session:
        yield replace(trial_context(), journal=_Unrecorded(session))


@dataclass(frozen=True)
class _Unrecorded:
    """A journal that keeps nothing: each call asks the session."""

    session: Session

    def generate(self, stage: str, requests: Sequence[Request], sampling: Sampling) -> list[tuple[Request, Completion]]:
        fitted = [self.session.fit(request, sampling.max_tokens) for request in requests]
        written = iter(self.session.generate([request for request in fitted if request is not None], sampling))
        return [
            (asked, Completion("", "context")) if request is None else (request, next(written))
            for asked, request in zip(requests, fitted, strict=True)
        ]

    def likelihood(self, stage: str, examples: Sequence[Example], shown: Sequence[Sequence[Example]] = ()) -> list[Likelihood]:
        return self.session.likelihood(examples, shown)

    def continuation(self, stage: str, pairs: Sequence[tuple[str, str]]) -> list[Continuation]:
        return self.session.continuation(pairs)

    def work(self, stage: str, ids: Sequence[str], work: Work, batch: int) -> list[dict[str, Any]]:
        return work(range(len(ids)))
