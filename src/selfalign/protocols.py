"""What a part must be able to do. Structural: a user's class fits by having the method, nothing to inherit.

Every part is a frozen dataclass whose fields are its options; weights, clients and indexes appear only inside `open`, `train`,
`apply`, `score`, `evaluate`. Batches in, batches out, same order, no concurrency outside an engine.

What a part *must* have is a Protocol here. What it *may* have besides stands in four classes behind them, by the parts that
they are about (`EngineLimits`, `Preflight`, `SeedUse`, `Flags`), each with what holds for a part that leaves it out; the loop
asks by `declared`. A session on a server may be `Served`, a judge `selfalign.proof.calibration.Calibrated`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, Protocol, TypeVar, cast, runtime_checkable

from selfalign.types import (
    GREEDY,
    Completion,
    Continuation,
    Dropped,
    Example,
    FilterResult,
    FloatArray,
    Format,
    Likelihood,
    Metric,
    ModelRef,
    Pool,
    Request,
    Sampling,
)

Encode = Callable[[Sequence[str]], FloatArray]
"""Texts to embeddings, shape (len(texts), dimension), float32, each row of unit length."""


class Session(Protocol):
    """An engine opened on one model. Opening is cheap: weights load at the first call that needs them."""

    def fit(self, request: Request, max_tokens: int) -> Request | None:
        """The request with as many of its demonstrations as fit the model's window with `max_tokens` new tokens.

        Demonstrations go from the last one on; history and prompt are never cut. None where it does not fit even alone.
        """
        ...

    def plan(self, requests: Sequence[Request]) -> list[tuple[int, ...]]:
        """Positions of the requests, cut into batches: a pure function of the requests and the engine's options."""
        ...

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """One completion for each request, in order; the caller passes one planned batch at a time."""
        ...

    def likelihood(self, examples: Sequence[Example], shown: Sequence[Sequence[Example]] = ()) -> list[Likelihood]:
        """Log-likelihood of each example's response (end token included, unless it was cut off: `response_finish`) given its
        history and prompt, behind the demonstrations `shown` for it (none for any where `shown` is empty)."""
        ...

    def continuation(self, pairs: Sequence[tuple[str, str]]) -> list[Continuation]:
        """Log-likelihood of each second text behind the first one, both tokenised as they stand, without template."""
        ...

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """The model's own mean-pooled last hidden states, shape (n, d), rows of unit length."""
        ...

    def render(self, request: Request) -> str:
        """The exact text the model is given, special tokens included, for a sample's lineage."""
        ...


VERIFIED, INDISTINCT = "verified", "indistinguishable"
"""Verdicts of `Served.verify_weights` that let answers pass: the server has the weights, or hardly different ones."""


@runtime_checkable
class Served(Protocol):
    """A session whose model runs on a server, where another one may answer under its name."""

    def verify_weights(
        self, name: str, seeds: Sequence[Example], others: Mapping[str, ModelRef], tell: Callable[[Mapping[str, Any]], None]
    ) -> None:
        """From now on the server must show, before its first answer is taken, that it has the weights of this session's model
        (here called `name`) and not those of the run's `others`, by their names. It shows so on some of the seeds.

        `tell` is given the finding, {"verdict", "text"}. If the verdict is neither VERIFIED nor INDISTINCT, the call that needs
        the first answer raises RunFailed.
        """
        ...


class Engine(Protocol):
    """A way to run models."""

    def check(self, model: ModelRef, seeds: Sequence[Example], format: Format) -> ModelRef:
        """Everything that can be known before weights load; the model ref comes back resolved, with its hash.

        Raises:
            UserError: no such model, no usable template or stop token, a seed longer than the window …
        """
        ...

    def open(self, model: ModelRef, format: Format) -> AbstractContextManager[Session]:
        """On leaving the block all memory of the model is released, before a trainer asks for it."""
        ...


class Encoder(Protocol):
    """Texts to vectors, for retrieval and near-duplicate search."""

    def open(self, session: Session) -> AbstractContextManager[Encode]:
        """Loads at the first call. `session` serves encoders that use the model itself."""
        ...


class Progress(Protocol):
    """What a part reports to the person who waits; it may also have `say(text)`, for a line between the stages."""

    def start(self, stage: str, total: int, done: int = 0) -> None: ...
    def advance(self, count: int = 1, note: str = "") -> None: ...
    def finish(self) -> None: ...


Work = Callable[[Sequence[int]], list[dict[str, Any]]]
"""Positions to rows of plain data (as JSON knows it)."""


class Journal(Protocol):
    """A session's work, and other work, through the run's record: batches already committed are read back, not repeated.

    `stage` names the work in the record: other work of the same round needs another name.
    """

    @property
    def session(self) -> Session: ...

    def generate(self, stage: str, requests: Sequence[Request], sampling: Sampling) -> list[tuple[Request, Completion]]:
        """`Session.generate`: each request as it was really sent (see `Session.fit`) with its completion."""
        ...

    def likelihood(self, stage: str, examples: Sequence[Example], shown: Sequence[Sequence[Example]] = ()) -> list[Likelihood]:
        """`Session.likelihood`."""

    def continuation(self, stage: str, pairs: Sequence[tuple[str, str]]) -> list[Continuation]:
        """`Session.continuation`."""

    def work(self, stage: str, ids: Sequence[str], work: Work, batch: int) -> list[dict[str, Any]]:
        """Work without a session, such as a classifier's: a row for each id, in order. `work` makes `batch` of them at once."""
        ...


class OpenModel(Protocol):
    """Opens another model, a judge or a teacher, through an engine of its own or (None) the recipe's."""

    def __call__(self, model: str, engine: Engine | None = None) -> AbstractContextManager[Context]:
        """The same context with session and journal of `model`: a folder, a name on the hub, or `base` for the run's own start.
        The journal knows work by the stage's name: give its stages names of their own."""
        ...


@dataclass(frozen=True)
class Context:
    """What a part may use beyond its own options; `round` is the round being made (0: the base model)."""

    round: int
    seed: int
    """The run's random seed; draw with `derive_seed(context.seed, context.round, stage, slot)`."""
    pool: Pool
    """Single turns alone (`Pool.single_turns`), but for the filters of second turns, which compare with those too."""
    encode: Encode
    journal: Journal
    open_model: OpenModel
    eval_retriever: Retriever | None = None
    """Chooses the demonstrations that held-out prompts are answered with (in-context baselines); None: the model alone."""
    eval_sampling: Sampling = GREEDY
    """How held-out prompts are answered, for evaluators that have no sampling of their own."""
    seeds: tuple[Example, ...] = ()
    """All of them, whichever are held out for validation: what evaluators learn from, so that all arms are measured alike."""

    @property
    def all_seeds(self) -> tuple[Example, ...]:
        return self.seeds or self.pool.seeds

    @property
    def session(self) -> Session:
        """The engine's session on the model, for what leaves no trace in the record."""
        return self.journal.session

    def generate(self, stage: str, requests: Sequence[Request], sampling: Sampling) -> list[tuple[Request, Completion]]:
        """See `Journal.generate`."""
        return self.journal.generate(stage, requests, sampling)

    def likelihood(self, stage: str, examples: Sequence[Example], shown: Sequence[Sequence[Example]] = ()) -> list[Likelihood]:
        """See `Journal.likelihood`."""
        return self.journal.likelihood(stage, examples, shown)

    def continuation(self, stage: str, pairs: Sequence[tuple[str, str]]) -> list[Continuation]:
        """See `Journal.continuation`."""
        return self.journal.continuation(stage, pairs)


class Proposer(Protocol):
    """Makes new prompts."""

    def propose(self, context: Context, count: int) -> list[Example]:
        """`count` drafts, slots 0 … count-1, their demonstrations noted.

        A draft with an empty prompt is dropped (`empty_prompt`, with `problem` of its metadata as evidence); one that has a
        response already is not answered again. Where one request stands for several drafts, it has the first one's id, and
        the metadata `request` of all of them names it.
        """
        ...


class Retriever(Protocol):
    """Chooses the demonstrations for an answer."""

    def retrieve(self, context: Context, drafts: Sequence[Example]) -> list[tuple[tuple[Example, float | None], ...]]:
        """For each draft the examples to show, first to last, each with its cosine similarity (None if drawn at random)."""
        ...


class Scorer(Protocol):
    """Gives each example a number by name (`dataclasses.replace(example, scores={…})`)."""

    def score(self, context: Context, examples: Sequence[Example]) -> list[Example]: ...


class Filter(Protocol):
    """Decides which examples stay. Kept and dropped together are the input, in order; every drop names rule and evidence."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult: ...


class Evaluator(Protocol):
    """Figures about the model of the context's round on held-out examples."""

    def evaluate(self, context: Context, held_out: Sequence[Example]) -> list[Metric]:
        """Empty where the examples do not carry what this evaluator needs."""
        ...


@dataclass(frozen=True)
class TrainJob:
    """One training of one round."""

    round: int
    start: ModelRef
    seeds: tuple[Example, ...]
    """D0, the seeds to train on."""
    generated: tuple[Example, ...]
    """What was generated and kept: D_k, or D_1 … D_k with train_on=all; behind it the replay rows (`Recipe.replay`)."""
    seed_weight: float | None
    """γ in L = γ·mean(D0) + (1-γ)·mean(generated), means over response tokens; None concatenates (every token counts 1)."""
    format: Format
    seed: int
    learning_rate_scale: float
    """Multiplies the trainer's learning rate (ISARA halves it each round)."""
    work: Path
    """A folder of the trainer's own for checkpoints; a killed training goes on from the newest one that verifies."""
    out: Path
    """The folder to write the finished model to; does not exist yet, and must be complete when `train` returns."""
    steps: int = 0
    """Where > 0 the number of optimiser steps, whatever the trainer's own options say."""
    base: ModelRef | None = None
    """The model that the run started from; None where that is `start`."""
    first: ModelRef | None = None
    """The model of round 1; None in that round."""
    shown: tuple[Example, ...] = ()
    """The examples that `generated` name as demonstrations of their responses."""


@dataclass(frozen=True)
class TrainResult:
    """What came of it. Rows in = rows trained + rows dropped, else the loop stops the run."""

    model: ModelRef
    trained: tuple[str, ...]
    """Ids of the examples trained on."""
    dropped: tuple[Dropped, ...]
    """Examples the tokeniser left without labels or too long for the window, by rule."""
    steps: int
    tokens: int
    """Response tokens with a label, over all epochs."""
    seed_weight: float
    """The γ in effect: the share of the loss that came from the seeds."""
    losses: tuple[float, ...]
    """Mean training loss of each optimiser step."""


class Trainer(Protocol):
    """Turns examples into a new model, in a process of its own."""

    def train(self, job: TrainJob, progress: Progress) -> TrainResult:
        """Raises RunFailed: loss or gradient not finite, out of memory, the child died …; with the reason."""
        ...


Trained = Literal["weights", "adapter"]
"""What a trainer makes of a model: other weights, or an adapter on those that are there."""


class EngineLimits:
    """What an engine may have to refuse what it cannot do. Called before anything loads; each raises UserError."""

    def check_models(self, trained: Trained | None, others: Sequence[str]) -> None:
        """Raises for a model that it could not run: a server serves what it was made to serve.

        Args:
            trained: what the trained models are that it will be asked to run; None for none, or where the trainer does not say.
            others: the models to be open besides that of the round, by `Preflight.other_model`.
        """

    def check_sampling(self, sampling: Sampling) -> None:
        """Called with every sampling of the run; raises for one that the engine does not offer."""

    def token_lengths(self, model: ModelRef, texts: Sequence[str]) -> list[int]:
        """Tokens of each text for the model, its end included; half its bytes, rather too many, where the engine cannot count."""
        return [len(text.encode()) // 2 + 1 for text in texts]


class Preflight:
    """What an evaluator, a scorer or a trainer may have; of it, a filter or a proposer only the checks. Loads nothing."""

    other_model: str = ""
    """The model it asks instead of that of the round, as `Context.open_model` takes it; "" where it asks none."""
    engine: Engine | None = None
    """What runs that model; None: the recipe's engine."""
    other_sampling: Sampling | None = None
    """How that model writes; None where it writes nothing."""

    def check(self) -> str:
        """What the figures depend on besides the options (a file, a model), as a hash: another one is another run.

        Raises:
            UserError: what would fail at the first evaluation.
        """
        return ""

    def metric_names(self, held_out: Sequence[Example]) -> Sequence[str] | None:
        """All metrics that `evaluate` may give on these examples; `*` stands for any text. None where that is not known."""
        return None

    def prompts(self, seeds: Sequence[Example]) -> Sequence[Example]:
        """The prompts that an evaluator brings where these are the seeds, with or for held-out ones: not to be trained on."""
        return ()

    def check_examples(self, seeds: Sequence[Example], held_out: Sequence[Example]) -> None:
        """Raises UserError: examples that it cannot work with."""

    def preflight(self, seeds: Sequence[Example], held_out: Sequence[Example]) -> str:
        """Why it gives no figures on these examples, or what a reader must know of them; "" for nothing."""
        return ""


class SeedUse:
    """What a proposer or a retriever may have, to say what it would make of given seeds. Called before anything loads."""

    def aims(self, seeds: Sequence[Example], count: int) -> list[str]:
        """The category of each of `count` drafts, "" for none."""
        return [""] * count

    def shown(self, seeds: Sequence[Example], categories: Collection[str]) -> tuple[int, int]:
        """(examples it is asked to show, examples it shows where only the seeds are there), for the one of the `categories` with
        the fewest. "" among them stands for drafts without a category."""
        return 0, 0


class Flags:
    """Plain attributes that a part may have, as a field or a `ClassVar`."""

    pretends: bool = False
    """Of a trainer: its folders are no models. Of an engine: it runs them all the same."""
    lora_rank: int | None = None
    """Of a trainer: the rank of the LoRA adapter that it trains, 0 where it trains all weights; None where it does not say."""
    preferences: bool = False
    """Of a proposer: it makes answers to be rejected (`types.preferred_to`). Of a trainer: it learns from such pairs alone."""
    references: bool = False
    """Of a scorer: it compares with a response that is known, a seed's or that of a given prompt (metadata `reference`)."""
    distils: bool = False
    """Of a trainer: it learns what a teacher that is shown demonstrations makes of answers that were given without them."""
    warms_up: bool = False
    """Of a trainer: round 1 learns from the seeds alone, so that nothing is generated for it."""
    fixed: bool = False
    """Of an encoder: its vectors do not depend on the session's model, and so hold for the whole run."""


May = TypeVar("May", EngineLimits, Preflight, SeedUse, Flags)


def declared(part: object, may: type[May]) -> May:
    """The part as one of the four classes above: its own methods and attributes, and the class's for those it leaves out."""
    found = {name: getattr(part, name, getattr(may(), name)) for name in vars(may) if not name.startswith("_")}
    return cast(May, SimpleNamespace(**found))
