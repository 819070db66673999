"""Encoders: texts to vectors, for retrieval and near-duplicates."""

from selfalign.encoders.hashed import Hashed
from selfalign.encoders.hidden_state import HiddenState
from selfalign.encoders.sentence import SentenceEncoder

__all__ = ["Hashed", "HiddenState", "SentenceEncoder"]
