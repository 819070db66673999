"""Trainers: examples into a new model."""

from selfalign.trainers.null import NullTrainer
from selfalign.trainers.sft import SFT

__all__ = [
    "SFT",
    "NullTrainer",
]
