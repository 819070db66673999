"""A reward model: a number for each pair from a Hugging Face sequence classifier with one output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from selfalign.errors import refuse
from selfalign.models.classifier import rendering_fits, reward_model
from selfalign.models.layouts import fold
from selfalign.proof.calibration import Calibration, calibrate
from selfalign.protocols import Context
from selfalign.scorers._model import fingerprint, scored, stage
from selfalign.types import Example, is_score_name

_BATCHES = 8
"""Batches of the reward model that are committed together: of so many, pairs of like length are read together."""


@dataclass(frozen=True)
class Reward:
    """The output of a reward model for each prompt with its response, as it stands: its scale and its zero are the model's own.

    A system prompt is shown as the first paragraph of the prompt, for many reward models have no other place for one.

    Loaded next to the model being aligned for each round and dropped again (safetensors, no code of its own). Like a judge it
    is calibrated on the seeds before anything is filtered by it, once, as it never changes; unlike one it is shown everything.
    """

    model: str
    """A folder or a name on the hub."""
    rendering: str = ""
    """What it reads, with {prompt}, {response} and, at the very end, {eos}; "" is its chat template, or where it has none its
    tokenizer's own form for two texts."""
    batch_size: int = 8
    """Pairs read at once."""
    max_length: int = 0
    """Tokens it reads at most; 0: its window. Nothing is cut: a longer pair gets no score."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    name: str = ""
    """Of the score; "" is `reward`."""

    def __post_init__(self) -> None:
        if self.model in ("", "base", "current"):  # a judge's words: none of them is a reward model
            remedy = "give a folder or a hub name of a sequence classifier"
            raise ValueError(f"Reward: model = {self.model!r} is out of range; {remedy}")
        refuse(
            self,
            rendering=not rendering_fits(self.rendering),
            batch_size=self.batch_size < 1,
            max_length=self.max_length < 0,
            name=self.name != "" and not is_score_name(self.name),
        )

    @property
    def score_name(self) -> str:
        return self.name or "reward"

    def check(self) -> str:
        """The hash of the model asked, where it is one of its own. Raises UserError where there is no such model."""
        return fingerprint(self.model)

    def score(self, context: Context, examples: Sequence[Example]) -> list[Example]:
        """Adds the score, or the reason why there is none: a pair longer than the window, or with a turn's mark inside.

        Raises:
            UserError: the model cannot be loaded, has no trained head, or has more than one output.
            RunFailed: not enough memory for it, or it gives something that is no number.
        """
        pairs = [(fold(example.system, example.full_prompt), example.response) for example in examples]
        about = self.rendering, self.batch_size, self.max_length, self.device
        with reward_model(self.model, "Reward.model", *about) as read:

            def rows(places: Sequence[int]) -> list[dict[str, Any]]:
                return [{"reward": value} for value in read([pairs[i] for i in places])]

            key, ids = stage(self.score_name, self, pairs), [example.id for example in examples]
            found = [row["reward"] for row in context.journal.work(key, ids, rows, _BATCHES * self.batch_size)]
        return scored(examples, self.score_name, found)

    def calibrate(self, context: Context, seeds: Sequence[Example]) -> Calibration | None:
        """See `calibration.calibrate`; None after round 1. Without a scale, as no two reward models share one."""
        return calibrate(self, context, seeds) if context.round == 1 else None
