"""What people decide about a round's pairs before it is trained on: rows of the record that are only ever added to.

A decision is in the record as soon as it is made, and the last one about a pair counts. The samples themselves change once, in
one transaction, when the run goes on (`finish_review`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Literal, get_args

from selfalign.errors import UserError
from selfalign.record import rows
from selfalign.record.store import Store
from selfalign.text import control_characters, counted, finite, one_line, printable
from selfalign.types import ROLLOUT, Dropped, Example, FilterResult, derive_seed, preferred_to

Verdict = Literal["kept", "rejected", "edited", "undone"]
Rest = Literal["keep", "drop"]
"""What becomes of the pairs that nobody decided on."""
RULE, MARK = "reviewed", "reviewed"
"""The rule that drops what a person rejected, and the key in the metadata of what one kept or edited."""
DECIDED, ENDED = "review", "review_done"
"""Kinds of events: a decision, and that a round's review is done."""
LONGEST = 2**18
"""Characters of an edited answer; of a reason and a name there are `_SHORT`."""
_SHORT = 500


@dataclass(frozen=True)
class Decision:
    """What a person said of a pair; `undone` takes back what was said before."""

    id: str
    verdict: Verdict
    reason: str = ""
    response: str = ""
    """The answer in its new form, of an edited pair."""
    before: str = ""
    """The answer that the model wrote, of an edited pair."""
    by: str = ""
    at: str = ""
    """When it was recorded (UTC)."""


@dataclass(frozen=True)
class Review:
    """A round that waits for people, opened with `open_review`."""

    store: Store
    round: int
    pairs: Mapping[str, Example]
    """By id, in the order of the record; as the model wrote them."""

    def decide(self, decisions: Sequence[Decision], by: str) -> None:
        """Adds rows, all or none. Raises UserError: a pair that is none, or a decision that cannot be; nothing is recorded."""
        by = checked_name(by)
        made = [self.checked(each) for each in decisions]
        with self.store.transaction("decide"):
            for each in made:
                row = {name: value for name, value in asdict(replace(each, by=by)).items() if value and name != "at"}
                self.store.event(DECIDED, {"round": self.round, **row})

    def checked(self, decision: Decision) -> Decision:
        """The decision as it is recorded. Raises UserError: as `decide`; the message names the pair."""
        if (pair := self.pairs.get(decision.id)) is None:
            raise UserError(f"{decision.id[:40]!r} is no pair that round {self.round} waits to have reviewed")
        if decision.verdict not in get_args(Verdict):
            raise UserError(f"{decision.verdict!r} of {pair.id} is none of {', '.join(get_args(Verdict))}")
        reason = one_line(printable(decision.reason))
        if len(reason) > _SHORT:
            raise UserError(f"the reason of {pair.id} has {len(reason)} characters; at most {_SHORT} are kept, so shorten it")
        if decision.verdict == "edited":
            _check_edit(pair, decision.response)
            return Decision(pair.id, "edited", reason, decision.response, pair.response)
        return Decision(pair.id, decision.verdict, reason)

    def decisions(self) -> dict[str, Decision]:
        return decisions(self.store, self.round)

    def close(self, by: str, rest: Rest | None = None) -> None:
        """The review is done: from here on the run can go on.

        Raises:
            UserError: pairs are left that nobody decided on, and nothing says what becomes of them.
        """
        left = len(self.pairs) - len(self.decisions())
        if left and rest is None:
            raise UserError(f"{counted(left, 'pair')} of round {self.round} not decided on: say --rest keep or --rest drop")
        self.store.event(ENDED, {"round": self.round, "rest": rest, "by": checked_name(by)})


@contextmanager
def open_review(folder: str | Path) -> Iterator[Review]:
    """The record of a run that waits for a review, locked for decisions.

    An error inside the block is none of the run: it does not count as failed.

    Raises:
        UserError: no run folder, one of a run that does not wait for a review, or one that another process works on.
    """
    failure: BaseException | None = None
    with Store.read(folder) as store:
        identity = store.identity()
        _waiting_round(store)
    with Store.open(folder, identity) as store:
        try:
            round = _waiting_round(store)  # it may have gone on meanwhile
            yield Review(store, round, {pair.id: pair for pair in store.kept(round)})
        except BaseException as error:
            failure = error
    if failure is not None:
        raise failure


def shown_pairs(review: Review, sample: int | None = None, blind: bool = False) -> list[dict[str, Any]]:
    """The pairs as a person is to see them: {"id", "prompt", "response"}, and what some of them have besides: "category",
    "scores", "system", "history", "preferred" (the answer that this one is rejected for), "fixed" (it cannot be edited).

    Args:
        sample: so many of them, drawn at random, the same ones each time.
        blind: in random order, and without scores or category.

    Raises:
        UserError: a sample of nothing.
    """
    if sample is not None and sample < 1:
        raise UserError(f"--sample {sample}: at least 1 pair is needed; all of them without it")
    pairs = list(review.pairs.values())
    random = Random(derive_seed(int(review.store.identity().get("seed", 0)), review.round, "review"))
    order = random.sample(range(len(pairs)), len(pairs))[: sample or len(pairs)]
    known = {seed.id: seed.response for seed in (*review.store.seeds(), *pairs)}
    return [_shown(pairs[place], blind, known) for place in (order if blind else sorted(order))]


def _shown(pair: Example, blind: bool, known: Mapping[str, str]) -> dict[str, Any]:
    before = {"system": pair.system, "history": [list(turn) for turn in pair.history]}
    told = {} if blind else {"category": pair.category, "scores": {name: finite(value) for name, value in pair.scores.items()}}
    fixed = {"preferred": known.get(preferred_to(pair), ""), "fixed": bool(preferred_to(pair)) or ROLLOUT in pair.metadata}
    extra = {name: value for name, value in {**before, **told, **fixed}.items() if value}
    return {"id": pair.id, "prompt": pair.prompt, "response": pair.response, **extra}


def waiting(store: Store) -> int | None:
    """The round that waits to be reviewed, or whose review is done and does not count yet."""
    if not store.identity().get("review"):
        return None
    query = "SELECT round, data FROM stages f WHERE stage = 'filter' AND NOT EXISTS "
    query += "(SELECT 1 FROM stages r WHERE r.round = f.round AND r.stage = 'review')"
    with store.snapshot() as connection:
        found = [round for round, data in connection.execute(query) if json.loads(data)["kept"]]
    return found[0] if found else None


def is_ready(store: Store, round: int) -> bool:
    """Whether the run can go on: the review is done, and of each pair it is known what becomes of it."""
    said = summary(store, round)
    return bool(said["done"] and (not said["left"] or said["rest"]))


def decisions(store: Store, round: int) -> dict[str, Decision]:
    """By id, the pair that was decided on last at the end; what was undone is left out."""
    found: dict[str, Decision] = {}
    for each in _recorded(store, round):
        found.pop(each.id, None)
        if each.verdict != "undone":
            found[each.id] = each
    return found


def said_of(store: Store, id: str) -> list[Decision]:
    """Everything that was ever decided about a sample, oldest first."""
    return [each for each in _recorded(store) if each.id == id]


def summary(store: Store, round: int) -> dict[str, Any]:
    """What a round's review came to so far: {"pairs", "kept", "rejected", "edited", "left", "done", "rest", "by", "text"}.

    `pairs` passed the filters, `left` of them nobody decided on; `by` are the people, `text` says it in words, without them.
    """
    with store.snapshot():
        found, ends = decisions(store, round), [data for *_, data in store.events(ENDED) if data["round"] == round]
        pairs = int((store.stage(round, "filter") or {"kept": 0})["kept"])
        counts = {name: sum(each.verdict == name for each in found.values()) for name in ("kept", "rejected", "edited")}
        people = dict.fromkeys((*(each.by for each in found.values()), *(data["by"] for data in ends)))
        said = {
            "pairs": pairs,
            **counts,
            "left": pairs - len(found),
            "done": bool(ends),
            "rest": ends[-1]["rest"] if ends else None,
        }
        return {**said, "by": list(people), "text": _in_words(round, said, store.stage(round, "review"))}


def after_review(pairs: Sequence[Example], found: Mapping[str, Decision], rest: Rest | None) -> FilterResult:
    """A round's pairs by what was decided, in the order in which they came; edited ones in their new form.

    A second turn goes with its first turn, a rejected answer with the one preferred to it: it is dropped where that is, and what
    it has of an edited first turn is the edited answer.
    """
    kept: dict[str, Example] = {}
    dropped: list[Dropped] = []
    known = {pair.id for pair in pairs}
    for pair in sorted(pairs, key=lambda pair: pair.slot):  # what follows on another pair stands behind it
        said, leader = found.get(pair.id), _leader(pair, known)
        if leader and leader not in kept:
            dropped.append(Dropped(pair, RULE, f"it follows on {leader}, which was rejected"))
        elif said is not None and said.verdict == "rejected":
            dropped.append(Dropped(pair, RULE, f"rejected: {said.reason}" if said.reason else "rejected"))
        elif said is None and rest == "drop":
            dropped.append(Dropped(pair, RULE, "not decided on, as the rest was to be dropped"))
        else:
            kept[pair.id] = _decided(pair, said, kept.get(leader))
    return FilterResult(tuple(kept[pair.id] for pair in pairs if pair.id in kept), tuple(dropped))


def finish_review(store: Store, round: int, result: FilterResult, seconds: float) -> None:
    """The round's pairs as they are from now on, and the stage `review`, in one transaction."""
    made = int((store.stage(round, "filter") or {})["candidates"])
    with store.transaction("review") as connection:
        rows.rewrite(connection, rows.verdicts(result.kept, result.dropped))
        store.finish_stage(round, "review", {"kept": len(result.kept), "dropped": made - len(result.kept)}, seconds)


def checked_name(name: str) -> str:
    """Raises UserError: nobody's name."""
    if not (name := one_line(printable(name))) or len(name) > _SHORT:
        raise UserError("who reviews? give --by NAME, of one line")
    return name


def _waiting_round(store: Store) -> int:
    if (round := waiting(store)) is not None:
        return round
    if not store.identity().get("review"):
        raise UserError(f"{store.folder} is of a run that waits for nobody: start one with `selfalign run … --review`")
    state = store.state().get("state")
    why = "it is done" if state == "done" else "go on with the same `selfalign run` command, until it stops for the next one"
    raise UserError(f"{store.folder} has no round that waits for a review: {why}")


def _recorded(store: Store, round: int | None = None) -> list[Decision]:
    return [
        Decision(**{name: value for name, value in data.items() if name != "round"}, at=at)
        for at, _, data in store.events(DECIDED)
        if round is None or data["round"] == round
    ]


def _check_edit(pair: Example, response: str) -> None:
    if preferred_to(pair) or ROLLOUT in pair.metadata:
        what = "is to be rejected" if preferred_to(pair) else "is corrected by the teacher"
        raise UserError(f"the answer of {pair.id} {what}, so that an edit would teach nothing: keep or reject it")
    if not response.strip():
        raise UserError(f"the edited answer of {pair.id} is empty: write one, or reject the pair")
    if len(response) > LONGEST:
        raise UserError(f"the edited answer of {pair.id} has {len(response):,} characters; at most {LONGEST:,} are taken")
    if strange := control_characters(response):
        raise UserError(f"the edited answer of {pair.id} has the character U+{ord(strange[0]):04X}: take it out")
    if response == pair.response:
        raise UserError(f"the edited answer of {pair.id} is the one that the model wrote: keep it, or change it")


def _leader(pair: Example, known: set[str]) -> str:
    """The pair of the same round that this one follows on; "" for none."""
    named = [shown.id for shown in pair.prompt_demonstrations] if pair.history else [preferred_to(pair)]
    return next((id for id in named if id in known), "")


def _decided(pair: Example, said: Decision | None, leader: Example | None) -> Example:
    if pair.history and leader is not None:
        pair = replace(pair, history=(*pair.history[:-1], (leader.prompt, leader.response)))
    if said is None:
        return pair
    if said.verdict == "edited":
        pair = replace(pair, response=said.response, response_finish="stop")
    return replace(pair, metadata={**pair.metadata, MARK: said.verdict})


def _in_words(round: int, said: Mapping[str, Any], finished: Mapping[str, Any] | None) -> str:
    counts = ", ".join(f"{said[name]} {name}" for name in ("kept", "rejected", "edited"))
    left = f"{said['left']} not decided on" if said["left"] else ""
    if not said["done"]:
        open_ = f"round {round} waits for its review: {said['pairs'] - said['left']} of {said['pairs']} pairs decided"
        return f"{open_} ({counts})" if said["left"] < said["pairs"] else open_
    left = f"; {left}, {'dropped' if said['rest'] == 'drop' else 'kept as the filters left them'}" if said["left"] else ""
    ended = f"; {finished['kept']} of {said['pairs']} are kept" if finished else ""
    return f"round {round} was reviewed: {counts}{left}{ended}"
