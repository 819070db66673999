"""What a run is made of, and what the parts of one of its rounds may use of that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from selfalign.loop.copying import Copying
from selfalign.loop.parts import HeldRetriever
from selfalign.loop.vectors import RunVectors, remember
from selfalign.protocols import Context, Encode, Engine, Progress, Session
from selfalign.recipe import Recipe
from selfalign.record.journal import Journal
from selfalign.record.removed import Keep
from selfalign.record.store import Store
from selfalign.types import Example, ModelRef, Pool, in_pool_order


@dataclass(frozen=True)
class Joining:
    """Seeds that join a run on its way (`loop.extend`)."""

    round: int
    """The first round that shows them and trains on them."""
    seeds: tuple[Example, ...]
    recipe: Recipe
    """The run's from that round on: with the token budgets that all its seeds need by then."""


@dataclass(frozen=True)
class Setup:
    """What a run is made of: the same from its first round to its last, but for what joins it (`loop.growth.grown`)."""

    recipe: Recipe
    store: Store
    base: ModelRef
    """The model of round 0."""
    shown: tuple[Example, ...]
    """The seeds to show and train on from the start."""
    validation: tuple[Example, ...]
    """The seeds that choose the round."""
    held_out: tuple[Example, ...]
    asked: tuple[Example, ...]
    """The held-out prompts, and those that evaluators bring."""
    vectors: RunVectors
    progress: Progress
    keep: Keep = "last"
    """Which rounds' weights stay: those of the best one and what further rounds need, or all."""
    later: tuple[Joining, ...] = ()
    """What joins, in the order of the rounds, one for each."""

    def joining(self, round: int) -> tuple[Example, ...]:
        """The seeds that this round is the first to have."""
        return tuple(seed for each in self.later if each.round == round for seed in each.seeds)


@contextmanager
def opened(run: Setup, model: ModelRef, pool: Pool) -> Iterator[Callable[[int], Context]]:
    """Opens a model of the run; the block is given a function from a round, the model's or the next one, to its context."""
    with run.recipe.engine.open(model, run.recipe.format) as session, run.vectors.open(session, pool) as encode:
        if run.recipe.rounds and (runs_in := getattr(session, "runs_in", None)) is not None:
            runs_in(run.store.folder)  # sessions on other machines have to see the models that it will hold
        yield partial(_make_context, run, model, pool, session, encode)


def _make_context(run: Setup, current: ModelRef, pool: Pool, session: Session, encode: Encode, round: int) -> Context:
    recipe, store = run.recipe, run.store
    arrange = in_pool_order if recipe.order == "shared" else tuple
    beside = getattr(session, "beside", recipe.engine.open)  # one whose workers run other models too
    session = Copying(session) if getattr(recipe.eval_retriever, "copies", False) else session
    journal = Journal(store, round, session, run.progress, arrange)

    @contextmanager
    def open_model(model: str, engine: Engine | None = None) -> Iterator[Context]:
        asked, runs = store.model(0) if model == "base" else ModelRef(model), engine or recipe.engine
        other = asked if model == "base" and engine is None else runs.check(asked, (), recipe.format)
        if engine is None and other == current:  # open already; a second copy would take its memory, and time to load
            yield context
            return
        with (beside if engine is None else runs.open)(other, recipe.format) as its_session:
            yield replace(context, journal=replace(journal, session=its_session))

    context = Context(
        round=round,
        seed=recipe.seed,
        pool=pool.single_turns(),
        encode=remember(encode),
        journal=journal,
        open_model=open_model,
        eval_retriever=recipe.eval_retriever and HeldRetriever(recipe.eval_retriever),
        eval_sampling=recipe.eval_sampling,
        # In one order, whichever are held out: what evaluators choose among them shall be the same in all arms of a study.
        seeds=tuple(sorted((*run.shown, *run.validation), key=lambda seed: seed.id)),
    )
    return context
