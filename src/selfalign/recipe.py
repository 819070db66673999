"""A recipe: which part fills which slot of the one loop, and the few numbers the loop itself needs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from selfalign.encoders import SentenceEncoder
from selfalign.engines import HF
from selfalign.errors import UserError
from selfalign.evaluators import HeldOut, Refusal
from selfalign.proof.alarms import DEFAULT, Alarms
from selfalign.proposers import FewShot, Given, Prompts, Repeated, Replay
from selfalign.proposers._drafts import written
from selfalign.protocols import (
    Context,
    Encoder,
    Engine,
    EngineLimits,
    Evaluator,
    Filter,
    Flags,
    Preflight,
    Proposer,
    Retriever,
    Scorer,
    Trained,
    Trainer,
    declared,
)
from selfalign.retrievers import Knn
from selfalign.trainers import SFT
from selfalign.types import LATER, Demonstration, Example, Format, Request, Sampling, derive_seed

StartFrom = Literal["previous", "base"]
TrainOn = Literal["latest", "all"]
RollBack = Literal["worse", "no_better"]
Evaluate = Literal["every", "shipped"]
Order = Literal["chosen", "shared"]
ShownTo = Literal["answer", "teacher"]
FILTERS = ("prompt_filters", "pair_filters", "filters")  # the slots that hold them, in the order in which they are applied


@dataclass(frozen=True)
class SecondTurns:
    """Extends a share of a round's kept pairs by a second turn; each is a candidate of its own, `<id of the first>.2`.

    I-SHEEP trains on single turns alone, and its second turn on MT-Bench falls from 7.6 to 3.5 (arXiv 2408.08072). The user's
    message is written as in Magpie (2406.08464): the user's turn is opened and left to the model. The answer is made and
    filtered as first ones are. Only what was kept is extended: a follow-up to a bad answer is a bad one (our own choice).
    """

    share: float = 0.0
    """Of a round's kept pairs, drawn at random; 0 extends none."""
    sampling: Sampling = field(default_factory=lambda: Sampling(max_tokens=0, temperature=0.8))
    """How the user's messages are decoded."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"SecondTurns: share = {self.share} is out of range: between 0 and 1")

    def propose(self, context: Context, kept: Sequence[Example], first_slot: int) -> list[Example]:
        """A draft for each pair drawn, in order, slots from `first_slot` on: no category, the first turn for a demonstration."""
        random = np.random.default_rng(derive_seed(context.seed, context.round, "second_turns"))
        drawn = sorted(random.permutation(len(kept))[: round(self.share * len(kept))].tolist())
        requests = [
            Request(
                id=f"{first.id}.2",
                history=(*first.history, (first.prompt, first.response)),
                system=first.system,
                seed=derive_seed(context.seed, context.round, "second_turns", first.slot),
            )
            for first in (kept[place] for place in drawn)
        ]
        answers = context.generate("propose_second_turn", requests, self.sampling)
        return [
            written(context, slot, *answer, prompt_demonstrations=(Demonstration(kept[place].id),))
            for slot, (place, answer) in enumerate(zip(drawn, answers, strict=True), first_slot)
        ]


NONE = SecondTurns()


@dataclass(frozen=True)
class Recipe:
    """The slots of the one loop, and the few numbers the loop itself needs. A function that returns one is a recipe; see
    `recipes/isara.py`. Fields with a text below them are options of every recipe on the command line."""

    name: str
    engine: Engine = HF()
    """what runs the model"""
    encoder: Encoder = SentenceEncoder()
    """what embeds texts for retrieval, near-duplicates and diversity; HiddenState needs no second model"""
    proposer: Proposer = FewShot()
    retriever: Retriever = Knn()
    sampling: Sampling = Sampling(max_tokens=0)
    """how responses are decoded; max_tokens 0 takes what the seeds need"""
    trainer: Trainer = SFT(full_rate=5e-5, epochs=3)
    """what trains"""
    shown_to: ShownTo = "answer"
    # Who sees the demonstrations: the model that answers, or only the teacher of a distillation, whose student answers without.
    eval_retriever: Retriever | None = None
    # Chooses demonstrations for held-out prompts too: in-context baselines. None evaluates the model alone.
    order: Order = "chosen"
    """how demonstrations stand in a prompt: chosen (as the method draws them) or shared, in one order for all prompts, seeds
    first, so that an engine with a prefix cache computes what prompts begin with in common once (our own addition)"""
    prompt_filters: tuple[Filter, ...] = ()
    # Applied before responses are generated, so that no answer is paid for a prompt that goes anyway.
    scorers: tuple[Scorer, ...] = ()
    pair_filters: tuple[Filter, ...] = ()
    # Applied to finished pairs before they are scored, so that no score is paid for a pair that goes anyway.
    filters: tuple[Filter, ...] = ()
    second_turns: SecondTurns = NONE
    """share of a round's kept pairs that the model goes on with, as both sides; filtered and trained as whole conversations"""
    evaluators: tuple[Evaluator, ...] = (Refusal(), HeldOut())
    eval_sampling: Sampling = Sampling(max_tokens=0, temperature=0.0)
    """how models answer held-out prompts, for evaluators that have no sampling of their own"""
    evaluate: Evaluate = "every"
    """models to measure: every round's, or the base model and the one to be shipped (no round is chosen by these figures)"""
    rounds: int = 2
    """K, rounds of generation and training at most"""
    per_round: int = 256
    """N, candidates per round; 0 trains on the seeds alone"""
    steps: tuple[int, ...] = ()
    """optimiser steps of each round, such as [24,30], to train as long as another run did; empty leaves them to the trainer"""
    min_yield: float = 0.1
    """α, stop when a round keeps fewer than min_yield·per_round, before it trains"""
    seed_weight: float | None = None
    """γ in L = γ·mean(D0) + (1-γ)·mean(D_k); null concatenates the two, and the γ in effect is reported"""
    start_from: StartFrom = "previous"
    """train each round from the previous round's model or from the base model"""
    train_on: TrainOn = "latest"
    """train on the newest round's pairs or on those of all rounds (the seeds always)"""
    train_seeds: bool | Literal["first", "last"] = True
    """train on the seeds too; false: on generated pairs only; first: round 1 on the seeds only; last: the last on them only"""
    replay: Replay | None = field(default=None, metadata=LATER)
    # General prompts with the base model's own answers, among what every round trains on: against forgetting.
    review: bool = field(default=False, metadata=LATER)
    # A person goes through what each round kept, before it is trained on (`record.review`); until then the run waits.
    learning_rate_decay: float = 1.0
    """round k trains with the trainer's learning rate times learning_rate_decay^(k-1)"""
    validation_share: float = 0.0
    """share of the seeds held out to choose the round: never shown, never trained on; 0 keeps the last round"""
    roll_back: RollBack = "worse"
    """which round is rolled back and ends the run: one that a paired test on the validation seeds calls worse than the best one,
    or one whose mean is no better; one no better than the base model always is"""
    aim_over_refusal: float | None = field(default=None, metadata=LATER)
    """the most over-refusal wanted on the validation seeds: back from the best round, the first point with no more is shipped"""
    alarms: Alarms = DEFAULT
    """when answers that grow shorter or prompts that grow alike warn or stop, threshold by threshold (null: none)"""
    ignore_calibration: bool = False
    """filter by a judge that cannot tell the seeds from spoiled versions of them, instead of stopping"""
    ignore_seed_rules: bool = False
    """go on where a filter would drop more than a tenth of the seeds themselves, instead of stopping"""
    allow_overlap: bool = False
    """train on rows that ask the same as a held-out prompt, instead of stopping"""
    allow_other_versions: bool = False
    """go on with a run under other versions of selfalign, torch or transformers, or other files of your own parts, instead of
    stopping: what is written then is not what one run would have written"""
    format: Format = "auto"
    """the model's chat template, plain markers, or (auto) the template where there is one"""
    template_args: Mapping[str, Any] = field(default_factory=dict)
    """arguments for the chat template, such as '{"enable_thinking": true}'; thinking is off by default, where the template can"""
    keep_thinking: bool = False
    """keep what a model thinks before its answer (<think>…</think>) as part of the answer, instead of leaving it out"""
    seed: int = 0
    """the random seed of the run"""

    def check(self) -> None:
        """
        Raises:
            UserError: a number out of range, an engine that cannot run the models or decode so, a package missing. Nothing loads.
        """
        extended, generated, trainer = self.second_turns.share, self.rounds * self.per_round, declared(self.trainer, Flags)
        answers = self.shown_to == "answer" and not declared(self.proposer, Flags).preferences
        steps = len(self.steps) == self.rounds and min(self.steps, default=0) >= 1
        begins = not self.rounds or self.learns_seeds(1) or self.candidates(1) > 0
        paired = not (generated and declared(self.proposer, Flags).preferences) or self.train_seeds in self._seed_choices()
        stays = self.start_from != "base" or self.train_seeds != "last" or self.rounds < 2
        for name, value, ok, must in (
            ("rounds", self.rounds, self.rounds >= 0, "at least 0"),
            ("rounds", self.rounds, self.rounds != 1 or self.candidates(1) or not generated, "at least 2: round 1 is the seeds'"),
            ("per_round", self.per_round, self.per_round >= 0, "at least 0"),
            ("start_from", self.start_from, self.start_from != "base" or not trainer.warms_up, "previous: round 1 is a warm-up"),
            ("min_yield", self.min_yield, 0 <= self.min_yield <= 1, "between 0 and 1"),
            ("seed_weight", self.seed_weight, self.seed_weight is None or 0 <= self.seed_weight <= 1, "between 0 and 1, or null"),
            ("learning_rate_decay", self.learning_rate_decay, 0 < self.learning_rate_decay <= 1, "above 0 and at most 1"),
            ("validation_share", self.validation_share, 0 <= self.validation_share <= 0.5, "between 0 and 0.5"),
            ("roll_back", self.roll_back, self.roll_back in get_args(RollBack), "worse or no_better"),
            ("evaluate", self.evaluate, self.evaluate in get_args(Evaluate), "every or shipped"),
            ("order", self.order, self.order in get_args(Order), "chosen or shared"),
            ("steps", list(self.steps), not self.steps or steps, "one number of at least 1 for each round"),
            ("train_seeds", self.train_seeds, begins, "true where nothing is generated for round 1"),
            ("train_seeds", self.train_seeds, paired, "true: the seeds' answers are the better ones of the pairs"),
            ("start_from", self.start_from, stays, "previous: the last round alone would be left (train_seeds = last)"),
            ("replay", self.replay and self.replay.count, not self.replay or self._replays(), "0: it learns no single answer"),
            ("review", self.review, not self.review or generated > 0, "false where nothing is generated"),
            ("second_turns.share", extended, not extended or generated > 0, "0 where nothing is generated"),
            ("second_turns.share", extended, not extended or answers, "0 where answers are to be taught or rejected"),
            ("second_turns.share", extended, extended > 0 or self.second_turns == NONE, "above 0 for its sampling to matter"),
            ("seed", self.seed, 0 <= self.seed < 2**63, "between 0 and 2^63"),
        ):
            if not ok:
                raise UserError(f"recipe {self.name}: {name} = {value}, must be {must}")
        self._check_answers()
        declared(self.engine, EngineLimits).check_models(self._trained_models(), self._other_models())
        decoding = [(name, self.engine, sampling) for name, sampling in self.samplings()]
        for name, engine, _, sampling in self.own_engines():
            declared(engine, EngineLimits).check_models(None, ())
            decoding += [(f"{name}.engine", engine, sampling)] if sampling is not None else []
        for name, engine, sampling in decoding:
            try:
                declared(engine, EngineLimits).check_sampling(sampling)
            except UserError as error:
                raise UserError(f"recipe {self.name}, {name}: {error}") from error
        if self.rounds:
            declared(self.trainer, Preflight).check()

    def _check_answers(self) -> None:
        """Raises UserError: a loss that would imitate answers made to be rejected or taught, or cannot learn from those made."""
        trainer = declared(self.trainer, Flags)
        if not self.rounds or trainer.pretends:
            return
        makes = (declared(self.proposer, Flags).preferences, self.shown_to == "teacher") if self.per_round else (False, False)
        if makes == (learns := (trainer.preferences, trainer.distils)):
            return
        if any(makes):
            what = f"{type(self.proposer).__name__} makes answers to be rejected" if makes[0] else "its answers are to be taught"
            loss = "a preference loss (trainer.loss = DPO)" if makes[0] else "trainer.loss = Distill"
            raise UserError(f"recipe {self.name}: {what}, and this trainer would imitate them; give it {loss}")
        what = "pairs of a preferred and a rejected answer, and this recipe makes none; use the recipe dpo, ditto or contrast"
        what = what if learns[0] else "a teacher, and this recipe shows demonstrations to none; use the recipe self_distill"
        raise UserError(f"recipe {self.name}: trainer.loss is one that learns from {what}, or trainer.loss = CrossEntropy")

    def with_prompts(self, prompts: Sequence[Example], share: float = 1.0, notes: Sequence[str] = ()) -> Recipe:
        """The recipe fed with prompts of the user's own, instead of new ones or beside them; see `proposers.Given`.

        Args:
            prompts: their responses count for nothing, but for a scorer that compares with them (`Flags.references`).
            share: of a round's candidates, how many have a given prompt.
            notes: what the record shall say of them.

        Raises:
            UserError: the recipe asks the seeds' prompts alone, or needs responses that some of the prompts have not.
        """
        if not self.rounds * self.per_round:
            raise UserError(f"recipe {self.name} generates nothing: given prompts (--prompts) would change nothing")
        if declared(self.proposer, Flags).preferences and not hasattr(self.proposer, "oppose"):
            raise UserError(f"recipe {self.name} makes answers to be rejected: it takes no given prompts (--prompts)")
        bare = [prompt for prompt in prompts if not prompt.response.strip()]
        if bare and any(declared(scorer, Flags).references for scorer in self.scorers):
            what = f"compares answers with known ones, and given prompt {bare[0].id} has no response ({len(bare)} such prompts)"
            raise UserError(f"recipe {self.name} {what}; give each of --prompts one, or take another reward")
        return replace(self, proposer=self._fed(Prompts(tuple(prompts), tuple(notes)), share))

    def with_replay(self, count: int, prompts: Sequence[Example] = (), notes: Sequence[str] = ()) -> Recipe:
        """The recipe with so many of these prompts (none: of our own) replayed; see `proposers.Replay`, and `with_prompts`."""
        return replace(self, replay=Replay(count, Prompts(tuple(prompts), tuple(notes))) if prompts else Replay(count))

    @property
    def prompt_notes(self) -> tuple[str, ...]:
        """What was done with given prompts and those to be replayed when they were read."""
        return tuple(note for part in (self.given, self.replay) if part for note in part.prompts.notes)

    def fed_as(self, other: Recipe) -> Recipe:
        """The recipe with the given prompts and the replay of another one, as far as it takes any: to be compared with it."""
        new = hasattr(self.proposer, "oppose") or not declared(self.proposer, Flags).preferences
        takes = self.rounds * self.per_round and new and not self.given
        proposer = self._fed(other.given.prompts, other.given.share) if takes and other.given else self.proposer
        return replace(self, proposer=proposer, replay=other.replay if self._replays() else None)

    def _fed(self, prompts: Prompts, share: float) -> Given:
        samples = self.proposer.samples if isinstance(self.proposer, Repeated) else 1
        return Given(self.proposer, prompts, share, samples, from_round=1 + self._begins_with_seeds())

    def _seed_choices(self) -> tuple[bool | str, ...]:
        """The values of `train_seeds` with which every round has pairs, where a preference is learned."""
        alone = getattr(self.proposer, "oppose", None) is not None  # other answers than the seeds' are preferred too
        return True, ("first" if declared(self.trainer, Flags).warms_up else not alone)

    def _begins_with_seeds(self) -> bool:
        return self.train_seeds == "first" or declared(self.trainer, Flags).warms_up

    def _replays(self) -> bool:
        """Whether a round trains a model on single answers: to write them, or to keep what it would have written in them."""
        pairs = self.per_round > 0 and declared(self.proposer, Flags).preferences
        return self.rounds > 0 and self.trains and not pairs and not declared(self.trainer, Flags).preferences

    @property
    def given(self) -> Given | None:
        return self.proposer if isinstance(self.proposer, Given) else None

    def candidates(self, round: int) -> int:
        """How many a round has, second turns aside: 0 where the trainer begins with the seeds, fewer where given prompts end."""
        if round <= self._begins_with_seeds() or round >= self.seeds_round:
            return 0
        return self.per_round if self.given is None else sum(self.given.split(round, self.per_round))

    def learns_seeds(self, round: int) -> bool:
        return round == self.seeds_round if self.train_seeds == "last" else bool(self.train_seeds)

    @property
    def seeds_round(self) -> float:
        """Which one ends the run with the seeds alone: the last, or where given prompts end before it the first without any."""
        ends = self.given.ends(self.rounds, self.per_round) if self.given else self.rounds
        return ends if self.train_seeds == "last" else math.inf

    @property
    def trains(self) -> bool:
        """Whether a round ends with another model; not with a trainer that only pretends and an engine that needs real ones."""
        return not declared(self.trainer, Flags).pretends or declared(self.engine, Flags).pretends

    def named_filters(self) -> Iterator[tuple[str, Any]]:
        """(name as an option, filter): slot and class, `filters.length`; a second one of a class is `filters.length_2`."""
        for slot in FILTERS:
            met: dict[str, int] = {}
            for part in getattr(self, slot):
                name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(part).__name__).lower()
                met[name] = met.get(name, 0) + 1
                yield f"{slot}.{name}" + (f"_{met[name]}" if met[name] > 1 else ""), part

    def samplings(self) -> Iterator[tuple[str, Sampling]]:
        """How the run decodes, each with its place in the recipe; what makes and scores candidates counts where some are made."""
        idle = () if self.rounds * self.per_round else ("proposer", "sampling", "scorers", "second_turns")
        for slot in fields(self):
            if slot.name not in idle:
                yield from _samplings(slot.name, getattr(self, slot.name))

    def _trained_models(self) -> Trained | None:
        """Of what kind the trained models are that the engine is asked to run; the last round's only for their figures."""
        generating = self.rounds > 1 and self.per_round > 0
        measuring = self.rounds > 0 and (self.validation_share > 0 or bool(self.evaluators))
        rank = declared(self.trainer, Flags).lora_rank if generating or measuring else None
        return None if rank is None else "adapter" if rank else "weights"

    def own_engines(self) -> list[tuple[str, Engine, str, Sampling | None]]:
        """(part, engine, model, how it writes) of each part that has another model run by an engine of its own."""
        asks = [(type(part).__name__, declared(part, Preflight)) for part, _ in self._asking()]
        return [(name, one.engine, one.other_model, one.other_sampling) for name, one in asks if one.engine and one.other_model]

    def _other_models(self) -> list[str]:
        """The models that this engine runs for parts besides that of a round; `base` is itself the first that a part meets."""
        asks = [(declared(part, Preflight), models) for part, models in self._asking()]
        named = [(one.other_model, models) for one, models in asks if one.engine is None]
        return [name for name, models in named if name and models > (name == "base")]

    def _asking(self) -> list[tuple[object, int]]:
        """The parts that may ask another model, each with the number of the run's models that it meets."""
        made = self.rounds if self.per_round else 0
        met = [*((part, made) for part in self.scorers), *((part, self.rounds + 1) for part in self.evaluators)]
        return [(part, models) for part, models in met if models]

    def identity(self) -> dict[str, Any]:
        """All options as plain data with the class of every part: what must be equal to go on with a run. Fields that count in no
        comparison (`compare=False`) are left out, and younger ones (`types.LATER`) that are not set.

        Raises:
            UserError: an evaluator, a scorer or a filter that could not work.
        """
        plain: dict[str, Any] = _plain(self)
        for slot in ("evaluators", "scorers", *FILTERS):
            for part, options in zip(getattr(self, slot), plain[slot], strict=True):
                if content := declared(part, Preflight).check():
                    options["content"] = content
        return plain


def _samplings(name: str, part: Any) -> Iterator[tuple[str, Sampling]]:
    if isinstance(part, Sampling):
        yield name, part
    elif isinstance(part, tuple):
        for each in part:
            yield from _samplings(f"{name}.{type(each).__name__}", each)
    elif is_dataclass(part) and not isinstance(part, type):
        asks = declared(part, Preflight)
        for each in (each for each in fields(part) if each.compare):
            value = getattr(part, each.name)
            if asks.engine is None or value is not asks.other_sampling:  # else how a model writes on that engine
                yield from _samplings(f"{name}.{each.name}", value)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        unset = [each for each in fields(value) if each.metadata.get("later") and getattr(value, each.name) == each.default]
        named = [each.name for each in fields(value) if each.compare and each not in unset]
        options = {name: _plain(getattr(value, name)) for name in named}
        return {"part": f"{type(value).__module__}.{type(value).__qualname__}", **options}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return f"{type(value).__module__}.{getattr(value, '__qualname__', type(value).__qualname__)}"
