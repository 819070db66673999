"""Trainers: examples into a new model. What `SFT` minimises is a part of its own: `CrossEntropy`, `DPO`, `Ditto` or
`Distill`."""

from selfalign.trainers._cross_entropy import CrossEntropy
from selfalign.trainers._distill import Distill
from selfalign.trainers._ditto import Ditto
from selfalign.trainers._dpo import DPO
from selfalign.trainers.null import NullTrainer
from selfalign.trainers.sft import SFT

__all__ = ["DPO", "SFT", "CrossEntropy", "Distill", "Ditto", "NullTrainer"]
