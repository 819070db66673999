"""Proposers: where new prompts come from."""

from selfalign.proposers.contrasted import Contrasted
from selfalign.proposers.few_shot import FewShot
from selfalign.proposers.given import Given, Prompts
from selfalign.proposers.instructions import Instructions
from selfalign.proposers.repeated import Repeated
from selfalign.proposers.replay import Replay
from selfalign.proposers.rivals import Rivals
from selfalign.proposers.self_instruct import SelfInstruct
from selfalign.proposers.task_inputs import TaskInputs
from selfalign.proposers.with_seeds import WithSeeds

__all__ = [
    "Contrasted", "FewShot", "Given", "Instructions", "Prompts", "Repeated", "Replay", "Rivals", "SelfInstruct", "TaskInputs",
    "WithSeeds",
]  # fmt: skip
