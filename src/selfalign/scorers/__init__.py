"""Scorers: a number for each example."""

from selfalign.scorers.agreement import Agreement
from selfalign.scorers.density import Density
from selfalign.scorers.exact_answer import ExactAnswer
from selfalign.scorers.judge import Judge
from selfalign.scorers.perplexity import Perplexity
from selfalign.scorers.reward import Reward

__all__ = ["Agreement", "Density", "ExactAnswer", "Judge", "Perplexity", "Reward"]
